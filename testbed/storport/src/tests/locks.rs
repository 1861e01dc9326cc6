//! Spin locks: what they do, and what misuse is reported.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::{super::report::Violation, bench::*};
use testbed_machine::cpu::{current_irql, irql, set_irql};

/// STOR_SPINLOCK.
const DPC: u32 = 1;
const START_IO: u32 = 2;
const INTERRUPT: u32 = 3;
const THREADED: u32 = 4;
const DPC_LEVEL: u32 = 5;

/// Where in the scratch memory things are.
const FIRST_DPC: usize = 0;
const SECOND_DPC: usize = 128;
const HANDLE: usize = 256;
const HANDLE_2: usize = 320;

type Act = dyn Fn(Extension, &Scratch) + Send + Sync;

/// Does something in one of its callbacks, once.
struct In {
    callback: Callback,
    act: Box<Act>,
    done: AtomicBool,
    scratch: Scratch,
}

impl In {
    fn new(callback: Callback, act: impl Fn(Extension, &Scratch) + Send + Sync + 'static) -> Self {
        Self {
            callback,
            act: Box::new(act),
            done: AtomicBool::new(false),
            scratch: Scratch::new(4096),
        }
    }

    fn at(&self, ext: Extension) {
        if callbacks::current() == self.callback && !self.done.swap(true, Ordering::SeqCst) {
            (self.act)(ext, &self.scratch);
        }
    }
}

impl Miniport for In {
    fn find_adapter(&self, ext: Extension, _: Structure) -> u32 {
        self.at(ext);
        config::SP_RETURN_FOUND
    }

    fn initialize(&self, ext: Extension) -> bool {
        self.at(ext);
        ext.enable_passive_initialization()
    }

    fn passive_initialize(&self, ext: Extension) -> bool {
        ext.initialize_dpc(self.scratch.address() + FIRST_DPC);
        ext.initialize_dpc(self.scratch.address() + SECOND_DPC);
        self.at(ext);
        true
    }

    fn build_io(&self, ext: Extension, _: usize) -> bool {
        self.at(ext);
        true
    }

    fn start_io(&self, ext: Extension, srb: usize) -> bool {
        self.at(ext);
        ext.complete(srb, SUCCESS);
        if self.callback == Callback::HwDpcRoutine {
            ext.issue_dpc(self.scratch.address() + FIRST_DPC, 0, 0);
        }
        if self.callback == Callback::HwTimer {
            ext.request_timer_call(1000);
        }
        true
    }

    fn message(&self, ext: Extension, _: u32) -> bool {
        self.at(ext);
        true
    }

    fn dpc(&self, ext: Extension, _: usize, _: usize, _: usize) {
        self.at(ext);
    }

    fn timer(&self, ext: Extension) {
        self.at(ext);
    }

    fn synchronized(&self, ext: Extension, _: usize) -> bool {
        self.at(ext);
        true
    }
}

/// Runs `act` in `callback` of a miniport, and gives back the rules broken.
fn broken_in(
    callback: Callback,
    act: impl Fn(Extension, &Scratch) + Send + Sync + 'static,
) -> Vec<&'static str> {
    let bench = start(In::new(callback, act));
    let _ = bench.execute();
    bench.function.message(1);
    bench.wait_until("the act", |bench| {
        bench.miniport.done.load(Ordering::SeqCst)
    });
    // What is checked at the callback's end is recorded when it has been
    // counted as an interrupt, a request or a DPC: stop waits for all of them.
    bench.adapter.stop().unwrap();
    let violations = bench.adapter.report().violations;
    assert!(violations.iter().all(|violation| violation.count == 1));
    violations.iter().map(|violation| violation.rule).collect()
}

/// Takes a lock, runs `held`, and releases it.
fn with(ext: Extension, scratch: &Scratch, lock: u32, handle: usize, held: impl FnOnce()) {
    let context = match lock {
        START_IO | INTERRUPT => 0,
        _ => scratch.address() + FIRST_DPC,
    };
    ext.acquire(lock, context, scratch.address() + handle);
    held();
    ext.release(scratch.address() + handle);
}

#[test]
fn locks_raise_the_irql_and_return_to_the_one_before() {
    static SEEN: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    let note = || SEEN.lock().unwrap().push(current_irql());

    let broken = broken_in(Callback::HwBuildIo, move |ext, scratch| {
        with(ext, scratch, START_IO, HANDLE, || {
            note();
            with(ext, scratch, DPC, HANDLE_2, || {
                note();
                let (_, old) = ext.acquire_message(1);
                note();
                ext.release_message(1, old);
                note();
            });
        });
        note();
    });

    assert_eq!(broken, [] as [&str; 0]);
    let (dispatch, device) = (irql::DISPATCH, irql::DEVICE);
    let seen = SEEN.lock().unwrap().clone();
    assert_eq!(seen, [dispatch, dispatch, device, dispatch, dispatch]);
}

#[test]
fn the_handle_holds_lock_and_irql() {
    static SEEN: Mutex<Vec<u32>> = Mutex::new(Vec::new());

    let broken = broken_in(Callback::HwBuildIo, |ext, scratch| {
        with(ext, scratch, INTERRUPT, HANDLE, || {
            let handle = scratch.at(HANDLE);
            *SEEN.lock().unwrap() = vec![
                handle.get(stor_lock_handle::Lock),
                u32::from(handle.get(stor_lock_handle::Context_OldIrql)),
            ];
        });
    });

    assert_eq!(broken, [] as [&str; 0]);
    assert_eq!(
        *SEEN.lock().unwrap(),
        [INTERRUPT, u32::from(irql::DISPATCH)]
    );
}

#[test]
fn start_io_lock_keeps_others_out() {
    /// Counts under the lock without atomic addition.
    struct Counts(AtomicU64);
    impl Miniport for Counts {
        fn build_io(&self, ext: Extension, _: usize) -> bool {
            let handle = Scratch::new(64);
            for _ in 0..5 {
                ext.acquire(START_IO, 0, handle.address());
                let count = self.0.load(Ordering::Relaxed);
                std::thread::yield_now();
                self.0.store(count + 1, Ordering::Relaxed);
                ext.release(handle.address());
            }
            true
        }
    }
    let bench = start(Counts(AtomicU64::new(0)));

    assert_eq!(bench.load(100, 1).len(), 200);

    assert_eq!(bench.miniport.0.load(Ordering::Relaxed), 1000);
    let report = bench.adapter.report();
    let row = report.locks.iter().find(|row| row.name == "StartIo");
    // Each request took it five times, and Storport once for HwStartIo.
    assert_eq!(row.map(|row| row.acquisitions), Some(1200));
    assert!(row.is_some_and(|row| row.held_total >= row.held_max));
    assert_eq!(bench.broken(), []);
}

#[test]
fn synchronize_access_runs_with_the_interrupt_lock_and_returns_its_result() {
    struct Synchronizes;
    impl Miniport for Synchronizes {
        fn start_io(&self, ext: Extension, srb: usize) -> bool {
            let result = ext.synchronize_access(1) && !ext.synchronize_access(0);
            ext.complete(srb, if result { SUCCESS } else { ERROR });
            true
        }

        fn synchronized(&self, ext: Extension, context: usize) -> bool {
            context == 1 && ext.holds(LockId::Interrupt) && current_irql() == irql::DEVICE
        }
    }
    let bench = start(Synchronizes);

    assert_eq!(bench.execute().srb_status, SUCCESS);
    assert_eq!(bench.broken(), []);
}

#[test]
fn two_dpc_locks_in_both_orders_are_an_inversion_though_nobody_waited() {
    let broken = broken_in(Callback::HwDpcRoutine, |ext, scratch| {
        let dpcs = [FIRST_DPC, SECOND_DPC].map(|dpc| scratch.address() + dpc);
        let handles = [HANDLE, HANDLE_2].map(|handle| scratch.address() + handle);
        for [outer, inner] in [[0, 1], [1, 0]] {
            ext.acquire(DPC, dpcs[outer], handles[0]);
            ext.acquire(DPC, dpcs[inner], handles[1]);
            ext.release(handles[1]);
            ext.release(handles[0]);
        }
    });

    assert_eq!(broken, ["lock-nested", "lock-inversion"]);
}

#[test]
fn start_io_and_a_dpc_lock_in_both_orders_are_an_inversion() {
    let broken = broken_in(Callback::HwDpcRoutine, |ext, scratch| {
        with(ext, scratch, DPC, HANDLE, || {
            with(ext, scratch, START_IO, HANDLE_2, || {});
        });
        with(ext, scratch, START_IO, HANDLE, || {
            with(ext, scratch, DPC, HANDLE_2, || {});
        });
    });

    assert_eq!(broken, ["lock-order-start-io", "lock-inversion"]);
}

#[test]
fn interrupt_routines_that_take_each_others_locks_are_an_inversion() {
    struct Crosses;
    impl Miniport for Crosses {
        fn message(&self, ext: Extension, id: u32) -> bool {
            let (_, old) = ext.acquire_message(1 - id);
            ext.release_message(1 - id, old);
            true
        }
    }
    let bench = start(Crosses);
    for (id, so_far) in [(0, 1), (1, 2)] {
        bench.function.message(id);
        bench.wait_until("the message", |bench| {
            bench.adapter.report().interrupts == so_far
        });
    }

    let violations = bench.adapter.report().violations;

    assert_eq!(bench.broken(), [("lock-inversion", "HwMSInterruptRoutine")]);
    let detail = &violations[0].detail;
    assert!(
        detail.contains("MSI 1 under MSI 0 in HwMSInterruptRoutine on CPU 0"),
        "{detail}"
    );
}

#[test]
fn a_violation_tells_thread_irql_and_locks() {
    let bench = start(In::new(Callback::HwBuildIo, |ext, scratch| {
        with(ext, scratch, DPC, HANDLE, || {
            with(ext, scratch, START_IO, HANDLE_2, || {});
        });
    }));
    let _ = bench.execute();

    let violations = bench.adapter.report().violations;

    let [
        Violation {
            source,
            circumstances,
            ..
        },
    ] = violations.as_slice()
    else {
        panic!("{violations:?}");
    };
    assert_eq!(*source, "storport-rules.md O3");
    assert_eq!(circumstances.cpu, 0);
    assert_eq!(circumstances.thread, "cpu 0");
    assert_eq!(circumstances.irql, irql::DISPATCH);
    assert_eq!(circumstances.lock.as_deref(), Some("StartIo"));
    assert_eq!(circumstances.held, ["Dpc 0"]);
}

#[test]
fn a_timer_routine_may_take_dpc_and_interrupt_locks() {
    let broken = broken_in(Callback::HwTimer, |ext, scratch| {
        with(ext, scratch, DPC, HANDLE, || {
            with(ext, scratch, INTERRUPT, HANDLE_2, || {});
        });
    });

    assert_eq!(broken, [] as [&str; 0]);
}

#[test]
fn the_extended_acquisition_reports_what_is_wrong() {
    static SEEN: Mutex<Vec<u32>> = Mutex::new(Vec::new());
    let broken = broken_in(Callback::HwDpcRoutine, |ext, scratch| {
        let dpc = scratch.address() + FIRST_DPC;
        let handle = scratch.address() + HANDLE;
        let acquire = |kind: u32, context| ext.extended(93, [kind as usize, context, handle, 0]);
        let mut seen = SEEN.lock().unwrap();
        for kind in [DPC_LEVEL, THREADED, DPC, START_IO, INTERRUPT] {
            let context = if kind == START_IO || kind == INTERRUPT {
                0
            } else {
                dpc
            };
            seen.push(acquire(kind, context));
            ext.release(handle);
        }
        seen.push(acquire(0, dpc));
        let before = set_irql(irql::DEVICE);
        seen.push(acquire(START_IO, 0));
        set_irql(before);
    });

    assert_eq!(
        *SEEN.lock().unwrap(),
        [0, 0, 0, 0, 0, 0xC100_0006, 0xC100_0008]
    );
    // The DPC is an ordinary one.
    assert_eq!(broken, ["lock-threaded-dpc", "lock-kind", "lock-irql"]);
}

#[test]
fn a_handle_that_is_used_twice_is_a_violation() {
    let broken = broken_in(Callback::HwBuildIo, |ext, scratch| {
        ext.acquire(START_IO, 0, scratch.address() + HANDLE);
        ext.acquire(INTERRUPT, 0, scratch.address() + HANDLE);
        ext.release(scratch.address() + HANDLE);
        ext.release(scratch.address() + HANDLE_2);
    });

    // The second acquisition overwrote what the first needs: it stays held.
    assert_eq!(
        broken,
        ["lock-handle-in-use", "lock-not-held", "lock-held-at-return"]
    );
}

#[test]
fn a_handle_that_is_used_for_a_second_lock_is_reported_once() {
    let broken = broken_in(Callback::HwBuildIo, |ext, scratch| {
        let handle = scratch.address() + HANDLE;
        ext.acquire(START_IO, 0, handle);
        ext.acquire(INTERRUPT, 0, handle);
        ext.release(handle);
        ext.release(handle);
    });

    assert_eq!(broken, ["lock-handle-in-use"]);
}

#[test]
fn a_handle_that_two_threads_share_is_a_violation() {
    /// Takes a lock in a work item, and meanwhile another one in HwBuildIo, with
    /// the same handle.
    struct Shares {
        scratch: Scratch,
        step: AtomicU64,
    }
    impl Shares {
        fn wait_for(&self, step: u64) {
            while self.step.load(Ordering::SeqCst) < step {
                std::thread::yield_now();
            }
        }
    }
    impl Miniport for Shares {
        fn passive_initialize(&self, ext: Extension) -> bool {
            ext.initialize_dpc(self.scratch.address() + FIRST_DPC);
            true
        }

        fn build_io(&self, ext: Extension, _: usize) -> bool {
            let (worker, _) = with_result::<usize>(|to| ext.extended(29, [to, 0, 0, 0]) as usize);
            ext.queue_work(worker, 0);
            self.wait_for(1);
            with(ext, &self.scratch, INTERRUPT, HANDLE, || {});
            self.step.store(2, Ordering::SeqCst);
            true
        }

        fn work(&self, ext: Extension, _: usize, worker: usize) {
            with(ext, &self.scratch, DPC, HANDLE, || {
                self.step.store(1, Ordering::SeqCst);
                self.wait_for(2);
            });
            ext.extended(31, [worker, 0, 0, 0]);
            self.step.store(3, Ordering::SeqCst);
        }
    }
    let bench = start(Shares {
        scratch: Scratch::new(4096),
        step: AtomicU64::new(0),
    });

    let _ = bench.execute();

    bench.miniport.wait_for(3);
    assert_eq!(bench.broken(), [("lock-handle-in-use", "HwBuildIo")]);
}

#[test]
fn functions_above_their_irql_are_refused() {
    static SEEN: Mutex<Vec<u32>> = Mutex::new(Vec::new());
    let broken = broken_in(Callback::HwMSInterruptRoutine, |ext, _| {
        // StorPortAllocatePool.
        let (_, status) = with_result::<usize>(|to| ext.extended(0, [64, 0, to, 0]) as usize);
        SEEN.lock().unwrap().push(status as u32);
    });

    assert_eq!(*SEEN.lock().unwrap(), [0xC100_0008]);
    assert_eq!(broken, ["ddi-irql"]);
}

/// A miniport whose messages share the interrupt lock.
struct Together(AtomicU64);

impl Miniport for Together {
    fn find_adapter(&self, _: Extension, info: Structure) -> u32 {
        info.set(
            self::info::InterruptSynchronizationMode,
            config::InterruptSynchronizeAll,
        );
        config::SP_RETURN_FOUND
    }

    fn start_io(&self, ext: Extension, srb: usize) -> bool {
        let (status, _) = ext.acquire_message(0);
        self.0.store(u64::from(status), Ordering::SeqCst);
        ext.complete(srb, SUCCESS);
        true
    }

    fn message(&self, ext: Extension, _: u32) -> bool {
        ext.holds(LockId::Interrupt)
    }
}

#[test]
fn msi_locks_without_per_message_mode_are_a_violation() {
    let bench = start(Together(AtomicU64::new(0)));

    let _ = bench.execute();

    assert_eq!(bench.miniport.0.load(Ordering::SeqCst), 0xC100_0007);
    assert_eq!(bench.broken(), [("lock-msi-mode", "HwStartIo")]);
}

#[test]
fn in_synchronize_all_mode_messages_come_with_the_interrupt_lock() {
    let bench = start(Together(AtomicU64::new(0)));

    bench.function.message(0);

    bench.wait_until("the message", |bench| {
        bench.adapter.report().interrupts == 1
    });
    assert_eq!(bench.adapter.report().unclaimed_interrupts, 0);
}
