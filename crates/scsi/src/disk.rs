//! What the target knows of its disk.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::block::{Blocks, Capacity};
use crate::identity::Identity;
use crate::sense::Sense;

/// A disk as its initiators see it: all that is needed to answer them.
///
/// Its parts are valid by their types, whatever the device said. All processors
/// may share it; the state of the write cache is all that changes.
#[derive(Debug)]
pub struct Disk {
    /// How many logical blocks of which size.
    pub capacity: Capacity,
    /// How logical blocks lie in physical ones.
    pub alignment: Alignment,
    /// How much to transfer with one command.
    pub limits: TransferLimits,
    /// Whether completed writes may be lost when power fails.
    pub write_cache: WriteCacheState,
    /// Whether DPO and FUA are accepted in CDBs (SBC-3: DPOFUA). The
    /// driver then carries out a media operation that says `fua`.
    pub dpo_fua: bool,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Which disk it is.
    pub identity: Identity,
}

impl Disk {
    /// What the disk has to report without being asked for anything in
    /// particular: whether it can be accessed.
    ///
    /// A disk without blocks has no medium. An initiator takes that as it is;
    /// "becoming ready" it would poll.
    pub(crate) fn ready(&self) -> Result<(), Sense> {
        match self.capacity.last() {
            Some(_) => Ok(()),
            None => Err(Sense::MEDIUM_NOT_PRESENT),
        }
    }
}

/// How logical blocks lie in physical ones (SBC-3, "Physical blocks"). By default each is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alignment {
    physical_exponent: u8,
    lowest_aligned: u16,
}

impl Alignment {
    /// 2^`physical_exponent` logical blocks make a physical one, and LBA
    /// `lowest_aligned` is the first that begins one.
    ///
    /// `None` if the exponent is above 15, or the first aligned LBA lies beyond
    /// the first physical block or needs more than 14 bits: the fields that tell
    /// them hold no more (SBC-3, "READ CAPACITY (16) parameter data").
    #[must_use]
    pub const fn new(physical_exponent: u8, lowest_aligned: u16) -> Option<Self> {
        if physical_exponent > 15
            || lowest_aligned > 0x3FFF
            || lowest_aligned >= 1_u16.wrapping_shl(physical_exponent as u32)
        {
            return None;
        }
        Some(Self {
            physical_exponent,
            lowest_aligned,
        })
    }

    /// log2 of the logical blocks in a physical one, 0 to 15.
    #[must_use]
    pub const fn physical_exponent(self) -> u8 {
        self.physical_exponent
    }

    /// The first LBA that begins a physical block, 0 to 3FFFh.
    #[must_use]
    pub const fn lowest_aligned(self) -> u16 {
        self.lowest_aligned
    }
}

/// How much to transfer with one command (SBC-3, "Block Limits VPD page"). A value of 0 is not
/// reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransferLimits {
    /// A READ or WRITE of more blocks is refused.
    pub maximum: Blocks,
    /// A transfer of more may be slower.
    pub optimal: Blocks,
    /// A transfer that is no multiple of this may be slower.
    pub granularity: Blocks,
}

/// Whether completed writes may be lost when power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteCache {
    /// They may not, and the device has no flush.
    Absent,
    /// They may not, while the cache is off; the device has a flush.
    Disabled,
    /// They may, until the device was flushed.
    Enabled,
}

/// The state of the write cache, and whether MODE SELECT can change it.
#[derive(Debug)]
pub struct WriteCacheState {
    present: bool,
    changeable: bool,
    enabled: AtomicBool,
}

impl WriteCacheState {
    /// A state that never changes.
    #[must_use]
    pub const fn fixed(write_cache: WriteCache) -> Self {
        Self {
            present: !matches!(write_cache, WriteCache::Absent),
            changeable: false,
            enabled: AtomicBool::new(matches!(write_cache, WriteCache::Enabled)),
        }
    }

    /// A write cache that can be switched on and off, and is on if `enabled`.
    #[must_use]
    pub const fn changeable(enabled: bool) -> Self {
        Self {
            present: true,
            changeable: true,
            enabled: AtomicBool::new(enabled),
        }
    }

    /// The state at this moment.
    #[inline]
    #[must_use]
    pub fn get(&self) -> WriteCache {
        // Relaxed: no other memory is published by the state.
        match (self.present, self.enabled.load(Ordering::Relaxed)) {
            (false, _) => WriteCache::Absent,
            (true, false) => WriteCache::Disabled,
            (true, true) => WriteCache::Enabled,
        }
    }

    /// Whether MODE SELECT can change the state.
    #[inline]
    #[must_use]
    pub fn is_changeable(&self) -> bool {
        self.changeable
    }

    /// Records that the device's cache was switched. A fixed state stays as it
    /// is.
    pub fn set(&self, enabled: bool) {
        if self.changeable {
            self.enabled.store(enabled, Ordering::Relaxed);
        }
    }

    /// Whether a write may stay in the cache after it completed. True for a
    /// cache that is off and changeable: it may be switched on while the write
    /// is in flight.
    pub(crate) fn may_hold_writes(&self) -> bool {
        self.changeable || self.get() == WriteCache::Enabled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    #[test]
    fn an_alignment_fits_the_fields_that_tell_it() {
        for (exponent, lowest, valid) in [
            (0, 0, true),
            (0, 1, false),
            (3, 7, true),
            (3, 8, false),
            (15, 0x3FFF, true),
            (15, 0x4000, false),
            (16, 0, false),
            (255, 0, false),
        ] {
            assert_eq!(Alignment::new(exponent, lowest).is_some(), valid);
        }
    }

    #[test]
    fn only_a_changeable_write_cache_changes() {
        for state in [
            WriteCache::Absent,
            WriteCache::Disabled,
            WriteCache::Enabled,
        ] {
            let fixed = WriteCacheState::fixed(state);
            assert_eq!(fixed.get(), state);
            fixed.set(state != WriteCache::Enabled);
            assert_eq!(fixed.get(), state);
        }
        let changeable = WriteCacheState::changeable(true);
        assert_eq!(changeable.get(), WriteCache::Enabled);
        changeable.set(false);
        assert_eq!(changeable.get(), WriteCache::Disabled);
        changeable.set(true);
        assert_eq!(changeable.get(), WriteCache::Enabled);
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
