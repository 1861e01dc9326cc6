//! Tests of the routines that a miniport calls: timers, work items, memory, lists, events, clocks,
//! registers.

use std::{
    sync::{Mutex, mpsc},
    time::{Duration, Instant},
};

use super::{super::report::SystemEvent, bench::*};
use Callback::{HwFindAdapter, HwStartIo, HwTimer, HwTimerEx, HwWorkItem};
use testbed_machine::cpu::{current_irql, irql};

#[test]
fn timers_expire_once_at_dispatch_with_the_start_io_lock() {
    let (rings, statuses) = (Notes::new(), Notes::new());
    let note = move |c: &Context| {
        let note = (c.callback, current_irql(), c.holds(LockId::StartIo));
        rings.push((note, c.about, Instant::now()));
    };
    let bench = start(
        Miniport::new()
            .on(HwStartIo, move |c| {
                let timer = c.result(32, []);
                statuses.push(c.request_timer(timer, 77, 2000));
                statuses.push(c.request_timer(timer, 78, 2000));
                c.request_timer_call(1_000_000_000);
                c.request_timer_call(4000);
            })
            .on(HwTimer, note)
            .on(HwTimerEx, note),
    );
    let armed = Instant::now();

    let _ = bench.execute();
    bench.wait_until("both ring", |_| rings.len() == 2);
    bench.adapter.stop().unwrap();

    let rings = rings.take();
    assert_eq!(rings[0].0, (HwTimerEx, irql::DISPATCH, true));
    assert_eq!(rings[0].1, 77);
    assert!(rings[0].2 >= armed + Duration::from_millis(2));
    assert_eq!(rings[1].0, (HwTimer, irql::DISPATCH, true));
    assert!(rings[1].2 >= armed + Duration::from_millis(4));
    // The second request finds it armed.
    assert_eq!(statuses.take(), [0, 0xC100_000C]);
    assert_eq!(bench.adapter.report().leaks, ["1 timer(s)"]);
}

#[test]
fn a_cancelled_timer_does_not_expire() {
    let timed = |cancels: bool| {
        start(
            Miniport::new()
                .on(HwStartIo, move |c| {
                    c.request_timer_call(if cancels { 1000 } else { 5000 });
                    if cancels {
                        c.request_timer_call(0);
                    }
                })
                .on(HwTimer, |c| {
                    c.turn();
                }),
        )
    };
    let bench = timed(true);

    for _ in 0..20 {
        let _ = bench.execute();
    }
    // One alarm of the same clock that is set later, and so rings later.
    let other = timed(false);
    let _ = other.execute();
    other.wait_until("it rings", |other| other.miniport.turns() == 1);

    assert_eq!(bench.miniport.turns(), 0);
}

#[test]
fn a_work_item_runs_at_passive_without_locks_and_can_be_queued_again() {
    let seen = Notes::new();
    let bench = start(
        Miniport::new()
            .on(HwStartIo, |c| {
                c.queue_new_work(5);
            })
            .on(HwWorkItem, move |c| {
                let (context, worker) = (c.about, c.arguments[2]);
                let again = match context {
                    5 => c.queue_work(worker, 6),
                    _ => c.call(31, [worker]),
                };
                let lock = c.holds(LockId::StartIo) || c.holds(LockId::Interrupt);
                seen.push((context, current_irql(), lock, again));
            }),
    );

    let _ = bench.execute();
    bench.wait_until("both run", |_| seen.len() == 2);

    let mut seen = seen.take();
    seen.sort_unstable();
    assert_eq!(
        seen,
        [(5, irql::PASSIVE, false, 0), (6, irql::PASSIVE, false, 0)]
    );
    bench.adapter.stop().unwrap();
    assert_eq!(bench.adapter.report().leaks, [] as [String; 0]);
}

#[test]
fn a_work_item_whose_routine_runs_at_the_stop_is_no_leak() {
    let (entered, entry) = mpsc::channel();
    let (go, end) = mpsc::channel();
    let end = Mutex::new(end);
    let bench = start(
        Miniport::new()
            .on(HwStartIo, |c| {
                // The other work item is not queued.
                let (worker, _) = (c.result(29, []), c.result(29, []));
                c.queue_work(worker, 0);
            })
            .on(HwWorkItem, move |_| {
                entered.send(()).unwrap();
                end.lock().unwrap().recv().unwrap();
            }),
    );

    let _ = bench.execute();
    entry.recv().unwrap();
    bench.adapter.stop().unwrap();
    let leaks = bench.adapter.report().leaks;
    go.send(()).unwrap();

    assert_eq!(leaks, ["1 work item(s)"]);
}

#[test]
fn pool_is_allocated_and_freed_once() {
    let (statuses, broken) = ask(|c| {
        let (address, made) = c.results(0, [100, 0x7457_7346]);
        let content = structure(address).bytes(100);
        assert!(content.iter().all(|byte| *byte == 0xCD));
        structure(address).fill(100, 1);
        [made, c.call(1, [address]), c.call(1, [address])]
    });

    assert_eq!(statuses, [0, 0, 0xC100_0006]);
    assert_eq!(broken, ["pool-free"]);
}

#[test]
fn pool_that_is_not_freed_is_a_leak() {
    let leaks = |c: &Context| {
        c.allocate_pool();
    };
    let bench = start(Miniport::new().on(HwStartIo, leaks));
    let _ = bench.execute();
    bench.adapter.stop().unwrap();
    let failed = refused(Miniport::new().on(HwFindAdapter, move |c| {
        leaks(c);
        c.answer(wdk::SP_RETURN_ERROR);
    }));

    assert_eq!(bench.adapter.report().leaks, ["64 bytes of pool"]);
    assert_eq!(failed.report.leaks, ["64 bytes of pool"]);
}

#[test]
fn contiguous_memory_keeps_to_its_bounds() {
    let ([(address, status), outside], _) = ask(|c| {
        [usize::MAX, 0xFFFF_FFFF].map(|highest| c.results(24, [5 * 4096, 0, highest, 0, 1, 0]))
    });

    assert_eq!(status, 0);
    let run = machine().memory().run(address, 5 * 4096).unwrap();
    assert_eq!(run.1, 5 * 4096);
    // All memory lies above 4 GiB.
    assert_eq!(outside, (0, 0xC100_0003));
}

#[test]
fn processors_are_one_group_and_one_node() {
    let (answers, broken) = ask(|c| {
        let ulong = |code| {
            let (value, status) = c.results(code, []);
            assert_eq!(status, 0);
            value
        };
        ([94, 18, 20, 22, 92, 17, 109].map(ulong), c.results(19, [0]))
    });

    // Request 0 runs on CPU 0.
    let ulongs = [2, 1, 1, 0, 0, 0, irql::DISPATCH.into()];
    assert_eq!(answers, (ulongs, (0b11, 0)));
    assert_eq!(broken, [""; 0]);
}

#[test]
fn sequenced_lists_are_last_in_first_out() {
    ask(|c| {
        let head = c.own(EMPTY);
        let entries = [head + 64, head + 96];
        c.call(35, [head]);

        let pushed = entries.map(|entry| c.result(38, [head, entry]));
        assert_eq!(pushed, [0, entries[0]]);
        assert_eq!(c.result(39, [head]), 2);
        let pop = || c.result(37, [head]);
        let popped = [pop(), pop(), pop()];
        assert_eq!(popped, [entries[1], entries[0], 0]);
    });
}

#[test]
fn doubly_linked_lists_insert_and_remove_at_both_ends() {
    ask(|c| {
        let head = c.own(EMPTY);
        let [a, b] = [head + 64, head + 96];
        // StorPortInitializeListHead is inline.
        structure(head).set(abi::stor_list_entry::Flink, head);
        structure(head).set(abi::stor_list_entry::Blink, head);

        let inserted = [c.result(73, [head, a]), c.result(72, [head, b])];
        assert_eq!(inserted, [0, a]);
        let remove = || c.result(74, [head]);
        let removed = [remove(), remove(), remove()];
        assert_eq!(removed, [b, a, 0]);
    });
}

#[test]
fn an_event_wakes_the_waiting_thread() {
    let results = Notes::new();
    let bench = start(
        Miniport::new()
            .on(HwStartIo, |c| {
                // A synchronisation event, not set.
                c.call(99, [c.own(EMPTY), 1, 0]);
                c.queue_new_work(0);
                c.request_timer_call(2000);
            })
            .on(HwTimer, |c| {
                c.call(101, [c.own(EMPTY)]);
            })
            .on(HwWorkItem, move |c| {
                c.note(-10_000isize as usize);
                let first = c.call(100, [c.own(EMPTY), 0, 0]);
                let second = c.call(100, [c.own(EMPTY), 0, c.own(NOTE)]);
                results.push([first, second]);
            }),
    );

    let _ = bench.execute();
    bench.wait_until("it was woken", |_| results.len() > 0);

    // The first wait took the signal; the second timed out.
    assert_eq!(results.take(), [[0, 0xC100_000E]]);
}

/// A STOR_LOG_EVENT_DETAILS that is right, with two strings and two bytes of data.
pub(super) fn event_details() -> [Scratch; 2] {
    use abi::stor_log_event_details as field;

    let [details, memory] = [field::SIZE, 256].map(Scratch::new);
    // The strings, then the list of their addresses, then the data.
    for (at, string) in [(0, "blk_size\0"), (64, "3\0")] {
        let units: Vec<u8> = string.encode_utf16().flat_map(u16::to_le_bytes).collect();
        memory.at(at).write(&units);
    }
    memory.at(128).set(abi::value(), memory.address());
    memory.at(136).set(abi::value(), memory.address() + 64);
    memory.at(144).set(abi::value(), 0usize);
    memory.at(192).write(&[7, 9]);
    details.at(0).fill(field::SIZE, 0);
    details.at(0).set(field::InterfaceRevision, 0x100);
    details.at(0).set(field::Size, field::SIZE as u32);
    details.at(0).set(field::ErrorCode, 0xe001_03f2);
    details.at(0).set(field::UniqueId, 4);
    details.at(0).set(field::DumpDataSize, 2);
    details.at(0).set(field::DumpData, memory.address() + 192);
    details.at(0).set(field::StringCount, 2);
    details.at(0).set(field::StringList, memory.address() + 128);
    [details, memory]
}

#[test]
fn a_system_event_is_kept_with_its_strings_and_data() {
    let bench = start(Miniport::new().on(HwStartIo, |c| {
        let [details, _memory] = event_details();
        assert_eq!(c.call(16, [details.address()]), 0);
    }));

    let _ = bench.execute();

    assert_eq!(bench.broken(), []);
    let report = bench.adapter.report();
    assert_eq!(
        report.system_events,
        [SystemEvent {
            error_code: 0xe001_03f2,
            unique_id: 4,
            strings: vec!["blk_size".into(), "3".into()],
            dump_data: vec![7, 9],
            // The bench's miniport has no file.
            sentence: None,
        }]
    );
    assert_eq!(report.system_events[0].id(), 1010);
    assert!(
        report.events[0].contains("event 1010 (error): code 0xe00103f2, unique id 0x4"),
        "{:?}",
        report.events
    );
}

#[test]
fn invalid_system_events_are_refused() {
    use abi::stor_log_event_details as field;

    const INVALID_PARAMETER: u32 = 0xC100_0006;
    const INVALID_SIZE: u32 = 0xC100_000A;
    // The field, its value, what the call returns, and what the violation says. The list's third
    // place is zero. The strings have 22 bytes with their terminators.
    for (field, value, status, said) in [
        (
            field::InterfaceRevision,
            1,
            INVALID_PARAMETER,
            "InterfaceRevision is 0x1",
        ),
        (field::Size, 64, INVALID_PARAMETER, "Size is 0x40"),
        (field::Flags, 1, INVALID_PARAMETER, "Flags is 0x1"),
        (
            field::EventAssociation,
            3,
            INVALID_PARAMETER,
            "EventAssociation is 0x3",
        ),
        (
            field::StringCount,
            3,
            INVALID_PARAMETER,
            "a string of StringList is NULL",
        ),
        (field::StringCount, u32::MAX, INVALID_SIZE, "allows 150"),
        (field::DumpDataSize, 129, INVALID_SIZE, "have 151 bytes"),
    ] {
        refuses_event(move |details| details.set(field, value), status, said);
    }
    for (field, said) in [
        (field::DumpData, "DumpData is NULL"),
        (field::StringList, "StringList is NULL"),
    ] {
        refuses_event(
            move |details| details.set(field, 0),
            INVALID_PARAMETER,
            said,
        );
    }
}

/// Logs an event with this change, which returns a status and breaks a rule.
fn refuses_event(
    change: impl Fn(Structure) + Send + Sync + 'static,
    status: u32,
    violation: &'static str,
) {
    let bench = start(Miniport::new().on(HwStartIo, move |c| {
        let [details, _memory] = event_details();
        change(details.at(0));
        let (most, answer) = c.results(16, [details.address()]);
        assert_eq!(answer, status, "{violation}");
        assert!(answer == 0xC100_0006 || most == 150, "{most}");
    }));

    let _ = bench.execute();

    let report = bench.adapter.report();
    assert_eq!(report.system_events, []);
    let [found] = report.violations.as_slice() else {
        panic!("{:?}", report.violations);
    };
    assert_eq!(found.rule, "ddi-argument");
    assert!(found.detail.contains(violation), "{}", found.detail);
}

#[test]
fn a_newer_revision_is_answered_with_the_supported_one() {
    let (seen, broken) = ask(|c| {
        let [details, _memory] = event_details();
        let field = || abi::stor_log_event_details::InterfaceRevision;
        let log = |revision: u32| {
            details.at(0).set(field(), revision);
            c.call(16, [details.address()])
        };
        (log(0x101), log(0x200), details.at(0).get(field()))
    });

    assert_eq!(seen, (0, 0xC100_000B, 0x100));
    assert_eq!(broken, [""; 0]);
}

#[test]
fn functions_that_are_not_implemented_return_an_error_and_are_counted() {
    let bench = start(Miniport::new().on(HwStartIo, |c| {
        for code in [2, 6, 71, 10_000] {
            assert_eq!(c.call(code, []), 0xC100_0002);
        }
    }));
    let _ = bench.execute();

    let report = bench.adapter.report();
    let names: Vec<_> = report.not_implemented.keys().collect();
    assert_eq!(
        names,
        [
            "StorPortAllocateMdl",
            // A function of a newer kit.
            "StorPortExtendedFunction with code 10000",
            "StorPortGetOriginalMdl",
            "StorPortPropagateIrpExtension"
        ]
    );
    assert_eq!(bench.broken(), []);
}

#[test]
fn clocks_advance() {
    let (times, _) = ask(|c| {
        let time = || with_result::<u64>(|to| ddi("StorPortQuerySystemTime", [to])).0;
        let counter = || c.result(47, [0]);
        let first = (time(), counter());
        c.stall(2000);
        (first, (time(), counter()))
    });

    let ((time, counter), (later_time, later_counter)) = times;
    // 2 ms are 20 000 units of 100 ns.
    assert!(later_time >= time + 19_000);
    assert!(later_counter >= counter + 20_000);
    // 1601 to 2020 in years of 365 days.
    assert!(time / 10_000_000 / 86400 / 365 > 419);
}

#[test]
fn registers_are_reached_by_the_exported_functions() {
    let bench = start(Miniport::new().on(HwFindAdapter, |c| {
        let base = c.map(0xFE00_0000, 4096);
        // Without HwDeviceExtension, as miniports do that know the macros.
        ddi("StorPortWriteRegisterUlong", [0, base + 8, 0x1234_5678]);
        let short = ddi("StorPortReadRegisterUshort", [0, base + 10]);
        assert_eq!(short, 0x1234);
        let to = c.own(EMPTY);
        ddi("StorPortReadRegisterBufferUchar", [0, base + 8, to, 4]);
        assert_eq!(structure(to).bytes(4), [0x78, 0x56, 0x34, 0x12]);
        let outside = ddi("StorPortReadRegisterUlong", [0, base + 4094]);
        assert_eq!(outside as u32, u32::MAX);
        c.unmap(base);
    }));

    assert_eq!(bench.broken(), [("register-address", "HwFindAdapter")]);
}

#[test]
fn msi_information_names_message_and_vector() {
    use abi::message_interrupt_information as msi;
    ask(|c| {
        let statuses = [1, 2].map(|message| c.call(13, [message, c.own(EMPTY)]));
        let seen = structure(c.own(EMPTY));

        assert_eq!(statuses, [0, 0xC100_0006]);
        assert_eq!(seen.get(msi::MessageId), 1);
        assert_eq!(seen.get(msi::MessageData), 0x51);
        assert_eq!(seen.get(msi::InterruptMode), wdk::Latched);
    });
}

#[test]
fn all_exports_of_the_table_exist() {
    let table: serde_json::Value =
        serde_json::from_str(include_str!("../../../../cross/abi/storport-wdk.json")).unwrap();
    let exports = table["exports"].as_object().expect("names");
    assert!(exports.len() >= 50, "the table has {}", exports.len());

    let resolve = |name| super::super::resolve("storport.sys", name);
    for name in exports.keys() {
        let is_there = resolve(name).is_some();
        assert!(is_there || name.starts_with("ScsiPortWmi"), "{name}");
    }
    assert!(resolve("StorPortNothing").is_none());
}
