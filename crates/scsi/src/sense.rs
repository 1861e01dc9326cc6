//! Sense data: why a command ended in CHECK CONDITION, and its format in an initiator's sense
//! buffer (SPC-4, "Sense data").

use core::fmt;

use block::Lba;

use crate::reply::Writer;

/// The sense key: the class of the event (SPC-4, "Sense key and
/// additional sense code definitions").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SenseKey {
    /// Nothing to report.
    NoSense = 0x0,
    /// The disk cannot be accessed.
    NotReady = 0x2,
    /// The medium failed.
    MediumError = 0x3,
    /// The device failed.
    HardwareError = 0x4,
    /// The CDB is invalid, or the logical unit does not exist.
    IllegalRequest = 0x5,
    /// The medium is write-protected.
    DataProtect = 0x7,
}

/// The additional sense code and its qualifier: the event (SPC-4, "ASC and ASCQ assignments").
/// The code is the high byte of the value, and the qualifier the low byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum AdditionalSense {
    /// NO ADDITIONAL SENSE INFORMATION
    NoAdditionalSenseInformation = 0x0000,
    /// WRITE ERROR
    WriteError = 0x0C00,
    /// UNRECOVERED READ ERROR
    UnrecoveredReadError = 0x1100,
    /// PARAMETER LIST LENGTH ERROR
    ParameterListLengthError = 0x1A00,
    /// INVALID COMMAND OPERATION CODE
    InvalidCommandOperationCode = 0x2000,
    /// LOGICAL BLOCK ADDRESS OUT OF RANGE
    LogicalBlockAddressOutOfRange = 0x2100,
    /// INVALID FIELD IN CDB
    InvalidFieldInCdb = 0x2400,
    /// LOGICAL UNIT NOT SUPPORTED
    LogicalUnitNotSupported = 0x2500,
    /// INVALID FIELD IN PARAMETER LIST
    InvalidFieldInParameterList = 0x2600,
    /// WRITE PROTECTED
    WriteProtected = 0x2700,
    /// SAVING PARAMETERS NOT SUPPORTED
    SavingParametersNotSupported = 0x3900,
    /// MEDIUM NOT PRESENT
    MediumNotPresent = 0x3A00,
    /// INTERNAL TARGET FAILURE
    InternalTargetFailure = 0x4400,
}

/// The position of a refused field in the CDB: its first byte, and its most significant bit in
/// that byte (SPC-4, "Field pointer sense key specific data").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CdbField {
    /// The byte, from 0.
    pub byte: u16,
    /// The bit, 7 to 0.
    pub bit: u8,
}

impl CdbField {
    /// The position of a field that begins at bit 7 of byte `byte`.
    pub(crate) fn byte(byte: usize) -> Self {
        Self {
            byte: u16::try_from(byte).unwrap_or(u16::MAX),
            bit: 7,
        }
    }
}

/// The sense data of a command that ended in CHECK CONDITION.
///
/// [`crate::Disk::execute`] returns sense data for a CDB. The driver uses one of the constants
/// and functions here when the device failed a media operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sense {
    key: SenseKey,
    additional: AdditionalSense,
    field: Option<CdbField>,
    information: Option<Lba>,
}

impl Sense {
    /// The length of fixed format sense data in bytes. [`Self::write_to`] writes no more.
    pub const FIXED_LENGTH: usize = 18;

    /// No sense. REQUEST SENSE returns it for a disk that can be accessed.
    pub const NO_SENSE: Self = Self::new(
        SenseKey::NoSense,
        AdditionalSense::NoAdditionalSenseInformation,
    );
    /// The operation code is not supported.
    pub const INVALID_COMMAND_OPERATION_CODE: Self = Self {
        field: Some(CdbField { byte: 0, bit: 7 }),
        ..Self::new(
            SenseKey::IllegalRequest,
            AdditionalSense::InvalidCommandOperationCode,
        )
    };
    /// The parameter list is cut off, or longer than the maximum.
    pub const PARAMETER_LIST_LENGTH_ERROR: Self = Self::new(
        SenseKey::IllegalRequest,
        AdditionalSense::ParameterListLengthError,
    );
    /// The parameter list asks for a value that cannot be set.
    pub const INVALID_FIELD_IN_PARAMETER_LIST: Self = Self::new(
        SenseKey::IllegalRequest,
        AdditionalSense::InvalidFieldInParameterList,
    );
    /// The logical unit does not exist.
    pub const LOGICAL_UNIT_NOT_SUPPORTED: Self = Self::new(
        SenseKey::IllegalRequest,
        AdditionalSense::LogicalUnitNotSupported,
    );
    /// The disk is read-only.
    pub const WRITE_PROTECTED: Self =
        Self::new(SenseKey::DataProtect, AdditionalSense::WriteProtected);
    /// The disk has no blocks.
    pub const MEDIUM_NOT_PRESENT: Self =
        Self::new(SenseKey::NotReady, AdditionalSense::MediumNotPresent);
    /// The device failed a flush. Data that was written before may be lost.
    pub const FLUSH_FAILED: Self = Self::new(SenseKey::MediumError, AdditionalSense::WriteError);
    /// The device returned an invalid answer, or none.
    pub const INTERNAL_TARGET_FAILURE: Self = Self::new(
        SenseKey::HardwareError,
        AdditionalSense::InternalTargetFailure,
    );

    const fn new(key: SenseKey, additional: AdditionalSense) -> Self {
        Self {
            key,
            additional,
            field: None,
            information: None,
        }
    }

    /// The device failed to read the blocks that begin at `lba`.
    #[must_use]
    pub const fn read_failed(lba: Lba) -> Self {
        Self {
            information: Some(lba),
            ..Self::new(SenseKey::MediumError, AdditionalSense::UnrecoveredReadError)
        }
    }

    /// The device failed to write the blocks that begin at `lba`.
    #[must_use]
    pub const fn write_failed(lba: Lba) -> Self {
        Self {
            information: Some(lba),
            ..Self::new(SenseKey::MediumError, AdditionalSense::WriteError)
        }
    }

    /// `field` of the CDB asks for something that is not supported.
    pub(crate) const fn invalid_field(field: CdbField) -> Self {
        Self::illegal_request(AdditionalSense::InvalidFieldInCdb, field)
    }

    /// `field` of the CDB is refused for the reason `additional`.
    pub(crate) const fn illegal_request(additional: AdditionalSense, field: CdbField) -> Self {
        Self {
            field: Some(field),
            ..Self::new(SenseKey::IllegalRequest, additional)
        }
    }

    /// The sense key.
    #[must_use]
    pub const fn key(self) -> SenseKey {
        self.key
    }

    /// The additional sense code and its qualifier.
    #[must_use]
    pub const fn additional(self) -> AdditionalSense {
        self.additional
    }

    /// The field of the CDB that was refused, if the key is ILLEGAL REQUEST.
    #[must_use]
    pub const fn field(self) -> Option<CdbField> {
        self.field
    }

    /// The first block of the failed operation, if the key is MEDIUM ERROR.
    #[must_use]
    pub const fn information(self) -> Option<Lba> {
        self.information
    }

    /// Writes fixed format sense data into `buffer`, as much of its
    /// [18 bytes](Self::FIXED_LENGTH) as fits. Returns how many bytes it wrote.
    pub fn write_to(self, buffer: &mut [u8]) -> usize {
        let mut out = Writer::new(buffer);
        out.put(&self.fixed());
        out.written()
    }

    /// Current sense data in the fixed format (SPC-4, "Fixed format sense data"). ADDITIONAL
    /// SENSE LENGTH gives the whole length, even if the buffer is shorter.
    pub(crate) fn fixed(self) -> [u8; Self::FIXED_LENGTH] {
        const CURRENT: u8 = 0x70;
        const VALID: u8 = 1 << 7;
        const ADDITIONAL_LENGTH: u8 = 10;

        // INFORMATION has four bytes here, so a larger LBA is not reported.
        let information = self.information.and_then(|lba| u32::try_from(lba.0).ok());
        let valid = information.map_or(0, |_| VALID);
        let [i0, i1, i2, i3] = information.unwrap_or(0).to_be_bytes();
        let [code, qualifier] = (self.additional as u16).to_be_bytes();
        let [s0, s1, s2] = self.field.map_or([0; 3], field_pointer);
        [
            CURRENT | valid,
            0,
            self.key as u8,
            i0,
            i1,
            i2,
            i3,
            ADDITIONAL_LENGTH,
            0,
            0,
            0,
            0,
            code,
            qualifier,
            0,
            s0,
            s1,
            s2,
        ]
    }

    /// Current sense data in the descriptor format, without descriptors (SPC-4,
    /// "Descriptor format sense data"). Only REQUEST SENSE uses it, and its sense data has
    /// neither a CDB field nor a block.
    pub(crate) fn descriptor(self) -> [u8; 8] {
        const CURRENT: u8 = 0x72;
        let [code, qualifier] = (self.additional as u16).to_be_bytes();
        [CURRENT, self.key as u8, code, qualifier, 0, 0, 0, 0]
    }
}

/// The sense key specific bytes for a field of the CDB (SPC-4,
/// "Field pointer sense key specific data").
fn field_pointer(field: CdbField) -> [u8; 3] {
    const SKSV: u8 = 1 << 7;
    const IN_CDB: u8 = 1 << 6;
    const BPV: u8 = 1 << 3;
    let [high, low] = field.byte.to_be_bytes();
    [SKSV | IN_CDB | BPV | (field.bit & 0x7), high, low]
}

impl fmt::Display for Sense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {:?}", self.key, self.additional)?;
        if let Some(field) = self.field {
            write!(f, " (CDB byte {}, bit {})", field.byte, field.bit)?;
        }
        if let Some(lba) = self.information {
            write!(f, " (LBA {})", lba.0)?;
        }
        Ok(())
    }
}

impl core::error::Error for Sense {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn sense_data_has_the_byte_and_the_bit_of_an_invalid_field() {
        let field = CdbField { byte: 1, bit: 4 };
        let sense = Sense::invalid_field(field);
        assert_eq!(sense.field(), Some(field));
        let expected = [
            0x70, 0, 0x05, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0x00, 0, 0xCC, 0, 1,
        ];
        assert_eq!(sense.fixed(), expected);
    }

    #[test]
    fn an_unsupported_operation_code_is_byte_0_of_the_cdb() {
        let fixed = Sense::INVALID_COMMAND_OPERATION_CODE.fixed();
        assert_eq!(fixed[15..], [0xCF, 0, 0]);
    }

    #[test]
    fn the_sense_data_of_a_read_or_write_error_has_the_failed_block() {
        let block = Lba(0x1234_5678);
        for (sense, code) in [
            (Sense::read_failed(block), 0x11),
            (Sense::write_failed(block), 0x0C),
        ] {
            let expected = [
                0xF0, 0, 0x03, 0x12, 0x34, 0x56, 0x78, 10, 0, 0, 0, 0, code, 0x00, 0, 0, 0, 0,
            ];
            assert_eq!(sense.fixed(), expected);
            assert_eq!(sense.information(), Some(block));
        }
    }

    #[test]
    fn a_block_beyond_32_bits_is_not_reported_in_the_fixed_format() {
        let fixed = Sense::write_failed(Lba(1 << 32)).fixed();
        assert_eq!(fixed[0], 0x70);
        assert_eq!(fixed[3..7], [0; 4]);
    }

    #[test]
    fn sense_keys_and_codes_are_those_of_the_standard() {
        for (sense, key, code, qualifier) in [
            (Sense::NO_SENSE, 0x0, 0x00, 0x00),
            (Sense::INVALID_COMMAND_OPERATION_CODE, 0x5, 0x20, 0x00),
            (Sense::PARAMETER_LIST_LENGTH_ERROR, 0x5, 0x1A, 0x00),
            (Sense::INVALID_FIELD_IN_PARAMETER_LIST, 0x5, 0x26, 0x00),
            (Sense::LOGICAL_UNIT_NOT_SUPPORTED, 0x5, 0x25, 0x00),
            (Sense::WRITE_PROTECTED, 0x7, 0x27, 0x00),
            (Sense::MEDIUM_NOT_PRESENT, 0x2, 0x3A, 0x00),
            (Sense::FLUSH_FAILED, 0x3, 0x0C, 0x00),
            (Sense::INTERNAL_TARGET_FAILURE, 0x4, 0x44, 0x00),
            (Sense::read_failed(Lba(0)), 0x3, 0x11, 0x00),
            (Sense::write_failed(Lba(0)), 0x3, 0x0C, 0x00),
        ] {
            let fixed = sense.fixed();
            assert_eq!([fixed[2], fixed[12], fixed[13]], [key, code, qualifier]);
            assert_eq!(sense.descriptor(), [0x72, key, code, qualifier, 0, 0, 0, 0]);
        }
    }

    #[test]
    fn a_short_buffer_cuts_the_sense_data_but_not_the_reported_length() {
        let mut buffer = [0xEE; 32];
        let written = Sense::WRITE_PROTECTED.write_to(&mut buffer[..8]);
        assert_eq!(written, 8);
        assert_eq!(buffer[7], 10);
        assert_eq!(buffer[8..], [0xEE; 24]);
    }

    #[test]
    fn bytes_of_a_buffer_after_the_first_18_do_not_change() {
        let mut buffer = [0xEE; 252];
        assert_eq!(Sense::WRITE_PROTECTED.write_to(&mut buffer), 18);
        assert_eq!(buffer[18..], [0xEE; 234]);
    }

    #[test]
    fn sense_data_is_displayed_as_a_sentence() {
        assert_eq!(
            Sense::invalid_field(CdbField { byte: 1, bit: 4 }).to_string(),
            "IllegalRequest: InvalidFieldInCdb (CDB byte 1, bit 4)"
        );
        assert_eq!(
            Sense::read_failed(Lba(7)).to_string(),
            "MediumError: UnrecoveredReadError (LBA 7)"
        );
    }
}
