//! What a thread holds of Storport's locks: acquisitions by Storport and by the
//! miniport, and the rules that the miniport's must keep.
//!
//! A lock knows its holder, so that a second acquisition by the same thread is
//! an error with a place instead of a hang. The miniport's handle is filled as
//! an in-stack queued lock is: with what leads back to the acquisition, and
//! the IRQL to return to.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{
    abi::{Structure, config, spin_lock, stor_lock_handle, stor_status},
    callbacks::{self, Callback},
    port::Port,
    report::LockRow,
    spin_locks::{LockId, SpinLock},
    violations::Rule,
};
use crate::{
    cpu::{self, irql},
    machine::clock,
};

/// How the miniport takes a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// StorPortAcquireSpinLock: cannot fail.
    Plain,
    /// StorPortAcquireSpinLockEx: knows more kinds, and says what is wrong.
    Extended,
}

/// Who took a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taker {
    Storport,
    Miniport,
}

/// An acquisition.
#[derive(Clone, Copy, Debug)]
struct Held {
    id: LockId,
    taker: Taker,
    /// The handle's address; 0 without.
    handle: usize,
    /// What the handle was filled with: thread and number of acquisition.
    token: u64,
    old_irql: u8,
    since: u64,
}

const NOTHING: Held = Held {
    id: LockId::StartIo,
    taker: Taker::Storport,
    handle: 0,
    token: 0,
    old_irql: 0,
    since: 0,
};

/// The most locks a thread can hold: Storport's channel and StartIo locks, and
/// one of each kind on top, would do.
const DEEPEST: usize = 16;

thread_local! {
    static THREAD: Cell<u32> = const { Cell::new(0) };
    static ACQUISITIONS: Cell<u32> = const { Cell::new(0) };
    static HELD: [Cell<Held>; DEEPEST] = const { [const { Cell::new(NOTHING) }; DEEPEST] };
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// The number of the calling thread among those that took locks, from 1 up.
fn this_thread() -> u32 {
    static THREADS: AtomicU32 = AtomicU32::new(0);
    if THREAD.get() == 0 {
        THREAD.set(THREADS.fetch_add(1, Ordering::Relaxed) + 1);
    }
    THREAD.get()
}

fn held(index: usize) -> Held {
    HELD.with(|held| held[index].get())
}

fn find(wanted: impl Fn(&Held) -> bool) -> Option<usize> {
    (0..DEPTH.get()).rev().find(|index| wanted(&held(*index)))
}

fn push(entry: Held) -> bool {
    let depth = DEPTH.get();
    let room = HELD.with(|held| held.get(depth).map(|place| place.set(entry)));
    if room.is_some() {
        DEPTH.set(depth + 1);
    }
    room.is_some()
}

/// Takes the entry at `index` out; what lay above it moves down.
fn remove(index: usize) -> Held {
    let entry = held(index);
    let depth = DEPTH.get() - 1;
    HELD.with(|places| {
        for below in index..depth {
            places[below].set(places[below + 1].get());
        }
    });
    DEPTH.set(depth);
    entry
}

impl Port {
    /// How many locks of adapters the calling thread holds.
    pub(super) fn locks_held(&self) -> usize {
        DEPTH.get()
    }

    /// The lock, or nothing if there is none of this name.
    fn spin_lock(&self, id: LockId) -> Option<&SpinLock> {
        match id {
            LockId::StartIo => Some(&self.locks.start_io),
            LockId::Interrupt => Some(&self.locks.interrupt),
            LockId::Channel(number) => self.locks.each_channel().get(number as usize),
            LockId::AllChannels => None,
            LockId::Message(number) => self.locks.each_message().get(number as usize),
            LockId::Dpc(number) => self.dpcs.get(number).map(|dpc| &dpc.lock),
        }
    }

    /// The locks that are taken with a lock, first to last: for Interrupt every
    /// message's (rule book 1.5 O5).
    fn parts(&self, id: LockId) -> &[SpinLock] {
        match id {
            LockId::Interrupt => self.locks.each_message(),
            LockId::AllChannels => self.locks.each_channel(),
            _ => &[],
        }
    }

    fn acquire(&self, id: LockId, taker: Taker, handle: usize, level: u8) {
        let number = ACQUISITIONS.get().wrapping_add(1);
        ACQUISITIONS.set(number);
        let thread = this_thread();
        let old_irql = cpu::current_irql();
        cpu::set_irql(old_irql.max(level));
        for lock in self.parts(id) {
            lock.acquire(thread);
        }
        if let Some(lock) = self.spin_lock(id) {
            lock.acquire(thread);
        }
        let entry = Held {
            id,
            taker,
            handle,
            token: u64::from(thread) << 32 | u64::from(number),
            old_irql,
            since: clock::now(),
        };
        if !push(entry) {
            self.stop_machine(
                Rule::LockRecursion,
                0,
                format_args!("{id} would be lock {} that the thread holds", DEEPEST + 1),
            );
        }
    }

    /// Releases the acquisition at `index`, and returns to its IRQL.
    fn release(&self, index: usize) {
        let top = index + 1 == DEPTH.get();
        let entry = remove(index);
        let time = clock::now() - entry.since;
        if let Some(lock) = self.spin_lock(entry.id) {
            lock.release(time);
        }
        for lock in self.parts(entry.id).iter().rev() {
            lock.release(time);
        }
        if top {
            cpu::set_irql(entry.old_irql);
        } else {
            // The lock above keeps its IRQL and returns to this one's.
            HELD.with(|places| {
                let above = Held {
                    old_irql: entry.old_irql,
                    ..places[index].get()
                };
                places[index].set(above);
            });
        }
    }

    /// Storport takes a lock for a callback.
    pub(super) fn lock(&self, id: LockId) {
        let level = match id {
            LockId::Interrupt | LockId::Message(_) => irql::DEVICE,
            _ => irql::DISPATCH,
        };
        self.acquire(id, Taker::Storport, 0, level);
    }

    /// Storport releases the lock that it took last.
    pub(super) fn unlock(&self) {
        if let Some(last) = DEPTH.get().checked_sub(1) {
            self.release(last);
        }
    }

    /// Whether the calling thread holds the lock that keeps interrupts away.
    pub(super) fn holds(&self, id: LockId) -> bool {
        find(|held| held.id == id).is_some()
    }

    /// Waits until no interrupt routine runs that began before.
    pub(super) fn interrupts_have_passed(&self) {
        self.lock(LockId::Interrupt);
        self.unlock();
    }

    /// Each lock that there is.
    fn lock_ids(&self) -> impl Iterator<Item = LockId> {
        let messages = self.locks.each_message().len() as u32;
        [LockId::StartIo]
            .into_iter()
            .chain((0..self.locks.channels()).map(LockId::Channel))
            .chain((0..self.dpcs.count()).map(LockId::Dpc))
            .chain([LockId::Interrupt])
            .chain((0..messages).map(LockId::Message))
    }

    /// What was counted of locks that were ever taken.
    pub(super) fn lock_rows(&self) -> Vec<LockRow> {
        self.lock_ids()
            .filter_map(|id| self.spin_lock(id)?.row(id))
            .collect()
    }

    /// The names of the locks that are taken now.
    pub(super) fn locks_taken(&self) -> String {
        let taken: Vec<_> = self
            .lock_ids()
            .filter(|id| self.spin_lock(*id).is_some_and(SpinLock::is_taken))
            .map(|id| id.to_string())
            .collect();
        taken.join(", ")
    }

    /// Undoes what a callback left held, each a violation.
    pub(super) fn check_locks_at_return(&self, callback: Callback) {
        let base = callbacks::locks_at_entry();
        while DEPTH.get() > base {
            let last = DEPTH.get() - 1;
            let id = held(last).id;
            self.violation(
                Rule::LockAtReturn,
                0,
                format_args!("{} returned with {id} held", callback.name()),
            );
            self.release(last);
        }
    }

    /// StorPortAcquireSpinLock and StorPortAcquireSpinLockEx: takes the lock
    /// that `kind` and `context` name, and fills the handle.
    pub(super) fn acquire_for_miniport(
        &self,
        form: Form,
        kind: u32,
        context: usize,
        handle: Structure,
        caller: usize,
    ) -> u32 {
        let Some((id, level)) = self.lock_of(form, kind, context, caller) else {
            return stor_status::STOR_STATUS_INVALID_PARAMETER;
        };
        if !self.check_irql(kind, id, caller) && form == Form::Extended {
            return stor_status::STOR_STATUS_INVALID_IRQL;
        }
        self.check_acquisition(id, caller);
        let address = handle.address();
        if find(|held| held.handle == address && address != 0).is_some() {
            self.violation(
                Rule::LockHandleInUse,
                caller,
                format_args!("{id} is taken with a handle whose lock is not released"),
            );
        }
        self.acquire(id, Taker::Miniport, address, level);
        let entry = held(DEPTH.get() - 1);
        handle.set(stor_lock_handle::Lock, kind);
        handle.set(stor_lock_handle::Context_LockQueue_Next, 0);
        handle.set(stor_lock_handle::Context_LockQueue_Lock, entry.token);
        handle.set(stor_lock_handle::Context_OldIrql, entry.old_irql);
        stor_status::STOR_STATUS_SUCCESS
    }

    /// The lock that the miniport names, and the IRQL while it is held.
    fn lock_of(
        &self,
        form: Form,
        kind: u32,
        context: usize,
        caller: usize,
    ) -> Option<(LockId, u8)> {
        let dpc = |level| {
            let number = self.dpcs.number(context);
            if number.is_none() {
                self.violation(
                    Rule::LockDpc,
                    caller,
                    format_args!("the lock context {context:#x} is no initialised STOR_DPC"),
                );
            }
            Some((LockId::Dpc(number?), level))
        };
        match kind {
            spin_lock::StartIoLock => Some((LockId::StartIo, irql::DISPATCH)),
            spin_lock::InterruptLock => Some((LockId::Interrupt, irql::DEVICE)),
            spin_lock::DpcLock => dpc(irql::DISPATCH),
            spin_lock::ThreadedDpcLock if form == Form::Extended => dpc(irql::DISPATCH),
            spin_lock::DpcLevelLock if form == Form::Extended => dpc(irql::PASSIVE),
            _ => {
                self.violation(
                    Rule::LockKind,
                    caller,
                    format_args!("{kind} is no STOR_SPINLOCK of this function"),
                );
                None
            }
        }
    }

    /// Rule book 1.4.
    fn check_irql(&self, kind: u32, id: LockId, caller: usize) -> bool {
        let level = cpu::current_irql();
        let fits = match kind {
            spin_lock::InterruptLock => level <= irql::DEVICE,
            spin_lock::DpcLevelLock => level == irql::DISPATCH,
            _ => level <= irql::DISPATCH,
        };
        if !fits {
            self.violation(
                Rule::LockIrql,
                caller,
                format_args!("{id} is taken (as STOR_SPINLOCK {kind}) at IRQL {level}"),
            );
        }
        fits
    }

    /// What holds for an acquisition of `id` by the miniport now, whatever
    /// function it is made with.
    fn check_acquisition(&self, id: LockId, caller: usize) {
        for index in 0..DEPTH.get() {
            let outer = held(index);
            let by = match outer.taker {
                Taker::Storport => "Storport holds for it",
                Taker::Miniport => "it holds itself",
            };
            if self.same(outer.id, id) {
                self.stop_machine(
                    Rule::LockRecursion,
                    caller,
                    format_args!("would wait forever: it takes {id}, while {by} {}", outer.id),
                );
            }
            if outer.id.level() > id.level() {
                self.violation(
                    Rule::LockOrder,
                    caller,
                    format_args!(
                        "{id} is taken while {by} {}; the order is StartIo, Dpc, Interrupt",
                        outer.id
                    ),
                );
            } else if outer.id.level() == id.level() && !self.may_nest(outer, id) {
                self.violation(
                    Rule::LockNested,
                    caller,
                    format_args!("{id} is taken while {by} {}", outer.id),
                );
            }
        }
        if !self.may_take(id) {
            self.violation(
                Rule::LockNotAllowed,
                caller,
                format_args!("{} may not take {id}", callbacks::current().name()),
            );
        }
    }

    /// Whether who has `outer` would wait for itself with `inner`.
    fn same(&self, outer: LockId, inner: LockId) -> bool {
        match (outer, inner) {
            (LockId::Interrupt, LockId::Message(_)) | (LockId::Message(_), LockId::Interrupt) => {
                self.locks.per_message()
            }
            _ => outer == inner,
        }
    }

    /// Rule book 1.5 O6: an interrupt routine may take other messages' locks.
    fn may_nest(&self, outer: Held, inner: LockId) -> bool {
        matches!((outer.id, inner), (LockId::Message(_), LockId::Message(_)))
            && callbacks::current() == Callback::HwMSInterruptRoutine
            && outer.taker == Taker::Storport
    }

    /// Rule book 2, with 8 row 4: DPC locks where only Interrupt is listed are
    /// in order.
    fn may_take(&self, id: LockId) -> bool {
        match callbacks::current() {
            Callback::DriverEntry
            | Callback::HwFindAdapter
            | Callback::HwInitialize
            | Callback::HwPassiveInitialize
            | Callback::HwInterrupt
            | Callback::SynchronizedAccess => false,
            Callback::HwMSInterruptRoutine => {
                self.locks.per_message() && matches!(id, LockId::Message(_))
            }
            Callback::HwStartIo => self.full_duplex(),
            Callback::HwAdapterControl => self.may_lock_in_control(callbacks::current_argument()),
            Callback::HwTimer
            | Callback::HwTimerEx
            | Callback::HwResetBus
            | Callback::HwStateChange
            | Callback::HwBuildIo
            | Callback::HwDpcRoutine
            | Callback::HwUnitControl
            | Callback::HwWorkItem
            | Callback::None => true,
        }
    }

    /// StorPortReleaseSpinLock.
    pub(super) fn release_for_miniport(&self, handle: Structure, caller: usize) {
        let address = handle.address();
        let token = handle.get(stor_lock_handle::Context_LockQueue_Lock);
        let by_token = find(|held| held.token == token && held.taker == Taker::Miniport);
        let by_address = find(|held| held.handle == address && held.taker == Taker::Miniport);
        let Some(index) = by_token.or(by_address) else {
            let (rule, what) = if token >> 32 != 0 && token >> 32 != u64::from(this_thread()) {
                (Rule::LockOtherThread, "another thread took")
            } else {
                (Rule::LockNotHeld, "is not held")
            };
            return self.violation(
                rule,
                caller,
                format_args!("the lock of the handle that is released {what}"),
            );
        };
        let entry = held(index);
        if entry.handle != address {
            self.violation(
                Rule::LockHandleMoved,
                caller,
                format_args!(
                    "the handle of {} lay at {:#x} when it was taken and lies at {address:#x} now",
                    entry.id, entry.handle
                ),
            );
        }
        if by_token.is_none() || handle.get(stor_lock_handle::Context_OldIrql) != entry.old_irql {
            self.violation(
                Rule::LockHandleChanged,
                caller,
                format_args!(
                    "the handle of {} was written to while it was held",
                    entry.id
                ),
            );
        }
        self.check_release_order(index, caller);
        handle.set(stor_lock_handle::Context_LockQueue_Lock, 0);
        self.release(index);
    }

    fn check_release_order(&self, index: usize, caller: usize) {
        if index + 1 != DEPTH.get() {
            let (released, last) = (held(index).id, held(DEPTH.get() - 1).id);
            self.violation(
                Rule::LockReleaseOrder,
                caller,
                format_args!("{released} is released before {last}, that was taken after it"),
            );
        }
    }

    /// StorPortAcquireMSISpinLock: the old IRQL, or a status.
    pub(super) fn acquire_message_for_miniport(
        &self,
        message: u32,
        caller: usize,
    ) -> Result<u8, u32> {
        let id = self.message_lock(message, caller)?;
        self.check_acquisition(id, caller);
        self.acquire(id, Taker::Miniport, 0, irql::DEVICE);
        Ok(held(DEPTH.get() - 1).old_irql)
    }

    /// StorPortReleaseMSISpinLock.
    pub(super) fn release_message_for_miniport(
        &self,
        message: u32,
        old_irql: u32,
        caller: usize,
    ) -> u32 {
        let id = match self.message_lock(message, caller) {
            Ok(id) => id,
            Err(status) => return status,
        };
        let Some(index) = find(|held| held.id == id && held.taker == Taker::Miniport) else {
            self.violation(
                Rule::LockNotHeld,
                caller,
                format_args!("{id} is released, and the miniport did not take it"),
            );
            return stor_status::STOR_STATUS_SUCCESS;
        };
        // Miniports keep it in a KIRQL (rule book 1.3 L9).
        if old_irql as u8 != held(index).old_irql {
            self.violation(
                Rule::LockHandleChanged,
                caller,
                format_args!(
                    "{id} is released to IRQL {old_irql}, and was taken at IRQL {}",
                    held(index).old_irql
                ),
            );
        }
        self.check_release_order(index, caller);
        self.release(index);
        stor_status::STOR_STATUS_SUCCESS
    }

    /// StorPortSynchronizeAccess: runs `routine` with the interrupt lock, and
    /// gives back what it returned.
    pub(super) fn synchronize_access(
        &'static self,
        routine: usize,
        context: usize,
        caller: usize,
    ) -> usize {
        self.check_acquisition(LockId::Interrupt, caller);
        self.lock(LockId::Interrupt);
        let arguments = [self.extension(), context, 0, 0, 0, 0];
        let result = self.call(
            Callback::SynchronizedAccess,
            irql::DEVICE,
            routine,
            arguments,
        );
        self.unlock();
        usize::from(result as u8)
    }

    fn message_lock(&self, message: u32, caller: usize) -> Result<LockId, u32> {
        if self.interrupt_mode() != config::InterruptSynchronizePerMessage {
            self.violation(
                Rule::LockMsiMode,
                caller,
                format_args!(
                    "MSI {message}: the adapter is not in InterruptSynchronizePerMessage mode"
                ),
            );
            return Err(stor_status::STOR_STATUS_INVALID_DEVICE_REQUEST);
        }
        if message as usize >= self.locks.each_message().len() {
            self.violation(
                Rule::LockMsiMessage,
                caller,
                format_args!(
                    "MSI {message}: the adapter has {} messages",
                    self.locks.each_message().len()
                ),
            );
            return Err(stor_status::STOR_STATUS_INVALID_PARAMETER);
        }
        Ok(LockId::Message(message))
    }
}
