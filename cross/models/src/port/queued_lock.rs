//! In-stack queued spin locks, whose nodes lie in the STOR_LOCK_HANDLEs of
//! those who hold them and wait for them (storport-rules.md L1).
//!
//! The algorithm is that of Mellor-Crummey and Scott: the lock is a pointer to
//! the last node; each node points to the next and is told when its turn has
//! come. So the handle of the holder is written by another processor while it
//! holds the lock, as Windows does it.

use std::{
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
    thread,
};

use wdk_sys::{STOR_LOCK_HANDLE, STOR_SPINLOCK};

/// How often a processor looks before it is taken to wait for ever.
const PATIENCE: u32 = 20_000;

/// What the node's `Lock` is while its owner waits.
const WAITING: *mut STOR_LOCK_HANDLE = ptr::without_provenance_mut(1);

/// The lock's word: the handle of the last in the queue, or null.
pub(super) type Word = AtomicPtr<STOR_LOCK_HANDLE>;

/// Calls `look` until it gives something.
pub(super) fn spin<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..PATIENCE {
        if let Some(found) = look() {
            return found;
        }
        thread::yield_now();
    }
    panic!("Storport: waited in vain for {what}")
}

/// The node's link to the next in the queue.
///
/// # Safety
/// `handle` is valid for as long as the result is used.
unsafe fn next<'h>(handle: *mut STOR_LOCK_HANDLE) -> &'h Word {
    // SAFETY: the caller's promise; this takes an address.
    let field = unsafe { &raw mut (*handle).Context.LockQueue.Next };
    // SAFETY: it is a pointer's place, aligned, that is only used as an atomic
    // while the lock is held or waited for.
    unsafe { AtomicPtr::from_ptr(field.cast()) }
}

/// Where the node's owner looks whether its turn has come; while it holds the
/// lock, the lock's address.
///
/// # Safety
/// As [`next`].
unsafe fn turn<'h>(handle: *mut STOR_LOCK_HANDLE) -> &'h Word {
    // SAFETY: the caller's promise; this takes an address.
    let field = unsafe { &raw mut (*handle).Context.LockQueue.Lock };
    // SAFETY: as in `next`.
    unsafe { AtomicPtr::from_ptr(field.cast()) }
}

/// Takes the lock `word`.
///
/// # Safety
/// `handle` stays valid and where it is until [`release`], and so does `word`.
pub(super) unsafe fn acquire(word: &Word, kind: STOR_SPINLOCK, handle: *mut STOR_LOCK_HANDLE) {
    let empty = STOR_LOCK_HANDLE {
        Lock: kind,
        ..Default::default()
    };
    // SAFETY: the caller's promise.
    unsafe { handle.write(empty) };
    // SAFETY: the caller's promise.
    let turn = unsafe { turn(handle) };
    turn.store(WAITING, Ordering::Relaxed);
    let before = word.swap(handle, Ordering::AcqRel);
    if !before.is_null() {
        // SAFETY: whoever is before waits for this very store before the
        // handle goes away.
        let link = unsafe { next(before) };
        link.store(handle, Ordering::Release);
        spin("a spin lock", || {
            turn.load(Ordering::Acquire).is_null().then_some(())
        });
    }
    turn.store(ptr::from_ref(word).cast_mut().cast(), Ordering::Relaxed);
}

/// Gives back the lock that was taken with `handle`.
///
/// # Safety
/// One was, and the handle lies where it lay.
pub(super) unsafe fn release(handle: *mut STOR_LOCK_HANDLE) {
    // SAFETY: the caller's promise.
    let turn_of_this = unsafe { turn(handle) };
    let word: *const Word = turn_of_this.load(Ordering::Relaxed).cast();
    // SAFETY: `acquire` left its address there.
    let word = unsafe { &*word };
    // SAFETY: the caller's promise.
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
        after = spin("the next in a lock's queue to link itself", || {
            let after = link.load(Ordering::Acquire);
            (!after.is_null()).then_some(after)
        });
    }
    // SAFETY: whoever is next waits for this store.
    let turn = unsafe { turn(after) };
    turn.store(ptr::null_mut(), Ordering::Release);
}
