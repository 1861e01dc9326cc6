//! Logical blocks and 512-byte sectors: two units, as types that do not mix.
//!
//! SCSI counts in logical blocks, whose size the disk chooses. Virtio counts in
//! sectors of 512 bytes whatever that size is (VIRTIO 1.3 §5.2.6.1). On a disk
//! with 4096-byte blocks the two differ by a factor of 8, and a range check in
//! the wrong one is too lax by as much.

/// A logical block address: the number of a logical block, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lba(pub u64);

/// A number of logical blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blocks(pub u64);

/// The number of a 512-byte sector, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sector(pub u64);

/// A number of 512-byte sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sectors(pub u64);

/// log2 of the sector size, 512 bytes.
const SECTOR_SHIFT: u32 = 9;

/// The size of a logical block: a power of two from 512 bytes to 8 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockSize {
    /// log2 of the size in bytes, 9 to 23.
    shift: u32,
}

impl BlockSize {
    /// The block size of `bytes` bytes.
    ///
    /// `None` if that is no power of two, smaller than a sector, or too large
    /// for the 24 bits that a mode parameter block descriptor has for it (SBC-3,
    /// "Short LBA mode parameter block descriptor").
    #[must_use]
    pub const fn new(bytes: u32) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= 512 && bytes < 1 << 24 {
            Some(Self {
                shift: bytes.trailing_zeros(),
            })
        } else {
            None
        }
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        1_u32.wrapping_shl(self.shift)
    }

    /// log2 of the sectors in a block, 0 to 14.
    const fn sectors_shift(self) -> u32 {
        self.shift.wrapping_sub(SECTOR_SHIFT)
    }
}

/// How many logical blocks of which size a disk has.
///
/// Its size in bytes fits into 64 bits, so no address inside it overflows when
/// it is turned into sectors or bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Capacity {
    blocks: Blocks,
    block_size: BlockSize,
}

impl Capacity {
    /// The capacity of a device with `sectors` sectors in blocks of
    /// `block_size`. Sectors that do not fill a block at the end are left out.
    ///
    /// `None` if the device says that it has 2^64 bytes or more, which no
    /// device has.
    #[must_use]
    pub const fn new(sectors: Sectors, block_size: BlockSize) -> Option<Self> {
        if sectors.0 > u64::MAX >> SECTOR_SHIFT {
            return None;
        }
        Some(Self {
            blocks: Blocks(sectors.0.wrapping_shr(block_size.sectors_shift())),
            block_size,
        })
    }

    /// The number of logical blocks.
    #[must_use]
    pub const fn blocks(self) -> Blocks {
        self.blocks
    }

    /// The size of a logical block.
    #[must_use]
    pub const fn block_size(self) -> BlockSize {
        self.block_size
    }

    /// The last logical block; `None` on a disk without any.
    #[must_use]
    pub fn last(self) -> Option<Lba> {
        self.blocks.0.checked_sub(1).map(Lba)
    }

    /// The `blocks` blocks from `lba` on; `None` if one of them does not exist.
    ///
    /// An extent of no blocks may begin right behind the last block, not beyond.
    #[must_use]
    pub fn extent(self, lba: Lba, blocks: Blocks) -> Option<Extent> {
        let end = lba.0.checked_add(blocks.0)?;
        (end <= self.blocks.0).then_some(Extent {
            lba,
            blocks,
            block_size: self.block_size,
        })
    }
}

/// A run of logical blocks that lies inside a disk's capacity: only
/// [`Capacity::extent`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    lba: Lba,
    blocks: Blocks,
    block_size: BlockSize,
}

impl Extent {
    /// The first logical block.
    #[must_use]
    pub const fn lba(self) -> Lba {
        self.lba
    }

    /// The number of logical blocks.
    #[must_use]
    pub const fn blocks(self) -> Blocks {
        self.blocks
    }

    /// The first 512-byte sector.
    #[must_use]
    pub const fn sector(self) -> Sector {
        // No bit is lost: the capacity's bytes fit into 64 bits.
        Sector(self.lba.0.wrapping_shl(self.block_size.sectors_shift()))
    }

    /// The length in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        // No bit is lost: the capacity's bytes fit into 64 bits.
        self.blocks.0.wrapping_shl(self.block_size.shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity(sectors: u64, block_size: u32) -> Capacity {
        Capacity::new(Sectors(sectors), BlockSize::new(block_size).unwrap()).unwrap()
    }

    #[test]
    fn block_size_is_a_power_of_two_from_512_bytes_to_8_mib() {
        for (bytes, valid) in [
            (0, false),
            (1, false),
            (256, false),
            (512, true),
            (520, false),
            (4095, false),
            (4096, true),
            (1 << 23, true),
            (1 << 24, false),
            (u32::MAX, false),
        ] {
            let size = BlockSize::new(bytes);
            assert_eq!(size.is_some(), valid, "{bytes}");
            assert!(size.is_none_or(|size| size.bytes() == bytes));
        }
    }

    #[test]
    fn sectors_that_do_not_fill_a_block_are_left_out_of_the_capacity() {
        assert_eq!(capacity(23, 4096).blocks(), Blocks(2));
        assert_eq!(capacity(23, 512).blocks(), Blocks(23));
        assert_eq!(capacity(7, 4096).last(), None);
        assert_eq!(capacity(8, 4096).last(), Some(Lba(0)));
    }

    #[test]
    fn a_device_that_claims_2_to_the_64_bytes_has_no_capacity() {
        let sector = BlockSize::new(512).unwrap();
        assert!(Capacity::new(Sectors((1 << 55) - 1), sector).is_some());
        assert!(Capacity::new(Sectors(1 << 55), sector).is_none());
        assert!(Capacity::new(Sectors(u64::MAX), sector).is_none());
    }

    #[test]
    fn an_extent_exists_only_inside_the_capacity() {
        let disk = capacity(800, 4096);
        for (lba, blocks, inside) in [
            (0, 0, true),
            (0, 100, true),
            (0, 101, false),
            (99, 1, true),
            (99, 2, false),
            (100, 0, true),
            (100, 1, false),
            (101, 0, false),
            (u64::MAX, 1, false),
            (1, u64::MAX, false),
            (u64::MAX, u64::MAX, false),
        ] {
            assert_eq!(
                disk.extent(Lba(lba), Blocks(blocks)).is_some(),
                inside,
                "{blocks} from {lba}"
            );
        }
    }

    #[test]
    fn an_extent_of_4096_byte_blocks_is_eight_times_as_many_sectors() {
        let extent = capacity(800, 4096).extent(Lba(99), Blocks(1)).unwrap();
        assert_eq!(extent.sector(), Sector(792));
        assert_eq!(extent.bytes(), 4096);
    }

    #[test]
    fn the_largest_disk_s_last_block_has_a_sector_and_a_length() {
        let disk = capacity((1 << 55) - 1, 1 << 23);
        let last = disk.extent(disk.last().unwrap(), Blocks(1)).unwrap();
        assert_eq!(last.sector().0, (1 << 55) - (2 << 14));
        let all = disk.extent(Lba(0), disk.blocks()).unwrap();
        assert_eq!(all.bytes(), u64::MAX - (1 << 23) + 1);
    }
}
