//! Tests of interrupts, and of the DPCs that follow.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use super::{super::adapter::ConcurrentChannels, bench::*};
use Callback::{HwDpcRoutine, HwInitialize, HwInterrupt, HwMSInterruptRoutine, HwStartIo};
use testbed_machine::cpu::{current_irql, current_number, irql};

#[test]
fn a_message_comes_at_dirql_with_its_lock_and_its_dpc_runs_on_its_cpu_once() {
    let (messages, queued, dpcs) = (Notes::new(), Notes::new(), Notes::new());
    let bench = start(
        Miniport::new()
            .on(HwMSInterruptRoutine, move |c| {
                let has_lock = c.holds(LockId::Message(c.about as u32));
                messages.push((c.about, current_irql(), current_number(), has_lock));
                let dpc = c.own(FIRST_DPC);
                queued.push(c.issue_dpc(dpc, c.about, 7));
                queued.push(c.issue_dpc(dpc, c.about, 8));
            })
            .on(HwDpcRoutine, move |c| {
                assert_eq!(c.about, c.own(FIRST_DPC));
                let [_, _, first, second, ..] = c.arguments;
                dpcs.push((current_irql(), current_number(), first, second));
            }),
    );

    bench.function.message(1);
    bench.wait_until("the DPC", |bench| bench.adapter.report().dpcs == 1);
    bench.adapter.stop().unwrap();

    assert_eq!(messages.take(), [(1, irql::DEVICE, 1, true)]);
    assert_eq!(dpcs.take(), [(irql::DISPATCH, 1, 1, 7)]);
    assert_eq!(queued.take(), [true, false]);
    assert_eq!(bench.broken(), []);
}

/// A miniport whose interrupt routines wait while the flag is set.
fn waits() -> (Miniport, &'static AtomicBool) {
    let waits: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(true)));
    let miniport = Miniport::new().on(HwMSInterruptRoutine, |c| {
        c.turn();
        while waits.load(Ordering::SeqCst) {
            thread::yield_now();
        }
    });
    (miniport, waits)
}

#[test]
fn messages_merge_while_pending_and_none_is_lost() {
    let (miniport, waits) = waits();
    let bench = start(miniport);
    bench.function.message(0);
    bench.wait_until("the routine runs", |bench| bench.miniport.turns() == 1);

    for _ in 0..5 {
        bench.function.message(0);
    }
    waits.store(false, Ordering::SeqCst);

    bench.wait_until("it runs again", |bench| bench.miniport.turns() == 2);
    bench.adapter.stop().unwrap();
    assert_eq!(bench.adapter.report().interrupts, 2);
}

#[test]
fn routines_of_different_messages_run_at_a_time() {
    let (miniport, waits) = waits();
    let bench = start(miniport);

    bench.function.message(0);
    bench.function.message(1);

    bench.wait_until("both run", |bench| bench.miniport.turns() == 2);
    waits.store(false, Ordering::SeqCst);
}

#[test]
fn many_messages_from_a_device_thread_all_lead_to_a_routine() {
    let bench = start(Miniport::new());
    let function = Arc::clone(&bench.function);
    let device = thread::spawn(move || {
        for round in 0..2000u16 {
            function.message(round % 2);
        }
    });
    device.join().unwrap();

    // Whatever was merged: after the last message each routine runs once more.
    let interrupts = || bench.adapter.report().interrupts;
    bench.wait_until("quiet", |_| {
        let before = interrupts();
        thread::sleep(Duration::from_millis(5));
        before > 0 && before == interrupts()
    });
    let before = interrupts();
    bench.function.message(0);
    bench.function.message(1);
    bench.wait_until("two more", |_| interrupts() == before + 2);
    assert_eq!(bench.broken(), []);
}

#[test]
fn the_pin_interrupts_as_long_as_it_is_asserted() {
    let function = FakeFunction::new(0);
    let pin = Arc::clone(&function);
    let calls = Notes::new();
    let miniport = Miniport::new().on(HwInterrupt, move |c| {
        calls.push((current_irql(), c.holds(LockId::Interrupt)));
        if c.turn() == 2 {
            // As reading the device's interrupt status would.
            pin.line(false);
        }
    });
    let bench = start_with(miniport, function, quick());

    bench.function.line(true);

    bench.wait_for_interrupts(3);
    bench.adapter.stop().unwrap();
    assert_eq!(bench.adapter.report().interrupts, 3);
    assert_eq!(calls.take(), [(irql::DEVICE, true); 3]);
}

/// What a miniport sees that asks for performance options.
struct Options {
    /// The statuses of query and request, the offered flags, and the messages' targets.
    answers: &'static Notes<([u32; 3], [u32; 2])>,
    /// CPU, message and channel of each request, and whether it comes with the StartIo lock.
    requests: &'static Notes<([u32; 3], bool)>,
}

fn asks_for(wanted: u32) -> (Miniport, Options) {
    use abi::{perf_configuration_data as data, startio_performance_parameters as start_io};
    let (answers, requests) = (Notes::new(), Notes::new());
    let miniport = Miniport::new()
        .on(HwInitialize, move |c| {
            let perf = structure(c.own(EMPTY));
            let targets = perf.offset(64);
            perf.set(data::Version, 4);
            perf.set(data::Size, 40);
            let query = c.call(14, [1, perf.address()]);
            let offered = perf.get(data::Flags);
            perf.set(data::Flags, wanted);
            perf.set(data::ConcurrentChannels, 2);
            perf.set(data::FirstRedirectionMessageNumber, 0);
            perf.set(data::LastRedirectionMessageNumber, 1);
            perf.set(data::MessageTargets, targets.address());
            let set = c.call(14, [0, perf.address()]);
            let target =
                |message| targets.offset(16 * message).get(abi::group_affinity::Mask) as u32;
            answers.push(([query, set, offered], [0usize, 1].map(target)));
        })
        .on(HwStartIo, move |c| {
            let scratch = Scratch::new(64);
            let to = scratch.at(0);
            to.set(start_io::Version, 1);
            to.set(start_io::Size, 16);
            c.call(15, [c.about, to.address()]);
            let [message, channel] = [start_io::MessageNumber, start_io::ChannelNumber];
            let place = [current_number(), to.get(message), to.get(channel)];
            requests.push((place, c.holds(LockId::StartIo)));
        });
    (miniport, Options { answers, requests })
}

#[test]
fn concurrent_channels_are_granted_on_request_and_replace_the_start_io_lock() {
    let (miniport, options) = asks_for(0x1 | 0x2 | 0x4 | 0x8);
    let bench = start(miniport);

    let _ = bench.load(50, 1);

    assert_eq!(options.answers.take(), [([0, 0, 0x3F], [1, 2])]);
    let requests = options.requests.take();
    for place in [[0, 0, 0], [1, 1, 1]] {
        assert!(requests.contains(&(place, false)));
    }
    let is_own = |([cpu, message, channel], has_lock): &([u32; 3], bool)| {
        cpu == message && cpu == channel && !has_lock
    };
    assert!(requests.iter().all(is_own));
    let report = bench.adapter.report();
    assert!(report.locks.iter().any(|row| row.name == "Channel 1"));
    assert_eq!(bench.broken(), []);
}

#[test]
fn refused_channels_leave_the_start_io_lock() {
    let settings = AdapterSettings {
        concurrent_channels: ConcurrentChannels::Refused,
        ..quick()
    };
    let (miniport, options) = asks_for(0x2);
    let bench = start_as(miniport, settings);

    let _ = bench.execute();

    assert_eq!(options.answers.take()[0].0, [0, 0xC100_0001, 0x3D]);
    assert!(options.requests.take()[0].1);
}

#[test]
fn options_that_need_others_are_refused_without_them() {
    // Message ranges need DPC redirection.
    let (miniport, options) = asks_for(0x4);
    let _bench = start(miniport);

    assert_eq!(options.answers.take()[0].0[1], 0xC100_0001);
}
