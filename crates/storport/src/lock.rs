//! Data inside the lock that protects it.
//!
//! A cell is made in HwFindAdapter and belongs to that adapter. There are two ways to open
//! it. [`with`](DpcLocked::with) and its variants hold its lock while a closure runs.
//! [`open`](DpcLocked::open) and its variants require a context that proves that no other
//! callback can have the cell open.
//!
//! # Why this is sound
//!
//! A STOR_LOCK_HANDLE is the queue node of an in-stack queued lock, and contains the IRQL to
//! return to (storport-rules.md L1 to L3). From acquire to release it must not move, and
//! locks must be released in reverse order. Each item below is something that could go wrong,
//! followed by why it cannot:
//!
//! - *The handle moves while the lock is held.* A guard that contained the handle would move
//!   when it is returned. Here the handle lies in the stack frame of the function that calls
//!   the closure, which ends after the release. It is accessed by one pointer, made before the
//!   lock is taken.
//! - *The guard is forgotten*, or leaked in a cycle. `mem::forget` of a guard with a
//!   destructor keeps the lock for ever. The [`Guard`] here has no destructor. The closure
//!   borrows it, and the function that calls the closure releases the lock in its next
//!   statement.
//! - *Early return, `?`, `break`.* They leave the closure, not the function that calls it. The
//!   closure's value, for example a `Result`, is returned after the release.
//! - *A panic.* The release driver has no path to one; in any other build a panic
//!   is a bug check (`panic = "abort"`). Nothing unwinds past the release.
//! - *The guard outlives the lock.* The closure borrows it for a lifetime that only the
//!   closure knows (`for<'g>`). So neither the guard nor a borrow of the data can be part of
//!   the closure's value, or be stored outside.
//! - *Releases out of order.* Locks are taken by nested calls, which return last in, first
//!   out.
//! - *A lock is taken twice.* The scope that a lock is taken with is borrowed exclusively
//!   while the closure runs. Inside the closure, further locks are taken with the guard. The
//!   guard has the level of its lock, and [`Below`] allows only locks of a higher level. That
//!   excludes a second lock of the same level too: DPC locks never nest, nor do message locks,
//!   nor one of those with the interrupt lock (storport-rules.md O4 to O6). So a thread cannot
//!   open a cell that it has open already, and `&mut` to the cell's data is the only reference.
//! - *Two processors wait for each other.* All code takes locks in the same total order, so
//!   there is no cycle.
//! - *A lock that Storport holds already is taken.* The level of a context includes the locks
//!   that Storport holds in that callback (storport-rules.md Callbacks). For HwStartIo they
//!   are known only at run time. So its level allows neither taking the StartIo lock nor
//!   opening a cell without it. [`StartIo::channels`](crate::StartIo::channels) returns a context
//!   that allows one of the two.
//! - *`open` where the lock is not held.* Contexts implement [`Proves`]: for the locks
//!   that Storport is documented to hold in the callback, or because the gate admits no other
//!   callback that could open or lock the cell. Guards do not implement it, because a guard
//!   could then open its own cell a second time. [`Exclusive`] does: it exists while a cell of
//!   the StartIo lock is open, and proves nothing for cells of that lock.
//! - *A guard or a context moves to another processor, or is stored.* They are not `Send`, and
//!   the adapter's state must be. A context ends with the callback.
//! - *Another adapter's lock.* A cell takes the lock of the adapter that it was made for,
//!   whatever scope it is opened with. The scope must belong to the same adapter: `'adapter`
//!   is invariant, and each callback is generic over it, so the compiler never unifies two of
//!   them.
//! - *Another queue's lock.* A [`DpcLocked`] cell has a DPC object of its own, and so a lock of
//!   its own. The data is accessed only through the cell.
//! - *The lock is used before it is initialised.* A context from which a lock may be taken
//!   exists only when the adapter is ready, and DPC objects are initialised before that.
//!   HwFindAdapter, HwInitialize, HwPassiveInitialize and interrupt routines run earlier, and
//!   their contexts take no lock.
//! - *A message that is not connected has no lock.* Its cell is under the interrupt lock, which
//!   includes the locks of all messages. The number of messages is fixed before the first
//!   lock is taken, so acquire and release use the same kind of lock.
//!
//! The types do not limit how long a lock is held (storport-rules.md L7), and do not ensure
//! that the closure ends.
//!
//! In dump mode the same code runs without a lock, because a dump stack is single-threaded
//! (storport-rules.md D8).
//!
//! # Cost
//!
//! A lock costs the two calls with their arguments, and a test before each:
//! `Locked::locked_adapter` is the adapter's address, or null in a dump stack, where no lock is
//! taken.
#![expect(unsafe_code, reason = "a lock call opens the cell behind it")]

use core::{
    cell::{Cell, UnsafeCell},
    marker::PhantomData,
    mem::{ManuallyDrop, MaybeUninit},
    ops::{Deref, DerefMut},
};

use wdk_sys::{PVOID, STOR_DPC, STOR_LOCK_HANDLE, STOR_SPINLOCK, ULONG};

use crate::{
    context::{
        AtDispatch, MessageInterrupt, OfAdapter, OneProcessorOnly, Proves, Scope, ThreadedDpc,
    },
    extension::{Brand, DpcNumber, Header},
    level::{self, Below, Level},
    newer::kind,
    port,
    routines::IssuesDpcs,
    state::{DpcKind, Issue},
    status::StorStatus,
};

mod sealed {
    use super::LockedAdapter;
    use crate::level::Level;

    /// One of Storport's locks, and how it is held while a closure runs.
    pub trait Lock {
        /// Its level in the order of locks.
        type Level: Level;

        /// Runs `run` while it holds the lock of `adapter`. In a dump stack, where `adapter` is
        /// `None`, runs it without a lock.
        fn hold<R>(&self, adapter: &LockedAdapter<'_>, run: impl FnOnce() -> R) -> R;
    }
}

use sealed::Lock;

/// An adapter's data inside one of Storport's locks.
///
/// # Invariants
///
/// `data` is accessed only inside `lock.hold`, in a dump stack (which is single-threaded), or
/// with a context that [`Proves`] that no other callback has the cell open. Meanwhile the
/// scope that was used is borrowed exclusively, and the order of levels prevents a thread from
/// opening the cell a second time. So a reference to `data` is the only one.
pub struct Locked<'adapter, K, T> {
    adapter: &'adapter Header,
    locked_adapter: LockedAdapter<'adapter>,
    lock: K,
    brand: Brand<'adapter>,
    data: UnsafeCell<T>,
}

/// The adapter whose lock is taken, or `None` in a dump stack, where no lock is taken.
/// It never changes.
///
/// It is a `Cell` to hide from the compiler that it never changes. Otherwise the compiler would
/// make two copies of the code that runs with the lock, one for dump stacks, and would inline
/// neither.
type LockedAdapter<'adapter> = Cell<Option<&'adapter Header>>;

/// Data under the StartIo lock (StorPortAcquireSpinLock, StartIoLock).
pub type StartIoLocked<'adapter, T> = Locked<'adapter, StartIoLock, T>;

/// Data under the lock of a DPC object of its own (StorPortAcquireSpinLock,
/// DpcLock).
///
/// The object is initialised before the first request arrives. Storport does
/// not hold the lock while it runs the DPC (storport-rules.md O10).
pub type DpcLocked<'adapter, T> = Locked<'adapter, DpcLock, T>;

/// Data under the interrupt lock (StorPortAcquireSpinLock, InterruptLock).
/// If messages have locks of their own, the interrupt lock includes all of them.
pub type InterruptLocked<'adapter, T> = Locked<'adapter, InterruptLock, T>;

/// Data under the lock of one MSI-X message (StorPortAcquireMSISpinLock), or under the
/// interrupt lock if messages have no locks of their own.
pub type MessageLocked<'adapter, T> = Locked<'adapter, MessageLock, T>;

/// The StartIo lock.
#[derive(Debug)]
pub struct StartIoLock(());

/// The lock in a DPC object.
///
/// # Invariants
///
/// `object` is DPC object `number` of the adapter. It is initialised before the phase READY,
/// the only phase in which [`Scope`]s exist. (In a dump stack it is not initialised, and not
/// used.)
#[derive(Debug)]
pub struct DpcLock {
    number: DpcNumber,
    object: *mut STOR_DPC,
}

// SAFETY: `DpcLock`'s invariant: `object` is valid on every thread. It is only passed to
// Storport, by address.
unsafe impl Send for DpcLock {}
// SAFETY: As for `Send`.
unsafe impl Sync for DpcLock {}

/// The interrupt lock.
#[derive(Debug)]
pub struct InterruptLock(());

/// The lock of a message, or the interrupt lock if the message has none of its
/// own.
#[derive(Debug)]
pub struct MessageLock {
    message: u32,
}

impl MessageLock {
    /// Whether the message has a lock of its own: messages do not share one lock, and this
    /// message is connected.
    ///
    /// The result does not change between HwInitialize and the next HwFindAdapter
    /// (`State::set_messages`), and so not while a lock is held.
    #[inline]
    fn is_own(&self, adapter: &Header) -> bool {
        self.message < adapter.state.locked_messages()
    }
}

// SAFETY: `Locked`'s invariant: one thread at a time accesses the data. `locked_adapter` is never
// written.
unsafe impl<K: Sync, T: Send> Sync for Locked<'_, K, T> {}

impl<'a, K: Lock, T> Locked<'a, K, T> {
    /// Takes the lock, runs `run` with the open cell, and releases the lock.
    ///
    /// `scope` is the callback's context, or the guard of a lock that comes earlier in the
    /// order. It cannot be used while `run` runs.
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
        // SAFETY: `hold` runs this with the lock held, or in a dump stack. The scope proves
        // that this thread does not have the cell open (`Locked`'s invariant).
        let inside = || unsafe { self.inside(run) };
        self.lock.hold(&self.locked_adapter, inside)
    }

    /// Runs `run` with the cell open.
    ///
    /// # Safety
    /// The lock is held, or this is a dump stack. A scope proved that this thread does not have
    /// the cell open.
    #[inline]
    unsafe fn inside<R>(
        &self,
        run: impl for<'g> FnOnce(&mut Guard<'g, 'a, T, K::Level>) -> R,
    ) -> R {
        // SAFETY: `Locked`'s invariant, which the caller's promise keeps.
        let data = unsafe { &mut *self.data.get() };
        run(&mut Guard {
            data,
            held: Held {
                adapter: PhantomData,
                level: PhantomData,
                _processor: OneProcessorOnly::new(),
            },
        })
    }

    /// Opens the cell in a callback that Storport calls with the lock held, or in which no other
    /// callback of the adapter can open the cell.
    pub fn open<'s, S>(&'s self, scope: &'s mut S) -> &'s mut T
    where
        S: Proves<'a, K::Level>,
    {
        let _: &mut S = scope;
        // SAFETY: `Locked`'s invariant: the scope proves that no other callback has the cell
        // open, and is borrowed as long as the data.
        unsafe { &mut *self.data.get() }
    }

    /// Runs `run` with the open cell, as [`with`](Self::with) does, in a callback that Storport
    /// calls with the lock held. Further locks can be taken with the guard.
    pub fn with_held<S, R>(
        &self,
        scope: &mut S,
        run: impl for<'g> FnOnce(&mut Guard<'g, 'a, T, K::Level>) -> R,
    ) -> R
    where
        S: Proves<'a, K::Level> + Scope<'a, Level = K::Level>,
    {
        let _: &mut S = scope;
        // SAFETY: `Locked`'s invariant: the scope proves that the lock is held, and is
        // borrowed as long as the cell is open.
        unsafe { self.inside(run) }
    }

    fn new(adapter: &'a Header, lock: K, data: T) -> Self {
        let dump = adapter.state.is_dump();
        Self {
            adapter,
            locked_adapter: Cell::new((!dump).then_some(adapter)),
            lock,
            brand: PhantomData,
            data: UnsafeCell::new(data),
        }
    }
}

/// An open cell: the data, and the right to take locks that come later in the order.
///
/// It exists only while the lock is held, and cannot leave the closure.
pub struct Guard<'guard, 'adapter, T, L> {
    data: &'guard mut T,
    held: Held<'adapter, L>,
}

impl<'a, T, L: Level> Guard<'_, 'a, T, L> {
    /// Splits the guard into the data and the right to take further locks.
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

/// Proof that a lock of level `L` is held. Further locks are taken with it.
pub struct Held<'adapter, L> {
    adapter: Brand<'adapter>,
    level: PhantomData<L>,
    /// An IRQL and a lock belong to a processor.
    _processor: OneProcessorOnly,
}

impl<'a, L: Level> OfAdapter<'a> for Held<'a, L> {}

#[diagnostic::do_not_recommend]
impl<'a, L: Level> Scope<'a> for Held<'a, L> {
    type Level = L;
}

impl<'a, T, L: Level> OfAdapter<'a> for Guard<'_, 'a, T, L> {}

#[diagnostic::do_not_recommend]
impl<'a, T, L: Level> Scope<'a> for Guard<'_, 'a, T, L> {
    type Level = L;
}

/// Proof that no other callback has a cell of level `L` open. It cannot leave the closure of
/// [`StartIoLocked::open_with`].
pub struct Exclusive<'adapter, L> {
    adapter: Brand<'adapter>,
    level: PhantomData<L>,
    _processor: OneProcessorOnly,
}

impl<'a, L: Level> OfAdapter<'a> for Exclusive<'a, L> {}

#[diagnostic::do_not_recommend]
impl<'a, L: Level> Proves<'a, L> for Exclusive<'a, L> {}

/// Runs `run` while it holds the lock `kind` of `adapter`. In a dump stack, where `adapter` is
/// `None`, runs it without a lock.
#[inline]
fn hold_spin_lock<R>(
    adapter: &LockedAdapter<'_>,
    kind: STOR_SPINLOCK,
    dpc: *mut STOR_DPC,
    run: impl FnOnce() -> R,
) -> R {
    // Storport fills the handle, so it need not be initialised (storport-rules.md X18).
    let mut handle = MaybeUninit::<STOR_LOCK_HANDLE>::uninit();
    // One pointer for both calls. Between them, a processor that waits for the lock writes to
    // the handle, so no reference to it may be made.
    let handle = handle.as_mut_ptr();
    if let Some(adapter) = adapter.get() {
        // SAFETY: The caller passes the arguments that `kind` needs. It used a scope, so the
        // lock may be taken here, and a DPC object is initialised (`DpcLock`'s invariant). The
        // handle stays in this frame until the release.
        unsafe { port::acquire_spin_lock(adapter, kind, dpc, handle) };
    }
    let result = run();
    if let Some(adapter) = adapter.get() {
        // SAFETY: The lock was acquired above, in this frame, because `LockedAdapter` never
        // changes.
        // `run` has released every lock that it acquired, because only functions like this one
        // acquire locks.
        unsafe { port::release_spin_lock(adapter, handle) };
    }
    result
}

impl Lock for StartIoLock {
    type Level = level::StartIoHeld;

    #[inline]
    fn hold<R>(&self, adapter: &LockedAdapter<'_>, run: impl FnOnce() -> R) -> R {
        hold_spin_lock(adapter, kind::StartIoLock, core::ptr::null_mut(), run)
    }
}

impl Lock for DpcLock {
    type Level = level::DpcHeld;

    #[inline]
    fn hold<R>(&self, adapter: &LockedAdapter<'_>, run: impl FnOnce() -> R) -> R {
        hold_spin_lock(adapter, kind::DpcLock, self.object, run)
    }
}

impl Lock for InterruptLock {
    type Level = level::InterruptHeld;

    #[inline]
    fn hold<R>(&self, adapter: &LockedAdapter<'_>, run: impl FnOnce() -> R) -> R {
        hold_spin_lock(adapter, kind::InterruptLock, core::ptr::null_mut(), run)
    }
}

impl Lock for MessageLock {
    type Level = level::InterruptHeld;

    #[inline]
    fn hold<R>(&self, adapter: &LockedAdapter<'_>, run: impl FnOnce() -> R) -> R {
        let mut irql: ULONG = 0;
        let own = adapter.get().filter(|adapter| {
            self.is_own(adapter)
                // SAFETY: `is_own`: the message has a lock. The caller used a scope, so the lock
                // may be taken here.
                && unsafe { port::acquire_msi_spin_lock(adapter, self.message, &raw mut irql) }
                    .is_ok()
        });
        let Some(own) = own else {
            return InterruptLock(()).hold(adapter, run);
        };
        let result = run();
        // SAFETY: The lock was acquired above and is still held. The only error is that message
        // locks do not exist, which the acquisition has ruled out.
        let _: Result<(), StorStatus> =
            unsafe { port::release_msi_spin_lock(own, self.message, irql) };
        result
    }
}

impl<'a, T> StartIoLocked<'a, T> {
    pub(crate) fn under_start_io(adapter: &'a Header, data: T) -> Self {
        Self::new(adapter, StartIoLock(()), data)
    }

    /// Runs `run` with the open cell, in a callback that proves that no other callback has this
    /// cell or one under a DPC lock open. Cells under DPC locks can be opened meanwhile, one at a
    /// time.
    pub fn open_with<S, R>(
        &self,
        scope: &mut S,
        run: impl FnOnce(&mut T, &mut Exclusive<'a, level::DpcHeld>) -> R,
    ) -> R
    where
        S: Proves<'a, level::StartIoHeld> + Proves<'a, level::DpcHeld>,
    {
        let _: &mut S = scope;
        // SAFETY: `Locked`'s invariant: the scope proves that no other callback has the cell
        // open, and is borrowed as long as the data. `Exclusive` opens only cells of DPC locks.
        let data = unsafe { &mut *self.data.get() };
        run(
            data,
            &mut Exclusive {
                adapter: PhantomData,
                level: PhantomData,
                _processor: OneProcessorOnly::new(),
            },
        )
    }
}

impl<'a, T> InterruptLocked<'a, T> {
    pub(crate) fn under_interrupt(adapter: &'a Header, data: T) -> Self {
        Self::new(adapter, InterruptLock(()), data)
    }

    /// As [`with`](Locked::with), in a routine that Storport calls with the lock held
    /// (StorPortSynchronizeAccess).
    ///
    /// If messages have locks of their own, this is `with`: what StorPortSynchronizeAccess
    /// excludes then is not documented.
    pub fn synchronize<S, R>(
        &self,
        scope: &mut S,
        run: impl for<'g> FnOnce(&mut Guard<'g, 'a, T, level::InterruptHeld>) -> R,
    ) -> R
    where
        S: Scope<'a>,
        S::Level: Below<level::InterruptHeld>,
    {
        let _: &mut S = scope;
        // SAFETY: `Locked`'s invariant: this runs with the lock held, or in a dump stack, and
        // the scope proves that this thread does not have the cell open.
        let inside = || unsafe { self.inside(run) };
        match self.locked_adapter.get() {
            None => inside(),
            Some(adapter) if adapter.state.has_message_locks() => {
                self.lock.hold(&self.locked_adapter, inside)
            }
            Some(adapter) => synchronize(adapter, inside),
        }
    }

    /// Opens the cell in a message's interrupt routine. Returns `None` if messages have locks of
    /// their own, because Storport does not hold the interrupt lock then.
    pub fn open_in<'s>(&'s self, interrupt: &'s mut MessageInterrupt<'_, 'a>) -> Option<&'s mut T> {
        let _: &mut MessageInterrupt<'_, 'a> = interrupt;
        if self.adapter.state.has_message_locks() {
            return None;
        }
        // SAFETY: `Locked`'s invariant: Storport holds the interrupt lock
        // (storport-rules.md Callbacks), and the context is borrowed as long as the data.
        Some(unsafe { &mut *self.data.get() })
    }
}

impl<'a, T> MessageLocked<'a, T> {
    pub(crate) fn under_message(adapter: &'a Header, message: u32, data: T) -> Self {
        Self::new(adapter, MessageLock { message }, data)
    }

    /// Opens the cell in the interrupt routine of its message, which Storport calls with that
    /// lock held. Returns `None` in the routine of another message.
    pub fn open_in<'s>(&'s self, interrupt: &'s mut MessageInterrupt<'_, 'a>) -> Option<&'s mut T> {
        let held = !self.adapter.state.has_message_locks()
            || self.lock.is_own(self.adapter) && interrupt.message() == self.lock.message;
        if !held {
            return None;
        }
        // SAFETY: `Locked`'s invariant: Storport holds this message's lock, or the one lock of
        // all messages (storport-rules.md Callbacks), and the context is borrowed as long as
        // the data.
        Some(unsafe { &mut *self.data.get() })
    }
}

impl<'a, T> DpcLocked<'a, T> {
    pub(crate) fn under_dpc(adapter: &'a Header, kind: DpcKind, data: T) -> Option<Self> {
        let number = DpcNumber(adapter.state.take_dpc(kind)?);
        let object = adapter.dpc(number);
        Some(Self::new(adapter, DpcLock { number, object }, data))
    }

    /// The DPC object whose lock this is.
    #[must_use]
    pub fn number(&self) -> DpcNumber {
        self.lock.number
    }

    /// Issues the DPC (StorPortIssueDpc). It runs [`Miniport::dpc`], or
    /// [`callback::ThreadedDpc`] if it is a threaded DPC. A DPC that is issued twice before it
    /// starts runs once.
    ///
    /// Before the end of HwPassiveInitialize, and while the adapter is stopped, the DPC is
    /// noted, and queued once DPCs can be queued. In a dump stack it runs at the end of the
    /// interrupt routine.
    ///
    /// [`Miniport::dpc`]: crate::Miniport::dpc
    /// [`callback::ThreadedDpc`]: crate::callback::ThreadedDpc
    #[inline]
    pub fn issue<S: IssuesDpcs<'a>>(&self, scope: &S) {
        let _: &S = scope;
        if self.adapter.state.issue(self.lock.number.0) == Issue::Now {
            // SAFETY: `DpcLock`'s invariant: DPCs can be queued, so the phase is READY and the
            // object is initialised.
            unsafe { port::issue(self.adapter, self.lock.object) };
        }
    }

    /// As [`with`](Self::with), for code that runs at DISPATCH_LEVEL already: Storport does not
    /// change the IRQL (StorPortAcquireSpinLockEx, DpcLevelLock, since Windows 10 1809).
    ///
    /// # Errors
    /// Storport's status. The lock was not taken, and `run` did not run.
    ///
    /// - NOT_IMPLEMENTED: Windows is older than 10 1809. Use [`with`](Self::with).
    /// - INVALID_IRQL: this code does not run at the IRQL that the kind of lock needs.
    #[inline]
    pub fn with_at_dpc_level<S, R>(
        &self,
        scope: &mut S,
        run: impl for<'g> FnOnce(&mut Guard<'g, 'a, T, level::DpcHeld>) -> R,
    ) -> Result<R, StorStatus>
    where
        S: AtDispatch<'a>,
        S::Level: Below<level::DpcHeld>,
    {
        let _: &mut S = scope;
        self.with_ex(kind::DpcLevelLock, run)
    }

    /// As [`with`](Self::with), for a threaded DPC: Storport knows whether the DPC runs in a
    /// thread (StorPortAcquireSpinLockEx, ThreadedDpcLock, since Windows 10 1809).
    ///
    /// # Errors
    /// Storport's status. The lock was not taken, and `run` did not run.
    ///
    /// - NOT_IMPLEMENTED: Windows is older than 10 1809. Use [`with`](Self::with).
    /// - INVALID_IRQL: this code does not run at the IRQL that the kind of lock needs.
    #[inline]
    pub fn with_in_threaded_dpc<R>(
        &self,
        scope: &mut ThreadedDpc<'_, 'a>,
        run: impl for<'g> FnOnce(&mut Guard<'g, 'a, T, level::DpcHeld>) -> R,
    ) -> Result<R, StorStatus> {
        let _: &mut ThreadedDpc<'_, 'a> = scope;
        self.with_ex(kind::ThreadedDpcLock, run)
    }

    fn with_ex<R>(
        &self,
        kind: STOR_SPINLOCK,
        run: impl for<'g> FnOnce(&mut Guard<'g, 'a, T, level::DpcHeld>) -> R,
    ) -> Result<R, StorStatus> {
        // SAFETY: `Locked`'s invariant: this runs with the lock held, or in a dump stack, and a
        // scope proved that this thread does not have the cell open. All kinds of lock of a DPC
        // object use the same word in it, so they exclude each other.
        let inside = || unsafe { self.inside(run) };
        let Some(adapter) = self.locked_adapter.get() else {
            return Ok(inside());
        };
        let mut handle = MaybeUninit::<STOR_LOCK_HANDLE>::uninit();
        let handle = handle.as_mut_ptr();
        let dpc = self.lock.object;
        // SAFETY: These kinds need a DPC object, which is initialised (`DpcLock`'s invariant).
        // The caller used a scope, so the lock may be taken here. The handle stays in this
        // frame until the release.
        unsafe { port::acquire_spin_lock_ex(adapter, kind, dpc, handle) }?;
        let result = inside();
        // SAFETY: The lock was acquired above, in this frame. `run` has released every lock that
        // it acquired.
        unsafe { port::release_spin_lock(adapter, handle) };
        Ok(result)
    }
}

/// The context of a StorPortSynchronizeAccess routine.
struct Synchronized<F, R> {
    /// The closure to run. It is taken out when `done` is set.
    run: ManuallyDrop<F>,
    /// The closure's result. It is initialised when `done` is set.
    result: MaybeUninit<R>,
    done: bool,
}

/// STOR_SYNCHRONIZED_ACCESS.
///
/// # Safety
/// `context` points to a [`Synchronized`] of these types, which nobody else accesses during
/// this call.
unsafe extern "C" fn synchronized<F: FnOnce() -> R, R>(_extension: PVOID, context: PVOID) -> u8 {
    let context: *mut Synchronized<F, R> = context.cast();
    // SAFETY: the caller's promise.
    let context = unsafe { &mut *context };
    if !context.done {
        // SAFETY: `done` is not set, so the closure was not taken.
        let run = unsafe { ManuallyDrop::take(&mut context.run) };
        context.result.write(run());
        context.done = true;
    }
    1
}

/// Runs `run` in StorPortSynchronizeAccess.
fn synchronize<F: FnOnce() -> R, R>(adapter: &Header, run: F) -> R {
    let mut context = Synchronized {
        run: ManuallyDrop::new(run),
        result: MaybeUninit::uninit(),
        done: false,
    };
    let routine = Some(synchronized::<F, R> as unsafe extern "C" fn(PVOID, PVOID) -> u8);
    // SAFETY: A scope proved that the interrupt lock may be taken. The context has the
    // routine's types, and is not accessed here until the call returns.
    unsafe { port::synchronize_access(adapter, routine, (&raw mut context).cast()) };
    if context.done {
        // SAFETY: `done` is set, so the result is initialised. It is taken once.
        unsafe { context.result.assume_init() }
    } else {
        // Storport did not call the routine. That is not documented to happen.
        // SAFETY: `done` is not set, so the closure was not taken.
        let run = unsafe { ManuallyDrop::take(&mut context.run) };
        InterruptLock(()).hold(&Cell::new(Some(adapter)), run)
    }
}
