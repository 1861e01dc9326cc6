//! The properties of the disk that answer its initiators.

use core::sync::atomic::{AtomicBool, Ordering};

use block::{CachePolicy, Capacity, Topology, WriteCache};

use crate::identity::Identity;
use crate::sense::Sense;

/// A disk as its initiators see it.
///
/// The types of its fields allow only valid values, whatever the device reported. All
/// processors may share it. Only the state of the write cache changes.
#[derive(Debug)]
pub struct Disk {
    /// The number and the size of the logical blocks, and the maximum number of blocks of one
    /// command.
    pub capacity: Capacity,
    /// Advice on the alignment and the size of transfers.
    pub topology: Topology,
    /// The write cache: whether completed writes may be lost when power fails.
    pub write_cache: WriteCacheState,
    /// Whether CDBs may have DPO and FUA (SBC-3: DPOFUA). The driver then carries out a
    /// [`MediaOp::DurableWrite`](crate::MediaOp::DurableWrite) as a write and a flush.
    pub dpo_fua: bool,
    /// Whether the disk refuses writes.
    pub read_only: bool,
    /// Vendor, product, revision and serial number.
    pub identity: Identity,
}

impl Disk {
    /// Checks that the disk can be accessed.
    ///
    /// # Errors
    ///
    /// MEDIUM NOT PRESENT if the disk has no blocks. Initiators accept that. If the disk
    /// reported "becoming ready", they would poll it.
    pub(crate) fn ready(&self) -> Result<(), Sense> {
        match self.capacity.last() {
            Some(_) => Ok(()),
            None => Err(Sense::MEDIUM_NOT_PRESENT),
        }
    }
}

/// The state of the write cache.
#[derive(Debug)]
pub struct WriteCacheState {
    present: bool,
    switchable: bool,
    write_back: AtomicBool,
}

impl WriteCacheState {
    /// Makes the initial state of `cache`.
    #[must_use]
    pub const fn new(cache: WriteCache) -> Self {
        let (present, switchable, policy) = match cache {
            WriteCache::Absent => (false, false, CachePolicy::WriteThrough),
            WriteCache::Fixed(policy) => (true, false, policy),
            WriteCache::Switchable(policy) => (true, true, policy),
        };
        Self {
            present,
            switchable,
            write_back: AtomicBool::new(matches!(policy, CachePolicy::WriteBack)),
        }
    }

    /// Whether the disk has a cache, and so a flush.
    #[inline]
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.present
    }

    /// The current policy.
    #[inline]
    #[must_use]
    pub fn policy(&self) -> CachePolicy {
        // Relaxed: the state publishes no other memory.
        if self.write_back.load(Ordering::Relaxed) {
            CachePolicy::WriteBack
        } else {
            CachePolicy::WriteThrough
        }
    }

    /// Whether MODE SELECT can switch the policy.
    #[inline]
    #[must_use]
    pub fn is_switchable(&self) -> bool {
        self.switchable
    }

    /// Records that the device's cache was switched. Does not change a fixed policy.
    pub fn switch(&self, policy: CachePolicy) {
        if self.switchable {
            let write_back = policy == CachePolicy::WriteBack;
            self.write_back.store(write_back, Ordering::Relaxed);
        }
    }

    /// Whether a completed write may be in the cache only. True also for a switchable cache that
    /// is off, because it may be switched on while the write is in flight.
    pub(crate) fn may_hold_writes(&self) -> bool {
        self.switchable || self.policy() == CachePolicy::WriteBack
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    #[test]
    fn only_a_switchable_write_cache_switches() {
        use CachePolicy::{WriteBack, WriteThrough};

        for cache in [
            WriteCache::Absent,
            WriteCache::Fixed(WriteThrough),
            WriteCache::Fixed(WriteBack),
        ] {
            let state = WriteCacheState::new(cache);
            let before = state.policy();
            state.switch(WriteBack);
            state.switch(WriteThrough);
            assert_eq!(state.policy(), before);
        }
        for first in [WriteBack, WriteThrough] {
            let state = WriteCacheState::new(WriteCache::Switchable(first));
            assert_eq!(state.policy(), first);
            for policy in [WriteThrough, WriteBack] {
                state.switch(policy);
                assert_eq!(state.policy(), policy);
            }
        }
    }

    #[test]
    fn a_disk_can_be_shared_by_all_processors() {
        fn shared<T: Send + Sync>() {}
        shared::<Disk>();
    }

    #[test]
    fn a_disk_is_ready_if_it_has_blocks() {
        assert_eq!(example::disk().ready(), Ok(()));
        let empty = Disk {
            capacity: example::capacity(0, 512),
            ..example::disk()
        };
        assert_eq!(empty.ready(), Err(Sense::MEDIUM_NOT_PRESENT));
    }
}
