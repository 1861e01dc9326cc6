//! Data inside the lock that protects it.
//!
//! A cell is made in HwFindAdapter, belongs to that adapter, and opens in one
//! of two ways: [`with`](DpcLocked::with) takes its lock for the length of a
//! closure, and [`open`](DpcLocked::open) needs a context that proves that
//! nobody else can be inside.
//!
//! # Why a closure
//!
//! A STOR_LOCK_HANDLE is the queue node of an in-stack queued lock and holds
//! the IRQL to return to (rule book 1.3, L1-L3): from acquire to release it
//! must stay where it is, and releases must come in reverse order. A guard
//! that carries the handle by value moves it when it is returned; a guard of
//! any kind can be passed to `mem::forget`, and then never releases. Here the
//! handle lies in the frame of `with`, which neither moves nor returns before
//! the closure is done, and the [`Guard`] that the closure sees only borrows.
//! Early return and `?` leave the closure, not `with`; a driver does not
//! unwind. Nested calls nest, so releases are last-in-first-out. The guard
//! borrows the context it was taken with, so the context takes nothing else
//! meanwhile; what may be taken on top is taken with the guard.
//!
//! In dump mode nothing is taken, and the same code runs: a dump stack is
//! single-threaded (rule book 6, D8).
#![expect(unsafe_code, reason = "a lock call opens the cell behind it")]

use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    mem::MaybeUninit,
    ops::{Deref, DerefMut},
};

use wdk_sys::{_STOR_SPINLOCK as kind, STOR_DPC, STOR_LOCK_HANDLE, STOR_SPINLOCK};

use crate::{
    context::{IssuesDpcs, MessageInterrupt, OfAdapter, Proves, Scope},
    extension::{Brand, DpcNumber, Header},
    level::{self, Below, Level},
    port,
};

mod sealed {
    use crate::{extension::Header, level::Level};

    /// How one of Storport's locks is held for the length of a call.
    pub trait Lock {
        /// Its place in the order.
        type Level: Level;

        /// Runs `run` holding the lock of `adapter`.
        fn hold<R>(&self, adapter: &Header, run: impl FnOnce() -> R) -> R;
    }
}

use sealed::Lock;

/// Data of an adapter inside one of Storport's locks.
pub struct Locked<'a, K, T> {
    adapter: &'a Header,
    lock: K,
    brand: Brand<'a>,
    data: UnsafeCell<T>,
}

/// Data under the StartIo lock (StorPortAcquireSpinLock, StartIoLock).
pub type StartIoLocked<'a, T> = Locked<'a, StartIoLock, T>;

/// Data under the lock of a DPC object of its own (StorPortAcquireSpinLock,
/// DpcLock).
///
/// The object is initialised before the first request arrives. Storport does
/// not hold the lock while it runs the DPC (rule book 1.5, O10).
pub type DpcLocked<'a, T> = Locked<'a, DpcLock, T>;

/// Data under the interrupt lock (StorPortAcquireSpinLock, InterruptLock).
/// Where messages have locks of their own it takes all of them.
pub type InterruptLocked<'a, T> = Locked<'a, InterruptLock, T>;

/// Data under the lock of one MSI-X message (StorPortAcquireMSISpinLock);
/// under the interrupt lock where messages have none of their own.
pub type MessageLocked<'a, T> = Locked<'a, MessageLock, T>;

/// The StartIo lock.
#[derive(Debug)]
pub struct StartIoLock(());

/// The lock in a DPC object.
#[derive(Debug)]
pub struct DpcLock(DpcNumber);

/// The interrupt lock.
#[derive(Debug)]
pub struct InterruptLock(());

/// The lock of a message.
#[derive(Debug)]
pub struct MessageLock(u32);

// SAFETY: the data is reached by one thread at a time: under the lock, or by
// a context that excludes every other.
unsafe impl<K: Sync, T: Send> Sync for Locked<'_, K, T> {}

impl<'a, K: Lock, T> Locked<'a, K, T> {
    /// Takes the lock, runs `run` with the open cell, releases the lock.
    ///
    /// `scope` is the callback's context, or the guard of a lock that comes
    /// earlier in the order; it can't be used meanwhile.
    #[inline]
    pub fn with<S, R>(
        &self,
        scope: &mut S,
        run: impl for<'g> FnOnce(&mut Guard<'g, 'a, T, K::Level>) -> R,
    ) -> R
    where
        S: Scope<'a>,
        S::Level: Below<K::Level>,
    {
        let _: &mut S = scope;
        self.lock.hold(self.adapter, || {
            // SAFETY: the lock is held, so no one else is inside; the order
            // of levels keeps this thread from being inside already.
            let data = unsafe { &mut *self.data.get() };
            run(&mut Guard {
                data,
                held: Held {
                    adapter: PhantomData,
                    level: PhantomData,
                },
            })
        })
    }

    /// Opens the cell in a callback that is entered with the lock held, or in
    /// which nothing else of the adapter runs.
    pub fn open<'s, S>(&'s self, scope: &'s mut S) -> &'s mut T
    where
        S: Proves<'a, K::Level>,
    {
        let _: &mut S = scope;
        // SAFETY: the scope proves that no other code is inside, and is
        // borrowed as long as the data.
        unsafe { &mut *self.data.get() }
    }

    fn new(adapter: &'a Header, lock: K, data: T) -> Self {
        Self {
            adapter,
            lock,
            brand: PhantomData,
            data: UnsafeCell::new(data),
        }
    }
}

/// An open cell: the data, and the right to take what comes later in the
/// order.
///
/// It lives as long as the lock is held and can't leave its closure.
pub struct Guard<'g, 'a, T, L> {
    data: &'g mut T,
    held: Held<'a, L>,
}

impl<'a, T, L: Level> Guard<'_, 'a, T, L> {
    /// The data and the right to take further locks, side by side.
    pub fn split(&mut self) -> (&mut T, &mut Held<'a, L>) {
        (self.data, &mut self.held)
    }
}

impl<T, L> Deref for Guard<'_, '_, T, L> {
    type Target = T;

    fn deref(&self) -> &T {
        self.data
    }
}

impl<T, L> DerefMut for Guard<'_, '_, T, L> {
    fn deref_mut(&mut self) -> &mut T {
        self.data
    }
}

/// Says that a lock of level `L` is held; further locks are taken with it.
pub struct Held<'a, L> {
    adapter: Brand<'a>,
    /// Not `Send`: an IRQL and a lock belong to a processor.
    level: PhantomData<(*mut (), L)>,
}

impl<'a, L: Level> OfAdapter<'a> for Held<'a, L> {}

impl<'a, L: Level> Scope<'a> for Held<'a, L> {
    type Level = L;
}

/// Runs `run` holding the lock `kind` of `adapter`.
#[inline]
fn hold_spin_lock<R>(
    adapter: &Header,
    kind: STOR_SPINLOCK,
    dpc: *mut STOR_DPC,
    run: impl FnOnce() -> R,
) -> R {
    if adapter.is_dump() {
        return run();
    }
    // Storport fills the handle; what was in it does not matter (rule book 8,
    // row 18).
    let mut handle = MaybeUninit::<STOR_LOCK_HANDLE>::uninit();
    // One pointer for both calls: in between, whoever waits for the lock
    // writes through it, so no new reference may be made of the handle.
    let handle = handle.as_mut_ptr();
    // SAFETY: the caller passes the context that `kind` asks for, and a scope
    // proved that it may be taken here; the handle lies in this frame until
    // it is released.
    unsafe { port::acquire_spin_lock(adapter, kind, dpc, handle) };
    let result = run();
    // SAFETY: acquired above, in this frame; whatever `run` took it has
    // released, since it had to use this function.
    unsafe { port::release_spin_lock(adapter, handle) };
    result
}

impl Lock for StartIoLock {
    type Level = level::StartIo;

    #[inline]
    fn hold<R>(&self, adapter: &Header, run: impl FnOnce() -> R) -> R {
        hold_spin_lock(adapter, kind::StartIoLock, core::ptr::null_mut(), run)
    }
}

impl Lock for DpcLock {
    type Level = level::Dpc;

    #[inline]
    fn hold<R>(&self, adapter: &Header, run: impl FnOnce() -> R) -> R {
        hold_spin_lock(adapter, kind::DpcLock, adapter.dpc(self.0), run)
    }
}

impl Lock for InterruptLock {
    type Level = level::Interrupt;

    #[inline]
    fn hold<R>(&self, adapter: &Header, run: impl FnOnce() -> R) -> R {
        hold_spin_lock(adapter, kind::InterruptLock, core::ptr::null_mut(), run)
    }
}

impl Lock for MessageLock {
    type Level = level::Interrupt;

    #[inline]
    fn hold<R>(&self, adapter: &Header, run: impl FnOnce() -> R) -> R {
        let taken = if adapter.has_message_locks() {
            // SAFETY: the locks exist, which does not change while the
            // adapter runs; a scope proved that the level may be taken.
            unsafe { port::acquire_message_lock(adapter, self.0) }
        } else {
            None
        };
        // Without a lock of its own a message is under that of all.
        let Some(irql) = taken else {
            return InterruptLock(()).hold(adapter, run);
        };
        let result = run();
        // SAFETY: taken above and not released since.
        unsafe { port::release_message_lock(adapter, self.0, irql) };
        result
    }
}

impl<'a, T> StartIoLocked<'a, T> {
    pub(crate) fn under_start_io(adapter: &'a Header, data: T) -> Self {
        Self::new(adapter, StartIoLock(()), data)
    }
}

impl<'a, T> InterruptLocked<'a, T> {
    pub(crate) fn under_interrupt(adapter: &'a Header, data: T) -> Self {
        Self::new(adapter, InterruptLock(()), data)
    }

    /// Opens the cell in a message's interrupt routine, if Storport enters it
    /// with the interrupt lock held: where messages have locks of their own it
    /// does not, and this gives nothing.
    pub fn open_in<'s>(&'s self, interrupt: &'s mut MessageInterrupt<'_, 'a>) -> Option<&'s mut T> {
        let _: &mut MessageInterrupt<'_, 'a> = interrupt;
        if self.adapter.has_message_locks() {
            return None;
        }
        // SAFETY: the routine holds the interrupt lock (rule book 2), and the
        // context is borrowed as long as the data.
        Some(unsafe { &mut *self.data.get() })
    }
}

impl<'a, T> MessageLocked<'a, T> {
    pub(crate) fn under_message(adapter: &'a Header, message: u32, data: T) -> Self {
        Self::new(adapter, MessageLock(message), data)
    }

    /// Opens the cell in the interrupt routine of its message, which Storport
    /// enters with that lock held; another message's routine gets nothing.
    pub fn open_in<'s>(&'s self, interrupt: &'s mut MessageInterrupt<'_, 'a>) -> Option<&'s mut T> {
        if self.adapter.has_message_locks() && interrupt.message() != self.lock.0 {
            return None;
        }
        // SAFETY: the routine holds this message's lock, or the one lock of
        // all messages (rule book 2), and the context is borrowed as long as
        // the data.
        Some(unsafe { &mut *self.data.get() })
    }
}

impl<'a, T> DpcLocked<'a, T> {
    pub(crate) fn under_dpc(adapter: &'a Header, dpc: DpcNumber, data: T) -> Self {
        Self::new(adapter, DpcLock(dpc), data)
    }

    /// The DPC object whose lock this is.
    #[must_use]
    pub fn number(&self) -> DpcNumber {
        self.lock.0
    }

    /// Queues the DPC (StorPortIssueDpc): [`Miniport::dpc`] runs with
    /// `argument`, at DISPATCH_LEVEL, soon. False, and `argument` is dropped:
    /// it is queued already and has not started, or the adapter's DPC objects
    /// are not initialised yet.
    ///
    /// [`Miniport::dpc`]: crate::Miniport::dpc
    pub fn issue<S: IssuesDpcs<'a>>(&self, scope: &S, argument: usize) -> bool {
        let _: &S = scope;
        if self.adapter.is_dump() {
            self.adapter.defer_dump_dpc(self.lock.0);
            return true;
        }
        // An interrupt may come between HwInitialize and HwPassiveInitialize.
        if !self.adapter.has_dpcs() {
            return false;
        }
        // SAFETY: the object was initialised in HwPassiveInitialize.
        unsafe { port::issue_dpc(self.adapter, self.adapter.dpc(self.lock.0), argument) }
    }
}
