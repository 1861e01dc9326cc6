//! The commands that a disk class driver sends (SPC-5, SBC-4).

use std::fmt::{self, Display, Formatter};

use super::port::TIMEOUT;
use crate::status::big_endian;
use testbed_storport::request::{Address, Data, Direction, Request};

/// Operation codes.
pub(crate) mod opcode {
    pub const TEST_UNIT_READY: u8 = 0x00;
    pub const INQUIRY: u8 = 0x12;
    pub const MODE_SENSE_6: u8 = 0x1A;
    pub const READ_CAPACITY_10: u8 = 0x25;
    pub const READ_10: u8 = 0x28;
    pub const WRITE_10: u8 = 0x2A;
    pub const SYNCHRONIZE_CACHE_10: u8 = 0x35;
    pub const MODE_SENSE_10: u8 = 0x5A;
    pub const READ_16: u8 = 0x88;
    pub const WRITE_16: u8 = 0x8A;
    pub const SERVICE_ACTION_IN_16: u8 = 0x9E;
    pub const REPORT_LUNS: u8 = 0xA0;
}

/// SERVICE ACTION IN(16): READ CAPACITY(16).
const READ_CAPACITY_16: u8 = 0x10;
/// FUA in byte 1 of READ and WRITE.
const FORCE_UNIT_ACCESS: u8 = 0x08;

/// A command descriptor block. It prints as its name, with its LBA or page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its bytes; those after `length` are zero.
    pub cdb: [u8; 16],
    /// 6, 10, 12 or 16.
    pub length: u8,
}

/// What READ and WRITE do with the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// The device's cache may answer.
    Cached,
    /// FUA: the medium must.
    ForceUnitAccess,
}

/// Which transfer command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// READ.
    Read,
    /// WRITE.
    Write,
}

impl Operation {
    pub(crate) fn direction(self) -> Direction {
        match self {
            Self::Read => Direction::In,
            Self::Write => Direction::Out,
        }
    }
}

impl Command {
    /// The request that carries the command, with the class driver's time-out.
    pub(crate) fn request(self, token: u64, address: Address, data: Option<Data>) -> Request {
        Request {
            token,
            address,
            cdb: self.cdb,
            cdb_length: self.length,
            data,
            timeout: TIMEOUT,
        }
    }

    fn new<const N: usize>(bytes: [u8; N]) -> Self {
        let mut cdb = [0; 16];
        cdb[..N].copy_from_slice(&bytes);
        Self {
            cdb,
            length: N as u8,
        }
    }

    /// TEST UNIT READY.
    #[must_use]
    pub fn test_unit_ready() -> Self {
        Self::new([opcode::TEST_UNIT_READY, 0, 0, 0, 0, 0])
    }

    /// INQUIRY for the standard data.
    #[must_use]
    pub fn inquiry(allocation: u8) -> Self {
        Self::new([opcode::INQUIRY, 0, 0, 0, allocation, 0])
    }

    /// INQUIRY for the vital product data page `page`.
    #[must_use]
    pub fn vital_product_data(page: u8, allocation: u8) -> Self {
        Self::new([opcode::INQUIRY, 1, page, 0, allocation, 0])
    }

    /// READ CAPACITY(10).
    #[must_use]
    pub fn read_capacity_10() -> Self {
        Self::new([opcode::READ_CAPACITY_10, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    /// READ CAPACITY(16).
    #[must_use]
    pub fn read_capacity_16(allocation: u8) -> Self {
        let mut bytes = [0; 16];
        bytes[0] = opcode::SERVICE_ACTION_IN_16;
        bytes[1] = READ_CAPACITY_16;
        bytes[13] = allocation;
        Self::new(bytes)
    }

    /// MODE SENSE(6) for the current values of `page`.
    #[must_use]
    pub fn mode_sense_6(page: u8, allocation: u8) -> Self {
        Self::new([opcode::MODE_SENSE_6, 0, page, 0, allocation, 0])
    }

    /// MODE SENSE(10) for the current values of `page`.
    #[must_use]
    pub fn mode_sense_10(page: u8, allocation: u8) -> Self {
        Self::new([opcode::MODE_SENSE_10, 0, page, 0, 0, 0, 0, 0, allocation, 0])
    }

    /// REPORT LUNS.
    #[must_use]
    pub fn report_luns(allocation: u8) -> Self {
        let mut bytes = [0; 12];
        (bytes[0], bytes[9]) = (opcode::REPORT_LUNS, allocation);
        Self::new(bytes)
    }

    /// SYNCHRONIZE CACHE(10) of the whole disk.
    #[must_use]
    pub fn synchronize_cache() -> Self {
        Self::new([opcode::SYNCHRONIZE_CACHE_10, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    /// READ or WRITE of `blocks` from `lba` on: the ten-byte command if it can
    /// say so, else the sixteen-byte one.
    #[must_use]
    pub fn transfer(operation: Operation, lba: u64, blocks: u32, medium: Medium) -> Self {
        let flags = match medium {
            Medium::Cached => 0,
            Medium::ForceUnitAccess => FORCE_UNIT_ACCESS,
        };
        let last = lba + u64::from(blocks.max(1)) - 1;
        if let (Ok(_), Ok(lba), Ok(blocks)) = (
            u32::try_from(last),
            u32::try_from(lba),
            u16::try_from(blocks),
        ) {
            let mut bytes = [0; 10];
            bytes[0] = match operation {
                Operation::Read => opcode::READ_10,
                Operation::Write => opcode::WRITE_10,
            };
            bytes[1] = flags;
            bytes[2..6].copy_from_slice(&lba.to_be_bytes());
            bytes[7..9].copy_from_slice(&blocks.to_be_bytes());
            return Self::new(bytes);
        }
        let mut bytes = [0; 16];
        bytes[0] = match operation {
            Operation::Read => opcode::READ_16,
            Operation::Write => opcode::WRITE_16,
        };
        bytes[1] = flags;
        bytes[2..10].copy_from_slice(&lba.to_be_bytes());
        bytes[10..14].copy_from_slice(&blocks.to_be_bytes());
        Self::new(bytes)
    }

    /// First LBA and number of blocks of a READ or WRITE.
    #[must_use]
    pub fn extent(&self) -> Option<(u64, u32)> {
        match self.cdb[0] {
            opcode::READ_10 | opcode::WRITE_10 => Some((
                big_endian(&self.cdb[2..6]),
                big_endian(&self.cdb[7..9]) as u32,
            )),
            opcode::READ_16 | opcode::WRITE_16 => Some((
                big_endian(&self.cdb[2..10]),
                big_endian(&self.cdb[10..14]) as u32,
            )),
            _ => None,
        }
    }
}

impl Display for Command {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let name = match self.cdb[0] {
            opcode::TEST_UNIT_READY => "TEST UNIT READY",
            opcode::INQUIRY => "INQUIRY",
            opcode::MODE_SENSE_6 => "MODE SENSE(6)",
            opcode::READ_CAPACITY_10 => "READ CAPACITY(10)",
            opcode::READ_10 => "READ(10)",
            opcode::WRITE_10 => "WRITE(10)",
            opcode::SYNCHRONIZE_CACHE_10 => "SYNCHRONIZE CACHE(10)",
            opcode::MODE_SENSE_10 => "MODE SENSE(10)",
            opcode::READ_16 => "READ(16)",
            opcode::WRITE_16 => "WRITE(16)",
            opcode::SERVICE_ACTION_IN_16 => "READ CAPACITY(16)",
            opcode::REPORT_LUNS => "REPORT LUNS",
            other => return write!(out, "command {other:02X}h"),
        };
        write!(out, "{name}")?;
        match self.cdb[0] {
            opcode::INQUIRY if self.cdb[1] & 1 != 0 => {
                write!(out, " of VPD page {:02X}h", self.cdb[2])
            }
            opcode::MODE_SENSE_6 | opcode::MODE_SENSE_10 => {
                write!(out, " of page {:02X}h", self.cdb[2] & 0x3F)
            }
            _ => match self.extent() {
                Some((lba, blocks)) => write!(out, " of {blocks} blocks at LBA {lba}"),
                None => Ok(()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_takes_ten_bytes_as_long_as_they_can_say_it() {
        let short = Command::transfer(Operation::Read, 0x0102_0304, 0x0506, Medium::Cached);
        assert_eq!(short.length, 10);
        assert_eq!(short.cdb[..10], [0x28, 0, 1, 2, 3, 4, 0, 5, 6, 0]);
        for (lba, blocks, length, opcode) in [
            (0xFFFF_FFFE, 2, 10, 0x2A),
            (0xFFFF_FFFE, 3, 16, 0x8A),
            (7, 65535, 10, 0x2A),
            (7, 65536, 16, 0x8A),
        ] {
            let operation = Operation::Write;
            let command = Command::transfer(operation, lba, blocks, Medium::ForceUnitAccess);
            assert_eq!((command.length, command.cdb[0]), (length, opcode));
            assert_eq!(command.extent(), Some((lba, blocks)));
            assert_eq!(command.cdb[1], 0x08);
        }
    }

    #[test]
    fn commands_print_what_they_are_about() {
        assert_eq!(
            Command::vital_product_data(0xB0, 64).to_string(),
            "INQUIRY of VPD page B0h"
        );
        assert_eq!(
            Command::transfer(Operation::Read, 9, 8, Medium::Cached).to_string(),
            "READ(10) of 8 blocks at LBA 9"
        );
        assert_eq!(
            Command::mode_sense_10(8, 255).to_string(),
            "MODE SENSE(10) of page 08h"
        );
    }
}
