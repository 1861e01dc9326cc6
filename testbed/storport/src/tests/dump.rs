//! A dump stack: what its miniport is told, how its requests are carried, and
//! what it lacks. And the removal of an adapter that never started.

use std::{
    ffi::CStr,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use super::{
    super::{abi::spin_lock, control_request::ControlRequest, dump::DumpError},
    bench::*,
};
use testbed_machine::cpu::{current_irql, irql};

fn broken(stack: &DumpStack) -> Vec<(&'static str, &'static str)> {
    let violations = stack.report().violations;
    violations
        .iter()
        .map(|violation| (violation.rule, violation.callback))
        .collect()
}

/// The miniport of a dump stack, started; it has to start.
fn started<M: Miniport + 'static>(miniport: M) -> (&'static M, DumpStack) {
    start_dump(miniport).expect("the dump stack starts")
}

/// Keeps a request until the third HwInterrupt.
#[derive(Default)]
struct Polled {
    kept: Kept,
    polls: AtomicU32,
    levels: Mutex<Vec<(Callback, u8)>>,
}

impl Polled {
    fn note(&self) {
        let note = (callbacks::current(), current_irql());
        let mut levels = self.levels.lock().unwrap();
        if !levels.contains(&note) {
            levels.push(note);
        }
    }
}

impl Miniport for Polled {
    fn registration(&self, _: Structure) {
        self.note();
    }

    fn find_adapter(&self, _: Extension, _: Structure) -> u32 {
        self.note();
        config::SP_RETURN_FOUND
    }

    fn initialize(&self, _: Extension) -> bool {
        self.note();
        true
    }

    fn build_io(&self, _: Extension, _: usize) -> bool {
        self.note();
        true
    }

    fn start_io(&self, _: Extension, srb: usize) -> bool {
        self.note();
        self.kept.push(srb);
        true
    }

    fn interrupt(&self, ext: Extension) -> bool {
        self.note();
        if self.polls.fetch_add(1, Ordering::SeqCst) == 2 {
            self.kept.complete_all(ext, SUCCESS);
        }
        true
    }

    fn reset_bus(&self, _: Extension, _: u32) -> bool {
        false
    }
}

#[test]
fn a_request_is_polled_for_and_everything_runs_at_high_level() {
    let (miniport, stack) = started(Polled::default());

    let completion = stack.execute(&request(7)).unwrap();

    assert_eq!((completion.token, completion.srb_status), (7, SUCCESS));
    assert_eq!(miniport.polls.load(Ordering::SeqCst), 3);
    let callbacks = [
        Callback::DriverEntry,
        Callback::HwFindAdapter,
        Callback::HwInitialize,
        Callback::HwBuildIo,
        Callback::HwStartIo,
        Callback::HwInterrupt,
    ];
    assert_eq!(
        *miniport.levels.lock().unwrap(),
        callbacks.map(|callback| (callback, irql::HIGH))
    );
    assert_eq!(broken(&stack), []);
}

/// Reads what HwFindAdapter is told, and where its memory lies.
#[derive(Default)]
struct Told {
    seen: Mutex<Vec<usize>>,
    argument: Mutex<String>,
    aligned: bool,
}

impl Miniport for Told {
    fn registration(&self, data: Structure) {
        if self.aligned {
            data.set(
                init::FeatureSupport,
                config::STOR_FEATURE_DUMP_16_BYTE_ALIGNMENT,
            );
        }
    }

    fn find_adapter(&self, ext: Extension, info: Structure) -> u32 {
        let arguments = [ext.0, info.address(), 4096, 0, 0, 0];
        let uncached = ddi("StorPortGetUncachedExtension", arguments);
        let ranges = info.get(self::info::AccessRanges);
        let count = info.get(self::info::NumberOfAccessRanges) as usize;
        *self.argument.lock().unwrap() = argument_behind(ranges, count);
        *self.seen.lock().unwrap() = vec![
            usize::from(info.get(self::info::DumpMode)),
            info.get(self::info::InterruptMode) as usize,
            ext.0 % 32,
            uncached % 32,
        ];
        config::SP_RETURN_FOUND
    }

    fn initialize(&self, _: Extension) -> bool {
        true
    }
}

/// The string that lies behind the access ranges.
fn argument_behind(ranges: usize, count: usize) -> String {
    let at = structure(ranges).offset(count * abi::access_range::SIZE);
    let bytes = at.bytes(8);
    CStr::from_bytes_until_nul(&bytes)
        .map(|text| text.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[test]
fn a_dump_stack_is_recognised_and_promises_little_alignment() {
    let (miniport, stack) = started(Told::default());

    assert_eq!(*miniport.argument.lock().unwrap(), "dump=1");
    assert_eq!(
        *miniport.seen.lock().unwrap(),
        [1, config::LevelSensitive as usize, 8, 16]
    );
    assert_eq!(stack.memory(), (256, 4096));
    assert_eq!(broken(&stack), []);
}

#[test]
fn a_miniport_that_asks_for_it_gets_an_extension_aligned_to_16_bytes() {
    let (miniport, _stack) = started(Told {
        aligned: true,
        ..Told::default()
    });

    assert_eq!(miniport.seen.lock().unwrap()[2], 16);
}

/// Does one thing in HwInitialize.
struct Does<F: Fn(Extension) + Send + Sync>(F);

impl<F: Fn(Extension) + Send + Sync> Miniport for Does<F> {
    fn initialize(&self, ext: Extension) -> bool {
        (self.0)(ext);
        true
    }
}

/// The rules that HwInitialize breaks in a dump stack by doing this.
fn initialize_that(does: impl Fn(Extension) + Send + Sync + 'static) -> Vec<&'static str> {
    let (_, stack) = started(Does(does));
    broken(&stack)
        .into_iter()
        .map(|(rule, callback)| {
            assert_eq!(callback, "HwInitialize");
            rule
        })
        .collect()
}

#[test]
fn routines_that_need_other_threads_pool_or_passive_level_are_absent() {
    let lacking = ["ddi-in-dump-mode"];
    let lacking_by_choice = ["ddi-dump-stack"];
    assert_eq!(
        initialize_that(|ext| assert!(!ext.enable_passive_initialization())),
        lacking_by_choice
    );
    assert_eq!(
        initialize_that(|ext| {
            let dpc = Scratch::new(abi::stor_dpc::SIZE);
            ext.initialize_dpc(dpc.address());
        }),
        lacking
    );
    assert_eq!(
        initialize_that(|ext| {
            let (block, status) =
                with_result::<usize>(|to| ext.extended(0, [16, 0, to, 0]) as usize);
            assert!(block == 0 && status != 0);
        }),
        lacking_by_choice
    );
    let rule_of_timers = initialize_that(|ext| ext.request_timer_call(10));
    assert_eq!(rule_of_timers, lacking_by_choice);
    assert_eq!(
        initialize_that(|ext| {
            let arguments = [ext.0, 0, 0, 0, 0, 0];
            assert_eq!(ddi("StorPortRegistryRead", arguments) as u8, 0);
        }),
        lacking
    );
}

#[test]
fn messages_can_be_asked_for_and_are_none() {
    assert_eq!(
        initialize_that(|ext| {
            let information = Scratch::new(abi::message_interrupt_information::SIZE);
            assert_ne!(ext.extended(13, [0, information.address(), 0, 0]), 0);
        }),
        [""; 0]
    );
}

#[test]
fn a_lock_is_advised_against_and_is_not_taken() {
    assert_eq!(
        initialize_that(|ext| {
            let handle = Scratch::new(stor_lock_handle::SIZE);
            ext.acquire(spin_lock::StartIoLock, 0, handle.address());
            assert!(!ext.holds(LockId::StartIo));
            ext.release(handle.address());
            assert_eq!(current_irql(), irql::HIGH);
        }),
        ["lock-in-dump-mode"]
    );
    assert_eq!(
        initialize_that(|ext| assert!(ext.synchronize_access(0))),
        ["lock-in-dump-mode"]
    );
}

#[test]
fn the_system_time_stands_still() {
    assert_eq!(
        initialize_that(|_| {
            let time =
                || with_result::<u64>(|to| ddi("StorPortQuerySystemTime", [to, 0, 0, 0, 0, 0])).0;
            let first = time();
            std::thread::sleep(Duration::from_millis(2));
            assert_eq!(time(), first);
        }),
        [""; 0]
    );
}

#[test]
fn a_request_that_comes_back_busy_is_started_again() {
    #[derive(Default)]
    struct Busy(AtomicU32);
    impl Miniport for Busy {
        fn initialize(&self, _: Extension) -> bool {
            true
        }

        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            let busy = self.0.fetch_add(1, Ordering::SeqCst) < 2;
            ext.complete(srb, if busy { 0x05 } else { SUCCESS });
            true
        }
    }
    let (miniport, stack) = started(Busy::default());

    let flush = ControlRequest::Flush(Address::default());

    assert_eq!(stack.control(flush).unwrap(), SUCCESS);
    assert_eq!(miniport.0.load(Ordering::SeqCst), 3);
    assert_eq!(broken(&stack), []);
}

#[test]
fn a_request_that_is_never_completed_is_an_error() {
    struct Deaf;
    impl Miniport for Deaf {
        fn initialize(&self, _: Extension) -> bool {
            true
        }

        fn start_io(&self, _: Extension, _: usize) -> bool {
            true
        }
    }
    let (_, stack) = started(Deaf);

    let lost = stack.execute(&Request {
        timeout: Duration::from_millis(20),
        ..request(0)
    });

    assert!(matches!(lost, Err(DumpError::TimedOut { .. })), "{lost:?}");
}

#[test]
fn a_bus_reset_that_is_disregarded_breaks_nothing() {
    let (_, stack) = started(Polled::default());

    let completion = stack.execute_through_reset(&request(0)).unwrap();

    assert_eq!(completion.srb_status, SUCCESS);
    assert_eq!(broken(&stack), []);
}

#[test]
fn a_bus_reset_that_completes_the_request_is_a_violation() {
    #[derive(Default)]
    struct Resets(Kept);
    impl Miniport for Resets {
        fn initialize(&self, _: Extension) -> bool {
            true
        }

        fn start_io(&self, _: Extension, srb: usize) -> bool {
            self.0.push(srb);
            true
        }

        fn reset_bus(&self, ext: Extension, _: u32) -> bool {
            self.0.complete_all(ext, BUS_RESET);
            true
        }
    }
    let (_, stack) = started(Resets::default());

    let completion = stack.execute_through_reset(&request(0)).unwrap();

    assert_eq!(completion.srb_status, BUS_RESET);
    assert_eq!(broken(&stack), [("dump-reset-bus", "HwResetBus")]);
}

#[test]
fn a_dump_stack_whose_miniport_does_not_initialize_is_not_started() {
    struct Broken;
    impl Miniport for Broken {
        fn initialize(&self, _: Extension) -> bool {
            false
        }
    }

    let refused = start_dump(Broken).map(|_| ());

    let text = refused.unwrap_err().to_string();
    assert_eq!(text, "HwInitialize: returned FALSE");
}

#[test]
fn an_adapter_that_never_started_is_removed_by_its_first_request() {
    /// Callback, IRQL, whether the StartIo lock is held, device extension.
    type Call = (Callback, u8, bool, Vec<u8>);
    #[derive(Default)]
    struct Absent(Mutex<Vec<Call>>);
    impl Miniport for Absent {
        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            self.0.lock().unwrap().push((
                callbacks::current(),
                current_irql(),
                ext.holds(LockId::StartIo),
                structure(ext.0).bytes(256),
            ));
            ext.complete(srb, SUCCESS);
            true
        }
    }

    let (miniport, status, violations) = remove_unstarted(Absent::default());

    assert_eq!(status, Some(SUCCESS));
    assert_eq!(
        *miniport.0.lock().unwrap(),
        [(Callback::HwStartIo, irql::DISPATCH, true, vec![0; 256])]
    );
    assert!(violations.is_empty(), "{violations:?}");
}
