//! What an adapter's callbacks share without a lock: how far the adapter is in
//! its life, and which DPCs are to run.
//!
//! All zeros, as Storport's memory is at first, is a valid state: no adapter
//! was found. Nothing here is Windows': the models of `tests/` run this file.
//!
//! Two protocols lie in it:
//!
//! - A DPC that is issued while none can be queued (before HwPassiveInitialize,
//!   between a stop and a restart, in a dump stack) is noted, and queued when
//!   they can. None is lost, none is queued twice.
//! - What a miniport has called later (DPCs, the timer, work, state changes)
//!   does not run between a stop and the end of the restart after it, and a
//!   restart does not begin while some of it runs: so the restart is alone with
//!   the adapter's data.

#[cfg(not(loom))]
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

/// The most DPC objects one adapter may have.
pub const MAX_DPCS: u8 = 32;

/// No callback but those of the life cycle does anything.
const STOPPED: u8 = 0;
/// The adapter runs; its DPC objects are not initialised.
const RUNNING: u8 = 1;
/// The adapter runs, and DPCs can be queued.
const RUNNING_WITH_DPCS: u8 = 2;

/// The kind of a DPC object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DpcKind {
    /// It runs at DISPATCH_LEVEL.
    Ordinary,
    /// It runs in a thread, if the system lets it.
    Threaded,
}

/// What becomes of a DPC that is issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Issue {
    /// It is the caller's to queue.
    Now,
    /// It is noted, and whoever takes the notes queues it.
    Later,
}

/// What becomes of a DPC that the system took from its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// It runs; [`State::leave`] ends it.
    Now,
    /// It was kept back for a restart, which is done: it is the caller's to
    /// queue.
    Queue,
    /// It is noted, and whoever takes the notes queues it.
    Later,
}

/// The state of one adapter.
#[derive(Debug, Default)]
pub struct State {
    /// Whether the miniport's own state was written.
    found: AtomicBool,
    /// Whether the driver runs in the crash dump or hibernation stack.
    dump: AtomicBool,
    /// Whether each MSI-X message has a lock of its own.
    message_locks: AtomicBool,
    /// How far the adapter is: one of the constants above.
    phase: AtomicU8,
    /// Whether the DPC objects were initialised.
    dpcs_initialized: AtomicBool,
    /// DPC objects handed out.
    dpcs: AtomicU8,
    /// Which of them are threaded, a bit each.
    threaded: AtomicU32,
    /// DPCs issued and not queued yet, a bit each.
    noted: AtomicU32,
    /// Callbacks inside that [`enter`](Self::enter) let in.
    inside: AtomicU32,
    /// Concurrent channels granted.
    channels: AtomicU32,
    /// Whether Storport was asked for them.
    optimized: AtomicBool,
    /// Whether a state change is being reported.
    state_change: AtomicBool,
}

impl State {
    /// Makes it the state of an adapter that is about to be looked for. No
    /// other callback runs then (rule book 3.2).
    pub fn begin(&self, dump: bool, message_locks: bool) {
        self.found.store(false, Ordering::Relaxed);
        self.dump.store(dump, Ordering::Relaxed);
        self.message_locks.store(message_locks, Ordering::Relaxed);
        self.phase.store(STOPPED, Ordering::Relaxed);
        self.dpcs_initialized.store(false, Ordering::Relaxed);
        self.dpcs.store(0, Ordering::Relaxed);
        self.threaded.store(0, Ordering::Relaxed);
        self.noted.store(0, Ordering::Relaxed);
        self.channels.store(0, Ordering::Relaxed);
        self.optimized.store(false, Ordering::Relaxed);
        // A state change that is with Storport stays there: its callback gives
        // the place back.
    }

    /// The miniport's own state was written; what was written before is seen
    /// by whoever finds [`is_found`](Self::is_found).
    pub fn set_found(&self) {
        self.found.store(true, Ordering::Release);
    }

    /// Whether there is a miniport's own state.
    #[inline]
    pub fn is_found(&self) -> bool {
        self.found.load(Ordering::Acquire)
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

    /// How many concurrent channels were granted; 0 if none.
    #[inline]
    pub fn channels(&self) -> u32 {
        self.channels.load(Ordering::Relaxed)
    }

    /// Whether nobody asked Storport for channels before, which may be done
    /// once: what a second answer leaves of the first is not documented, and
    /// HwStartIo must know whether it runs with the StartIo lock.
    pub fn may_optimize(&self) -> bool {
        !self.optimized.swap(true, Ordering::Relaxed)
    }

    /// Concurrent channels were granted, before the first request.
    pub fn grant_channels(&self, channels: u32) {
        self.channels.store(channels, Ordering::Relaxed);
    }

    /// Hands out the number of the next DPC object. Only HwFindAdapter does,
    /// and it runs alone.
    pub fn take_dpc(&self, kind: DpcKind) -> Option<u8> {
        let number = self.dpcs.load(Ordering::Relaxed);
        if number >= MAX_DPCS {
            return None;
        }
        self.dpcs.store(number.wrapping_add(1), Ordering::Relaxed);
        if kind == DpcKind::Threaded {
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

    /// HwInitialize or a restart was successful.
    pub fn run(&self) -> Noted {
        if self.dpcs_initialized.load(Ordering::Relaxed) {
            self.run_with_dpcs()
        } else {
            self.phase.store(RUNNING, Ordering::Release);
            Noted(0)
        }
    }

    /// The DPC objects are initialised: gives those that were issued before.
    pub fn run_with_dpcs(&self) -> Noted {
        self.dpcs_initialized.store(true, Ordering::Relaxed);
        self.phase.store(RUNNING_WITH_DPCS, Ordering::Release);
        self.take_noted()
    }

    /// The adapter is stopped.
    pub fn stop(&self) {
        self.phase.store(STOPPED, Ordering::Release);
    }

    /// Whether the adapter runs.
    pub fn is_running(&self) -> bool {
        self.phase.load(Ordering::Acquire) != STOPPED
    }

    /// Whether a restart may begin: no callback that was let in is inside, and
    /// none gets in until [`run`](Self::run).
    #[must_use]
    pub fn may_restart(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == STOPPED
            // A read that writes: whoever enters later sees what is before it.
            && self.inside.fetch_add(0, Ordering::AcqRel) == 0
    }

    /// Whether DPCs can be queued.
    #[inline]
    pub fn queues_dpcs(&self) -> bool {
        self.phase.load(Ordering::Acquire) == RUNNING_WITH_DPCS
    }

    /// Issues a DPC: if it can't be queued now, it is noted.
    #[inline]
    pub fn issue(&self, number: u8) -> Issue {
        if self.queues_dpcs() {
            return Issue::Now;
        }
        self.note(number)
    }

    #[cold]
    fn note(&self, number: u8) -> Issue {
        let bit = bit(number);
        self.noted.fetch_or(bit, Ordering::AcqRel);
        // Either the note was there when the notes were taken, or this reads
        // the phase that was stored before they were.
        if self.queues_dpcs() && self.noted.fetch_and(!bit, Ordering::AcqRel) & bit != 0 {
            return Issue::Now;
        }
        Issue::Later
    }

    /// Takes the DPCs that were noted.
    pub fn take_noted(&self) -> Noted {
        Noted(self.noted.swap(0, Ordering::AcqRel))
    }

    /// Lets a callback in that the miniport asked for, if the adapter runs.
    #[must_use]
    pub fn enter(&self) -> bool {
        self.inside.fetch_add(1, Ordering::AcqRel);
        let runs = self.is_running();
        if !runs {
            self.leave();
        }
        runs
    }

    /// Lets a DPC in that the system took from its queue; while the adapter is
    /// stopped, it is noted.
    #[must_use]
    pub fn begin_dpc(&self, number: u8) -> Begin {
        if self.enter() {
            return Begin::Now;
        }
        match self.issue(number) {
            Issue::Now => Begin::Queue,
            Issue::Later => Begin::Later,
        }
    }

    /// A callback that was let in is done.
    pub fn leave(&self) {
        self.inside.fetch_sub(1, Ordering::AcqRel);
    }

    /// Takes the one place for a state change, if it is free.
    #[must_use]
    pub fn begin_state_change(&self) -> bool {
        !self.state_change.swap(true, Ordering::Acquire)
    }

    /// Gives that place back.
    pub fn end_state_change(&self) {
        self.state_change.store(false, Ordering::Release);
    }
}

/// Numbers of DPC objects, each once, in their order.
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
