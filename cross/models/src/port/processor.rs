//! The state of a processor: the adapter whose callback it runs, and the locks that it holds.
//!
//! A thread stands for a processor. This state is thread-local, so accessing it does not order the
//! memory accesses of threads.

use std::{
    cell::{Cell, RefCell},
    ptr,
};

use super::adapter::Adapter;

/// Storport's locks in the order in which they may be taken (storport-rules.md Order).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    StartIo,
    Dpc,
    Interrupt,
}

/// A lock that is held: its kind, and the value that the release needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) kind: Kind,
    /// The address of the STOR_LOCK_HANDLE, or the number of the message.
    pub(super) by: usize,
}

thread_local! {
    static ADAPTER: Cell<*const Adapter> = const { Cell::new(ptr::null()) };
    static HELD: RefCell<Vec<Held>> = const { RefCell::new(Vec::new()) };
    static NUMBER: Cell<u8> = const { Cell::new(3) };
}

/// Sets the number of this processor in its group.
pub(super) fn set_number(number: u8) {
    NUMBER.set(number);
}

/// The number of this processor in its group.
pub(super) fn number() -> u8 {
    NUMBER.get()
}

/// Runs a callback of `adapter`.
pub(super) fn callback<R>(adapter: &Adapter, run: impl FnOnce() -> R) -> R {
    let before = ADAPTER.replace(adapter);
    let held = HELD.with_borrow(Clone::clone);
    let result = run();
    HELD.with_borrow(|now| {
        assert_eq!(
            *now, held,
            "Storport: a callback returns with other locks held than at its start"
        );
    });
    ADAPTER.set(before);
    result
}

/// The adapter whose callback runs.
pub(super) fn current<'x>() -> &'x Adapter {
    let adapter = ADAPTER.get();
    assert!(
        !adapter.is_null(),
        "Storport: a routine is called outside a callback"
    );
    // SAFETY: [`callback`] has a reference to the adapter while the callback runs.
    unsafe { &*adapter }
}

/// The adapter whose callback runs. `extension`, which the miniport passes, must be its extension.
pub(super) fn adapter<'x>(extension: *mut core::ffi::c_void) -> &'x Adapter {
    let adapter = current();
    assert_eq!(
        adapter.extension().addr(),
        extension.addr(),
        "Storport: the device extension belongs to another adapter"
    );
    adapter
}

/// Records that a lock is about to be taken.
pub(super) fn takes(lock: Held) {
    HELD.with_borrow_mut(|held| {
        if let Some(last) = held.last() {
            assert!(
                last.kind < lock.kind,
                "Storport: {:?} is taken while {:?} is held",
                lock.kind,
                last.kind
            );
        }
        held.push(lock);
    });
}

/// Records that a lock is released.
pub(super) fn releases(by: usize) -> Kind {
    let last = HELD.with_borrow_mut(Vec::pop);
    let last = last.expect("Storport: a lock is released that is not held");
    assert_eq!(last.by, by, "Storport: locks are released out of order");
    last.kind
}
