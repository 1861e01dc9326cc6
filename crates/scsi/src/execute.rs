//! The table of commands: from a CDB to its outcome.

use block::{CachePolicy, Extent};

use crate::cdb::opcode;
use crate::disk::Disk;
use crate::inquiry::Peripheral;
use crate::luns::Lun;
use crate::mode::ModeSelect;
use crate::range::Range;
use crate::reply::Reply;
use crate::sense::Sense;
use crate::{capacity, inquiry, luns, medium, mode, request_sense};

/// The outcome of a command that is not refused.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'d> {
    /// GOOD, without data: the data transfer length is 0.
    Good,
    /// GOOD, with data for the initiator's buffer.
    Data(Reply<'d>),
    /// The device must carry out an operation. Its result decides the status.
    Media(MediaOp),
    /// The initiator sends a parameter list, which [`ModeSelect::parse`] checks.
    ModeSelect(ModeSelect),
}

/// The direction of a command's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// There is no data.
    None,
    /// From the disk to the initiator.
    DataIn,
    /// From the initiator to the disk.
    DataOut,
}

/// An operation of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaOp {
    /// Read the blocks.
    Read(Extent),
    /// Write the blocks.
    Write(Extent),
    /// Write the blocks, and then flush: the command ends only when the blocks are on the
    /// medium (FUA). A disk without a write cache, or with one that is off and cannot be
    /// switched on, gets a [`Write`](Self::Write) instead, because its writes are durable
    /// anyway.
    DurableWrite(Extent),
    /// Make all completed writes durable.
    Flush,
    /// Switch the policy of the write cache, and then flush the cache.
    SwitchCache(CacheSwitch),
}

/// A switch of the write cache.
///
/// Its fields have the widths of those of an [`Extent`], so that the compiler copies a [`MediaOp`]
/// in words, and [`MediaOp::bytes`] reads the same field for each operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSwitch {
    /// 1 for write-back, 0 for write-through.
    write_back: u64,
    list_length: u32,
}

impl CacheSwitch {
    /// A switch to `policy`, for which a parameter list of `list_length` bytes asked.
    #[must_use]
    pub fn new(policy: CachePolicy, list_length: u8) -> Self {
        Self {
            write_back: u64::from(policy == CachePolicy::WriteBack),
            list_length: list_length.into(),
        }
    }

    /// The policy that the initiator asks for.
    #[must_use]
    pub fn policy(self) -> CachePolicy {
        if self.write_back == 0 {
            CachePolicy::WriteThrough
        } else {
            CachePolicy::WriteBack
        }
    }
}

impl MediaOp {
    /// The direction of the command's data. The caller refuses a request whose own direction
    /// differs, because the initiator's buffer may be mapped for the other direction only. A
    /// command without data fits every direction.
    #[inline]
    #[must_use]
    pub fn direction(&self) -> Direction {
        match self {
            Self::Read(_) => Direction::DataIn,
            Self::Write(_) | Self::DurableWrite(_) | Self::SwitchCache(_) => Direction::DataOut,
            Self::Flush => Direction::None,
        }
    }

    /// The blocks of a read or a write.
    #[inline]
    #[must_use]
    pub fn extent(&self) -> Option<Extent> {
        match *self {
            Self::Read(extent) | Self::Write(extent) | Self::DurableWrite(extent) => Some(extent),
            Self::Flush | Self::SwitchCache(_) => None,
        }
    }

    /// The number of bytes of data that the command transfers if it succeeds.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> u32 {
        match self {
            Self::Read(extent) | Self::Write(extent) | Self::DurableWrite(extent) => extent.bytes(),
            Self::Flush => 0,
            Self::SwitchCache(switch) => switch.list_length,
        }
    }
}

impl Disk {
    /// Executes the command `cdb` for the logical unit `lun`, as far as no device is needed.
    ///
    /// Runs at any IRQL. The caller must check that the initiator's buffer has at least
    /// [`MediaOp::bytes`], because only the caller knows the buffer.
    ///
    /// # Errors
    ///
    /// The sense data, if the command ends in CHECK CONDITION.
    #[inline]
    pub fn execute(&self, lun: Lun, cdb: &[u8]) -> Result<Outcome<'_>, Sense> {
        let Some(&operation) = cdb.first() else {
            return Err(Sense::INVALID_COMMAND_OPERATION_CODE);
        };
        if lun != Lun(0) {
            return self.execute_on_absent_unit(operation, cdb);
        }
        match self.read_or_write(operation, cdb) {
            Some(result) => result,
            None => self.execute_other(operation, cdb),
        }
    }

    /// Executes READ or WRITE (10 or 16). Returns `None` for another command.
    #[inline(always)]
    fn read_or_write(&self, operation: u8, cdb: &[u8]) -> Option<Result<Outcome<'_>, Sense>> {
        let read = |range| medium::read(self, range);
        let write = |range| medium::write(self, range);
        Some(match operation {
            opcode::READ_10 => Range::of_10(cdb).and_then(read),
            opcode::READ_16 => Range::of_16(cdb).and_then(read),
            opcode::WRITE_10 => Range::of_10(cdb).and_then(write),
            opcode::WRITE_16 => Range::of_16(cdb).and_then(write),
            _ => return None,
        })
    }

    /// Executes the commands that are not inlined into a driver's I/O path.
    #[inline(never)]
    fn execute_other(&self, operation: u8, cdb: &[u8]) -> Result<Outcome<'_>, Sense> {
        match operation {
            opcode::READ_6 => medium::read(self, Range::of_6(cdb)?),
            opcode::READ_12 => medium::read(self, Range::of_12(cdb)?),
            opcode::WRITE_6 => medium::write(self, Range::of_6(cdb)?),
            opcode::WRITE_12 => medium::write(self, Range::of_12(cdb)?),
            opcode::VERIFY_10 => medium::verify(self, Range::of_10(cdb)?),
            opcode::VERIFY_16 => medium::verify(self, Range::of_16(cdb)?),
            opcode::SYNCHRONIZE_CACHE_10 => medium::synchronize_cache(self, Range::of_10(cdb)?),
            opcode::SYNCHRONIZE_CACHE_16 => medium::synchronize_cache(self, Range::of_16(cdb)?),
            opcode::START_STOP_UNIT => medium::start_stop_unit(self, cdb),
            opcode::TEST_UNIT_READY => medium::test_unit_ready(self, cdb),
            opcode::REQUEST_SENSE => request_sense::request_sense(self, Peripheral::Disk, cdb),
            opcode::INQUIRY => inquiry::inquiry(self, Peripheral::Disk, cdb),
            opcode::READ_CAPACITY_10 => capacity::read_capacity_10(self, cdb),
            opcode::SERVICE_ACTION_IN_16 => capacity::service_action_in_16(self, cdb),
            opcode::MODE_SELECT_6 => mode::mode_select_6(cdb),
            opcode::MODE_SELECT_10 => mode::mode_select_10(cdb),
            opcode::MODE_SENSE_6 => mode::mode_sense_6(self, cdb),
            opcode::MODE_SENSE_10 => mode::mode_sense_10(self, cdb),
            opcode::REPORT_LUNS => luns::report_luns(self, cdb),
            _ => Err(Sense::INVALID_COMMAND_OPERATION_CODE),
        }
    }

    /// Returns the operation of a READ or WRITE (10 or 16) that the device must carry out, as
    /// [`execute`](Self::execute) does. Returns `None` for every other command, and for one that
    /// fails. It is for the I/O path, where `execute` would cost more.
    #[inline]
    #[must_use]
    pub fn transfer(&self, lun: Lun, cdb: &[u8]) -> Option<MediaOp> {
        if lun != Lun(0) {
            return None;
        }
        match self.read_or_write(*cdb.first()?, cdb)? {
            Ok(Outcome::Media(op)) => Some(op),
            _ => None,
        }
    }

    /// Executes a command for a logical unit that does not exist. Only three commands are
    /// supported there (SAM-5, "Incorrect logical unit numbers for commands").
    #[cold]
    fn execute_on_absent_unit(&self, operation: u8, cdb: &[u8]) -> Result<Outcome<'_>, Sense> {
        match operation {
            opcode::INQUIRY => inquiry::inquiry(self, Peripheral::Absent, cdb),
            opcode::REPORT_LUNS => luns::report_luns(self, cdb),
            opcode::REQUEST_SENSE => request_sense::request_sense(self, Peripheral::Absent, cdb),
            _ => Err(Sense::LOGICAL_UNIT_NOT_SUPPORTED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    #[test]
    fn an_empty_cdb_has_no_supported_operation_code() {
        let disk = example::disk();
        let sense = disk.execute(Lun(0), &[]).unwrap_err();
        assert_eq!(sense, Sense::INVALID_COMMAND_OPERATION_CODE);
    }

    #[test]
    fn exactly_the_listed_operation_codes_are_supported() {
        let disk = example::disk();
        let supported = (0..=255_u8).filter(|&operation| {
            let mut cdb = [0; 16];
            cdb[0] = operation;
            let outcome = disk.execute(Lun(0), &cdb);
            outcome.err() != Some(Sense::INVALID_COMMAND_OPERATION_CODE)
        });
        let listed = [
            0x00, 0x03, 0x08, 0x0A, 0x12, 0x15, 0x1A, 0x1B, 0x25, 0x28, 0x2A, 0x2F, 0x35, 0x55,
            0x5A, 0x88, 0x8A, 0x8F, 0x91, 0x9E, 0xA0, 0xA8, 0xAA,
        ];
        assert!(supported.eq(listed));
    }

    #[test]
    fn each_operation_reports_the_direction_of_its_data() {
        let disk = example::disk();
        for (cdb, direction) in [
            ([0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], Direction::DataIn),
            ([0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0], Direction::DataOut),
            ([0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], Direction::None),
        ] {
            let Ok(Outcome::Media(op)) = disk.execute(Lun(0), &cdb) else {
                panic!("{cdb:02X?} is no operation of the device");
            };
            assert_eq!(op.direction(), direction, "{cdb:02X?}");
        }
    }

    #[test]
    fn a_unit_that_does_not_exist_refuses_all_but_three_operation_codes() {
        let disk = example::disk();
        for operation in 0..=255 {
            let mut cdb = [0; 16];
            cdb[0] = operation;
            let answered = matches!(operation, 0x03 | 0x12 | 0xA0);
            for lun in [1, 255, 256, u16::MAX] {
                match disk.execute(Lun(lun), &cdb) {
                    Ok(Outcome::Data(_)) => assert!(answered, "{operation:02X}h"),
                    outcome => {
                        assert!(!answered, "{operation:02X}h");
                        assert_eq!(outcome.err(), Some(Sense::LOGICAL_UNIT_NOT_SUPPORTED));
                    }
                }
            }
        }
    }
}
