//! A disk's advice on the alignment and the size of transfers.

use crate::units::Blocks;

/// A disk's advice on transfers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// How logical blocks lie in physical blocks.
    pub alignment: Alignment,
    /// The granularity. A transfer that is not a multiple of it may be slower. 0 if the disk
    /// does not report it.
    pub granularity: Blocks,
    /// The optimal length. A longer transfer may be slower. 0 if the disk does not report it.
    pub optimal: Blocks,
}

/// How logical blocks lie in physical blocks (SBC-3, "Physical blocks"). By default
/// each logical block is a physical block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alignment {
    physical_exponent: u8,
    lowest_aligned: u16,
}

impl Alignment {
    /// Makes an alignment in which a physical block has 2^`physical_exponent` logical blocks,
    /// and the first physical block boundary is at LBA `lowest_aligned`.
    ///
    /// Returns `None` if the exponent is above 15, or if `lowest_aligned` lies beyond the
    /// first physical block or needs more than 14 bits. The fields that report the two have
    /// 4 and 14 bits (SBC-3, "READ CAPACITY (16) parameter data").
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

    /// log2 of the number of logical blocks in a physical block, 0 to 15.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alignment_that_does_not_fit_its_fields_is_refused() {
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
            let alignment = Alignment::new(exponent, lowest);
            let fields = alignment.map(|it| (it.physical_exponent(), it.lowest_aligned()));
            assert_eq!(fields, valid.then_some((exponent, lowest)));
        }
    }
}
