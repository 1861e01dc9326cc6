//! Several processors at once. Miri chooses the order by its seed, and tells
//! of every pair of accesses that no lock and no atomic orders.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use ferrostor_models::port::{Adapter, Driver, Found, Interrupts, Machine, Request, Shape};
use storport::callback::Registered;

use crate::{
    miniport::{Keeper, QUEUES, opcode},
    requests::scsi,
};

/// Requests of each processor.
const REQUESTS: usize = 4;
/// Processors that send.
const PROCESSORS: usize = 2;

fn adapter<M: Registered>(interrupts: Interrupts, channels: u32) -> Adapter {
    let machine = Machine {
        interrupts,
        channels,
        dump: false,
    };
    Adapter::new(&Driver::load::<M>(), machine)
}

/// Sends from several processors, again while it is busy, while `events`
/// happen on processors of their own.
fn drive(adapter: &Adapter, events: &[&(dyn Fn() + Sync)]) {
    adapter.start();
    meanwhile(events, || {
        thread::scope(|scope| {
            for processor in 0..PROCESSORS {
                scope.spawn(move || send(adapter, processor));
            }
        });
        while adapter.outstanding() != 0 {
            thread::yield_now();
        }
    });
    settle(adapter);
}

/// Runs `run` while each of `events` happens on a processor of its own, again
/// and again.
fn meanwhile(events: &[&(dyn Fn() + Sync)], run: impl FnOnce()) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for event in events {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    event();
                    thread::yield_now();
                }
            });
        }
        run();
        over.store(true, Ordering::Relaxed);
    });
}

/// Runs what was asked for and has not run, and has the miniport free all that
/// it allocated.
fn settle(adapter: &Adapter) {
    while adapter.run_dpcs() != 0 || later(adapter) {}
    adapter.send(0, &scsi(Shape::Scsi, opcode::FREE, 0));
    assert_eq!(adapter.allocations(), 0);
}

/// Runs one of each that the miniport asked for: whether there was any.
fn later(adapter: &Adapter) -> bool {
    let ran = [
        adapter.run_timer(),
        adapter.run_work(),
        adapter.run_state_change(),
    ];
    ran.contains(&true)
}

fn send(adapter: &Adapter, processor: usize) {
    for number in 0..REQUESTS {
        let shape = [Shape::Scsi, Shape::Storage][number % 2];
        let queue = (processor + number / 2) % QUEUES;
        let request = scsi(shape, opcode::QUEUED, queue as u8);
        let busy = wdk_sys::SRB_STATUS_BUSY as u8;
        loop {
            let answer = adapter.send(processor, &request);
            if answer.get().is_none_or(|done| done.status != busy) {
                break;
            }
            thread::yield_now();
        }
        adapter.send(
            processor,
            &Request {
                function: wdk_sys::SRB_FUNCTION_FLUSH,
                cdb: Vec::new(),
                data: Vec::new(),
                ..request
            },
        );
    }
}

#[test]
fn a_line_and_the_start_io_lock() {
    let adapter = adapter::<Keeper<false>>(Interrupts::Line, 0);
    let interrupts = || _ = adapter.interrupt();
    let dpcs = || _ = adapter.run_dpcs();
    let later = || _ = later(&adapter);
    drive(&adapter, &[&interrupts, &dpcs, &later]);
}

#[test]
fn messages_under_one_lock_and_concurrent_channels() {
    let adapter = adapter::<Keeper<false>>(Interrupts::Messages(2), 2);
    let first = || _ = adapter.message(0);
    let second = || _ = adapter.message(1);
    let dpcs = || {
        adapter.run_dpcs();
        later(&adapter);
    };
    drive(&adapter, &[&first, &second, &dpcs]);
}

#[test]
fn messages_with_a_lock_each_and_dpcs_on_two_processors() {
    let adapter = adapter::<Keeper<true>>(Interrupts::Messages(2), 0);
    let first = || {
        adapter.message(0);
        adapter.run_dpcs();
    };
    let second = || {
        adapter.message(1);
        adapter.run_dpcs();
    };
    drive(&adapter, &[&first, &second]);
}

#[test]
fn resets_between_requests_of_concurrent_channels() {
    let adapter = adapter::<Keeper<true>>(Interrupts::Messages(2), 2);
    let interrupts = || {
        adapter.message(0);
        adapter.message(1);
        adapter.run_dpcs();
    };
    let resets = || assert!(adapter.reset_bus());
    drive(&adapter, &[&interrupts, &resets]);
}

#[test]
fn interrupts_between_hw_initialize_and_hw_passive_initialize() {
    let adapter = adapter::<Keeper<true>>(Interrupts::Messages(2), 0);
    assert_eq!(adapter.find(), Found::Yes);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..4 {
                adapter.message(0);
                adapter.run_dpcs();
            }
        });
        assert!(adapter.initialize());
        assert!(adapter.passive_initialize());
    });
    settle(&adapter);
}

#[test]
fn restarts_while_what_was_asked_for_before_still_runs() {
    let adapter = adapter::<Keeper<false>>(Interrupts::Line, 0);
    adapter.start();
    let interrupts = || _ = adapter.interrupt();
    let dpcs = || _ = adapter.run_dpcs();
    let later = || _ = later(&adapter);
    let mut runs = true;
    meanwhile(&[&interrupts, &dpcs, &later], || {
        for _ in 0..4 {
            assert!(adapter.stop());
            // It may not while a callback of before the stop is inside.
            runs = adapter.restart();
            thread::yield_now();
        }
    });
    // Now none is.
    assert!(runs || adapter.restart());
    settle(&adapter);
}
