//! The logical blocks that a CDB names, in each of its four lengths.

use block::{Blocks, Lba};

use crate::cdb::fixed;
use crate::sense::{CdbField, Sense};

/// The fields that READ, WRITE, VERIFY and SYNCHRONIZE CACHE have in common: the blocks, and
/// the flags in byte 1. They are not checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) lba: Lba,
    pub(crate) blocks: Blocks,
    /// Byte 1. 0 for a CDB of 6 bytes, which has no flags.
    pub(crate) flags: u8,
    /// The position of LOGICAL BLOCK ADDRESS.
    pub(crate) lba_field: CdbField,
    /// The position of the number of blocks.
    pub(crate) blocks_field: CdbField,
}

impl Range {
    /// Parses a CDB of 6 bytes. The LBA has 21 bits, and a length of 0 means 256 blocks
    /// (SBC-2, "READ (6) command").
    pub(crate) fn of_6(cdb: &[u8]) -> Result<Self, Sense> {
        let cdb = fixed::<6>(cdb)?;
        Ok(Self {
            lba: Lba(u32::from_be_bytes([0, cdb[1] & 0x1F, cdb[2], cdb[3]]).into()),
            blocks: Blocks(match cdb[4] {
                0 => 256,
                blocks => blocks.into(),
            }),
            flags: 0,
            lba_field: CdbField { byte: 1, bit: 4 },
            blocks_field: CdbField::byte(4),
        })
    }

    /// Parses a CDB of 10 bytes.
    #[inline]
    pub(crate) fn of_10(cdb: &[u8]) -> Result<Self, Sense> {
        let cdb = fixed::<10>(cdb)?;
        Ok(Self {
            lba: Lba(u32::from_be_bytes([cdb[2], cdb[3], cdb[4], cdb[5]]).into()),
            blocks: Blocks(u16::from_be_bytes([cdb[7], cdb[8]]).into()),
            flags: cdb[1],
            lba_field: CdbField::byte(2),
            blocks_field: CdbField::byte(7),
        })
    }

    /// Parses a CDB of 12 bytes.
    pub(crate) fn of_12(cdb: &[u8]) -> Result<Self, Sense> {
        let cdb = fixed::<12>(cdb)?;
        Ok(Self {
            lba: Lba(u32::from_be_bytes([cdb[2], cdb[3], cdb[4], cdb[5]]).into()),
            blocks: Blocks(u32::from_be_bytes([cdb[6], cdb[7], cdb[8], cdb[9]]).into()),
            flags: cdb[1],
            lba_field: CdbField::byte(2),
            blocks_field: CdbField::byte(6),
        })
    }

    /// Parses a CDB of 16 bytes.
    #[inline]
    pub(crate) fn of_16(cdb: &[u8]) -> Result<Self, Sense> {
        let cdb = fixed::<16>(cdb)?;
        Ok(Self {
            lba: Lba(u64::from_be_bytes([
                cdb[2], cdb[3], cdb[4], cdb[5], cdb[6], cdb[7], cdb[8], cdb[9],
            ])),
            blocks: Blocks(u32::from_be_bytes([cdb[10], cdb[11], cdb[12], cdb[13]]).into()),
            flags: cdb[1],
            lba_field: CdbField::byte(2),
            blocks_field: CdbField::byte(10),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks_of(range: Result<Range, Sense>) -> (u64, u64, u8) {
        let range = range.unwrap();
        (range.lba.0, range.blocks.0, range.flags)
    }

    #[test]
    fn a_cdb_of_6_bytes_has_an_lba_of_21_bits() {
        let cdb = [0x08, 0xFF, 0x34, 0x56, 7, 0];
        assert_eq!(blocks_of(Range::of_6(&cdb)), (0x1F_3456, 7, 0));
    }

    #[test]
    fn a_length_of_0_in_a_cdb_of_6_bytes_means_256_blocks() {
        let cdb = [0x08, 0, 0, 0, 0, 0];
        assert_eq!(blocks_of(Range::of_6(&cdb)), (0, 256, 0));
    }

    #[test]
    fn a_cdb_of_10_bytes_has_an_lba_of_32_bits_and_a_length_of_16_bits() {
        let cdb = [0x28, 0x18, 0x12, 0x34, 0x56, 0x78, 0xFF, 0x9A, 0xBC, 0];
        assert_eq!(blocks_of(Range::of_10(&cdb)), (0x1234_5678, 0x9ABC, 0x18));
    }

    #[test]
    fn a_cdb_of_12_bytes_has_an_lba_and_a_length_of_32_bits() {
        let cdb = [
            0xA8, 0x18, 0x12, 0x34, 0x56, 0x78, 0x9A, 0xBC, 0xDE, 0xF0, 0xFF, 0,
        ];
        assert_eq!(
            blocks_of(Range::of_12(&cdb)),
            (0x1234_5678, 0x9ABC_DEF0, 0x18)
        );
    }

    #[test]
    fn a_cdb_of_16_bytes_has_an_lba_of_64_bits_and_a_length_of_32_bits() {
        let cdb = [
            0x88, 0x18, 1, 2, 3, 4, 5, 6, 7, 8, 0x9A, 0xBC, 0xDE, 0xF0, 0xFF, 0,
        ];
        assert_eq!(
            blocks_of(Range::of_16(&cdb)),
            (0x0102_0304_0506_0708, 0x9ABC_DEF0, 0x18)
        );
    }

    #[test]
    fn a_length_of_0_in_a_longer_cdb_means_no_blocks() {
        assert_eq!(blocks_of(Range::of_10(&[0; 10])), (0, 0, 0));
        assert_eq!(blocks_of(Range::of_12(&[0; 12])), (0, 0, 0));
        assert_eq!(blocks_of(Range::of_16(&[0; 16])), (0, 0, 0));
    }
}
