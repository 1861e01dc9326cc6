//! Names of SRB status, SCSI status and sense data.
//!
//! The names are those of srb.h and SPC-5. A code without a name is printed as a number.

use std::fmt::{self, Display, Formatter};

/// SRB_STATUS values, without their flag bits (`srb.h`).
pub mod srb {
    /// The request succeeded.
    pub const SUCCESS: u8 = 0x01;
    /// The request was aborted.
    pub const ABORTED: u8 = 0x02;
    /// The request failed with a SCSI status or an error of the device.
    pub const ERROR: u8 = 0x04;
    /// The miniport has no resources for the request.
    pub const BUSY: u8 = 0x05;
    /// A bus reset aborted the request.
    pub const BUS_RESET: u8 = 0x0E;
    /// More or less data than requested.
    pub const DATA_OVERRUN: u8 = 0x12;
    /// The queue was flushed.
    pub const REQUEST_FLUSHED: u8 = 0x16;
}

/// An SRB status that prints as `SRB_STATUS_ERROR (04h)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SrbStatus(pub u8);

impl Display for SrbStatus {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0x00 => "PENDING",
            srb::SUCCESS => "SUCCESS",
            srb::ABORTED => "ABORTED",
            0x03 => "ABORT_FAILED",
            srb::ERROR => "ERROR",
            srb::BUSY => "BUSY",
            0x06 => "INVALID_REQUEST",
            0x07 => "INVALID_PATH_ID",
            0x08 => "NO_DEVICE",
            0x09 => "TIMEOUT",
            0x0A => "SELECTION_TIMEOUT",
            0x0B => "COMMAND_TIMEOUT",
            0x0D => "MESSAGE_REJECTED",
            srb::BUS_RESET => "BUS_RESET",
            0x0F => "PARITY_ERROR",
            0x10 => "REQUEST_SENSE_FAILED",
            0x11 => "NO_HBA",
            srb::DATA_OVERRUN => "DATA_OVERRUN",
            0x13 => "UNEXPECTED_BUS_FREE",
            0x14 => "PHASE_SEQUENCE_FAILURE",
            0x15 => "BAD_SRB_BLOCK_LENGTH",
            srb::REQUEST_FLUSHED => "REQUEST_FLUSHED",
            0x20 => "INVALID_LUN",
            0x21 => "INVALID_TARGET_ID",
            0x22 => "BAD_FUNCTION",
            0x23 => "ERROR_RECOVERY",
            0x24 => "NOT_POWERED",
            0x25 => "LINK_DOWN",
            0x26 => "INSUFFICIENT_RESOURCES",
            0x27 => "THROTTLED_REQUEST",
            0x28 => "INVALID_PARAMETER",
            0x30 => "INTERNAL_ERROR",
            other => return write!(out, "SRB status {other:02X}h"),
        };
        write!(out, "SRB_STATUS_{name} ({:02X}h)", self.0)
    }
}

/// A SCSI status byte that prints as `CHECK CONDITION (02h)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScsiStatus(pub u8);

impl ScsiStatus {
    /// No error.
    pub const GOOD: Self = Self(0x00);
    /// The command failed, and sense data is available.
    pub const CHECK_CONDITION: Self = Self(0x02);
}

impl Display for ScsiStatus {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0x00 => "GOOD",
            0x02 => "CHECK CONDITION",
            0x04 => "CONDITION MET",
            0x08 => "BUSY",
            0x18 => "RESERVATION CONFLICT",
            0x28 => "TASK SET FULL",
            0x30 => "ACA ACTIVE",
            0x40 => "TASK ABORTED",
            other => return write!(out, "SCSI status {other:02X}h"),
        };
        write!(out, "{name} ({:02X}h)", self.0)
    }
}

/// Sense keys that decide what a class driver does (SPC-5, 4.4.8).
pub mod key {
    /// The unit cannot be accessed now.
    pub const NOT_READY: u8 = 0x2;
    /// The command or one of its fields is invalid.
    pub const ILLEGAL_REQUEST: u8 = 0x5;
    /// An event of the unit that the initiator must know.
    pub const UNIT_ATTENTION: u8 = 0x6;
    /// The unit is write-protected.
    pub const DATA_PROTECT: u8 = 0x7;
    /// The device aborted the command; it can be retried.
    pub const ABORTED_COMMAND: u8 = 0xB;
}

/// Decoded sense data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// The sense key.
    pub key: u8,
    /// The additional sense code.
    pub code: u8,
    /// Its qualifier.
    pub qualifier: u8,
    /// The INFORMATION field, if it is valid: for a medium error the LBA.
    pub information: Option<u64>,
}

impl Sense {
    /// Decodes sense data in fixed (70h, 71h) or descriptor (72h, 73h) format, of the latter
    /// without its descriptors. Returns `None` for another format, or if the data is too short.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let byte = |index: usize| bytes.get(index).copied();
        match byte(0)? & 0x7F {
            0x70 | 0x71 => Some(Self {
                key: byte(2)? & 0x0F,
                code: byte(12).unwrap_or(0),
                qualifier: byte(13).unwrap_or(0),
                information: bytes
                    .get(3..7)
                    .filter(|_| bytes[0] & 0x80 != 0)
                    .map(big_endian),
            }),
            0x72 | 0x73 => Some(Self {
                key: byte(1)? & 0x0F,
                code: byte(2)?,
                qualifier: byte(3)?,
                information: None,
            }),
            _ => None,
        }
    }
}

/// The big-endian number in `bytes`, at most eight.
pub(crate) fn big_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}

impl Display for Sense {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let key = match self.key {
            0x0 => "NO SENSE",
            0x1 => "RECOVERED ERROR",
            key::NOT_READY => "NOT READY",
            0x3 => "MEDIUM ERROR",
            0x4 => "HARDWARE ERROR",
            key::ILLEGAL_REQUEST => "ILLEGAL REQUEST",
            key::UNIT_ATTENTION => "UNIT ATTENTION",
            key::DATA_PROTECT => "DATA PROTECT",
            0x8 => "BLANK CHECK",
            0x9 => "VENDOR SPECIFIC",
            0xA => "COPY ABORTED",
            key::ABORTED_COMMAND => "ABORTED COMMAND",
            0xD => "VOLUME OVERFLOW",
            0xE => "MISCOMPARE",
            0xF => "COMPLETED",
            _ => "RESERVED",
        };
        write!(out, "{key} ({:X}h)", self.key)?;
        let (code, qualifier) = (self.code, self.qualifier);
        let name = match (code, qualifier) {
            (0x00, 0x00) => "no additional sense information",
            (0x04, 0x00) => "logical unit not ready, cause not reportable",
            (0x04, 0x01) => "logical unit is becoming ready",
            (0x0C, _) => "write error",
            (0x11, _) => "unrecovered read error",
            (0x1A, 0x00) => "parameter list length error",
            (0x20, 0x00) => "invalid command operation code",
            (0x21, 0x00) => "logical block address out of range",
            (0x24, 0x00) => "invalid field in CDB",
            (0x25, 0x00) => "logical unit not supported",
            (0x26, _) => "invalid field in parameter list",
            (0x27, _) => "write protected",
            (0x28, 0x00) => "medium may have changed",
            (0x29, _) => "power on, reset or bus device reset occurred",
            (0x2A, 0x01) => "mode parameters changed",
            (0x2A, 0x09) => "capacity data has changed",
            (0x3A, _) => "medium not present",
            (0x3F, 0x0E) => "reported LUNs data has changed",
            (0x44, 0x00) => "internal target failure",
            _ => "",
        };
        let separator = if name.is_empty() { "" } else { " " };
        write!(
            out,
            ", {name}{separator}(ASC {code:02X}h, ASCQ {qualifier:02X}h)"
        )?;
        if let Some(information) = self.information {
            write!(out, ", information {information}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_sense_is_decoded_with_its_information() {
        let mut bytes = [0; 18];
        bytes[0] = 0xF0;
        bytes[2] = 0x03;
        bytes[3..7].copy_from_slice(&[0, 0, 0x12, 0x34]);
        bytes[7] = 10;
        bytes[12] = 0x11;

        let sense = Sense::decode(&bytes);

        assert_eq!(
            sense,
            Some(Sense {
                key: 0x03,
                code: 0x11,
                qualifier: 0,
                information: Some(0x1234)
            })
        );
        assert_eq!(
            sense.map(|sense| sense.to_string()).as_deref(),
            Some("MEDIUM ERROR (3h), unrecovered read error (ASC 11h, ASCQ 00h), information 4660")
        );
    }

    #[test]
    fn information_without_its_valid_bit_is_none() {
        let mut bytes = [0xFF; 18];
        bytes[0] = 0x70;
        assert_eq!(
            Sense::decode(&bytes).and_then(|sense| sense.information),
            None
        );
    }

    #[test]
    fn descriptor_sense_is_decoded_without_its_descriptors() {
        for format in [0x72, 0xF3] {
            let sense = Sense::decode(&[format, 0xF5, 0x2A, 0x09, 0, 0, 0, 0]);
            let sense = sense.map(|sense| (sense.key, sense.code, sense.qualifier));
            assert_eq!(sense, Some((0x05, 0x2A, 0x09)));
        }
    }

    #[test]
    fn truncated_or_foreign_bytes_are_no_sense_and_no_panic() {
        for bytes in [&[][..], &[0x70], &[0x72, 5, 0x21], &[0x00; 18]] {
            assert_eq!(Sense::decode(bytes), None);
        }
    }

    #[test]
    fn statuses_print_their_name_and_number() {
        assert_eq!(SrbStatus(0x0E).to_string(), "SRB_STATUS_BUS_RESET (0Eh)");
        assert_eq!(SrbStatus(0x3F).to_string(), "SRB status 3Fh");
        assert_eq!(
            ScsiStatus::CHECK_CONDITION.to_string(),
            "CHECK CONDITION (02h)"
        );
        assert_eq!(ScsiStatus(0x99).to_string(), "SCSI status 99h");
    }
}
