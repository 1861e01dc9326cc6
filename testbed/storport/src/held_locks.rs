//! The locks that a thread holds, acquired by Storport or by the miniport, and the rules for the
//! miniport's acquisitions.
//!
//! A lock records its holder, so that a second acquisition by the same thread is reported instead
//! of hanging. The miniport's STOR_LOCK_HANDLE is filled like that of an in-stack queued lock:
//! with a token that identifies the acquisition, and the old IRQL.

use std::{
    cell::{Cell, RefCell},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use super::{
    abi::{Routine, Status, Structure, stor_dpc, stor_lock_handle, wdk},
    callbacks::{self, Callback},
    dpcs,
    port::Port,
    report::LockRow,
    spin_locks::{LockId, SpinLock},
    violations::Rule,
    waits::{Waiter, Waiting},
};
use testbed_machine::{
    clock,
    cpu::{self, irql},
    trap::{Calls, count, place_in_driver},
};

/// The function with which the miniport acquires a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// StorPortAcquireSpinLock, which cannot fail.
    Plain,
    /// StorPortAcquireSpinLockEx, which supports more kinds and returns a status.
    Extended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Storport,
    Miniport,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    id: LockId,
    side: Side,
    handle: usize,
    /// The value in the handle: thread and number of the acquisition.
    token: usize,
    old_irql: u8,
    /// The old IRQL, or that of the lock below if that one was released first.
    restored_irql: u8,
    since: u64,
    /// The return address of the miniport's call; 0 for Storport.
    caller: usize,
    /// Whether the handle was reused, which was reported.
    handle_reused: bool,
}

thread_local! {
    static THREAD: Cell<u32> = const { Cell::new(0) };
    static ACQUISITIONS: Cell<u32> = const { Cell::new(0) };
    /// The locks of the thread, in the order of acquisition.
    static HELD: RefCell<Vec<Held>> = const { RefCell::new(Vec::new()) };
}

static THREADS: AtomicU32 = AtomicU32::new(0);

/// The number of the calling thread among those that acquired locks, from 1.
fn this_thread() -> u32 {
    if THREAD.get() == 0 {
        THREAD.set(THREADS.fetch_add(1, Ordering::Relaxed) + 1);
    }
    THREAD.get()
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)?;
        match self.side {
            Side::Storport => f.write_str(" (by Storport)"),
            Side::Miniport => match place_in_driver(self.caller) {
                Some(place) => write!(f, " (taken at {place})"),
                None => Ok(()),
            },
        }
    }
}

fn held() -> Vec<Held> {
    HELD.with_borrow(Clone::clone)
}

/// The locks that the calling thread holds, in the order of acquisition.
pub(super) fn held_by_this_thread() -> Vec<String> {
    held().iter().map(Held::to_string).collect()
}

/// The last acquisition that is wanted, and its index.
fn find(wanted: impl Fn(&Held) -> bool) -> Option<(usize, Held)> {
    HELD.with_borrow(|held| {
        let index = held.iter().rposition(wanted)?;
        Some((index, held[index]))
    })
}

fn mark_handle_reused(index: usize) {
    HELD.with_borrow_mut(|held| held[index].handle_reused = true);
}

fn in_threaded_dpc() -> bool {
    callbacks::current() == Callback::HwDpcRoutine
        && callbacks::current_argument() == dpcs::THREADED
}

impl Port {
    pub(super) fn locks_held(&self) -> usize {
        HELD.with_borrow(Vec::len)
    }

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

    /// The locks that are acquired together with a lock: for Interrupt, those of all messages
    /// (storport-rules.md O5).
    fn parts(&self, id: LockId) -> &[SpinLock] {
        match id {
            LockId::Interrupt => self.locks.each_message(),
            LockId::AllChannels => self.locks.each_channel(),
            _ => &[],
        }
    }

    fn acquire(&self, id: LockId, side: Side, handle: usize, level: u8) -> Held {
        let number = ACQUISITIONS.get().wrapping_add(1);
        ACQUISITIONS.set(number);
        let thread = this_thread();
        let old_irql = cpu::current_irql();
        cpu::set_irql(old_irql.max(level));
        for (index, lock) in (0..).zip(self.parts(id)) {
            lock.acquire(thread, |holder| self.wait(id, Some(index), holder));
            lock.set_handle(handle);
        }
        if let Some(lock) = self.spin_lock(id) {
            lock.acquire(thread, |holder| self.wait(id, None, holder));
            lock.set_handle(handle);
        }
        let entry = Held {
            id,
            side,
            handle,
            token: (thread as usize) << 32 | number as usize,
            old_irql,
            restored_irql: old_irql,
            since: clock::now(),
            caller: match side {
                Side::Storport => 0,
                Side::Miniport => callbacks::caller(),
            },
            handle_reused: false,
        };
        HELD.with_borrow_mut(|held| held.push(entry));
        if side == Side::Miniport {
            count::acquired(&id);
        }
        entry
    }

    /// Begins a wait of the calling thread for lock `id`, or for its part `part`. The thread
    /// holds the parts before it.
    fn wait(&self, id: LockId, part: Option<u32>, holder: Arc<AtomicU32>) -> Waiting {
        let part_of = |number| match id {
            LockId::AllChannels => LockId::Channel(number),
            _ => LockId::Message(number),
        };
        let mut held = held_by_this_thread();
        let parts = part.unwrap_or(self.parts(id).len() as u32);
        held.extend((0..parts).map(|number| format!("{} (for {id})", part_of(number))));
        let waiter = Waiter {
            thread: this_thread(),
            name: thread::current().name().unwrap_or("unnamed").to_owned(),
            cpu: cpu::current_number(),
            irql: cpu::current_irql(),
            callback: callbacks::current().name(),
            wanted: match part {
                Some(number) => format!("{} (for {id})", part_of(number)),
                None => id.to_string(),
            },
            held,
            calls: Calls::here(),
        };
        Waiting::begin(waiter, holder, |cycle| self.deadlock(cycle))
    }

    /// Releases the acquisition at `index`, and restores its old IRQL.
    fn release(&self, index: usize) {
        let entry = HELD.with_borrow_mut(|held| held.remove(index));
        let time = clock::now() - entry.since;
        if let Some(lock) = self.spin_lock(entry.id) {
            lock.release(time);
        }
        for lock in self.parts(entry.id).iter().rev() {
            lock.release(time);
        }
        HELD.with_borrow_mut(|held| match held.get_mut(index) {
            // The lock above keeps its IRQL, and restores this one later.
            Some(above) => above.restored_irql = entry.restored_irql,
            None => {
                cpu::set_irql(entry.restored_irql);
            }
        });
    }

    /// Acquires a lock for a callback.
    pub(super) fn lock(&self, id: LockId) {
        let level = match id {
            LockId::Interrupt | LockId::Message(_) => irql::DEVICE,
            _ => irql::DISPATCH,
        };
        self.acquire(id, Side::Storport, 0, level);
    }

    /// Releases the lock that the calling thread acquired last.
    pub(super) fn unlock(&self) {
        if let Some(last) = self.locks_held().checked_sub(1) {
            self.release(last);
        }
    }

    pub(super) fn holds(&self, id: LockId) -> bool {
        find(|held| held.id == id).is_some()
    }

    pub(super) fn wait_for_interrupt_routines(&self) {
        self.lock(LockId::Interrupt);
        self.unlock();
    }

    fn lock_ids(&self) -> impl Iterator<Item = LockId> {
        let messages = self.locks.each_message().len() as u32;
        [LockId::StartIo]
            .into_iter()
            .chain((0..self.locks.channels()).map(LockId::Channel))
            .chain((0..self.dpcs.count()).map(LockId::Dpc))
            .chain([LockId::Interrupt])
            .chain((0..messages).map(LockId::Message))
    }

    pub(super) fn lock_rows(&self) -> Vec<LockRow> {
        self.lock_ids()
            .filter_map(|id| self.spin_lock(id)?.row(id))
            .collect()
    }

    pub(super) fn locks_taken(&self) -> String {
        let taken: Vec<_> = self
            .lock_ids()
            .filter(|id| self.spin_lock(*id).is_some_and(SpinLock::is_taken))
            .map(|id| id.to_string())
            .collect();
        taken.join(", ")
    }

    /// Releases the locks that a callback still holds, and reports each.
    pub(super) fn check_locks_at_return(&self, callback: Callback) {
        let base = callbacks::locks_at_entry();
        for (last, Held { id, .. }) in held().into_iter().enumerate().skip(base).rev() {
            self.lock_violation(
                Rule::LockAtReturn,
                id,
                format_args!("{} returned with {id} held", callback.name()),
            );
            self.release(last);
        }
    }

    /// StorPortAcquireSpinLock and StorPortAcquireSpinLockEx: acquires the lock that `kind` and
    /// `context` select, and fills the handle.
    pub(super) fn acquire_for_miniport(
        &self,
        form: Form,
        kind: u32,
        context: Structure,
        handle: Structure,
    ) -> Status {
        let address = handle.address();
        if address == 0 {
            self.no_handle("taken");
            return Err(wdk::STOR_STATUS_INVALID_PARAMETER);
        }
        let Some((id, level)) = self.lock_of(form, kind, context) else {
            return Err(wdk::STOR_STATUS_INVALID_PARAMETER);
        };
        if !self.check_irql(form, kind, id) && form == Form::Extended {
            return Err(wdk::STOR_STATUS_INVALID_IRQL);
        }
        self.check_acquisition(id);
        if kind == wdk::ThreadedDpcLock && !in_threaded_dpc() {
            self.lock_violation(
                Rule::LockThreadedDpc,
                id,
                format_args!(
                    "{id} is taken as ThreadedDpcLock in {}, which is for threaded DPCs only",
                    callbacks::current().name()
                ),
            );
        }
        let is_others = self.is_others_handle(handle);
        let mine = find(|held| held.handle == address);
        if is_others || mine.is_some() {
            self.lock_violation(
                Rule::LockHandleInUse,
                id,
                format_args!("{id} is taken with a handle whose lock is not released"),
            );
        }
        if let Some((mine, _)) = mine {
            mark_handle_reused(mine);
        }
        let entry = self.acquire(id, Side::Miniport, address, level);
        if matches!(id, LockId::Dpc(_)) {
            // The lock is in the object.
            count::wrote(context.address(), stor_dpc::SIZE);
        }
        if is_others {
            // The other thread needs the handle's content.
            mark_handle_reused(self.locks_held() - 1);
            return Ok(());
        }
        handle.set(stor_lock_handle::Lock, kind);
        handle.set(stor_lock_handle::Context_LockQueue_Next, 0);
        handle.set(stor_lock_handle::Context_LockQueue_Lock, entry.token);
        handle.set(stor_lock_handle::Context_OldIrql, entry.old_irql);
        Ok(())
    }

    fn no_handle(&self, done: &str) {
        self.violation(
            Rule::DdiArgument,
            format_args!("a spin lock is {done} with a STOR_LOCK_HANDLE of NULL"),
        );
    }

    /// Whether another thread holds a lock with this handle. The thread number in the handle
    /// answers most calls quickly.
    fn is_others_handle(&self, handle: Structure) -> bool {
        let thread = handle.get(stor_lock_handle::Context_LockQueue_Lock) >> 32;
        let is_thread = (1..=THREADS.load(Ordering::Relaxed) as usize).contains(&thread);
        is_thread
            && thread != this_thread() as usize
            && self
                .lock_ids()
                .filter_map(|id| self.spin_lock(id))
                .any(|lock| lock.is_held_elsewhere_by(handle.address(), this_thread()))
    }

    /// The lock that the miniport selects, and the IRQL at which it is held.
    fn lock_of(&self, form: Form, kind: u32, context: Structure) -> Option<(LockId, u8)> {
        if matches!(kind, wdk::StartIoLock | wdk::InterruptLock) && !context.is_null() {
            self.violation(
                Rule::DdiArgument,
                format_args!(
                    "the lock context of STOR_SPINLOCK {kind} is {:#x}, not NULL",
                    context.address()
                ),
            );
        }
        let dpc = |level| {
            let number = self.dpcs.number(context);
            if number.is_none() {
                self.violation(
                    Rule::LockDpc,
                    format_args!(
                        "the lock context {:#x} is not an initialised STOR_DPC",
                        context.address()
                    ),
                );
            }
            Some((LockId::Dpc(number?), level))
        };
        match kind {
            wdk::StartIoLock => Some((LockId::StartIo, irql::DISPATCH)),
            wdk::InterruptLock => Some((LockId::Interrupt, irql::DEVICE)),
            wdk::DpcLock => dpc(irql::DISPATCH),
            wdk::ThreadedDpcLock if form == Form::Extended => dpc(irql::DISPATCH),
            wdk::DpcLevelLock if form == Form::Extended => dpc(irql::PASSIVE),
            _ => {
                self.violation(
                    Rule::LockKind,
                    format_args!("{kind} is not a STOR_SPINLOCK of this function"),
                );
                None
            }
        }
    }

    /// Checks the IRQL of an acquisition (storport-rules.md STOR_SPINLOCK). No report if
    /// `stop-at-dirql`, or `lock-order` or `lock-not-allowed` under a lock that raised the IRQL,
    /// covers it.
    fn check_irql(&self, form: Form, kind: u32, id: LockId) -> bool {
        let level = cpu::current_irql();
        let fits = match kind {
            wdk::InterruptLock => level <= irql::DEVICE,
            wdk::DpcLevelLock => level == irql::DISPATCH,
            _ => level <= irql::DISPATCH,
        };
        let is_said = self.is_strict_control()
            || form == Form::Plain && held().iter().any(|held| held.id.level() > id.level());
        if !fits && !is_said {
            self.lock_violation(
                Rule::LockIrql,
                id,
                format_args!("{id} is taken (as STOR_SPINLOCK {kind}) at IRQL {level}"),
            );
        }
        fits
    }

    fn check_acquisition(&self, id: LockId) {
        let may_take = self.may_take(id);
        for outer in held() {
            let by = match outer.side {
                Side::Storport => "Storport",
                Side::Miniport => "the miniport",
            };
            if self.would_deadlock(outer.id, id) {
                self.stop_machine(
                    Rule::LockRecursion,
                    Some(id),
                    format_args!(
                        "would wait forever: it takes {id} while {by} holds {}",
                        outer.id
                    ),
                );
            }
            let nested = match (outer.id, id) {
                (LockId::StartIo, LockId::Dpc(_)) => None,
                (LockId::Dpc(_), LockId::StartIo) => Some(Rule::LockOrderStartIo),
                _ if outer.id.level() == id.level() => {
                    (!self.may_nest(outer, id)).then_some(Rule::LockNested)
                }
                _ => {
                    // The order is irrelevant if the callback must not take the lock.
                    if outer.id.level() > id.level() && may_take {
                        self.lock_violation(
                            Rule::LockOrder,
                            id,
                            format_args!(
                                "{id} is taken while {by} holds {}; the order is StartIo, Dpc, Interrupt",
                                outer.id
                            ),
                        );
                    }
                    continue;
                }
            };
            self.check_nesting(outer, by, id, nested);
        }
        if !may_take {
            self.lock_violation(
                match callbacks::current() {
                    Callback::HwAdapterControl => Rule::StopAtDirql,
                    _ => Rule::LockNotAllowed,
                },
                id,
                format_args!("{} must not take {id}", callbacks::current().name()),
            );
        }
    }

    /// Reports a nested acquisition if the two locks were nested in the opposite order before,
    /// else if it breaks the rule `nested`.
    fn check_nesting(&self, outer: Held, by: &str, id: LockId, nested: Option<Rule>) {
        let place = || {
            let place = place_in_driver(callbacks::caller()).map(|place| format!(", at {place}"));
            format!(
                "in {} on CPU {}{}",
                callbacks::current().name(),
                cpu::current_number(),
                place.unwrap_or_default()
            )
        };
        if let Some(earlier) = self.lock_order.note(outer.id, id, place) {
            self.lock_violation(
                Rule::LockInversion,
                id,
                format_args!(
                    "{id} is taken while {by} holds {}; the opposite order was used {earlier}: two CPUs \
                     that do both at the same time deadlock",
                    outer.id
                ),
            );
        } else if let Some(rule) = nested {
            self.lock_violation(
                rule,
                id,
                format_args!("{id} is taken while {by} holds {}", outer.id),
            );
        }
    }

    /// Whether a thread that holds `outer` would wait for itself with `inner`.
    fn would_deadlock(&self, outer: LockId, inner: LockId) -> bool {
        match (outer, inner) {
            (LockId::Interrupt, LockId::Message(_)) | (LockId::Message(_), LockId::Interrupt) => {
                self.locks.per_message()
            }
            _ => outer == inner,
        }
    }

    /// An interrupt routine may take the locks of other messages (storport-rules.md O6).
    fn may_nest(&self, outer: Held, inner: LockId) -> bool {
        matches!((outer.id, inner), (LockId::Message(_), LockId::Message(_)))
            && callbacks::current() == Callback::HwMSInterruptRoutine
            && outer.side == Side::Storport
    }

    /// Whether the running callback may take the lock (storport-rules.md Callbacks, and 8 row 4:
    /// DPC locks are in order where only Interrupt is listed).
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
            Callback::HwAdapterControl => !self.is_strict_control(),
            Callback::HwTimer
            | Callback::HwTimerEx
            | Callback::HwResetBus
            | Callback::HwStateChange
            | Callback::HwBuildIo
            | Callback::HwDpcRoutine
            | Callback::HwUnitControl
            | Callback::HwTracingEnabled
            | Callback::HwWorkItem
            | Callback::None => true,
        }
    }

    pub(super) fn release_for_miniport(&self, handle: Structure) {
        let address = handle.address();
        if address == 0 {
            return self.no_handle("released");
        }
        let token = handle.get(stor_lock_handle::Context_LockQueue_Lock);
        let by_token = find(|held| held.token == token && held.side == Side::Miniport);
        let by_address = find(|held| held.handle == address && held.side == Side::Miniport);
        let Some((index, entry)) = by_token.or(by_address) else {
            let (rule, what) = if token >> 32 != 0 && token >> 32 != this_thread() as usize {
                (Rule::LockOtherThread, "was taken by another thread")
            } else {
                (Rule::LockNotHeld, "is not held")
            };
            return self.violation(rule, format_args!("the lock of the released handle {what}"));
        };
        if entry.handle != address {
            self.lock_violation(
                Rule::LockHandleMoved,
                entry.id,
                format_args!(
                    "the handle of {} was at {:#x} when it was taken, and is at {address:#x} now",
                    entry.id, entry.handle
                ),
            );
        }
        let is_as_filled =
            by_token.is_some() && handle.get(stor_lock_handle::Context_OldIrql) == entry.old_irql;
        if !is_as_filled && !entry.handle_reused {
            self.lock_violation(
                Rule::LockHandleChanged,
                entry.id,
                format_args!(
                    "the handle of {} was written to while it was held",
                    entry.id
                ),
            );
        }
        self.check_release_order(index);
        if !entry.handle_reused {
            handle.set(stor_lock_handle::Context_LockQueue_Lock, 0);
        }
        self.release(index);
    }

    fn check_release_order(&self, index: usize) {
        let held = held();
        let (released, last) = (held[index].id, held[held.len() - 1].id);
        if index + 1 != held.len() {
            self.lock_violation(
                Rule::LockReleaseOrder,
                released,
                format_args!("{released} is released before {last}, which was taken later"),
            );
        }
    }

    /// StorPortAcquireMSISpinLock. Returns the old IRQL, or a status.
    pub(super) fn acquire_message_for_miniport(&self, message: u32) -> Result<u8, u32> {
        let id = self.message_lock(message)?;
        self.check_acquisition(id);
        Ok(self.acquire(id, Side::Miniport, 0, irql::DEVICE).old_irql)
    }

    pub(super) fn release_message_for_miniport(&self, message: u32, old_irql: u32) -> Status {
        let id = self.message_lock(message)?;
        let wanted = |held: &Held| held.id == id && held.side == Side::Miniport;
        let Some((index, entry)) = find(wanted) else {
            self.lock_violation(
                Rule::LockNotHeld,
                id,
                format_args!("{id} is released, but the miniport has not taken it"),
            );
            return Ok(());
        };
        // Miniports store the old IRQL in a KIRQL (storport-rules.md L9).
        if old_irql as u8 != entry.old_irql {
            self.lock_violation(
                Rule::LockHandleChanged,
                id,
                format_args!(
                    "{id} is released to IRQL {old_irql}, but was taken at IRQL {}",
                    entry.old_irql
                ),
            );
        }
        self.check_release_order(index);
        self.release(index);
        Ok(())
    }

    /// StorPortSynchronizeAccess: calls `routine` with the interrupt lock, and returns its
    /// result.
    pub(super) fn synchronize_access(&'static self, routine: Routine, context: usize) -> usize {
        self.check_acquisition(LockId::Interrupt);
        self.lock(LockId::Interrupt);
        count::acquired(&LockId::Interrupt);
        let arguments = [self.extension(), context];
        let result = self.call(
            Callback::SynchronizedAccess,
            irql::DEVICE,
            routine,
            arguments,
        );
        self.unlock();
        usize::from(result as u8)
    }

    /// StorPortSynchronizeAccess in a dump stack, without locks.
    pub(super) fn run_unlocked(&'static self, routine: Routine, context: usize) -> usize {
        let arguments = [self.extension(), context];
        let level = cpu::current_irql();
        let result = self.call(Callback::SynchronizedAccess, level, routine, arguments);
        usize::from(result as u8)
    }

    fn message_lock(&self, message: u32) -> Result<LockId, u32> {
        if self.interrupt_mode() != wdk::InterruptSynchronizePerMessage {
            self.lock_violation(
                Rule::LockMsiMode,
                LockId::Message(message),
                format_args!(
                    "MSI {message}: the adapter is not in InterruptSynchronizePerMessage mode"
                ),
            );
            return Err(wdk::STOR_STATUS_INVALID_DEVICE_REQUEST);
        }
        if message as usize >= self.locks.each_message().len() {
            self.lock_violation(
                Rule::LockMsiMessage,
                LockId::Message(message),
                format_args!(
                    "MSI {message}: the adapter has {} messages",
                    self.locks.each_message().len()
                ),
            );
            return Err(wdk::STOR_STATUS_INVALID_PARAMETER);
        }
        Ok(LockId::Message(message))
    }
}
