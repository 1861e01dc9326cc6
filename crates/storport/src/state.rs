//! The adapter's life cycle, and the gate that every callback passes.
//!
//! The gate is the functions of [`State`] that admit a callback. A callback that is not
//! admitted does not reach the miniport. Three words have a fixed meaning here:
//!
//! - A *phase* is a stage of the life cycle, such as FOUND or READY (the constants below).
//! - A *life* of the adapter ends when it is stopped, or when HwFindAdapter is called again.
//! - A callback is *exclusive* if no other callback of the adapter runs at the same time.
//!
//! A state of all zeros means that no adapter was found: Storport zeroes the memory before the
//! first call. Nothing here depends on Windows: the models in `cross/models` compile this file
//! for loom.
//!
//! # Invariants
//!
//! A callback accesses the adapter's state only after one of the functions here has admitted
//! it. There are five groups of callbacks:
//!
//! | Admitted by | Callbacks | In the phases | How the gate knows that one is running |
//! |---|---|---|---|
//! | [`serves_requests`](State::serves_requests) | HwBuildIo, HwStartIo | READY | it does not |
//! | [`serves_interrupts`](State::serves_interrupts) | HwInterrupt, HwMSInterruptRoutine | RESTARTING, STARTED, PASSIVE, READY | it does not |
//! | [`enter_dpc`](State::enter_dpc) | DPCs | READY | marked in `running`, or counted in `callbacks` |
//! | [`enter`](State::enter), [`stop`](State::stop) | all others, including the optional ones; ScsiStopAdapter | READY; for a stop also FOUND, STARTED and STOPPED | counted in `callbacks` |
//! | [`begin_find`](State::begin_find), [`begin_initialize`](State::begin_initialize), [`begin_passive`](State::begin_passive), [`begin_restart`](State::begin_restart) | HwFindAdapter, HwInitialize, HwPassiveInitialize, ScsiRestartAdapter | the phases from which they may begin | each has a phase of its own |
//!
//! The promises of the contexts follow from this table:
//!
//! - *HwFindAdapter is exclusive.* Its phase admits no other callback, and it begins only after
//!   every counted or marked callback has left. For the callbacks that are neither counted nor
//!   marked, see the assumption below.
//! - *HwInitialize is exclusive.* The phase FOUND admits only ScsiStopAdapter, which opens no cell.
//!   The phase INITIALIZING admits no callback. No callback of an earlier life is left, because
//!   HwFindAdapter was exclusive.
//! - *HwPassiveInitialize and ScsiRestartAdapter are exclusive except for interrupt routines.* They
//!   open no cells of interrupt locks, and interrupt routines open no others.
//!   ScsiRestartAdapter, too, begins only after every counted or marked callback has left.
//! - *A DPC lock is taken only after StorPortInitializeDpc.* Only callbacks that READY admits
//!   take locks. HwPassiveInitialize initialises every DPC object before it stores READY, and a
//!   callback that reads READY sees the initialised objects.
//! - *Nothing that was requested in one life runs in a later one.* Work, timers and state changes
//!   store the number of the life in which they were requested.
//!
//! Two things about Storport are assumed: when it calls HwFindAdapter or ScsiRestartAdapter,
//! every earlier call of HwBuildIo and HwStartIo has returned; and when it calls HwFindAdapter,
//! the interrupt is not connected. The gate does not check this, because counting would cost
//! every request two locked instructions. The documentation promises that no request is
//! outstanding at a stop (HwAdapterControl). It does not say whether a call that has completed
//! its request may still be running then, for example on a virtual processor that the hypervisor
//! has paused.
//!
//! A DPC costs only one locked instruction: its run marks the DPC object, and later clears the
//! mark by a plain store. Windows may run one DPC object on two processors at the same time. The
//! second run finds the mark and is counted instead.
//!
//! A DPC can be issued when it cannot be queued: before READY, between a stop and a restart, and
//! in a dump stack. It is then noted, and queued once the adapter is ready. In a dump stack the
//! interrupt routine runs it. HwFindAdapter drops the notes.

#[cfg(not(loom))]
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// The maximum number of DPC objects of an adapter.
pub const MAX_DPCS: u8 = 32;

/// A value for each DPC object. Each value has cache lines of its own, so processors that run
/// different DPCs do not wait for each other's.
///
/// Storport aligns a device extension to 8 bytes only. So the values are not aligned to cache
/// lines: unused memory separates them.
#[derive(Debug, Default)]
#[repr(C)]
pub struct PerDpc<T> {
    _before: Gap,
    entries: [Entry<T>; MAX_DPCS as usize],
}

/// Unused memory between two words of 8 bytes. With it they are 64 bytes apart, the length of a
/// cache line, so no line has both.
type Gap = [u64; 7];

/// A value, and the unused memory before the next one.
#[derive(Debug, Default)]
#[repr(C)]
struct Entry<T> {
    value: T,
    _after: Gap,
}

impl<T> PerDpc<T> {
    /// The distance between two values, in bytes.
    pub const STRIDE: usize = size_of::<Entry<T>>();

    /// The first value. The next one begins [`STRIDE`](Self::STRIDE) bytes after it.
    pub fn first(&self) -> *const T {
        self.entries.as_ptr().cast()
    }

    fn get(&self, number: u8) -> Option<&T> {
        let entry = self.entries.get(usize::from(number))?;
        Some(&entry.value)
    }
}

/// No adapter was found. Zero, as Storport's memory is at first.
const EMPTY: u8 = 0;
/// HwFindAdapter runs exclusively.
const FINDING: u8 = 1;
/// An adapter was found. HwInitialize comes next.
const FOUND: u8 = 2;
/// The adapter was stopped. ScsiRestartAdapter or HwFindAdapter comes next.
const STOPPED: u8 = 3;
/// HwInitialize runs exclusively.
const INITIALIZING: u8 = 4;
/// ScsiRestartAdapter runs exclusively, except for interrupt routines, which this and all
/// higher phases admit.
const RESTARTING: u8 = 5;
/// HwInitialize succeeded. HwPassiveInitialize comes next.
const STARTED: u8 = 6;
/// HwPassiveInitialize runs exclusively, except for interrupt routines.
const PASSIVE: u8 = 7;
/// The adapter runs, and its DPC objects are initialised.
const READY: u8 = 8;

/// A bit of `State::timer`: the timer is requested. The low 32 bits are the number of the life.
const TIMER_ARMED: u64 = 1 << 32;

/// The kind of a DPC object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DpcKind {
    /// It runs at DISPATCH_LEVEL.
    Ordinary,
    /// It runs in a thread, or at DISPATCH_LEVEL if threaded DPCs are disabled in the system.
    Threaded,
}

/// A run of a DPC object that was admitted.
#[derive(Debug)]
#[must_use = "the run must be ended by `State::leave_dpc`"]
pub enum DpcRun {
    /// This run marked its object, which has the number in the field.
    Marked(u8),
    /// Another run had marked the object, so this run is counted.
    Counted,
}

/// What to do with a DPC that is issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Issue {
    /// The caller must queue it.
    Now,
    /// Nothing: it is noted, and is queued when the adapter becomes ready.
    Later,
}

/// The state of one adapter.
#[derive(Debug, Default)]
pub struct State {
    /// One of the constants above.
    phase: AtomicU8,
    /// The number of counted callbacks that are running.
    callbacks: AtomicU32,
    /// The marks of the DPC objects: whether a run of the object is running.
    running: PerDpc<AtomicBool>,
    /// The number of the life. Each stop and each call of HwFindAdapter increments it.
    life: AtomicU32,
    /// Whether the driver runs in the crash dump or hibernation stack.
    dump: AtomicBool,
    /// Whether each MSI-X message has a lock of its own.
    message_locks: AtomicBool,
    /// How many messages are connected. It does not change after HwInitialize.
    messages: AtomicU32,
    /// How many messages have a lock of their own: all connected messages, or none.
    locked_messages: AtomicU32,
    /// Whether the DPC objects are initialised.
    dpcs_initialized: AtomicBool,
    /// A bit for each DPC object that was initialised in this life or an earlier one.
    initialized: AtomicU32,
    /// Which of them were initialised as threaded DPCs. An object keeps its kind.
    initialized_threaded: AtomicU32,
    /// How many DPC objects are in use in this life.
    dpcs: AtomicU8,
    /// A bit for each of them that is threaded.
    threaded: AtomicU32,
    /// A bit for each DPC that was issued and is not queued yet.
    noted: AtomicU32,
    /// How many concurrent channels Storport granted.
    channels: AtomicU32,
    /// Whether Storport was asked for concurrent channels.
    optimized: AtomicBool,
    /// Whether a state change is being reported.
    state_change: AtomicBool,
    /// `TIMER_ARMED` and the life in which the timer was requested, or zero without a timer.
    timer: AtomicU64,
    /// Whether tracing is enabled, according to the last call of HwTracingEnabled.
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

    /// Whether the adapter is being started. Storport can retry a request that arrives now.
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
        self.callbacks.fetch_add(1, Ordering::AcqRel);
        let admitted = self.phase.load(Ordering::Acquire) == READY;
        if !admitted {
            self.leave();
        }
        admitted
    }

    /// Ends a callback that was admitted and counted.
    #[inline]
    pub fn leave(&self) {
        self.callbacks.fetch_sub(1, Ordering::AcqRel);
    }

    /// Admits a run of DPC object `number`, if the adapter is ready.
    /// [`leave_dpc`](Self::leave_dpc) ends it.
    #[inline]
    #[must_use]
    pub fn enter_dpc(&self, number: u8) -> Option<DpcRun> {
        let run = match self.running.get(number) {
            // AcqRel: this write and the write of `is_exclusive` to the mark have an order. If
            // this one is first, `is_exclusive` finds the mark. If it is second, the load of the
            // phase below sees the phase that was stored before `is_exclusive`.
            Some(mark) if !mark.swap(true, Ordering::AcqRel) => DpcRun::Marked(number),
            _ => {
                self.callbacks.fetch_add(1, Ordering::AcqRel);
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
                if let Some(mark) = self.running.get(number) {
                    mark.store(false, Ordering::Release);
                }
            }
            DpcRun::Counted => self.leave(),
        }
    }

    /// Stops the adapter. Admits and counts ScsiStopAdapter, unless there is no adapter or a
    /// callback runs that must be exclusive.
    #[must_use]
    pub fn stop(&self) -> bool {
        self.callbacks.fetch_add(1, Ordering::AcqRel);
        let stopped = self.begin(&[STARTED, READY, STOPPED], STOPPED)
            // The adapter was never started, but its device may still run.
            || self.phase.load(Ordering::Acquire) == FOUND;
        if stopped {
            // After the phase, so that a callback that reads the new life reads the new phase
            // too.
            self.life.fetch_add(1, Ordering::Release);
        } else {
            self.leave();
        }
        stopped
    }

    /// Begins HwFindAdapter. The caller must then wait until
    /// [`is_exclusive`](Self::is_exclusive) returns true.
    #[must_use]
    pub fn begin_find(&self) -> bool {
        let begun = self.begin(&[EMPTY, FOUND, STOPPED, STARTED, READY], FINDING);
        if begun {
            // After the phase, as in `stop`.
            self.life.fetch_add(1, Ordering::Release);
        }
        begun
    }

    /// Resets the state before HwFindAdapter looks for an adapter. The caller is exclusive.
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
        // `state_change` is kept: Storport may still process a report. HwStateChange ends it.
    }

    /// Ends HwFindAdapter. Callbacks that are admitted later see everything that it wrote.
    pub fn end_find(&self, found: bool) {
        let phase = if found { FOUND } else { EMPTY };
        self.phase.store(phase, Ordering::Release);
    }

    /// Begins HwInitialize, which is exclusive.
    #[must_use]
    pub fn begin_initialize(&self) -> bool {
        self.begin(&[FOUND], INITIALIZING)
    }

    /// Ends HwInitialize. In a dump stack the adapter is ready from now on.
    pub fn end_initialize(&self, works: bool) {
        let phase = match (works, self.is_dump()) {
            (false, _) => FOUND,
            (true, false) => STARTED,
            (true, true) => READY,
        };
        self.phase.store(phase, Ordering::Release);
    }

    /// Begins HwPassiveInitialize, which is exclusive except for interrupt routines.
    #[must_use]
    pub fn begin_passive(&self) -> bool {
        self.begin(&[STARTED], PASSIVE)
    }

    /// Ends HwPassiveInitialize, which has initialised the DPC objects. Returns the DPCs that the
    /// caller must queue.
    pub fn end_passive(&self, works: bool) -> Noted {
        self.dpcs_initialized.store(true, Ordering::Relaxed);
        self.become_ready(works)
    }

    /// Begins ScsiRestartAdapter. The caller must then wait until
    /// [`is_exclusive`](Self::is_exclusive) returns true.
    #[must_use]
    pub fn begin_restart(&self) -> bool {
        self.begin(&[STOPPED], RESTARTING)
    }

    /// Ends ScsiRestartAdapter. Returns the DPCs that the caller must queue.
    pub fn end_restart(&self, works: bool) -> Noted {
        if works && !self.dpcs_initialized.load(Ordering::Relaxed) && !self.is_dump() {
            // The stop came before HwPassiveInitialize.
            self.phase.store(STARTED, Ordering::Release);
            return Noted(0);
        }
        self.become_ready(works)
    }

    /// Whether no counted or marked callback is running. In a phase that admits no callback, this
    /// stays true.
    #[must_use]
    pub fn is_exclusive(&self) -> bool {
        // Writes rather than loads: a callback that enters after them sees the phase that was
        // stored before them.
        let is_marked = |mark: &AtomicBool| {
            let exchanged =
                mark.compare_exchange(false, false, Ordering::AcqRel, Ordering::Relaxed);
            exchanged.is_err()
        };
        let mut marks = (0..self.initialized_dpcs()).filter_map(|number| self.running.get(number));
        let marked = marks.any(is_marked);
        !marked && self.callbacks.fetch_add(0, Ordering::AcqRel) == 0
    }

    /// How many DPC objects may be marked: those that were initialised in any life.
    fn initialized_dpcs(&self) -> u8 {
        let initialized = self.initialized.load(Ordering::Relaxed);
        // The result is at most 32.
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

    /// Changes the phase from one of `from` to `to`. Returns false if the phase is not in `from`.
    fn begin(&self, from: &[u8], to: u8) -> bool {
        from.iter().any(|phase| {
            self.phase
                .compare_exchange(*phase, to, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        })
    }

    /// The life for work, a timer or a state change that is requested now. Returns `None` unless
    /// the adapter is ready.
    #[inline]
    #[must_use]
    pub fn ready_life(&self) -> Option<u32> {
        // The life is read before the phase: if a stop begins in between, this returns the life
        // from before the stop.
        let life = self.life.load(Ordering::Acquire);
        self.serves_requests().then_some(life)
    }

    /// The number of the current life.
    #[must_use]
    pub fn life(&self) -> u32 {
        self.life.load(Ordering::Relaxed)
    }

    /// Records that the timer was requested in `life`, or with `None`, that it was cancelled.
    pub fn arm_timer(&self, life: Option<u32>) {
        let timer = life.map_or(0, |life| TIMER_ARMED | u64::from(life));
        self.timer.store(timer, Ordering::Relaxed);
    }

    /// Whether the timer that expired was requested in the current life. Returns true only once
    /// for each request.
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

    /// Sets how many messages are connected. The caller is exclusive.
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

    /// How many concurrent channels were granted, or 0.
    #[inline]
    pub fn channels(&self) -> u32 {
        self.channels.load(Ordering::Relaxed)
    }

    /// Returns true the first time it is called. Concurrent channels are requested only once,
    /// because it is not documented whether a second answer replaces the first, and HwStartIo
    /// must know whether Storport holds the StartIo lock.
    pub fn may_optimize(&self) -> bool {
        !self.optimized.swap(true, Ordering::Relaxed)
    }

    /// Sets how many concurrent channels were granted. It is called before the first request.
    pub fn grant_channels(&self, channels: u32) {
        self.channels.store(channels, Ordering::Relaxed);
    }

    /// Returns the number of an unused DPC object, which is used from now on. The caller is
    /// exclusive.
    ///
    /// Returns `None` if there are no more objects, or if the next object was initialised as the
    /// other kind in an earlier life. It cannot be initialised again, because its DPC may still
    /// be in the system's queue.
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

    /// How many DPC objects are in use.
    pub fn dpcs(&self) -> u8 {
        self.dpcs.load(Ordering::Relaxed)
    }

    /// Whether a DPC object is threaded.
    pub fn is_threaded(&self, number: u8) -> bool {
        self.threaded.load(Ordering::Relaxed) & bit(number) != 0
    }

    /// Whether the caller must initialise a DPC object now. Returns true only once for each object.
    ///
    /// An object keeps its memory, its kind and its routine when the adapter is found again. It is
    /// not initialised a second time, because its DPC may still be in the system's queue.
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
        // `become_ready` stores READY before `take_noted`. So either `take_noted` sees this note,
        // or this reads READY.
        if self.queues_dpcs() && self.noted.fetch_and(!bit, Ordering::AcqRel) & bit != 0 {
            return Issue::Now;
        }
        Issue::Later
    }

    /// Returns the DPCs that were noted, and removes the notes.
    pub fn take_noted(&self) -> Noted {
        Noted(self.noted.swap(0, Ordering::AcqRel))
    }

    /// Begins to report a state change. Returns false if another report has not ended.
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

    /// Whether tracing is enabled, according to the last call of HwTracingEnabled.
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
        // `first` is 32 if there is none.
        self.0 &= self.0.wrapping_sub(1);
        u8::try_from(first).ok().filter(|first| *first < MAX_DPCS)
    }
}

/// The bit of a DPC object.
fn bit(number: u8) -> u32 {
    1_u32.wrapping_shl(u32::from(number))
}
