//! Storport's spin locks themselves: StartIo, one per STOR_DPC, Interrupt, one per
//! MSI message. What a thread holds of them, and what a miniport may do with
//! them, is in `held_locks`.

use std::{
    fmt, hint,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::report::LockRow;
use testbed_machine::{
    clock,
    schedule::{self, Point},
};

/// Rounds of looking at a taken lock before the host gets the processor back.
const SPINS: u32 = 64;

/// Which lock of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LockId {
    /// StartIoLock.
    StartIo,
    /// The token of a concurrent channel; Storport's own.
    Channel(u32),
    /// The tokens of all channels, for a bus reset.
    AllChannels,
    /// The lock in the STOR_DPC of this number.
    Dpc(u32),
    /// InterruptLock: with per-message synchronisation all messages' locks.
    Interrupt,
    /// The lock of an MSI message.
    Message(u32),
}

impl LockId {
    /// Its place in the order of locks (storport-rules.md O3).
    pub(super) fn level(self) -> u8 {
        match self {
            Self::Channel(_) | Self::AllChannels => 0,
            Self::StartIo => 1,
            Self::Dpc(_) => 2,
            Self::Interrupt | Self::Message(_) => 3,
        }
    }
}

impl fmt::Display for LockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StartIo => f.write_str("StartIo"),
            Self::Channel(number) => write!(f, "Channel {number}"),
            Self::AllChannels => f.write_str("all channels"),
            Self::Dpc(number) => write!(f, "Dpc {number}"),
            Self::Interrupt => f.write_str("Interrupt"),
            Self::Message(number) => write!(f, "MSI {number}"),
        }
    }
}

/// A spin lock, and what was counted of it by its holders.
#[derive(Debug, Default)]
pub(super) struct SpinLock {
    /// The thread that holds it, or 0. Shared with the entry of a wait for it.
    holder: Arc<AtomicU32>,
    /// The miniport's handle while it holds it.
    handle: AtomicUsize,
    acquisitions: AtomicU64,
    contended: AtomicU64,
    waited: AtomicU64,
    held: AtomicU64,
    held_max: AtomicU64,
}

/// Adds to a counter that only the holder of a lock writes.
fn add(counter: &AtomicU64, value: u64) {
    counter.store(counter.load(Ordering::Relaxed) + value, Ordering::Relaxed);
}

impl SpinLock {
    fn try_acquire(&self, thread: u32) -> bool {
        self.holder.load(Ordering::Relaxed) == 0
            && self
                .holder
                .compare_exchange(0, thread, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
    }

    /// Acquires the lock for a thread. If the wait outlasts the first spins, calls `begin_wait`
    /// and drops the result after the wait.
    pub(super) fn acquire<W>(&self, thread: u32, begin_wait: impl FnOnce(Arc<AtomicU32>) -> W) {
        schedule::point(Point::Acquire);
        if !self.try_acquire(thread) {
            let started = clock::now();
            if !self.spin(thread) {
                let _waiting = begin_wait(Arc::clone(&self.holder));
                while !self.spin(thread) {
                    self.let_others_run();
                }
            }
            add(&self.contended, 1);
            add(&self.waited, clock::now() - started);
        }
        add(&self.acquisitions, 1);
    }

    fn spin(&self, thread: u32) -> bool {
        (0..SPINS).any(|_| {
            hint::spin_loop();
            self.try_acquire(thread)
        })
    }

    fn let_others_run(&self) {
        if schedule::is_on() {
            schedule::wait_for_lock(std::ptr::from_ref(self).addr());
        } else {
            thread::yield_now();
        }
    }

    /// Lets go of it, after so many nanoseconds.
    pub(super) fn release(&self, held: u64) {
        add(&self.held, held);
        if held > self.held_max.load(Ordering::Relaxed) {
            self.held_max.store(held, Ordering::Relaxed);
        }
        self.holder.store(0, Ordering::Release);
        schedule::free(std::ptr::from_ref(self).addr());
        schedule::point(Point::Release);
    }

    /// Names the handle that it was taken with; its holder does.
    pub(super) fn set_handle(&self, handle: usize) {
        self.handle.store(handle, Ordering::Relaxed);
    }

    /// Whether another thread than `thread` has it by this handle.
    pub(super) fn is_held_elsewhere_by(&self, handle: usize, thread: u32) -> bool {
        self.is_taken()
            && self.holder.load(Ordering::Relaxed) != thread
            && self.handle.load(Ordering::Relaxed) == handle
    }

    /// Whether somebody has it.
    pub(super) fn is_taken(&self) -> bool {
        self.holder.load(Ordering::Relaxed) != 0
    }

    /// What was counted, if it was ever taken.
    pub(super) fn row(&self, id: LockId) -> Option<LockRow> {
        let acquisitions = self.acquisitions.load(Ordering::Relaxed);
        (acquisitions > 0).then(|| LockRow {
            name: id.to_string(),
            acquisitions,
            contended: self.contended.load(Ordering::Relaxed),
            wait_total: Duration::from_nanos(self.waited.load(Ordering::Relaxed)),
            held_total: Duration::from_nanos(self.held.load(Ordering::Relaxed)),
            held_max: Duration::from_nanos(self.held_max.load(Ordering::Relaxed)),
        })
    }
}

/// An adapter's locks, but for those in its DPC objects.
#[derive(Debug, Default)]
pub(super) struct Locks {
    pub(super) start_io: SpinLock,
    pub(super) interrupt: SpinLock,
    /// With concurrent channels: one each.
    channels: OnceLock<Box<[SpinLock]>>,
    /// With per-message synchronisation: one a message.
    messages: OnceLock<Box<[SpinLock]>>,
}

impl Locks {
    /// The messages' locks, with per-message synchronisation.
    pub(super) fn each_message(&self) -> &[SpinLock] {
        self.messages.get().map_or(&[], |messages| messages)
    }

    /// The channels' locks, with concurrent channels.
    pub(super) fn each_channel(&self) -> &[SpinLock] {
        self.channels.get().map_or(&[], |channels| channels)
    }

    /// The number of concurrent channels granted; 0 without.
    pub(super) fn channels(&self) -> u32 {
        self.each_channel().len() as u32
    }

    /// Grants `count` concurrent channels; false if some were granted before.
    pub(super) fn grant_channels(&self, count: u32) -> bool {
        self.channels.set(some(count)).is_ok()
    }

    /// Gives each of `count` messages a lock of its own.
    pub(super) fn separate_messages(&self, count: u32) {
        // Once, before the interrupts are connected.
        let _ = self.messages.set(some(count));
    }

    /// Whether messages have locks of their own.
    pub(super) fn per_message(&self) -> bool {
        !self.each_message().is_empty()
    }
}

fn some(count: u32) -> Box<[SpinLock]> {
    (0..count).map(|_| SpinLock::default()).collect()
}
