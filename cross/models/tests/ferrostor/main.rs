//! The driver itself, called in random orders under Miri, with a disk that breaks the protocol
//! and delays its resets.
//!
//! The driver's modules are those of `src/`, without the entry point. Storport is
//! [`ferrostor_models::port`]. Miri's seed chooses the order.
#![cfg(all(miri, windows))]

#[path = "../../../../src/device.rs"]
mod device;
#[path = "../../../../src/driver.rs"]
mod driver;
#[path = "../../../../src/error.rs"]
mod error;
#[path = "../../../../src/events.rs"]
#[expect(dead_code, reason = "only the driver file has the texts")]
mod events;
#[path = "../../../../src/io.rs"]
mod io;
#[path = "../../../../src/probe.rs"]
mod probe;
#[path = "../../../../src/registers.rs"]
mod registers;
#[path = "../../../../src/report.rs"]
mod report;

mod disk;
mod plugged;

storport::registered!(driver::Ferrostor: PassiveInitialize, MessageInterrupt, Timer);

use ferrostor_models::port::Interrupts;

use plugged::{Kind, Plugged};

const SUCCESS: u8 = wdk_sys::SRB_STATUS_SUCCESS as u8;

#[test]
fn data_are_written_flushed_and_read() {
    for (interrupts, event_idx) in [(Interrupts::Messages(2), true), (Interrupts::Line, false)] {
        let plugged = Plugged::new(interrupts, 0, event_idx);
        plugged.adapter.start();
        let answer = |kind| {
            let answer = plugged.send(0, kind);
            plugged.settle();
            answer.get().expect("settled").clone()
        };
        assert_eq!(answer(Kind::Write(1)).status, SUCCESS);
        assert_eq!(answer(Kind::DurableWrite(3)).status, SUCCESS);
        assert_eq!(answer(Kind::Flush).status, SUCCESS);
        for block in [1, 3] {
            let read = answer(Kind::Read(block));
            assert_eq!((read.status, read.length), (SUCCESS, 512));
            assert_eq!(read.data, [block + 1; 512]);
        }
        plugged.stop(|| {});
    }
}

#[test]
fn a_slow_reset_completes_all_requests() {
    let plugged = Plugged::new(Interrupts::Messages(2), 0, true);
    plugged.adapter.start();
    plugged.disk.delay_resets(30);
    let read = plugged.send(0, Kind::Read(0));
    let reset = plugged.send(0, Kind::Reset);
    plugged.adapter.run_dpcs();
    assert!(plugged.adapter.is_paused());
    // Until the device confirms the reset, it may write into the request's memory.
    assert!(read.get().is_none() && reset.get().is_none());
    plugged.disk.serve_notified();
    plugged.settle();
    assert_eq!(reset.get().map(|done| done.status), Some(SUCCESS));
    assert!(read.get().is_some());
    plugged.stop(|| {});
}

#[test]
fn a_restart_ends_a_pause_from_before_the_stop() {
    let plugged = Plugged::new(Interrupts::Messages(2), 0, true);
    plugged.adapter.start();
    plugged.disk.delay_resets(30);
    // Nothing is in flight.
    assert!(plugged.adapter.reset_bus());
    assert!(plugged.adapter.is_paused());
    plugged.disk.delay_resets(0);
    plugged.stop(|| plugged.restart());
    plugged.adapter.run_dpcs();
    assert!(!plugged.adapter.is_paused());
    plugged.stop(|| {});
}

/// Runs random callbacks during two lives of the adapter. The first life has a restart.
fn random_orders(interrupts: Interrupts, channels: u32, event_idx: bool) {
    let plugged = Plugged::new(interrupts, channels, event_idx);
    plugged.find();
    plugged.beside(|| {
        for restarts in [true, false] {
            assert!(plugged.adapter.initialize());
            plugged.wait();
            assert!(plugged.adapter.passive_initialize());
            plugged.disk.allow_faults(true);
            plugged.wait();
            if restarts {
                plugged.stop(|| plugged.restart());
                plugged.wait();
                plugged.stop(|| {});
                plugged.find();
            }
        }
    });
    plugged.disk.allow_faults(false);
    plugged.settle();
    plugged.stop(|| {});
    plugged.drain();
}

#[test]
fn random_orders_with_an_interrupt_line() {
    random_orders(Interrupts::Line, 0, false);
}

#[test]
fn random_orders_with_messages() {
    random_orders(Interrupts::Messages(2), 0, true);
}

#[test]
fn random_orders_with_messages_and_concurrent_channels() {
    random_orders(Interrupts::Messages(2), 2, true);
}
