//! In-stack queued spin locks. Their queue nodes are the STOR_LOCK_HANDLEs of the processors that
//! hold the lock or wait for it (storport-rules.md L1).
//!
//! The algorithm is that of Mellor-Crummey and Scott. The lock is a pointer to the last node of the
//! queue. Each node points to the next one. A processor that waits for the lock writes to
//! the handle of the processor before it, as in Windows.

use std::{
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
    thread,
};

use wdk_sys::{STOR_LOCK_HANDLE, STOR_SPINLOCK};

/// How often a processor checks for its turn before the test fails.
const PATIENCE: u32 = 20_000;

/// The value of a node's `Lock` while its owner waits.
const WAITING: *mut STOR_LOCK_HANDLE = ptr::without_provenance_mut(1);

/// The lock: the handle of the last processor in the queue, or null.
pub(super) type Word = AtomicPtr<STOR_LOCK_HANDLE>;

/// Calls `look` until it returns a value.
pub(super) fn spin<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..PATIENCE {
        if let Some(found) = look() {
            return found;
        }
        thread::yield_now();
    }
    panic!("Storport: this never happened: {what}")
}

/// The pointer to the next node in the queue.
///
/// # Safety
/// `handle` is valid for as long as the result is used.
unsafe fn next<'h>(handle: *mut STOR_LOCK_HANDLE) -> &'h Word {
    // SAFETY: The caller's promise. This only takes an address.
    let field = unsafe { &raw mut (*handle).Context.LockQueue.Next };
    // SAFETY: The field is an aligned pointer. While the lock is held or waited for, all
    // accesses to it are atomic.
    unsafe { AtomicPtr::from_ptr(field.cast()) }
}

/// The field that tells the node's owner whether it is its turn. While the owner holds the lock,
/// the field contains the address of the lock.
///
/// # Safety
/// As [`next`].
unsafe fn turn<'h>(handle: *mut STOR_LOCK_HANDLE) -> &'h Word {
    // SAFETY: The caller's promise. This only takes an address.
    let field = unsafe { &raw mut (*handle).Context.LockQueue.Lock };
    // SAFETY: As in `next`.
    unsafe { AtomicPtr::from_ptr(field.cast()) }
}

/// Takes the lock `word`.
///
/// # Safety
/// `handle` and `word` are valid and do not move until [`release`].
pub(super) unsafe fn acquire(word: &Word, kind: STOR_SPINLOCK, handle: *mut STOR_LOCK_HANDLE) {
    let empty = STOR_LOCK_HANDLE {
        Lock: kind,
        ..Default::default()
    };
    // SAFETY: The caller's promise.
    unsafe { handle.write(empty) };
    // SAFETY: The caller's promise.
    let turn = unsafe { turn(handle) };
    turn.store(WAITING, Ordering::Relaxed);
    let before = word.swap(handle, Ordering::AcqRel);
    if !before.is_null() {
        // SAFETY: The owner of the previous handle waits for this store before it reuses the
        // handle.
        let link = unsafe { next(before) };
        link.store(handle, Ordering::Release);
        spin("the release of a spin lock", || {
            turn.load(Ordering::Acquire).is_null().then_some(())
        });
    }
    turn.store(ptr::from_ref(word).cast_mut().cast(), Ordering::Relaxed);
}

/// Releases the lock that was acquired with `handle`.
///
/// # Safety
/// A lock was acquired with `handle`, which has not moved since.
pub(super) unsafe fn release(handle: *mut STOR_LOCK_HANDLE) {
    // SAFETY: The caller's promise.
    let turn_of_this = unsafe { turn(handle) };
    let word: *const Word = turn_of_this.load(Ordering::Relaxed).cast();
    // SAFETY: `acquire` stored the address of the lock there.
    let word = unsafe { &*word };
    // SAFETY: The caller's promise.
    let link = unsafe { next(handle) };
    let mut after = link.load(Ordering::Acquire);
    if after.is_null() {
        let last = word.compare_exchange(
            handle,
            ptr::null_mut(),
            Ordering::Release,
            Ordering::Relaxed,
        );
        if last.is_ok() {
            return;
        }
        after = spin("the next processor links its handle", || {
            let after = link.load(Ordering::Acquire);
            (!after.is_null()).then_some(after)
        });
    }
    // SAFETY: The next processor waits for this store, so its handle is valid.
    let turn = unsafe { turn(after) };
    turn.store(ptr::null_mut(), Ordering::Release);
}
