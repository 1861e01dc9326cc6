//! Tests of spin locks: their behaviour, and the text of a violation.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use super::{
    super::abi::wdk::{DpcLevelLock, DpcLock, InterruptLock, StartIoLock, ThreadedDpcLock},
    bench::*,
};
use Callback::{HwBuildIo, HwDpcRoutine, HwFindAdapter, HwMSInterruptRoutine, HwStartIo};
use testbed_machine::cpu::{current_irql, irql, set_irql};

#[test]
fn locks_raise_the_irql_and_return_to_the_one_before() {
    let (seen, broken) = ask(|c| {
        let seen = Notes::new();
        let note = || seen.push(current_irql());
        c.under(&[StartIoLock], |c| {
            note();
            c.acquire(DpcLock, 1);
            note();
            let (_, old) = c.acquire_message(1);
            note();
            c.release_message(1, old);
            note();
            c.release(1);
        });
        note();
        seen.take()
    });

    assert_eq!(broken, [""; 0]);
    let (dispatch, device) = (irql::DISPATCH, irql::DEVICE);
    assert_eq!(seen, [dispatch, dispatch, device, dispatch, dispatch]);
}

#[test]
fn the_handle_holds_lock_and_irql() {
    let ((lock, old_irql), broken) = ask(|c| {
        c.acquire(InterruptLock, 0);
        let handle = structure(c.handle(0));
        let seen = (
            handle.get(stor_lock_handle::Lock),
            handle.get(stor_lock_handle::Context_OldIrql),
        );
        c.release(0);
        seen
    });

    assert_eq!(broken, [""; 0]);
    assert_eq!((lock, old_irql), (InterruptLock, irql::DISPATCH));
}

#[test]
fn the_start_io_lock_excludes_other_threads() {
    // Counted under the lock without atomic addition.
    let count: &'static AtomicU64 = Box::leak(Box::default());
    let bench = start(Miniport::new().on(HwBuildIo, |c| {
        let handle = Scratch::new(64);
        for _ in 0..5 {
            c.acquire_at(StartIoLock, 0, handle.address());
            let before = count.load(Ordering::Relaxed);
            thread::yield_now();
            count.store(before + 1, Ordering::Relaxed);
            c.release_at(handle.address());
        }
    }));

    assert_eq!(bench.load(100, 1).len(), 200);

    assert_eq!(count.load(Ordering::Relaxed), 1000);
    let report = bench.adapter.report();
    let row = report.locks.iter().find(|row| row.name == "StartIo");
    // Each request took it five times, and Storport once for HwStartIo.
    assert_eq!(row.map(|row| row.acquisitions), Some(1200));
    assert!(row.is_some_and(|row| row.held_total >= row.held_max));
    assert_eq!(bench.broken(), []);
}

#[test]
fn synchronize_access_runs_with_the_interrupt_lock_and_returns_its_result() {
    let results = Notes::new();
    let bench = start(
        Miniport::new()
            .on(HwStartIo, move |c| {
                results.push([c.synchronize(1), c.synchronize(0)]);
            })
            .on(Callback::SynchronizedAccess, |c| {
                let has_lock = c.holds(LockId::Interrupt) && current_irql() == irql::DEVICE;
                c.answer(u32::from(c.about == 1 && has_lock));
            }),
    );
    let _ = bench.execute();

    assert_eq!(results.take(), [[true, false]]);
    assert_eq!(bench.broken(), []);
}

#[test]
fn a_violation_names_thread_irql_locks_and_the_opposite_order() {
    let bench = start(Miniport::new().on(HwBuildIo, |c| {
        c.take(&[StartIoLock, DpcLock]);
        c.take(&[DpcLock, StartIoLock]);
    }));
    let _ = bench.execute();

    let violations = bench.adapter.report().violations;

    let [violation] = violations.as_slice() else {
        panic!("{violations:?}");
    };
    assert_eq!(violation.rule, "lock-inversion");
    assert!(violation.source.ends_with("storport-rules.md Order"));
    let opposite = "Dpc 0 under StartIo in HwBuildIo on CPU 0";
    let detail = &violation.detail;
    assert!(detail.contains(opposite), "{detail}");
    let circumstances = &violation.circumstances;
    assert_eq!(circumstances.cpu, 0);
    assert_eq!(circumstances.thread, "cpu 0");
    assert_eq!(circumstances.irql, irql::DISPATCH);
    assert_eq!(circumstances.lock.as_deref(), Some("StartIo"));
    assert_eq!(circumstances.held, ["Dpc 0"]);
}

#[test]
fn the_extended_acquisition_returns_an_error() {
    let statuses = Notes::new();
    let bench = start(
        Miniport::new()
            .on(HwStartIo, |c| {
                c.issue_dpc(c.own(FIRST_DPC), 0, 0);
            })
            .on(HwDpcRoutine, move |c| {
                let acquire = |kind| {
                    statuses.push(c.acquire_ex(kind, c.context(kind), 0));
                };
                for kind in [
                    DpcLevelLock,
                    ThreadedDpcLock,
                    DpcLock,
                    StartIoLock,
                    InterruptLock,
                ] {
                    acquire(kind);
                    c.release(0);
                }
                acquire(0);
                let before = set_irql(irql::DEVICE);
                acquire(StartIoLock);
                set_irql(before);
            }),
    );

    let _ = bench.execute();
    bench.wait_until("the DPC", |_| statuses.len() == 7);

    let statuses = statuses.take();
    assert_eq!(statuses, [0, 0, 0, 0, 0, 0xC100_0006, 0xC100_0008]);
}

#[test]
fn in_synchronize_all_mode_messages_come_with_the_interrupt_lock() {
    let statuses = Notes::new();
    let bench = start(
        Miniport::new()
            .on(HwFindAdapter, |c| {
                let mode = info::InterruptSynchronizationMode;
                c.structure().set(mode, wdk::InterruptSynchronizeAll);
            })
            .on(HwStartIo, move |c| statuses.push(c.acquire_message(0).0))
            .on(HwMSInterruptRoutine, |c| {
                c.answer(c.holds(LockId::Interrupt).into());
            }),
    );

    let _ = bench.execute();
    bench.function.message(0);
    bench.wait_for_interrupts(1);

    assert_eq!(statuses.take(), [0xC100_0007]);
    assert_eq!(bench.adapter.report().unclaimed_interrupts, 0);
}
