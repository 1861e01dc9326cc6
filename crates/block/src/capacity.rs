//! A disk's capacity, and extents: runs of blocks that lie inside it.

use core::fmt;

use crate::units::{BlockSize, Blocks, Lba, Sector, Sectors};

/// The number and the size of a disk's logical blocks, and the maximum number of blocks in one
/// transfer.
///
/// # Invariants
///
/// The capacity in bytes is below 2^64. So the sector number and the byte offset of a block
/// inside it do not overflow. `longest` is at most 2^31 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Capacity {
    blocks: u64,
    /// The maximum number of blocks in a transfer.
    longest: u64,
    block_size: BlockSize,
}

impl Capacity {
    /// The maximum number of bytes in a transfer. A virtio descriptor chain is shorter than
    /// 2^32 bytes (VIRTIO 1.3 §2.7.5.2).
    pub const LONGEST_TRANSFER: u32 = 1 << 31;

    /// Makes the capacity of a disk with `sectors` sectors, in blocks of `block_size`. It does
    /// not include sectors at the end that do not fill a block.
    ///
    /// Returns `None` if the disk reports 2^64 bytes or more.
    #[must_use]
    pub const fn new(sectors: Sectors, block_size: BlockSize) -> Option<Self> {
        if sectors.0 > u64::MAX >> Sector::SHIFT {
            return None;
        }
        Some(Self {
            blocks: sectors.0.wrapping_shr(block_size.sectors_shift()),
            longest: (Self::LONGEST_TRANSFER as u64).wrapping_shr(block_size.shift()),
            block_size,
        })
    }

    /// Returns the same capacity with transfers of at most `bytes`, rounded down to whole
    /// blocks.
    #[must_use]
    pub fn with_longest_transfer(self, bytes: u32) -> Self {
        let bytes = bytes.min(Self::LONGEST_TRANSFER);
        Self {
            longest: u64::from(bytes).wrapping_shr(self.block_size.shift()),
            ..self
        }
    }

    /// The number of logical blocks.
    #[must_use]
    pub const fn blocks(self) -> Blocks {
        Blocks(self.blocks)
    }

    /// The size of a logical block.
    #[must_use]
    pub const fn block_size(self) -> BlockSize {
        self.block_size
    }

    /// The maximum number of logical blocks in a transfer.
    #[must_use]
    pub const fn longest_transfer(self) -> Blocks {
        Blocks(self.longest)
    }

    /// The address of the last logical block. Returns `None` if the disk has no blocks.
    #[must_use]
    pub fn last(self) -> Option<Lba> {
        self.blocks.checked_sub(1).map(Lba)
    }

    /// Whether the `blocks` blocks from `lba` on exist. A run of 0 blocks may begin directly
    /// behind the last block, but not further.
    #[inline]
    #[must_use]
    pub fn contains(self, lba: Lba, blocks: Blocks) -> bool {
        lba.0
            .checked_add(blocks.0)
            .is_some_and(|end| end <= self.blocks)
    }

    /// Makes the extent of `blocks` blocks from `lba` on. This is the only range check of a
    /// transfer.
    ///
    /// # Errors
    /// [`ExtentError`] if the blocks cannot be transferred.
    #[inline]
    pub fn extent(self, lba: Lba, blocks: Blocks) -> Result<Extent, ExtentError> {
        if !self.contains(lba, blocks) {
            return Err(ExtentError::BeyondCapacity);
        }
        if blocks.0 > self.longest {
            return Err(ExtentError::TooLong);
        }
        if blocks.0 == 0 {
            return Err(ExtentError::Empty);
        }
        Ok(Extent {
            // Loses no bit, by the capacity's invariant.
            sector: Sector(lba.0.wrapping_shl(self.block_size.sectors_shift())),
            // At most 2^31, by the capacity's invariant.
            bytes: (blocks.0 as u32).wrapping_shl(self.block_size.shift()),
            block_size: self.block_size,
        })
    }
}

/// A run of logical blocks for a transfer. It lies inside a disk's capacity and has at least
/// one block. Only [`Capacity::extent`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    sector: Sector,
    bytes: u32,
    block_size: BlockSize,
}

impl Extent {
    /// The first logical block.
    #[inline]
    #[must_use]
    pub const fn lba(self) -> Lba {
        Lba(self.sector.0.wrapping_shr(self.block_size.sectors_shift()))
    }

    /// The number of logical blocks.
    #[must_use]
    pub const fn blocks(self) -> Blocks {
        Blocks(self.bytes.wrapping_shr(self.block_size.shift()) as u64)
    }

    /// The first sector.
    #[inline]
    #[must_use]
    pub const fn sector(self) -> Sector {
        self.sector
    }

    /// The length in bytes: from 512 to [`Capacity::LONGEST_TRANSFER`].
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.bytes
    }
}

/// Why blocks cannot be transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentError {
    /// There are no blocks. In SCSI that is not an error.
    Empty,
    /// Some of the blocks do not exist.
    BeyondCapacity,
    /// There are more blocks than [`Capacity::longest_transfer`].
    TooLong,
}

impl fmt::Display for ExtentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the transfer has no blocks",
            Self::BeyondCapacity => "the transfer ends beyond the disk's capacity",
            Self::TooLong => "the transfer exceeds the longest transfer",
        })
    }
}

impl core::error::Error for ExtentError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    fn capacity(sectors: u64, block_size: u32) -> Capacity {
        Capacity::new(Sectors(sectors), BlockSize::new(block_size).unwrap()).unwrap()
    }

    #[test]
    fn sectors_that_do_not_fill_a_block_are_left_out_of_the_capacity() {
        assert_eq!(capacity(23, 4096).blocks(), Blocks(2));
        assert_eq!(capacity(23, 512).blocks(), Blocks(23));
        assert_eq!(capacity(7, 4096).last(), None);
        assert_eq!(capacity(8, 4096).last(), Some(Lba(0)));
    }

    #[test]
    fn a_disk_that_reports_2_to_the_64_bytes_has_no_capacity() {
        for (sectors, valid) in [((1 << 55) - 1, true), (1 << 55, false), (u64::MAX, false)] {
            let capacity = Capacity::new(Sectors(sectors), BlockSize::SECTOR);
            assert_eq!(capacity.is_some(), valid, "{sectors}");
        }
    }

    #[test]
    fn each_error_has_a_text() {
        for (error, text) in [
            (ExtentError::Empty, "no blocks"),
            (ExtentError::BeyondCapacity, "beyond the disk's capacity"),
            (ExtentError::TooLong, "the longest transfer"),
        ] {
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn an_extent_lies_inside_the_capacity() {
        use ExtentError::{BeyondCapacity, Empty};

        let disk = capacity(800, 4096);
        for (lba, blocks, expected) in [
            (0, 0, Err(Empty)),
            (0, 100, Ok(())),
            (0, 101, Err(BeyondCapacity)),
            (99, 1, Ok(())),
            (99, 2, Err(BeyondCapacity)),
            (100, 0, Err(Empty)),
            (100, 1, Err(BeyondCapacity)),
            (101, 0, Err(BeyondCapacity)),
            (u64::MAX, 1, Err(BeyondCapacity)),
            (1, u64::MAX, Err(BeyondCapacity)),
            (u64::MAX, u64::MAX, Err(BeyondCapacity)),
        ] {
            let extent = disk.extent(Lba(lba), Blocks(blocks));
            assert_eq!(extent.map(|_| ()), expected, "{blocks} from {lba}");
        }
    }

    #[test]
    fn an_extent_of_4096_byte_blocks_has_eight_sectors_a_block() {
        let extent = capacity(800, 4096).extent(Lba(99), Blocks(1)).unwrap();
        assert_eq!(extent.sector(), Sector(792));
        assert_eq!(extent.bytes(), 4096);
        assert_eq!((extent.lba(), extent.blocks()), (Lba(99), Blocks(1)));
    }

    #[test]
    fn an_extent_is_no_longer_than_the_longest_transfer() {
        let disk = capacity((1 << 55) - 1, 4096);
        let longest = Blocks(1 << 19);
        assert_eq!(disk.longest_transfer(), longest);
        assert_eq!(disk.extent(Lba(7), longest).unwrap().bytes(), 1 << 31);
        let beyond = disk.extent(Lba(7), Blocks(longest.0 + 1));
        assert_eq!(beyond, Err(ExtentError::TooLong));

        let limited = disk.with_longest_transfer(3 * 4096 + 4095);
        assert!(limited.extent(Lba(0), Blocks(3)).is_ok());
        let beyond = limited.extent(Lba(0), Blocks(4));
        assert_eq!(beyond, Err(ExtentError::TooLong));
        let unlimited = limited.with_longest_transfer(u32::MAX);
        assert_eq!(unlimited.longest_transfer(), longest);
    }

    #[test]
    fn the_last_block_of_the_largest_disk_has_a_sector_number() {
        let disk = capacity((1 << 55) - 1, 4096);
        let last = disk.extent(disk.last().unwrap(), Blocks(1)).unwrap();
        assert_eq!(last.sector(), Sector((1 << 55) - 16));
        assert_eq!(last.lba(), disk.last().unwrap());
    }
}
