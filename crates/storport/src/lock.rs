//! Data inside the lock that protects it.
//!
//! A cell is made in HwFindAdapter, belongs to that adapter, and opens in one
//! of two ways: [`with`](DpcLocked::with) and its variants take its lock for the
//! length of a closure. [`open`](DpcLocked::open) and its variants need a context
//! that proves that no other callback can have the cell open.
//!
//! # Why this is sound
//!
//! A STOR_LOCK_HANDLE is the queue node of an in-stack queued lock and holds
//! the IRQL to return to (storport-rules.md L1 to L3): from acquire to release it
//! must stay where it is, and releases come in reverse order. Each item below is
//! something that could go wrong, followed by why it can't:
//!
//! - *The handle moves while the lock is held.* A guard that contains the handle
//!   would move when it is returned. Here the handle lies in the frame of the
//!   function that calls the closure; it is reached by one pointer, made before
//!   the lock is taken; the frame ends after the release.
//! - *The guard is forgotten*, or leaked in a cycle. `mem::forget` of a guard
//!   with a destructor keeps the lock for ever. The [`Guard`] here has none: it
//!   is lent to the closure, and the release is the caller's next statement
//!   whatever becomes of it.
//! - *Early return, `?`, `break`.* They leave the closure, not the function that
//!   called it. The closure's value, a `Result` for example, is passed on after
//!   the release.
//! - *A panic.* The release driver has no path to one; in any other build a panic
//!   is a bug check (`panic = "abort"`). Nothing unwinds past the release.
//! - *The guard outlives the lock.* It is lent for a lifetime that only the
//!   closure knows (`for<'g>`), so neither it nor a borrow of the data is part
//!   of the closure's value, or can be stored outside.
//! - *Releases out of order.* Locks are taken by nested calls, and these return
//!   last in, first out.
//! - *A lock is taken twice.* The scope that a lock is taken with is borrowed
//!   exclusively for the length of the closure. Inside, further locks are taken
//!   with the guard. The guard has the level of its lock, and [`Below`] allows
//!   only locks of a higher level. That excludes a second lock of the same level
//!   too: DPC locks never nest, nor do message locks, nor one of those with the
//!   interrupt lock (storport-rules.md O4 to O6). So a cell that is open can't be opened
//!   again by the same thread, and `&mut` to its data is the only one.
//! - *Two processors wait for each other.* All threads take locks in the same total
//!   order, so there is no cycle.
//! - *A lock that Storport holds already is taken.* The level of a context
//!   starts with what Storport holds in that callback (storport-rules.md Callbacks). In HwStartIo
//!   that is known only at run time. Its level allows neither to take the StartIo
//!   lock nor to open a cell without it, until
//!   [`StartIo::channels`](crate::StartIo::channels) tells which it is.
//! - *`open` where nobody holds the lock.* Only contexts implement [`Proves`],
//!   each for the locks that Storport is documented to hold then, or because the
//!   gate admits no other callback that could open or lock the cell. Guards do
//!   not implement it, because a guard could then open its own cell twice.
//! - *A guard or a context goes to another processor, or is kept.* They are not
//!   `Send`, but what lies in an adapter's state must be. A context ends with the
//!   call.
//! - *Another adapter's lock.* A cell takes the lock of the adapter that it was
//!   made for, whatever scope it is opened with. The scope must be of the same
//!   adapter: `'adapter` is invariant, and each callback is generic over it, so
//!   the compiler never treats two of them as the same.
//! - *Another queue's lock.* A [`DpcLocked`] cell has a DPC object, and so a
//!   lock, that was made for it alone. The data is reached only through the cell.
//! - *The lock is used before it is initialised.* Contexts from which a lock may
//!   be taken exist only once the adapter is ready, and DPC objects are
//!   initialised before that. HwFindAdapter, HwInitialize, HwPassiveInitialize
//!   and interrupt routines run earlier; no lock can be taken from those.
//! - *A message that is not connected has no lock.* Its cell is under the
//!   interrupt lock, which includes the locks of all messages. How many
//!   messages there are is settled before the first lock is taken, so that
//!   acquire and release are of the same kind.
//!
//! Types do not limit how long a lock is held (storport-rules.md L7), nor do they
//! ensure that the closure ends at all.
//!
//! In dump mode the same code runs without taking a lock: a dump stack is
//! single-threaded (storport-rules.md D8).
//!
//! # What it costs
//!
//! Beyond the two calls and their arguments, two tests, one before each:
//! `Locked::taken_of` has the adapter's address, or null in a dump stack, where no lock
//! is taken.
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
    use super::TakenOf;
    use crate::level::Level;

    /// How one of Storport's locks is held for the length of a call.
    pub trait Lock {
        /// Its place in the order.
        type Level: Level;

        /// Runs `run` holding the lock of `adapter`; without an adapter, in a dump
        /// stack, holding none.
        fn hold<R>(&self, adapter: &TakenOf<'_>, run: impl FnOnce() -> R) -> R;
    }
}

use sealed::Lock;

/// Data of an adapter inside one of Storport's locks.
///
/// # Invariants
///
/// `data` is reached only inside `lock.hold`, in a dump stack (which is
/// single-threaded), or by a context that [`Proves`] that no other callback is
/// inside. The scope that was used is borrowed exclusively as long, and the order
/// of levels keeps a thread from being inside the same cell twice. So the
/// reference to `data` is the only one.
pub struct Locked<'adapter, K, T> {
    adapter: &'adapter Header,
    taken_of: TakenOf<'adapter>,
    lock: K,
    brand: Brand<'adapter>,
    data: UnsafeCell<T>,
}

/// The adapter whose lock is taken, or `None` in a dump stack, where no lock is taken.
/// It never changes.
///
/// It is a cell so that the compiler does not know that. Otherwise it would make two
/// copies of the code that runs with the lock, one for dump stacks, and would inline
/// neither.
type TakenOf<'adapter> = Cell<Option<&'adapter Header>>;

/// Data under the StartIo lock (StorPortAcquireSpinLock, StartIoLock).
pub type StartIoLocked<'adapter, T> = Locked<'adapter, StartIoLock, T>;

/// Data under the lock of a DPC object of its own (StorPortAcquireSpinLock,
/// DpcLock).
///
/// The object is initialised before the first request arrives. Storport does
/// not hold the lock while it runs the DPC (storport-rules.md O10).
pub type DpcLocked<'adapter, T> = Locked<'adapter, DpcLock, T>;

/// Data under the interrupt lock (StorPortAcquireSpinLock, InterruptLock).
/// Where messages have locks of their own, the interrupt lock takes all of them.
pub type InterruptLocked<'adapter, T> = Locked<'adapter, InterruptLock, T>;

/// Data under the lock of one MSI-X message (StorPortAcquireMSISpinLock);
/// under the interrupt lock where messages have none of their own.
pub type MessageLocked<'adapter, T> = Locked<'adapter, MessageLock, T>;

/// The StartIo lock.
#[derive(Debug)]
pub struct StartIoLock(());

/// The lock in a DPC object.
///
/// # Invariants
///
/// `object` is DPC object `number` of the adapter. It is initialised in the phase
/// READY, the only one in which [`Scope`]s exist.
#[derive(Debug)]
pub struct DpcLock {
    number: DpcNumber,
    object: *mut STOR_DPC,
}

// SAFETY: The object is only passed to Storport, by address.
unsafe impl Send for DpcLock {}
// SAFETY: The object is only passed to Storport, by address.
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
    /// Whether the message has a lock of its own: messages are not locked
    /// together, and this one is connected.
    ///
    /// It does not change between HwInitialize and the next HwFindAdapter
    /// (`State::set_messages`), and so not while a lock is held.
    #[inline]
    fn is_own(&self, adapter: &Header) -> bool {
        self.message < adapter.state.locked_messages()
    }
}

// SAFETY: `Locked`'s invariant: the data is reached by one thread at a time. `taken_of`
// is never written.
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
        // SAFETY: This runs with the lock held, or in a dump stack.
        let inside = || unsafe { self.inside(run) };
        self.lock.hold(&self.taken_of, inside)
    }

    /// Runs `run` with the cell open.
    ///
    /// # Safety
    /// The lock is held, or this is a dump stack; a scope proved that this
    /// thread is not inside already.
    #[inline]
    unsafe fn inside<R>(
        &self,
        run: impl for<'g> FnOnce(&mut Guard<'g, 'a, T, K::Level>) -> R,
    ) -> R {
        // SAFETY: The caller's promise; `Locked`'s invariant.
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

    /// Opens the cell in a callback that is entered with the lock held, or in
    /// which nothing else of the adapter runs.
    pub fn open<'s, S>(&'s self, scope: &'s mut S) -> &'s mut T
    where
        S: Proves<'a, K::Level>,
    {
        let _: &mut S = scope;
        // SAFETY: The scope proves that no other callback is inside, and is
        // borrowed as long as the data: `Locked`'s invariant.
        unsafe { &mut *self.data.get() }
    }

    /// Runs `run` with the open cell, as [`with`](Self::with) does, in a callback
    /// that Storport enters with the lock held. Locks that come later in the order
    /// can be taken with the guard.
    pub fn with_held<S, R>(
        &self,
        scope: &mut S,
        run: impl for<'g> FnOnce(&mut Guard<'g, 'a, T, K::Level>) -> R,
    ) -> R
    where
        S: Proves<'a, K::Level> + Scope<'a, Level = K::Level>,
    {
        let _: &mut S = scope;
        // SAFETY: The scope proves that the lock is held, and is borrowed as long
        // as the cell is open: `Locked`'s invariant.
        unsafe { self.inside(run) }
    }

    fn new(adapter: &'a Header, lock: K, data: T) -> Self {
        let dump = adapter.state.is_dump();
        Self {
            adapter,
            taken_of: Cell::new((!dump).then_some(adapter)),
            lock,
            brand: PhantomData,
            data: UnsafeCell::new(data),
        }
    }
}

/// An open cell: the data, and the right to take locks that come later in the
/// order.
///
/// It lives as long as the lock is held and can't leave its closure.
pub struct Guard<'guard, 'adapter, T, L> {
    data: &'guard mut T,
    held: Held<'adapter, L>,
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

/// Runs `run` holding the lock `kind` of `adapter`, if there is one.
#[inline]
fn hold_spin_lock<R>(
    adapter: &TakenOf<'_>,
    kind: STOR_SPINLOCK,
    dpc: *mut STOR_DPC,
    run: impl FnOnce() -> R,
) -> R {
    // Storport fills the handle; what was in it does not matter
    // (storport-rules.md X18).
    let mut handle = MaybeUninit::<STOR_LOCK_HANDLE>::uninit();
    // One pointer for both calls: in between, whoever waits for the lock
    // writes through it, so no new reference may be made of the handle.
    let handle = handle.as_mut_ptr();
    if let Some(adapter) = adapter.get() {
        // SAFETY: The caller passes what `kind` asks for, and used a scope that may
        // take it here: a DPC object is initialised then (`DpcLock`'s invariant). The
        // handle lies in this frame until it is released.
        unsafe { port::acquire_spin_lock(adapter, kind, dpc, handle) };
    }
    let result = run();
    if let Some(adapter) = adapter.get() {
        // SAFETY: It was acquired above, in this frame, since `TakenOf` never changes. `run` has released every lock
        // that it acquired, since it had to use a function like this one.
        unsafe { port::release_spin_lock(adapter, handle) };
    }
    result
}

impl Lock for StartIoLock {
    type Level = level::StartIoHeld;

    #[inline]
    fn hold<R>(&self, adapter: &TakenOf<'_>, run: impl FnOnce() -> R) -> R {
        hold_spin_lock(adapter, kind::StartIoLock, core::ptr::null_mut(), run)
    }
}

impl Lock for DpcLock {
    type Level = level::DpcHeld;

    #[inline]
    fn hold<R>(&self, adapter: &TakenOf<'_>, run: impl FnOnce() -> R) -> R {
        hold_spin_lock(adapter, kind::DpcLock, self.object, run)
    }
}

impl Lock for InterruptLock {
    type Level = level::InterruptHeld;

    #[inline]
    fn hold<R>(&self, adapter: &TakenOf<'_>, run: impl FnOnce() -> R) -> R {
        hold_spin_lock(adapter, kind::InterruptLock, core::ptr::null_mut(), run)
    }
}

impl Lock for MessageLock {
    type Level = level::InterruptHeld;

    #[inline]
    fn hold<R>(&self, adapter: &TakenOf<'_>, run: impl FnOnce() -> R) -> R {
        let mut irql: ULONG = 0;
        let own = adapter.get().filter(|adapter| {
            self.is_own(adapter)
                // SAFETY: The message has a lock, and a scope may take it here.
                && unsafe { port::acquire_msi_spin_lock(adapter, self.message, &raw mut irql) }
                    .is_ok()
        });
        let Some(own) = own else {
            return InterruptLock(()).hold(adapter, run);
        };
        let result = run();
        // SAFETY: It was acquired above and not released since. The status can
        // only say that there are no such locks.
        let _: Result<(), StorStatus> =
            unsafe { port::release_msi_spin_lock(own, self.message, irql) };
        result
    }
}

impl<'a, T> StartIoLocked<'a, T> {
    pub(crate) fn under_start_io(adapter: &'a Header, data: T) -> Self {
        Self::new(adapter, StartIoLock(()), data)
    }
}

impl<'a, T> StartIoLocked<'a, T> {
    /// Opens this cell and that of a DPC lock at the same time, in a callback that
    /// proves that no other callback has either open.
    pub fn open_with<U, S, R>(
        &self,
        dpc: &DpcLocked<'a, U>,
        scope: &mut S,
        run: impl FnOnce(&mut T, &mut U) -> R,
    ) -> R
    where
        S: Proves<'a, level::StartIoHeld> + Proves<'a, level::DpcHeld>,
    {
        let _: &mut S = scope;
        // SAFETY: The scope proves that no other callback is inside, and is
        // borrowed as long as the data: `Locked`'s invariant.
        let data = unsafe { &mut *self.data.get() };
        // SAFETY: As above. It is another cell, since its lock is of another kind.
        let other = unsafe { &mut *dpc.data.get() };
        run(data, other)
    }
}

impl<'a, T> InterruptLocked<'a, T> {
    pub(crate) fn under_interrupt(adapter: &'a Header, data: T) -> Self {
        Self::new(adapter, InterruptLock(()), data)
    }

    /// Opens the cell in a message's interrupt routine. Returns `None` where messages
    /// have locks of their own, because Storport does not hold the interrupt lock
    /// there.
    pub fn open_in<'s>(&'s self, interrupt: &'s mut MessageInterrupt<'_, 'a>) -> Option<&'s mut T> {
        let _: &mut MessageInterrupt<'_, 'a> = interrupt;
        if self.adapter.state.has_message_locks() {
            return None;
        }
        // SAFETY: Storport holds the interrupt lock (storport-rules.md Callbacks), and the context
        // is borrowed as long as the data: `Locked`'s invariant.
        Some(unsafe { &mut *self.data.get() })
    }
}

impl<'a, T> MessageLocked<'a, T> {
    pub(crate) fn under_message(adapter: &'a Header, message: u32, data: T) -> Self {
        Self::new(adapter, MessageLock { message }, data)
    }

    /// Opens the cell in the interrupt routine of its message, which Storport
    /// enters with that lock held. Returns `None` in another message's routine.
    pub fn open_in<'s>(&'s self, interrupt: &'s mut MessageInterrupt<'_, 'a>) -> Option<&'s mut T> {
        let held = !self.adapter.state.has_message_locks()
            || self.lock.is_own(self.adapter) && interrupt.message() == self.lock.message;
        if !held {
            return None;
        }
        // SAFETY: Storport holds this message's lock, or the one lock of all
        // messages (storport-rules.md Callbacks), and the context is borrowed as long as the
        // data: `Locked`'s invariant.
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

    /// Issues the DPC, which runs [`Miniport::dpc`], or [`callback::ThreadedDpc`] if
    /// it is a threaded one (StorPortIssueDpc). If it was issued before and has not
    /// started, it runs once for both.
    ///
    /// Before the end of HwPassiveInitialize, and while the adapter is stopped,
    /// the DPC is kept until DPCs can be queued. In a dump stack it runs at the end
    /// of the interrupt routine.
    ///
    /// [`Miniport::dpc`]: crate::Miniport::dpc
    /// [`callback::ThreadedDpc`]: crate::callback::ThreadedDpc
    #[inline]
    pub fn issue<S: IssuesDpcs<'a>>(&self, scope: &S) {
        let _: &S = scope;
        if self.adapter.state.issue(self.lock.number.0) == Issue::Now {
            // SAFETY: DPCs can be queued, so the phase is READY and the object is
            // initialised (`DpcLock`'s invariant).
            unsafe { port::issue(self.adapter, self.lock.object) };
        }
    }

    /// As [`with`](Self::with), from code that is at DISPATCH_LEVEL already:
    /// the IRQL is not looked at (StorPortAcquireSpinLockEx, DpcLevelLock,
    /// since Windows 10 1809).
    ///
    /// # Errors
    /// Storport's status; then the lock was not taken and `run` not run.
    /// NOT_IMPLEMENTED: Windows is older than 10 1809. Use
    /// [`with`](Self::with). INVALID_IRQL: this code is not at the IRQL that the
    /// kind of lock is for.
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

    /// As [`with`](Self::with), from a threaded DPC: Storport knows whether it
    /// runs in a thread (StorPortAcquireSpinLockEx, ThreadedDpcLock, since
    /// Windows 10 1809).
    ///
    /// # Errors
    /// Storport's status; then the lock was not taken and `run` not run.
    /// NOT_IMPLEMENTED: Windows is older than 10 1809. Use
    /// [`with`](Self::with). INVALID_IRQL: this code is not at the IRQL that the
    /// kind of lock is for.
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
        // SAFETY: This runs with the lock held, or in a dump stack. Every kind of
        // lock of a DPC object is the one word in it.
        let inside = || unsafe { self.inside(run) };
        let Some(adapter) = self.taken_of.get() else {
            return Ok(inside());
        };
        let mut handle = MaybeUninit::<STOR_LOCK_HANDLE>::uninit();
        let handle = handle.as_mut_ptr();
        let dpc = self.lock.object;
        // SAFETY: These kinds ask for a DPC object, which is initialised
        // (`DpcLock`'s invariant). A scope may take its level here. The handle lies
        // in this frame until it is released.
        unsafe { port::acquire_spin_lock_ex(adapter, kind, dpc, handle) }?;
        let result = inside();
        // SAFETY: It was acquired above, in this frame. `run` has released every lock
        // that it acquired.
        unsafe { port::release_spin_lock(adapter, handle) };
        Ok(result)
    }
}

/// What the context of a StorPortSynchronizeAccess routine points to.
struct Synchronized<F, R> {
    /// The closure to run. It is taken out once `done`.
    run: ManuallyDrop<F>,
    /// The closure's result. It is initialised once `done`.
    result: MaybeUninit<R>,
    done: bool,
}

/// STOR_SYNCHRONIZED_ACCESS.
///
/// # Safety
/// `context` is a [`Synchronized`] of these types, lent for this call.
unsafe extern "C" fn synchronized<F: FnOnce() -> R, R>(_extension: PVOID, context: PVOID) -> u8 {
    let context: *mut Synchronized<F, R> = context.cast();
    // SAFETY: the caller's promise.
    let context = unsafe { &mut *context };
    if !context.done {
        // SAFETY: it is not done, so the closure was not taken.
        let run = unsafe { ManuallyDrop::take(&mut context.run) };
        context.result.write(run());
        context.done = true;
    }
    1
}

impl<'a, T> InterruptLocked<'a, T> {
    /// As [`with`](Locked::with), by a routine that Storport calls with the
    /// lock held (StorPortSynchronizeAccess).
    ///
    /// Where messages have locks of their own, what that routine excludes is
    /// not documented: there this is `with`.
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
        // SAFETY: This runs with the lock held, or in a dump stack.
        let inside = || unsafe { self.inside(run) };
        match self.taken_of.get() {
            None => inside(),
            Some(adapter) if adapter.state.has_message_locks() => {
                self.lock.hold(&self.taken_of, inside)
            }
            Some(adapter) => synchronize(adapter, inside),
        }
    }
}

/// Runs `run` by StorPortSynchronizeAccess.
fn synchronize<F: FnOnce() -> R, R>(adapter: &Header, run: F) -> R {
    let mut context = Synchronized {
        run: ManuallyDrop::new(run),
        result: MaybeUninit::uninit(),
        done: false,
    };
    let routine = Some(synchronized::<F, R> as unsafe extern "C" fn(PVOID, PVOID) -> u8);
    // SAFETY: a scope proved that the interrupt lock may be taken; the context
    // is of the routine's types, and not looked at until it has run.
    unsafe { port::synchronize_access(adapter, routine, (&raw mut context).cast()) };
    if context.done {
        // SAFETY: it is done, so the result is there, and is taken once.
        unsafe { context.result.assume_init() }
    } else {
        // Storport did not call the routine, which is not documented to happen.
        // SAFETY: it is not done, so the closure was not taken.
        let run = unsafe { ManuallyDrop::take(&mut context.run) };
        InterruptLock(()).hold(&Cell::new(Some(adapter)), run)
    }
}
