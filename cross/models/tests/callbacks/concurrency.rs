//! Callbacks on several processors at the same time. Miri's seed chooses the order, and Miri
//! reports data races.

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

/// How many requests each processor sends.
const REQUESTS: usize = 4;
/// How many processors send requests.
const PROCESSORS: usize = 2;

fn adapter<M: Registered>(interrupts: Interrupts, channels: u32) -> Adapter {
    let machine = Machine {
        interrupts,
        channels,
        dump: false,
    };
    Adapter::new(&Driver::load::<M>(), machine)
}

/// Sends requests from several processors, and repeats those that are busy. Meanwhile each of
/// `events` happens on another processor.
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

/// Runs `run` while each of `events` happens repeatedly on another processor.
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

/// Runs all pending DPCs, timers, work items and state changes. Then makes the miniport free all
/// its memory.
fn settle(adapter: &Adapter) {
    while adapter.run_dpcs() != 0 || later(adapter) {}
    adapter.send(0, &scsi(Shape::Scsi, opcode::FREE, 0));
    assert_eq!(adapter.allocations(), 0);
}

/// Runs one timer, one work item and one state change, if they are pending. Returns whether there
/// was any.
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
fn an_interrupt_line_and_the_start_io_lock() {
    let adapter = adapter::<Keeper<false>>(Interrupts::Line, 0);
    let interrupts = || _ = adapter.interrupt();
    let dpcs = || _ = adapter.run_dpcs();
    let later = || _ = later(&adapter);
    drive(&adapter, &[&interrupts, &dpcs, &later]);
}

#[test]
fn messages_share_a_lock_with_concurrent_channels() {
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
fn messages_have_locks_and_dpcs_run_on_two_processors() {
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
fn bus_resets_happen_between_requests_of_concurrent_channels() {
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
fn interrupts_arrive_between_hw_initialize_and_hw_passive_initialize() {
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
fn restarts_happen_while_earlier_work_still_runs() {
    let adapter = adapter::<Keeper<false>>(Interrupts::Line, 0);
    adapter.start();
    let interrupts = || _ = adapter.interrupt();
    let dpcs = || _ = adapter.run_dpcs();
    let later = || _ = later(&adapter);
    let mut runs = true;
    meanwhile(&[&interrupts, &dpcs, &later], || {
        for _ in 0..4 {
            assert!(adapter.stop());
            // A restart fails while a callback from before the stop is still running.
            runs = adapter.restart();
            thread::yield_now();
        }
    });
    // No callback is running now.
    assert!(runs || adapter.restart());
    settle(&adapter);
}
