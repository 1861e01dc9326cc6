//! Several processors at once. Miri chooses the order by its seed, and tells
//! of every pair of accesses that no lock and no atomic orders.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use ferrostor_miri::{Adapter, Driver, Found, Interrupts, Machine, Request, Shape};
use storport::Miniport;

use crate::{
    miniport::{Keeper, QUEUES, opcode},
    requests::scsi,
};

/// Requests of each processor.
const REQUESTS: usize = 4;
/// Processors that send.
const PROCESSORS: usize = 2;

fn adapter<M: Miniport>(interrupts: Interrupts, channels: u32) -> Adapter {
    let machine = Machine {
        interrupts,
        channels,
        dump: false,
    };
    Adapter::new(&Driver::load::<M>(), machine)
}

/// Sends from several processors, again while it is busy, while the device
/// interrupts and DPCs run on processors of their own.
fn drive(adapter: &Adapter, events: &[&(dyn Fn() + Sync)]) {
    adapter.start();
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
        let senders: Vec<_> = (0..PROCESSORS)
            .map(|processor| scope.spawn(move || send(adapter, processor)))
            .collect();
        for sender in senders {
            sender.join().unwrap();
        }
        while adapter.outstanding() != 0 {
            thread::yield_now();
        }
        over.store(true, Ordering::Relaxed);
    });
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
    drive(
        &adapter,
        &[&|| _ = adapter.interrupt(), &|| _ = adapter.run_dpcs()],
    );
}

#[test]
fn messages_under_one_lock() {
    let adapter = adapter::<Keeper<false>>(Interrupts::Messages(2), 0);
    drive(
        &adapter,
        &[
            &|| _ = adapter.message(0),
            &|| _ = adapter.message(1),
            &|| _ = adapter.run_dpcs(),
        ],
    );
}

#[test]
fn messages_with_a_lock_each_and_dpcs_on_two_processors() {
    let adapter = adapter::<Keeper<true>>(Interrupts::Messages(2), 0);
    drive(
        &adapter,
        &[
            &|| _ = adapter.message(0),
            &|| {
                adapter.message(1);
                adapter.run_dpcs();
            },
            &|| _ = adapter.run_dpcs(),
        ],
    );
}

#[test]
fn resets_between_requests() {
    let adapter = adapter::<Keeper<true>>(Interrupts::Messages(2), 0);
    drive(
        &adapter,
        &[
            &|| {
                adapter.message(0);
                adapter.message(1);
                adapter.run_dpcs();
            },
            &|| assert!(adapter.reset_bus()),
        ],
    );
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
}
