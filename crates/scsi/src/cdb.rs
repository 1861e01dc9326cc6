//! Command descriptor blocks (CDBs): their operation codes and their lengths.

use crate::sense::{CdbField, Sense};

/// The supported operation codes (SPC-4 and SBC-3, tables of commands).
#[expect(missing_docs, reason = "each is named as the standard names it")]
pub mod opcode {
    pub const TEST_UNIT_READY: u8 = 0x00;
    pub const REQUEST_SENSE: u8 = 0x03;
    pub const READ_6: u8 = 0x08;
    pub const WRITE_6: u8 = 0x0A;
    pub const INQUIRY: u8 = 0x12;
    pub const MODE_SELECT_6: u8 = 0x15;
    pub const MODE_SENSE_6: u8 = 0x1A;
    pub const START_STOP_UNIT: u8 = 0x1B;
    pub const READ_CAPACITY_10: u8 = 0x25;
    pub const READ_10: u8 = 0x28;
    pub const WRITE_10: u8 = 0x2A;
    pub const VERIFY_10: u8 = 0x2F;
    pub const SYNCHRONIZE_CACHE_10: u8 = 0x35;
    pub const MODE_SELECT_10: u8 = 0x55;
    pub const MODE_SENSE_10: u8 = 0x5A;
    pub const READ_16: u8 = 0x88;
    pub const WRITE_16: u8 = 0x8A;
    pub const VERIFY_16: u8 = 0x8F;
    pub const SYNCHRONIZE_CACHE_16: u8 = 0x91;
    /// Of its service actions only READ CAPACITY(16), 10h, is supported.
    pub const SERVICE_ACTION_IN_16: u8 = 0x9E;
    pub const REPORT_LUNS: u8 = 0xA0;
    pub const READ_12: u8 = 0xA8;
    pub const WRITE_12: u8 = 0xAA;
}

/// CONTROL byte: NACA (SAM-5, "CONTROL byte").
const NACA: u8 = 1 << 2;

/// Returns the first `N` bytes of the CDB. Later bytes are ignored.
///
/// # Errors
///
/// INVALID FIELD IN CDB, for the first byte that is missing, or for NACA if it is set. A
/// device without ACA support must refuse NACA (SAM-5, "CONTROL byte"). CONTROL is the
/// last byte of every CDB of a fixed length (SPC-4, "The fixed length CDB
/// formats").
#[inline]
pub(crate) fn fixed<const N: usize>(cdb: &[u8]) -> Result<&[u8; N], Sense> {
    let Some(fixed) = cdb.first_chunk::<N>() else {
        return Err(Sense::invalid_field(CdbField::byte(cdb.len())));
    };
    if fixed.last().is_some_and(|control| control & NACA != 0) {
        return Err(Sense::invalid_field(CdbField {
            bit: 2,
            ..CdbField::byte(N.saturating_sub(1))
        }));
    }
    Ok(fixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_cdb_is_read_up_to_its_length() {
        assert_eq!(fixed::<6>(&[1, 2, 3, 4, 5, 0, 7]), Ok(&[1, 2, 3, 4, 5, 0]));
    }

    #[test]
    fn a_short_cdb_is_refused_at_the_first_missing_byte() {
        let sense = fixed::<10>(&[0x28, 0, 0, 0]).unwrap_err();
        assert_eq!(sense, Sense::invalid_field(CdbField { byte: 4, bit: 7 }));
    }

    #[test]
    fn naca_is_refused_at_its_bit_in_the_control_byte() {
        let sense = fixed::<6>(&[0, 0, 0, 0, 0, 0b100]).unwrap_err();
        assert_eq!(sense, Sense::invalid_field(CdbField { byte: 5, bit: 2 }));
    }

    #[test]
    fn vendor_and_obsolete_bits_of_the_control_byte_are_ignored() {
        assert!(fixed::<6>(&[0, 0, 0, 0, 0, 0b1100_0011]).is_ok());
    }
}
