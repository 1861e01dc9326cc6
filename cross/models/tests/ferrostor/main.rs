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

mod bench;
mod disk;

storport::registered!(driver::Ferrostor: PassiveInitialize, MessageInterrupt, Timer);

use bench::{Bench, Kind};
use disk::Properties;

const SUCCESS: u8 = wdk_sys::SRB_STATUS_SUCCESS as u8;

const SPLIT: Properties = Properties {
    packed: false,
    event_idx: true,
    queues: 1,
    queue_size: 4,
};
const PACKED: Properties = Properties {
    packed: true,
    ..SPLIT
};
const SPLIT_PLAIN: Properties = Properties {
    event_idx: false,
    ..SPLIT
};
const TWO_SPLIT: Properties = Properties { queues: 2, ..SPLIT };
const TWO_PACKED: Properties = Properties {
    queues: 2,
    event_idx: false,
    ..PACKED
};

#[test]
fn data_are_written_flushed_and_read() {
    for (messages, properties) in [
        (true, SPLIT),
        (false, SPLIT_PLAIN),
        (false, PACKED),
        (true, TWO_SPLIT),
        (true, TWO_PACKED),
    ] {
        let bench = Bench::new(messages, 0, properties);
        bench.adapter().start();
        let answer = |processor, kind| {
            let answer = bench.send(processor, kind);
            bench.settle();
            answer.get().expect("settled").clone()
        };
        assert_eq!(answer(0, Kind::Write(1)).status, SUCCESS);
        assert_eq!(answer(1, Kind::DurableWrite(3)).status, SUCCESS);
        assert_eq!(answer(0, Kind::Flush).status, SUCCESS);
        for (processor, block) in [(0, 1), (1, 3)] {
            let read = answer(processor, Kind::Read(block));
            assert_eq!((read.status, read.length), (SUCCESS, 512));
            assert_eq!(read.data, [block + 1; 512]);
        }
        // Each processor has a queue of its own.
        assert_eq!(bench.disk.served_queues(), properties.queues.into());
        bench.stop(|| {});
    }
}

/// A small slot has a table for 35 segments.
#[test]
fn a_short_read_into_many_pieces_takes_a_large_slot() {
    let properties = Properties {
        queue_size: 64,
        ..SPLIT
    };
    let bench = Bench::new(true, 0, properties);
    bench.adapter().start();
    // The queue has 16 large slots: none is lost.
    for _ in 0..17 {
        let read = bench.send(0, Kind::ScatteredRead(2));
        bench.settle();
        let read = read.get().expect("settled");
        assert_eq!((read.status, read.length), (SUCCESS, 512));
        assert_eq!(read.data, [0; 512]);
    }
    bench.stop(|| {});
}

#[test]
fn a_slow_reset_completes_all_requests() {
    let bench = Bench::new(true, 0, TWO_PACKED);
    bench.adapter().start();
    bench.disk.delay_resets(30);
    let read = bench.send(1, Kind::Read(0));
    let reset = bench.send(0, Kind::Reset);
    bench.adapter().run_dpcs();
    assert!(bench.adapter().is_paused());
    // Until the device confirms the reset, it may write into the request's memory.
    assert!(read.get().is_none() && reset.get().is_none());
    bench.disk.serve_notified();
    bench.settle();
    assert_eq!(reset.get().map(|done| done.status), Some(SUCCESS));
    assert!(read.get().is_some());
    bench.stop(|| {});
}

#[test]
fn a_restart_ends_a_pause_from_before_the_stop() {
    let bench = Bench::new(true, 0, SPLIT);
    bench.adapter().start();
    bench.disk.delay_resets(30);
    // Nothing is in flight.
    assert!(bench.adapter().reset_bus());
    assert!(bench.adapter().is_paused());
    bench.disk.delay_resets(0);
    bench.stop(|| bench.plugged.restart());
    bench.adapter().run_dpcs();
    assert!(!bench.adapter().is_paused());
    bench.stop(|| {});
}

/// Runs random callbacks during two lives of the adapter. The first life has a restart.
fn random_orders(messages: bool, channels: u32, properties: Properties) {
    let bench = Bench::new(messages, channels, properties);
    bench.find();
    bench.plugged.beside(
        |processor, random| bench.callback(processor, random),
        || {
            for restarts in [true, false] {
                assert!(bench.adapter().initialize());
                bench.wait();
                assert!(bench.adapter().passive_initialize());
                bench.disk.allow_faults(true);
                bench.wait();
                if restarts {
                    bench.stop(|| bench.plugged.restart());
                    bench.wait();
                    bench.stop(|| {});
                    bench.find();
                }
            }
        },
    );
    bench.disk.allow_faults(false);
    bench.settle();
    bench.stop(|| {});
    // What was requested before the stop and has not run.
    while bench.adapter().run_dpcs() != 0 || bench.adapter().run_timer() {}
}

#[test]
fn random_orders_with_an_interrupt_line() {
    random_orders(false, 0, SPLIT_PLAIN);
}

#[test]
fn random_orders_with_a_packed_ring_and_messages() {
    random_orders(true, 0, PACKED);
}

#[test]
fn random_orders_with_two_split_rings_and_concurrent_channels() {
    random_orders(true, 2, TWO_SPLIT);
}

#[test]
fn random_orders_with_two_packed_rings_and_concurrent_channels() {
    random_orders(true, 2, TWO_PACKED);
}
