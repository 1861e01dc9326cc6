//! The adapter's life cycle, and the gate that every callback passes.
//!
//! A state of all zeros is valid, because Storport's memory is zeroed at first.
//! It means that no adapter was found. Nothing here depends on Windows: the models
//! in `cross/models` compile this file for loom.
//!
//! # Invariants
//!
//! A callback reaches the adapter's state only after one of the functions here
//! admitted it. There are five ways in:
//!
//! | Way in | Callbacks | Condition | Cost |
//! |---|---|---|---|
//! | [`serves_requests`](State::serves_requests) | HwBuildIo, HwStartIo | READY | one load |
//! | [`serves_interrupts`](State::serves_interrupts) | HwInterrupt, HwMSInterruptRoutine | RESTARTING, STARTED, PASSIVE or READY | one load |
//! | [`enter_dpc`](State::enter_dpc) | DPCs | READY | marked in `running`, or counted in `inside` |
//! | [`enter`](State::enter), [`stop`](State::stop) | all others, the optional ones included; ScsiStopAdapter | READY; for a stop also FOUND, STARTED and STOPPED | counted in `inside` |
//! | [`begin_find`](State::begin_find), [`begin_initialize`](State::begin_initialize), [`begin_passive`](State::begin_passive), [`begin_restart`](State::begin_restart) | HwFindAdapter, HwInitialize, HwPassiveInitialize, ScsiRestartAdapter | the phase before | exclusive |
//!
//! From this follows what the contexts promise:
//!
//! - *HwFindAdapter is alone.* It begins only when nobody is inside, counted or
//!   marked, in a phase that admits nobody. HwBuildIo, HwStartIo and interrupt routines are not
//!   counted: see the assumption below.
//! - *HwInitialize is alone.* FOUND admits only ScsiStopAdapter, which opens no
//!   cell, and INITIALIZING admits nobody. Nobody was inside when HwFindAdapter
//!   began.
//! - *HwPassiveInitialize is alone but for interrupt routines.* So is
//!   *ScsiRestartAdapter*, which begins only when nobody is inside. Interrupt
//!   routines open only cells of interrupt locks, which these two callbacks do not
//!   open.
//! - *A DPC lock is taken only after StorPortInitializeDpc.* Only callbacks that
//!   READY admits take locks, READY is stored after HwPassiveInitialize
//!   initialised every DPC object, and whoever reads READY sees that.
//! - *Nothing of an earlier life runs in a later one.* A stop begins a new life;
//!   work, timers and state changes carry the life that they were requested in.
//!
//! One thing is assumed of Storport, and not checked because counting would cost
//! every request two locked instructions: when it calls HwFindAdapter or
//! ScsiRestartAdapter, each call of HwBuildIo and HwStartIo of before the stop has
//! returned; and when it calls HwFindAdapter, the interrupt is not connected. That no
//! request is outstanding at a stop is documented (HwAdapterControl). A call that
//! completed its request may still be about to return then, on a processor that the
//! hypervisor does not run, and nothing is documented of that.
//!
//! A DPC costs one locked instruction and not two: it marks its object as running, and
//! only the run that marked it clears the mark, by a plain store. Windows may run one
//! DPC object on two processors at the same time. The second run finds the mark and is
//! counted instead.
//!
//! DPCs are different in another way: one that is issued while it cannot be queued (before
//! READY, between a stop and a restart, in a dump stack) is noted, and queued
//! once as soon as it can be; in a dump stack the interrupt routine runs it.
//! HwFindAdapter drops the notes.

#[cfg(not(loom))]
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// The most DPC objects that one adapter may have.
pub const MAX_DPCS: u8 = 32;

/// No adapter was found. Zero, as Storport's memory is at first.
const EMPTY: u8 = 0;
/// HwFindAdapter runs, alone.
const FINDING: u8 = 1;
/// An adapter was found. HwInitialize comes next.
const FOUND: u8 = 2;
/// The adapter was stopped. ScsiRestartAdapter or HwFindAdapter comes next.
const STOPPED: u8 = 3;
/// HwInitialize runs, alone.
const INITIALIZING: u8 = 4;
/// ScsiRestartAdapter runs, alone but for interrupt routines. Interrupt
/// routines are admitted from here on upwards.
const RESTARTING: u8 = 5;
/// HwInitialize succeeded. HwPassiveInitialize comes next.
const STARTED: u8 = 6;
/// HwPassiveInitialize runs, alone but for interrupt routines.
const PASSIVE: u8 = 7;
/// The adapter runs, and its DPC objects are initialised.
const READY: u8 = 8;

/// In `timer`: the timer was requested, in the life that the low half names.
const TIMER_ARMED: u64 = 1 << 32;

/// The kind of a DPC object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DpcKind {
    /// It runs at DISPATCH_LEVEL.
    Ordinary,
    /// It runs in a thread, if the system allows that.
    Threaded,
}

/// A run of a DPC object that was admitted.
#[derive(Debug)]
#[must_use = "the run must be ended by `State::leave_dpc`"]
pub enum DpcRun {
    /// The only one of its object that is marked.
    Marked(u8),
    /// Another run of the object is marked, so this one is counted.
    Counted,
}

/// Who queues a DPC that is issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Issue {
    /// The caller queues it.
    Now,
    /// It is noted, and the callback that makes the adapter ready queues it.
    Later,
}

/// The state of one adapter.
#[derive(Debug, Default)]
pub struct State {
    /// One of the constants above.
    phase: AtomicU8,
    /// Callbacks that were admitted and counted, and that have not left.
    inside: AtomicU32,
    /// DPC objects of which a run was admitted that has not left.
    running: [AtomicBool; MAX_DPCS as usize],
    /// The number of the life: it counts the stops and the calls of HwFindAdapter.
    /// What is requested in one life does not run in the next.
    life: AtomicU32,
    /// Whether the driver runs in the crash dump or hibernation stack.
    dump: AtomicBool,
    /// Whether each MSI-X message has a lock of its own.
    message_locks: AtomicBool,
    /// Messages that are connected. Settled before the first lock is taken.
    messages: AtomicU32,
    /// Messages that have locks of their own: all connected ones, or none.
    locked_messages: AtomicU32,
    /// Whether the DPC objects are initialised.
    dpcs_initialized: AtomicBool,
    /// DPC objects that were ever initialised, a bit each.
    initialized: AtomicU32,
    /// Which of them are threaded ones. An object keeps its kind.
    initialized_threaded: AtomicU32,
    /// DPC objects handed out.
    dpcs: AtomicU8,
    /// Which of them are threaded, a bit each.
    threaded: AtomicU32,
    /// DPCs issued and not queued yet, a bit each.
    noted: AtomicU32,
    /// Concurrent channels granted.
    channels: AtomicU32,
    /// Whether Storport was asked for them.
    optimized: AtomicBool,
    /// Whether a state change is being reported.
    state_change: AtomicBool,
    /// The timer that was requested last: `TIMER_ARMED` and its life, or zero.
    timer: AtomicU64,
    /// Whether tracing is enabled, by the last HwTracingEnabled.
    traced: AtomicBool,
}

impl State {
    /// Admits HwBuildIo or HwStartIo.
    #[inline]
    #[must_use]
    pub fn serves_requests(&self) -> bool {
        self.phase.load(Ordering::Acquire) == READY
    }

    /// Admits an interrupt routine.
    #[inline]
    #[must_use]
    pub fn serves_interrupts(&self) -> bool {
        self.phase.load(Ordering::Acquire) >= RESTARTING
    }

    /// Whether the adapter was started, but is not ready yet. Requests that
    /// come now can wait.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        matches!(
            self.phase.load(Ordering::Relaxed),
            INITIALIZING | RESTARTING | STARTED | PASSIVE
        )
    }

    /// Admits and counts a callback, if the adapter is ready.
    /// [`leave`](Self::leave) ends it.
    #[inline]
    #[must_use]
    pub fn enter(&self) -> bool {
        self.inside.fetch_add(1, Ordering::AcqRel);
        let admitted = self.phase.load(Ordering::Acquire) == READY;
        if !admitted {
            self.leave();
        }
        admitted
    }

    /// Ends a callback that was admitted and counted.
    #[inline]
    pub fn leave(&self) {
        self.inside.fetch_sub(1, Ordering::AcqRel);
    }

    /// Admits a run of DPC object `number`, if the adapter is ready.
    /// [`leave_dpc`](Self::leave_dpc) ends it.
    #[inline]
    #[must_use]
    pub fn enter_dpc(&self, number: u8) -> Option<DpcRun> {
        let run = match self.running.get(usize::from(number)) {
            // AcqRel: in the order of all writes to the mark, this one comes before
            // that of `is_alone`, which then finds it, or after, and then this
            // processor sees the phase that was stored before.
            Some(mark) if !mark.swap(true, Ordering::AcqRel) => DpcRun::Marked(number),
            _ => {
                self.inside.fetch_add(1, Ordering::AcqRel);
                DpcRun::Counted
            }
        };
        if self.phase.load(Ordering::Acquire) == READY {
            return Some(run);
        }
        self.leave_dpc(run);
        None
    }

    /// Ends a run that was admitted.
    #[inline]
    pub fn leave_dpc(&self, run: DpcRun) {
        match run {
            DpcRun::Marked(number) => {
                if let Some(mark) = self.running.get(usize::from(number)) {
                    mark.store(false, Ordering::Release);
                }
            }
            DpcRun::Counted => self.leave(),
        }
    }

    /// Stops the adapter, and admits and counts the callback that stops it.
    /// False if there is no adapter, or if a callback runs that must be alone.
    #[must_use]
    pub fn stop(&self) -> bool {
        self.inside.fetch_add(1, Ordering::AcqRel);
        let stopped = self.begin(&[STARTED, READY, STOPPED], STOPPED)
            // The adapter was never started, but its device may still run.
            || self.phase.load(Ordering::Acquire) == FOUND;
        if stopped {
            // After the phase: whoever reads the new life reads the new phase.
            self.life.fetch_add(1, Ordering::Release);
        } else {
            self.leave();
        }
        stopped
    }

    /// Begins HwFindAdapter, which is alone only once
    /// [`is_alone`](Self::is_alone) says so.
    #[must_use]
    pub fn begin_find(&self) -> bool {
        let begun = self.begin(&[EMPTY, FOUND, STOPPED, STARTED, READY], FINDING);
        if begun {
            // After the phase, as in `stop`.
            self.life.fetch_add(1, Ordering::Release);
        }
        begun
    }

    /// Resets the state for an adapter that HwFindAdapter looks for now. The caller
    /// is alone.
    pub fn reset(&self, dump: bool, message_locks: bool) {
        self.dump.store(dump, Ordering::Relaxed);
        self.message_locks.store(message_locks, Ordering::Relaxed);
        self.messages.store(0, Ordering::Relaxed);
        self.locked_messages.store(0, Ordering::Relaxed);
        self.dpcs_initialized.store(false, Ordering::Relaxed);
        self.dpcs.store(0, Ordering::Relaxed);
        self.threaded.store(0, Ordering::Relaxed);
        self.noted.store(0, Ordering::Relaxed);
        self.channels.store(0, Ordering::Relaxed);
        self.optimized.store(false, Ordering::Relaxed);
        self.timer.store(0, Ordering::Relaxed);
        // `state_change` stays: Storport may still have a report, and its callback
        // HwStateChange ends it.
    }

    /// Ends HwFindAdapter. What it wrote is seen by whoever is admitted later.
    pub fn end_find(&self, found: bool) {
        let phase = if found { FOUND } else { EMPTY };
        self.phase.store(phase, Ordering::Release);
    }

    /// Begins HwInitialize, alone.
    #[must_use]
    pub fn begin_initialize(&self) -> bool {
        self.begin(&[FOUND], INITIALIZING)
    }

    /// Ends HwInitialize. In a dump stack the adapter is ready then.
    pub fn end_initialize(&self, works: bool) {
        let phase = match (works, self.is_dump()) {
            (false, _) => FOUND,
            (true, false) => STARTED,
            (true, true) => READY,
        };
        self.phase.store(phase, Ordering::Release);
    }

    /// Begins HwPassiveInitialize, alone but for interrupt routines.
    #[must_use]
    pub fn begin_passive(&self) -> bool {
        self.begin(&[STARTED], PASSIVE)
    }

    /// Ends HwPassiveInitialize, which initialised the DPC objects. Returns the
    /// DPCs to be queued.
    pub fn end_passive(&self, works: bool) -> Noted {
        self.dpcs_initialized.store(true, Ordering::Relaxed);
        self.become_ready(works)
    }

    /// Begins ScsiRestartAdapter, which is alone but for interrupt routines
    /// only once [`is_alone`](Self::is_alone) says so.
    #[must_use]
    pub fn begin_restart(&self) -> bool {
        self.begin(&[STOPPED], RESTARTING)
    }

    /// Ends ScsiRestartAdapter. Returns the DPCs to be queued.
    pub fn end_restart(&self, works: bool) -> Noted {
        if works && !self.dpcs_initialized.load(Ordering::Relaxed) && !self.is_dump() {
            // The stop came before HwPassiveInitialize.
            self.phase.store(STARTED, Ordering::Release);
            return Noted(0);
        }
        self.become_ready(works)
    }

    /// Whether no callback is inside, counted or marked. In a phase that admits none,
    /// this stays true.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        // Writes rather than loads, so that a callback that enters later sees the
        // phase that was stored before them.
        let is_marked = |mark: &AtomicBool| {
            let exchanged =
                mark.compare_exchange(false, false, Ordering::AcqRel, Ordering::Relaxed);
            exchanged.is_err()
        };
        let objects = usize::from(self.initialized_dpcs());
        let marked = self.running.iter().take(objects).any(is_marked);
        !marked && self.inside.fetch_add(0, Ordering::AcqRel) == 0
    }

    /// How many DPC objects may have runs: those that were ever initialised.
    fn initialized_dpcs(&self) -> u8 {
        let initialized = self.initialized.load(Ordering::Relaxed);
        // At most 32.
        u32::BITS.wrapping_sub(initialized.leading_zeros()) as u8
    }

    fn become_ready(&self, works: bool) -> Noted {
        if !works {
            self.phase.store(STOPPED, Ordering::Release);
            return Noted(0);
        }
        self.phase.store(READY, Ordering::Release);
        if self.is_dump() {
            // The interrupt routine runs them.
            return Noted(0);
        }
        self.take_noted()
    }

    /// Goes from one of the phases `from` to phase `to`. Returns false if the phase
    /// is another.
    fn begin(&self, from: &[u8], to: u8) -> bool {
        from.iter().any(|phase| {
            self.phase
                .compare_exchange(*phase, to, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        })
    }

    /// The life in which work, timers or state changes are requested now. `None` unless
    /// the adapter is ready.
    #[inline]
    #[must_use]
    pub fn ready_life(&self) -> Option<u32> {
        // Before the phase is read: if a stop begins in between, the request must
        // carry the life from before the stop.
        let life = self.life.load(Ordering::Acquire);
        self.serves_requests().then_some(life)
    }

    /// The life that the adapter is in.
    #[must_use]
    pub fn life(&self) -> u32 {
        self.life.load(Ordering::Relaxed)
    }

    /// Notes that the timer was requested in a life, or with `None` cancelled.
    pub fn arm_timer(&self, life: Option<u32>) {
        let timer = life.map_or(0, |life| TIMER_ARMED | u64::from(life));
        self.timer.store(timer, Ordering::Relaxed);
    }

    /// Whether the timer that expired was requested in this life. It is
    /// delivered once.
    #[must_use]
    pub fn take_timer(&self) -> bool {
        self.timer.swap(0, Ordering::Relaxed) == TIMER_ARMED | u64::from(self.life())
    }

    /// Whether the driver runs in a dump stack.
    #[inline]
    pub fn is_dump(&self) -> bool {
        self.dump.load(Ordering::Relaxed)
    }

    /// Whether each message has a lock of its own.
    #[inline]
    pub fn has_message_locks(&self) -> bool {
        self.message_locks.load(Ordering::Relaxed)
    }

    /// Says how many messages are connected. The caller is alone.
    pub fn set_messages(&self, messages: u32) {
        self.messages.store(messages, Ordering::Relaxed);
        let locked = if self.has_message_locks() {
            messages
        } else {
            0
        };
        self.locked_messages.store(locked, Ordering::Relaxed);
    }

    /// How many messages have a lock of their own.
    #[inline]
    pub fn locked_messages(&self) -> u32 {
        self.locked_messages.load(Ordering::Relaxed)
    }

    /// How many messages are connected.
    #[inline]
    pub fn messages(&self) -> u32 {
        self.messages.load(Ordering::Relaxed)
    }

    /// How many concurrent channels were granted; 0 if none.
    #[inline]
    pub fn channels(&self) -> u32 {
        self.channels.load(Ordering::Relaxed)
    }

    /// Whether Storport was not asked for channels before. It is asked only once:
    /// whether a second answer replaces the first is not documented, and HwStartIo
    /// must know whether it runs with the StartIo lock.
    pub fn may_optimize(&self) -> bool {
        !self.optimized.swap(true, Ordering::Relaxed)
    }

    /// Says how many concurrent channels were granted, before the first
    /// request.
    pub fn grant_channels(&self, channels: u32) {
        self.channels.store(channels, Ordering::Relaxed);
    }

    /// Hands out the number of the next DPC object. The caller is alone.
    ///
    /// None if the object was initialised as another kind before the adapter was
    /// found again: a DPC of then may still be in the system's queue, so it can't be
    /// initialised anew.
    pub fn take_dpc(&self, kind: DpcKind) -> Option<u8> {
        let number = self.dpcs.load(Ordering::Relaxed);
        if number >= MAX_DPCS {
            return None;
        }
        let is = |bits: &AtomicU32| bits.load(Ordering::Relaxed) & bit(number) != 0;
        let threaded = kind == DpcKind::Threaded;
        if is(&self.initialized) && is(&self.initialized_threaded) != threaded {
            return None;
        }
        self.dpcs.store(number.wrapping_add(1), Ordering::Relaxed);
        if threaded {
            let all = self.threaded.load(Ordering::Relaxed) | bit(number);
            self.threaded.store(all, Ordering::Relaxed);
        }
        Some(number)
    }

    /// How many DPC objects were handed out.
    pub fn dpcs(&self) -> u8 {
        self.dpcs.load(Ordering::Relaxed)
    }

    /// Whether a DPC object is a threaded one.
    pub fn is_threaded(&self, number: u8) -> bool {
        self.threaded.load(Ordering::Relaxed) & bit(number) != 0
    }

    /// Whether a DPC object has to be initialised: it was not yet. It is from now
    /// on.
    ///
    /// An object keeps its memory, its kind and its routine when the adapter is found
    /// again. It is not initialised again then, because a DPC of before the stop may
    /// still be in the system's queue.
    pub fn begin_dpc_initialization(&self, number: u8) -> bool {
        let bit = bit(number);
        if self.is_threaded(number) {
            self.initialized_threaded.fetch_or(bit, Ordering::Relaxed);
        }
        self.initialized.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    /// Issues a DPC. If it cannot be queued now, it is noted.
    #[inline]
    pub fn issue(&self, number: u8) -> Issue {
        if self.queues_dpcs() {
            return Issue::Now;
        }
        self.note(number)
    }

    #[inline]
    fn queues_dpcs(&self) -> bool {
        self.phase.load(Ordering::Acquire) == READY && !self.is_dump()
    }

    #[cold]
    fn note(&self, number: u8) -> Issue {
        let bit = bit(number);
        self.noted.fetch_or(bit, Ordering::AcqRel);
        // Either `take_noted` sees this note, or this reads READY, which was stored
        // before the notes were taken.
        if self.queues_dpcs() && self.noted.fetch_and(!bit, Ordering::AcqRel) & bit != 0 {
            return Issue::Now;
        }
        Issue::Later
    }

    /// Takes the DPCs that were noted.
    pub fn take_noted(&self) -> Noted {
        Noted(self.noted.swap(0, Ordering::AcqRel))
    }

    /// Begins to report a state change. Returns false if one is being reported.
    #[must_use]
    pub fn begin_state_change(&self) -> bool {
        !self.state_change.swap(true, Ordering::Acquire)
    }

    /// Ends the report of a state change.
    pub fn end_state_change(&self) {
        self.state_change.store(false, Ordering::Release);
    }

    /// Records whether tracing is enabled.
    pub fn set_traced(&self, enabled: bool) {
        self.traced.store(enabled, Ordering::Relaxed);
    }

    /// Whether tracing is enabled, by the last HwTracingEnabled.
    #[inline]
    pub fn is_traced(&self) -> bool {
        self.traced.load(Ordering::Relaxed)
    }
}

/// Numbers of DPC objects, each once, in ascending order.
#[derive(Debug)]
pub struct Noted(u32);

impl Iterator for Noted {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let first = self.0.trailing_zeros();
        // 32 if there is none.
        self.0 &= self.0.wrapping_sub(1);
        u8::try_from(first).ok().filter(|first| *first < MAX_DPCS)
    }
}

/// The bit of a DPC object.
fn bit(number: u8) -> u32 {
    1_u32.wrapping_shl(u32::from(number))
}
