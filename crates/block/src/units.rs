//! Logical blocks and sectors, as types.

/// A logical block address: the number of a logical block, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lba(pub u64);

/// A number of logical blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blocks(pub u64);

/// The number of a 512-byte sector, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sector(pub u64);

impl Sector {
    /// The number of bytes in a sector.
    pub const BYTES: u32 = 512;

    /// log2 of the number of bytes in a sector.
    pub(crate) const SHIFT: u32 = 9;
}

/// A number of 512-byte sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sectors(pub u64);

/// The size of a logical block: a power of two from 512 to 4096 bytes.
///
/// Windows accepts disks with blocks of 512 and 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockSize {
    /// log2 of the size in bytes, 9 to 12. With 32 bits an [`Extent`](crate::Extent), which is
    /// copied several times for each request, has no padding.
    shift: u32,
}

impl BlockSize {
    /// The size of a block of one sector.
    pub const SECTOR: Self = Self {
        shift: Sector::SHIFT,
    };

    /// log2 of the largest size.
    const LARGEST_SHIFT: u32 = 12;

    /// Makes a block size of `bytes` bytes. Returns `None` unless `bytes` is a power of two
    /// from 512 to 4096.
    #[must_use]
    pub const fn new(bytes: u32) -> Option<Self> {
        let shift = bytes.trailing_zeros();
        if bytes.is_power_of_two() && bytes >= Sector::BYTES && shift <= Self::LARGEST_SHIFT {
            Some(Self { shift })
        } else {
            None
        }
    }

    /// The size in bytes.
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> u32 {
        1_u32.wrapping_shl(self.shift())
    }

    /// log2 of the size in bytes, 9 to 12.
    #[inline]
    pub(crate) const fn shift(self) -> u32 {
        self.shift
    }

    /// log2 of the number of sectors in a block, 0 to 3.
    #[inline]
    pub(crate) const fn sectors_shift(self) -> u32 {
        self.shift.wrapping_sub(Sector::SHIFT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_size_is_a_power_of_two_from_512_to_4096_bytes() {
        for (bytes, valid) in [
            (0, false),
            (1, false),
            (256, false),
            (512, true),
            (520, false),
            (1024, true),
            (4095, false),
            (4096, true),
            (8192, false),
            (u32::MAX, false),
        ] {
            let size = BlockSize::new(bytes);
            assert_eq!(size.is_some(), valid, "{bytes}");
            assert!(size.is_none_or(|size| size.bytes() == bytes));
        }
    }
}
