//! Storport's spin locks: StartIo, one per STOR_DPC, Interrupt, and one per MSI message.
//! `held_locks` has the locks of a thread, and the rules for a miniport.

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

/// The number of spins before the thread yields.
const SPINS: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LockId {
    StartIo,
    /// The lock of a concurrent channel, which only Storport takes.
    Channel(u32),
    /// The locks of all channels, for a bus reset.
    AllChannels,
    /// The lock in the STOR_DPC with this number.
    Dpc(u32),
    /// InterruptLock. With per-message synchronisation, it includes all messages' locks.
    Interrupt,
    Message(u32),
}

impl LockId {
    /// The level in the order of locks (storport-rules.md O3).
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

/// A spin lock, and the counters that its holders update.
#[derive(Debug, Default)]
pub(super) struct SpinLock {
    /// The thread that holds the lock, or 0. Shared with `waits`.
    holder: Arc<AtomicU32>,
    /// The address of the miniport's handle while it holds the lock, or 0.
    handle: AtomicUsize,
    acquisitions: AtomicU64,
    contended: AtomicU64,
    waited: AtomicU64,
    held: AtomicU64,
    held_max: AtomicU64,
}

/// Adds to a counter, which only the holder of the lock writes.
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

    /// Releases the lock, which was held for `held` nanoseconds.
    pub(super) fn release(&self, held: u64) {
        add(&self.held, held);
        if held > self.held_max.load(Ordering::Relaxed) {
            self.held_max.store(held, Ordering::Relaxed);
        }
        // Before the next holder, which sets its own handle a little later.
        self.handle.store(0, Ordering::Relaxed);
        self.holder.store(0, Ordering::Release);
        schedule::free(std::ptr::from_ref(self).addr());
        schedule::point(Point::Release);
    }

    /// Sets the handle's address. Only the holder calls this.
    pub(super) fn set_handle(&self, handle: usize) {
        self.handle.store(handle, Ordering::Relaxed);
    }

    /// Whether a thread other than `thread` holds the lock with this handle.
    pub(super) fn is_held_elsewhere_by(&self, handle: usize, thread: u32) -> bool {
        self.is_taken()
            && self.holder.load(Ordering::Relaxed) != thread
            && self.handle.load(Ordering::Relaxed) == handle
    }

    pub(super) fn is_taken(&self) -> bool {
        self.holder.load(Ordering::Relaxed) != 0
    }

    /// The counters, if the lock was ever acquired.
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

/// An adapter's locks, except for those of DPCs.
#[derive(Debug, Default)]
pub(super) struct Locks {
    pub(super) start_io: SpinLock,
    pub(super) interrupt: SpinLock,
    channels: OnceLock<Box<[SpinLock]>>,
    /// The locks of messages, with per-message synchronisation.
    messages: OnceLock<Box<[SpinLock]>>,
}

impl Locks {
    /// The locks of messages; none without per-message synchronisation.
    pub(super) fn each_message(&self) -> &[SpinLock] {
        self.messages.get().map_or(&[], |messages| messages)
    }

    /// The locks of channels; none without concurrent channels.
    pub(super) fn each_channel(&self) -> &[SpinLock] {
        self.channels.get().map_or(&[], |channels| channels)
    }

    pub(super) fn channels(&self) -> u32 {
        self.each_channel().len() as u32
    }

    /// Grants `count` concurrent channels. Returns false if channels were granted before.
    pub(super) fn grant_channels(&self, count: u32) -> bool {
        self.channels.set(new_locks(count)).is_ok()
    }

    /// Gives each of `count` messages its own lock.
    pub(super) fn separate_messages(&self, count: u32) {
        // Called once, before the interrupts are connected.
        let _ = self.messages.set(new_locks(count));
    }

    pub(super) fn per_message(&self) -> bool {
        !self.each_message().is_empty()
    }
}

fn new_locks(count: u32) -> Box<[SpinLock]> {
    (0..count).map(|_| SpinLock::default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handle_of_a_released_lock_is_not_that_of_the_next_holder() {
        const HANDLE: usize = 0x1000;
        let lock = SpinLock::default();
        lock.acquire(1, |_| ());
        lock.set_handle(HANDLE);
        assert!(lock.is_held_elsewhere_by(HANDLE, 2));
        lock.release(0);

        lock.acquire(2, |_| ());

        // The second holder has not set its handle yet.
        assert!(!lock.is_held_elsewhere_by(HANDLE, 1));
    }
}
