//! Timers, work items, pool, and the rest of what a miniport asks of Storport.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use super::{super::report::SystemEvent, bench::*};
use testbed_machine::cpu::{current_irql, irql};

/// Asks something in HwBuildIo and keeps the answers.
struct Asks<T: Send>(fn(Extension) -> T, Mutex<Option<T>>);

impl<T: Send> Asks<T> {
    fn new(ask: fn(Extension) -> T) -> Self {
        Self(ask, Mutex::default())
    }
}

impl<T: Send> Miniport for Asks<T> {
    fn build_io(&self, ext: Extension, _: usize) -> bool {
        *self.1.lock().unwrap() = Some((self.0)(ext));
        true
    }
}

/// The answer of a miniport that asks in HwBuildIo, and the rules it broke.
fn ask<T: Send + 'static>(ask: fn(Extension) -> T) -> (T, Vec<&'static str>) {
    let bench = start(Asks::new(ask));
    let _ = bench.execute();
    let answer = bench.miniport.1.lock().unwrap().take();
    let broken = bench.broken().into_iter().map(|(rule, _)| rule).collect();
    (answer.expect("it was asked"), broken)
}

/// A ring of a timer: its kind, when, at what IRQL, whether with the StartIo
/// lock, and with what context.
type Ring = (&'static str, Duration, u8, bool, usize);

/// A timer of each kind, armed by the first request.
#[derive(Default)]
struct Timers {
    armed: Mutex<Option<Instant>>,
    rings: Mutex<Vec<Ring>>,
    statuses: Mutex<Vec<u32>>,
}

impl Timers {
    fn note(&self, ext: Extension, name: &'static str, context: usize) {
        let armed = self.armed.lock().unwrap().expect("armed before");
        self.rings.lock().unwrap().push((
            name,
            armed.elapsed(),
            current_irql(),
            ext.holds(LockId::StartIo),
            context,
        ));
    }
}

impl Miniport for Timers {
    fn start_io(&self, ext: Extension, srb: usize) -> bool {
        *self.armed.lock().unwrap() = Some(Instant::now());
        let (handle, made) = with_result::<usize>(|to| ext.extended(32, [to, 0, 0, 0]) as usize);
        let mut statuses = self.statuses.lock().unwrap();
        statuses.push(made as u32);
        statuses.push(ext.request_timer(handle, 77, 2000));
        statuses.push(ext.request_timer(handle, 78, 2000));
        ext.request_timer_call(1_000_000_000);
        ext.request_timer_call(4000);
        ext.complete(srb, SUCCESS);
        true
    }

    fn timer(&self, ext: Extension) {
        self.note(ext, "HwTimer", 0);
    }

    fn timer_ex(&self, ext: Extension, context: usize) {
        self.note(ext, "HwTimerEx", context);
    }
}

#[test]
fn timers_ring_once_at_dispatch_with_the_start_io_lock() {
    let bench = start(Timers::default());

    let _ = bench.execute();
    bench.wait_until("both ring", |bench| {
        bench.miniport.rings.lock().unwrap().len() == 2
    });
    bench.adapter.stop().unwrap();

    let rings = bench.miniport.rings.lock().unwrap().clone();
    let what: Vec<_> = rings
        .iter()
        .map(|ring| (ring.0, ring.2, ring.3, ring.4))
        .collect();
    assert_eq!(
        what,
        [
            ("HwTimerEx", irql::DISPATCH, true, 77),
            ("HwTimer", irql::DISPATCH, true, 0),
        ]
    );
    assert!(rings[0].1 >= Duration::from_millis(2));
    assert!(rings[1].1 >= Duration::from_millis(4));
    // The second request finds it armed.
    assert_eq!(
        *bench.miniport.statuses.lock().unwrap(),
        [0, 0, 0xC100_000C]
    );
    assert_eq!(bench.adapter.report().leaks, ["1 timer(s)"]);
}

#[test]
fn a_timer_that_is_cancelled_does_not_ring() {
    #[derive(Default)]
    struct Cancels(AtomicU64);
    impl Miniport for Cancels {
        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            ext.request_timer_call(1000);
            ext.request_timer_call(0);
            ext.complete(srb, SUCCESS);
            true
        }

        fn timer(&self, _: Extension) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let bench = start(Cancels::default());

    for _ in 0..20 {
        let _ = bench.execute();
    }
    // One alarm of the same clock that is set later, and so rings later.
    struct Rings(AtomicU64);
    impl Miniport for Rings {
        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            ext.request_timer_call(5000);
            ext.complete(srb, SUCCESS);
            true
        }

        fn timer(&self, _: Extension) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let other = start(Rings(AtomicU64::new(0)));
    let _ = other.execute();
    other.wait_until("it rings", |other| {
        other.miniport.0.load(Ordering::SeqCst) == 1
    });

    assert_eq!(bench.miniport.0.load(Ordering::SeqCst), 0);
}

#[test]
fn a_work_item_runs_at_passive_without_locks_and_can_be_queued_again() {
    #[derive(Default)]
    struct Works(Mutex<Vec<(usize, u8, bool, u32)>>);
    impl Miniport for Works {
        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            let (worker, _) = with_result::<usize>(|to| ext.extended(29, [to, 0, 0, 0]) as usize);
            ext.queue_work(worker, 5);
            ext.complete(srb, SUCCESS);
            true
        }

        fn work(&self, ext: Extension, context: usize, worker: usize) {
            let again = if context == 5 {
                ext.queue_work(worker, 6)
            } else {
                ext.extended(31, [worker, 0, 0, 0])
            };
            let lock = ext.holds(LockId::StartIo) || ext.holds(LockId::Interrupt);
            let note = (context, current_irql(), lock, again);
            self.0.lock().unwrap().push(note);
        }
    }
    let bench = start(Works::default());

    let _ = bench.execute();
    bench.wait_until("both run", |bench| {
        bench.miniport.0.lock().unwrap().len() == 2
    });

    let mut seen = bench.miniport.0.lock().unwrap().clone();
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
    /// Makes two work items and queues one, whose routine ends when it is told.
    struct Keeps {
        entered: mpsc::Sender<()>,
        end: Mutex<mpsc::Receiver<()>>,
    }
    impl Miniport for Keeps {
        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            let make = || with_result::<usize>(|to| ext.extended(29, [to, 0, 0, 0]) as usize);
            let ((worker, _), _) = (make(), make());
            ext.queue_work(worker, 0);
            ext.complete(srb, SUCCESS);
            true
        }

        fn work(&self, _: Extension, _: usize, _: usize) {
            self.entered.send(()).unwrap();
            self.end.lock().unwrap().recv().unwrap();
        }
    }
    let (entered, entry) = mpsc::channel();
    let (go, end) = mpsc::channel();
    let end = Mutex::new(end);
    let bench = start(Keeps { entered, end });

    let _ = bench.execute();
    entry.recv().unwrap();
    bench.adapter.stop().unwrap();
    let leaks = bench.adapter.report().leaks;
    go.send(()).unwrap();

    assert_eq!(leaks, ["1 work item(s)"]);
}

#[test]
fn pool_is_given_and_taken_back_once() {
    let (statuses, broken) = ask(|ext| {
        let (address, made) =
            with_result::<usize>(|to| ext.extended(0, [100, 0x7457_7346, to, 0]) as usize);
        let content = structure(address).bytes(100);
        assert!(content.iter().all(|byte| *byte == 0xCD));
        structure(address).fill(100, 1);
        let first = ext.extended(1, [address, 0, 0, 0]);
        let second = ext.extended(1, [address, 0, 0, 0]);
        [made as u32, first, second]
    });

    assert_eq!(statuses, [0, 0, 0xC100_0006]);
    assert_eq!(broken, ["pool-free"]);
}

#[test]
fn pool_that_is_not_freed_is_a_leak() {
    let bench = start(Asks::new(|ext| {
        with_result::<usize>(|to| ext.extended(0, [100, 0, to, 0]) as usize).1
    }));
    let _ = bench.execute();

    bench.adapter.stop().unwrap();

    assert_eq!(bench.adapter.report().leaks, ["100 bytes of pool"]);
}

#[test]
fn pool_that_a_failed_start_leaves_is_a_leak() {
    struct Refuses;
    impl Miniport for Refuses {
        fn find_adapter(&self, ext: Extension, _: Structure) -> u32 {
            let _ = with_result::<usize>(|to| ext.extended(0, [100, 0, to, 0]) as usize);
            config::SP_RETURN_ERROR
        }
    }

    let failed = try_start(Refuses, FakeFunction::new(2), quick()).err();

    let report = failed.expect("it does not start").report;
    assert_eq!(report.leaks, ["100 bytes of pool"]);
}

#[test]
fn contiguous_memory_keeps_to_its_bounds() {
    type Export = extern "win64" fn(u32, usize, usize, u64, u64, u64, u32, u32, usize) -> u32;
    let ((inside, outside), _) = ask(|ext| {
        let address = super::super::resolve("storport.sys", "StorPortExtendedFunction").unwrap();
        let allocate = |highest: u64| {
            let export = exported::<Export>(address);
            with_result::<usize>(|to| export(24, ext.0, 5 * 4096, 0, highest, 0, 1, 0, to) as usize)
        };
        (allocate(u64::MAX), allocate(0xFFFF_FFFF))
    });

    let (address, status) = inside;
    assert_eq!(status, 0);
    let run = machine().memory().run(address, 5 * 4096).unwrap();
    assert_eq!(run.1, 5 * 4096);
    // All memory lies above 4 GiB.
    assert_eq!(outside, (0, 0xC100_0003));
}

#[test]
fn processors_are_one_group_and_one_node() {
    let (answers, broken) = ask(|ext| {
        let ulong = |code, arguments: [usize; 3]| {
            let (value, status) = with_result::<u32>(|to| {
                let [a, b, c] =
                    arguments.map(|argument| if argument == 99 { to } else { argument });
                ext.extended(code, [a, b, c, 0]) as usize
            });
            assert_eq!(status, 0);
            value
        };
        [
            ulong(94, [99, 0, 0]),
            ulong(18, [99, 0, 0]) & 0xffff,
            ulong(19, [0, 99, 0]),
            ulong(20, [99, 0, 0]),
            ulong(22, [99, 0, 0]),
            ulong(92, [99, 0, 0]),
            ulong(17, [99, 0, 0]),
            ulong(109, [99, 0, 0]) & 0xff,
        ]
    });

    // Request 0 runs on CPU 0.
    let dispatch = u32::from(irql::DISPATCH);
    assert_eq!(answers, [2, 1, 0b11, 1, 0, 0, 0, dispatch]);
    assert_eq!(broken, [] as [&str; 0]);
}

#[test]
fn sequenced_lists_are_last_in_first_out() {
    let (seen, _) = ask(|ext| {
        let scratch = Scratch::new(256);
        let head = scratch.address();
        let entries = [head + 64, head + 96];
        let list = |code, argument: Option<usize>| {
            with_result::<usize>(|to| {
                let arguments = match argument {
                    Some(entry) => [head, entry, to, 0],
                    None => [head, to, 0, 0],
                };
                ext.extended(code, arguments) as usize
            })
            .0
        };
        ext.extended(35, [head, 0, 0, 0]);
        let pushed = entries.map(|entry| list(38, Some(entry)));
        let depth = list(39, None) as u16;
        let popped = [list(37, None), list(37, None), list(37, None)];
        (
            pushed == [0, entries[0]],
            depth,
            popped == [entries[1], entries[0], 0],
        )
    });

    assert_eq!(seen, (true, 2, true));
}

#[test]
fn double_lists_take_at_both_ends() {
    let (seen, _) = ask(|ext| {
        let scratch = Scratch::new(256);
        let head = scratch.address();
        // StorPortInitializeListHead is inline.
        scratch.at(0).set(abi::stor_list_entry::Flink, head);
        scratch.at(0).set(abi::stor_list_entry::Blink, head);
        let [a, b] = [head + 64, head + 96];
        let insert = |code, entry| {
            with_result::<usize>(|to| ext.extended(code, [head, entry, to, 0]) as usize).0
        };
        let remove = || with_result::<usize>(|to| ext.extended(74, [head, to, 0, 0]) as usize).0;
        let inserted = [insert(73, a), insert(72, b)];
        let removed = [remove(), remove(), remove()];
        (inserted == [0, a], removed == [b, a, 0])
    });

    assert_eq!(seen, (true, true));
}

#[test]
fn events_wake_who_waits() {
    struct Waits {
        event: Scratch,
        results: Mutex<Vec<u32>>,
    }
    impl Miniport for Waits {
        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            // A synchronisation event, not set.
            ext.extended(99, [self.event.address(), 1, 0, 0]);
            let (worker, _) = with_result::<usize>(|to| ext.extended(29, [to, 0, 0, 0]) as usize);
            ext.queue_work(worker, 0);
            ext.request_timer_call(2000);
            ext.complete(srb, SUCCESS);
            true
        }

        fn timer(&self, ext: Extension) {
            ext.extended(101, [self.event.address(), 0, 0, 0]);
        }

        fn work(&self, ext: Extension, _: usize, worker: usize) {
            let timeout = Scratch::new(8);
            timeout.at(0).set(abi::value(), -10_000i64 as u64);
            let event = self.event.address();
            let first = ext.extended(100, [event, 0, 0, 0]);
            let second = ext.extended(100, [event, 0, timeout.address(), 0]);
            ext.extended(31, [worker, 0, 0, 0]);
            *self.results.lock().unwrap() = vec![first, second];
        }
    }
    let bench = start(Waits {
        event: Scratch::new(64),
        results: Mutex::default(),
    });

    let _ = bench.execute();
    bench.wait_until("it was woken", |bench| {
        !bench.miniport.results.lock().unwrap().is_empty()
    });

    // The first wait took the signal; the second timed out.
    let results = bench.miniport.results.lock().unwrap().clone();
    assert_eq!(results, [0, 0xC100_000E]);
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
    let bench = start(Asks::new(|ext| {
        let [details, _memory] = event_details();
        ext.extended(16, [details.address(), 0, 0, 0])
    }));

    let _ = bench.execute();

    assert_eq!(*bench.miniport.1.lock().unwrap(), Some(0));
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
fn system_events_that_their_page_forbids_are_refused() {
    use abi::stor_log_event_details as field;

    const INVALID_PARAMETER: u32 = 0xC100_0006;
    /// Logs an event that it changes; keeps MaximumSize and what the call returned.
    struct Logs(fn(Structure), Mutex<Option<(u32, u32)>>);
    impl Miniport for Logs {
        fn build_io(&self, ext: Extension, _: usize) -> bool {
            let [details, _memory] = event_details();
            self.0(details.at(0));
            let (most, answer) =
                with_result(|to| ext.extended(16, [details.address(), to, 0, 0]) as usize);
            *self.1.lock().unwrap() = Some((most, answer as u32));
            true
        }
    }
    /// What is changed, what the call returns, and what the violation says.
    type Case = (fn(Structure), u32, &'static str);
    const CASES: [Case; 9] = [
        (
            |details| details.set(field::InterfaceRevision, 1),
            INVALID_PARAMETER,
            "InterfaceRevision is 0x1",
        ),
        (
            |details| details.set(field::Size, 64),
            INVALID_PARAMETER,
            "Size is 0x40",
        ),
        (
            |details| details.set(field::Flags, 1),
            INVALID_PARAMETER,
            "Flags is 0x1",
        ),
        (
            |details| details.set(field::EventAssociation, 3),
            INVALID_PARAMETER,
            "EventAssociation is 0x3",
        ),
        (
            |details| details.set(field::DumpData, 0),
            INVALID_PARAMETER,
            "DumpData is NULL",
        ),
        (
            |details| details.set(field::StringList, 0),
            INVALID_PARAMETER,
            "StringList is NULL",
        ),
        (
            // The list's third place is zero.
            |details| details.set(field::StringCount, 3),
            INVALID_PARAMETER,
            "a string of StringList is NULL",
        ),
        (
            |details| details.set(field::StringCount, u32::MAX),
            0xC100_000A,
            "allows 150",
        ),
        (
            // The strings have 22 bytes with their terminators.
            |details| details.set(field::DumpDataSize, 129),
            0xC100_000A,
            "have 151 bytes",
        ),
    ];
    for (change, status, violation) in CASES {
        let bench = start(Logs(change, Mutex::default()));

        let _ = bench.execute();

        let (most, answer) = bench.miniport.1.lock().unwrap().expect("it was asked");
        assert_eq!(answer, status, "{violation}");
        assert!(status == INVALID_PARAMETER || most == 150, "{most}");
        let report = bench.adapter.report();
        assert_eq!(report.system_events, []);
        let [found] = report.violations.as_slice() else {
            panic!("{:?}", report.violations);
        };
        assert_eq!(found.rule, "ddi-argument");
        assert!(found.detail.contains(violation), "{}", found.detail);
    }
}

#[test]
fn a_newer_revision_is_answered_with_the_one_that_there_is() {
    let (seen, broken) = ask(|ext| {
        let [details, _memory] = event_details();
        let field = || abi::stor_log_event_details::InterfaceRevision;
        details.at(0).set(field(), 0x101);
        let minor = ext.extended(16, [details.address(), 0, 0, 0]);
        details.at(0).set(field(), 0x200);
        let newer = ext.extended(16, [details.address(), 0, 0, 0]);
        (minor, newer, details.at(0).get(field()))
    });

    assert_eq!(seen, (0, 0xC100_000B, 0x100));
    assert_eq!(broken, [""; 0]);
}

#[test]
fn functions_that_need_what_is_not_here_say_so_and_are_counted() {
    let bench = start(Asks::new(|ext| {
        [2, 6, 71].map(|code| ext.extended(code, [0; 4]))
    }));
    let _ = bench.execute();

    let answers = bench.miniport.1.lock().unwrap().take();
    assert_eq!(answers, Some([0xC100_0002; 3]));
    let report = bench.adapter.report();
    let names: Vec<_> = report.not_implemented.keys().collect();
    assert_eq!(
        names,
        [
            "StorPortAllocateMdl",
            "StorPortGetOriginalMdl",
            "StorPortPropagateIrpExtension"
        ]
    );
}

#[test]
fn clocks_go_on() {
    let (times, _) = ask(|ext| {
        let time =
            || with_result::<u64>(|to| ddi("StorPortQuerySystemTime", [to, 0, 0, 0, 0, 0])).0;
        let counter = || with_result::<u64>(|to| ext.extended(47, [0, to, 0, 0]) as usize).0;
        let first = (time(), counter());
        ddi("StorPortStallExecution", [2000, 0, 0, 0, 0, 0]);
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
    struct Registers;
    impl Miniport for Registers {
        fn find_adapter(&self, ext: Extension, _: Structure) -> u32 {
            let arguments = [ext.0, 5, 0, 0xFE00_0000, 4096, 0];
            let base = ddi("StorPortGetDeviceBase", arguments);
            if base == 0 {
                return config::SP_RETURN_ERROR;
            }
            // Without HwDeviceExtension, as miniports do that know the macros.
            let call = |name: &str, a, b, c| ddi(name, [0, a, b, c, 0, 0]);
            call("StorPortWriteRegisterUlong", base + 8, 0x1234_5678, 0);
            let short = call("StorPortReadRegisterUshort", base + 10, 0, 0);
            let data = Scratch::new(16);
            call(
                "StorPortReadRegisterBufferUchar",
                base + 8,
                data.address(),
                4,
            );
            let bytes = data.at(0).bytes(4);
            let outside = call("StorPortReadRegisterUlong", base + 4094, 0, 0) as u32;
            ddi("StorPortFreeDeviceBase", [ext.0, base, 0, 0, 0, 0]);
            let good = short == 0x1234 && bytes == [0x78, 0x56, 0x34, 0x12] && outside == u32::MAX;
            if good {
                config::SP_RETURN_FOUND
            } else {
                config::SP_RETURN_BAD_CONFIG
            }
        }
    }

    let bench = start(Registers);

    assert_eq!(bench.broken(), [("register-address", "HwFindAdapter")]);
}

#[test]
fn msi_information_names_message_and_vector() {
    let (seen, _) = ask(|ext| {
        use abi::message_interrupt_information as msi;
        let scratch = Scratch::new(64);
        let statuses = [1, 2].map(|message| ext.extended(13, [message, scratch.address(), 0, 0]));
        let info = scratch.at(0);
        (
            statuses,
            info.get(msi::MessageId),
            info.get(msi::MessageData),
            info.get(msi::InterruptMode),
        )
    });

    assert_eq!(seen, ([0, 0xC100_0006], 1, 0x51, config::Latched));
}

#[test]
fn all_exports_of_the_table_exist() {
    let table: serde_json::Value =
        serde_json::from_str(include_str!("../../../../cross/abi/storport-wdk.json")).unwrap();
    let exports: Vec<_> = match &table["exports"] {
        serde_json::Value::Object(names) => names.keys().cloned().collect(),
        serde_json::Value::Array(names) => names
            .iter()
            .map(|name| name.as_str().unwrap_or_default().to_owned())
            .collect(),
        other => panic!("{other}"),
    };
    assert!(exports.len() >= 50, "the table has {}", exports.len());

    for name in exports {
        if !name.starts_with("ScsiPortWmi") {
            assert!(
                super::super::resolve("storport.sys", &name).is_some(),
                "{name}"
            );
        }
    }
    assert!(super::super::resolve("storport.sys", "StorPortNothing").is_none());
}
