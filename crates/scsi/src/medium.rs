//! The commands that concern the medium: READ, WRITE, VERIFY, SYNCHRONIZE CACHE, START STOP
//! UNIT and TEST UNIT READY.

use block::ExtentError;

use crate::cdb::fixed;
use crate::disk::Disk;
use crate::execute::{MediaOp, Outcome};
use crate::range::Range;
use crate::sense::{AdditionalSense, CdbField, Sense};

/// Byte 1 of READ, WRITE and VERIFY: RDPROTECT, WRPROTECT, VRPROTECT.
const PROTECT: u8 = 0b111 << 5;
/// Byte 1 of READ, WRITE and VERIFY: disable page out.
const DPO: u8 = 1 << 4;
/// Byte 1 of READ and WRITE: force unit access.
const FUA: u8 = 1 << 3;
/// Byte 1 of VERIFY: the data to compare the blocks with.
const BYTCHK: u8 = 0b11 << 1;

/// READ (6, 10, 12, 16). A length of 0 reads nothing and is not an error.
///
/// FUA asks for the data on the medium. Reads from the device's cache return the same data,
/// so FUA changes nothing.
#[inline]
pub(crate) fn read(disk: &Disk, range: Range) -> Result<Outcome<'_>, Sense> {
    check_flags(disk, range, DPO | FUA)?;
    match disk.capacity.extent(range.lba, range.blocks) {
        Ok(extent) => Ok(Outcome::Media(MediaOp::Read(extent))),
        Err(error) => nothing_to_transfer(disk, range, error).map(|()| Outcome::Good),
    }
}

/// WRITE (6, 10, 12, 16). A length of 0 writes nothing, and is an error only if the disk is
/// read-only.
#[inline]
pub(crate) fn write(disk: &Disk, range: Range) -> Result<Outcome<'_>, Sense> {
    check_flags(disk, range, DPO | FUA)?;
    let outcome = match disk.capacity.extent(range.lba, range.blocks) {
        Ok(extent) => {
            let forced = range.flags & FUA != 0 && disk.write_cache.may_hold_writes();
            Outcome::Media(if forced {
                MediaOp::DurableWrite(extent)
            } else {
                MediaOp::Write(extent)
            })
        }
        Err(error) => nothing_to_transfer(disk, range, error).map(|()| Outcome::Good)?,
    };
    if disk.read_only {
        return Err(Sense::WRITE_PROTECTED);
    }
    Ok(outcome)
}

/// VERIFY (10, 16) without data to compare with. It checks only that the blocks exist: virtio
/// has no operation that verifies the medium.
pub(crate) fn verify(disk: &Disk, range: Range) -> Result<Outcome<'_>, Sense> {
    check_flags(disk, range, DPO)?;
    if range.flags & BYTCHK != 0 {
        return Err(Sense::invalid_field(CdbField { byte: 1, bit: 2 }));
    }
    must_exist(disk, range)?;
    Ok(Outcome::Good)
}

/// SYNCHRONIZE CACHE (10, 16). The device flushes its whole cache, so it flushes every block
/// that the command names. 0 blocks mean all blocks from the LBA on. IMMED allows status
/// before the flush completes. Status always comes after it, which promises more.
pub(crate) fn synchronize_cache(disk: &Disk, range: Range) -> Result<Outcome<'_>, Sense> {
    must_exist(disk, range)?;
    Ok(flush(disk))
}

/// START STOP UNIT. A stopped disk stays accessible, because it has nothing to spin down, load
/// or eject.
///
/// Stopping flushes first, unless NO_FLUSH (SBC-3, "START STOP UNIT command").
/// Power conditions are not supported.
pub(crate) fn start_stop_unit<'d>(disk: &'d Disk, cdb: &[u8]) -> Result<Outcome<'d>, Sense> {
    const POWER_CONDITION: u8 = 0xF0;
    const NO_FLUSH: u8 = 1 << 2;
    const LOEJ: u8 = 1 << 1;
    const START: u8 = 0x01;

    let flags = fixed::<6>(cdb)?[4];
    if flags & POWER_CONDITION != 0 {
        return Err(Sense::invalid_field(CdbField::byte(4)));
    }
    if flags & LOEJ != 0 {
        return Err(Sense::invalid_field(CdbField { byte: 4, bit: 1 }));
    }
    if flags & (START | NO_FLUSH) == 0 {
        return Ok(flush(disk));
    }
    Ok(Outcome::Good)
}

/// TEST UNIT READY.
pub(crate) fn test_unit_ready<'d>(disk: &'d Disk, cdb: &[u8]) -> Result<Outcome<'d>, Sense> {
    fixed::<6>(cdb)?;
    disk.ready()?;
    Ok(Outcome::Good)
}

/// Checks byte 1. Refuses protection information, which the disk does not have. Refuses the
/// bits `cache` (DPO and FUA) unless the mode parameter header reports DPOFUA.
#[inline]
fn check_flags(disk: &Disk, range: Range, cache: u8) -> Result<(), Sense> {
    if range.flags & (PROTECT | cache) == 0 {
        return Ok(());
    }
    check_flags_set(disk, range.flags & (PROTECT | cache))
}

fn check_flags_set(disk: &Disk, flags: u8) -> Result<(), Sense> {
    let field = if flags & PROTECT != 0 {
        CdbField::byte(1)
    } else if disk.dpo_fua {
        return Ok(());
    } else if flags & DPO != 0 {
        CdbField { byte: 1, bit: 4 }
    } else {
        CdbField { byte: 1, bit: 3 }
    };
    Err(Sense::invalid_field(field))
}

/// The outcome of a command whose blocks form no extent.
///
/// # Errors
///
/// The sense data, unless the command asks for 0 blocks that exist.
#[cold]
fn nothing_to_transfer(disk: &Disk, range: Range, error: ExtentError) -> Result<(), Sense> {
    disk.ready()?;
    match error {
        ExtentError::Empty => Ok(()),
        ExtentError::BeyondCapacity => Err(out_of_range(range)),
        // SBC-3, "Block Limits VPD page": MAXIMUM TRANSFER LENGTH.
        ExtentError::TooLong => Err(Sense::invalid_field(range.blocks_field)),
    }
}

/// Checks a command that transfers no data: the disk must be ready, and the blocks must exist.
fn must_exist(disk: &Disk, range: Range) -> Result<(), Sense> {
    disk.ready()?;
    if disk.capacity.contains(range.lba, range.blocks) {
        Ok(())
    } else {
        Err(out_of_range(range))
    }
}

fn out_of_range(range: Range) -> Sense {
    Sense::illegal_request(
        AdditionalSense::LogicalBlockAddressOutOfRange,
        range.lba_field,
    )
}

/// Flushes the device's cache. A cache that is off may still contain data that was written
/// while it was on, so it is flushed too.
fn flush(disk: &Disk) -> Outcome<'_> {
    if disk.write_cache.is_present() {
        Outcome::Media(MediaOp::Flush)
    } else {
        Outcome::Good
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::{Blocks, CachePolicy, Lba, WriteCache};

    use crate::disk::WriteCacheState;
    use crate::example;
    use crate::luns::Lun;

    /// Returns the media operation of a command, or `None` for GOOD.
    fn media(disk: &Disk, cdb: &[u8]) -> Option<MediaOp> {
        match disk.execute(Lun(0), cdb).unwrap() {
            Outcome::Good => None,
            Outcome::Media(operation) => Some(operation),
            other => panic!("{other:?}"),
        }
    }

    fn refusal(disk: &Disk, cdb: &[u8]) -> Sense {
        disk.execute(Lun(0), cdb).unwrap_err()
    }

    fn out_of_range(byte: u16, bit: u8) -> Sense {
        Sense::illegal_request(
            AdditionalSense::LogicalBlockAddressOutOfRange,
            CdbField { byte, bit },
        )
    }

    fn invalid(byte: u16, bit: u8) -> Sense {
        Sense::invalid_field(CdbField { byte, bit })
    }

    fn read_10(flags: u8, lba: u32, blocks: u16) -> [u8; 10] {
        rw_10(0x28, flags, lba, blocks)
    }

    fn write_10(flags: u8, lba: u32, blocks: u16) -> [u8; 10] {
        rw_10(0x2A, flags, lba, blocks)
    }

    fn rw_10(operation: u8, flags: u8, lba: u32, blocks: u16) -> [u8; 10] {
        let [l0, l1, l2, l3] = lba.to_be_bytes();
        let [b0, b1] = blocks.to_be_bytes();
        [operation, flags, l0, l1, l2, l3, 0, b0, b1, 0]
    }

    #[test]
    fn each_read_and_write_names_the_same_blocks() {
        let disk = example::disk();
        let extent = disk.capacity.extent(Lba(5), Blocks(3)).unwrap();
        for cdb in [
            &[0x08, 0, 0, 5, 3, 0][..],
            &[0x28, 0, 0, 0, 0, 5, 0, 0, 3, 0],
            &[0xA8, 0, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0],
            &[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0],
        ] {
            let read = MediaOp::Read(extent);
            assert_eq!(media(&disk, cdb), Some(read));

            let mut cdb = cdb.to_vec();
            cdb[0] += 2; // each WRITE follows its READ by 2
            let write = MediaOp::Write(extent);
            assert_eq!(media(&disk, &cdb), Some(write));
        }
    }

    #[test]
    fn read_6_of_length_0_reads_256_blocks() {
        let disk = example::disk();
        let extent = disk.capacity.extent(Lba(0), Blocks(256)).unwrap();
        let read = MediaOp::Read(extent);
        assert_eq!(media(&disk, &[0x08, 0, 0, 0, 0, 0]), Some(read));
    }

    #[test]
    fn a_transfer_of_no_blocks_is_good_and_transfers_nothing() {
        let disk = example::disk();
        assert_eq!(media(&disk, &read_10(0, 5, 0)), None);
        assert_eq!(media(&disk, &write_10(0, 5, 0)), None);
        assert_eq!(media(&disk, &read_10(0, example::BLOCKS, 0)), None);
    }

    #[test]
    fn a_transfer_beyond_the_capacity_is_refused_at_the_lba() {
        let disk = example::disk();
        for (lba, blocks) in [
            (example::BLOCKS, 1),
            (example::BLOCKS - 1, 2),
            (example::BLOCKS + 1, 0),
            (u32::MAX, u16::MAX),
        ] {
            assert_eq!(refusal(&disk, &read_10(0, lba, blocks)), out_of_range(2, 7));
            assert_eq!(
                refusal(&disk, &write_10(0, lba, blocks)),
                out_of_range(2, 7)
            );
        }
        let read_6 = [0x08, 0x1F, 0xFF, 0xFF, 1, 0];
        assert_eq!(refusal(&disk, &read_6), out_of_range(1, 4));
    }

    #[test]
    fn an_lba_that_overflows_64_bits_with_its_length_is_refused() {
        let cdb = [
            0x88, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 2, 0, 0,
        ];
        assert_eq!(refusal(&example::disk(), &cdb), out_of_range(2, 7));
    }

    #[test]
    fn the_range_is_checked_in_blocks_and_not_in_sectors() {
        let disk = Disk {
            capacity: example::capacity(800, 4096),
            ..example::disk()
        };
        assert!(media(&disk, &read_10(0, 99, 1)).is_some());
        assert_eq!(refusal(&disk, &read_10(0, 100, 1)), out_of_range(2, 7));
    }

    #[test]
    fn a_transfer_above_the_maximum_is_refused_at_its_length() {
        let disk = Disk {
            capacity: example::disk().capacity.with_longest_transfer(8 * 512),
            ..example::disk()
        };
        assert!(media(&disk, &read_10(0, 0, 8)).is_some());
        assert_eq!(refusal(&disk, &read_10(0, 0, 9)), invalid(7, 7));
        assert_eq!(refusal(&disk, &write_10(0, 0, 9)), invalid(7, 7));
        assert_eq!(refusal(&disk, &[0x0A, 0, 0, 0, 0, 0]), invalid(4, 7));
        let twelve = [0xA8, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0];
        assert_eq!(refusal(&disk, &twelve), invalid(6, 7));
        let sixteen = [0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0];
        assert_eq!(refusal(&disk, &sixteen), invalid(10, 7));
    }

    #[test]
    fn a_verify_has_no_maximum_length_because_it_transfers_nothing() {
        let disk = Disk {
            capacity: example::disk().capacity.with_longest_transfer(8 * 512),
            ..example::disk()
        };
        assert_eq!(media(&disk, &rw_10(0x2F, 0, 0, 9)), None);
    }

    #[test]
    fn protection_information_is_refused_at_its_field() {
        let disk = example::disk();
        for protect in 1..8 {
            for operation in [0x28, 0x2A, 0x2F] {
                let cdb = rw_10(operation, protect << 5, 0, 1);
                assert_eq!(refusal(&disk, &cdb), invalid(1, 7));
            }
        }
    }

    #[test]
    fn a_write_with_fua_is_durable_unless_no_cache_can_hold_the_write() {
        use CachePolicy::{WriteBack, WriteThrough};

        for (write_cache, expected) in [
            (WriteCache::Fixed(WriteBack), true),
            (WriteCache::Fixed(WriteThrough), false),
            (WriteCache::Absent, false),
            (WriteCache::Switchable(WriteBack), true),
            // The cache may be switched on while the write is in flight.
            (WriteCache::Switchable(WriteThrough), true),
        ] {
            let disk = Disk {
                write_cache: WriteCacheState::new(write_cache),
                ..example::disk()
            };
            let durable = match media(&disk, &write_10(FUA, 0, 1)) {
                Some(MediaOp::DurableWrite(_)) => true,
                Some(MediaOp::Write(_)) => false,
                other => panic!("{other:?}"),
            };
            assert_eq!(durable, expected);
        }
    }

    #[test]
    fn fua_does_not_change_a_read() {
        let disk = example::disk();
        assert_eq!(
            media(&disk, &read_10(FUA, 0, 1)),
            media(&disk, &read_10(0, 0, 1))
        );
    }

    #[test]
    fn dpo_is_a_hint_that_changes_nothing() {
        let disk = example::disk();
        assert_eq!(
            media(&disk, &write_10(DPO, 0, 1)),
            media(&disk, &write_10(0, 0, 1))
        );
    }

    #[test]
    fn dpo_and_fua_are_refused_at_their_bits_without_dpofua() {
        let disk = Disk {
            dpo_fua: false,
            ..example::disk()
        };
        for cdb in [read_10, write_10] {
            assert_eq!(refusal(&disk, &cdb(DPO, 0, 1)), invalid(1, 4));
            assert_eq!(refusal(&disk, &cdb(FUA, 0, 1)), invalid(1, 3));
            assert!(media(&disk, &cdb(0, 0, 1)).is_some());
        }
        assert_eq!(refusal(&disk, &rw_10(0x2F, DPO, 0, 1)), invalid(1, 4));
    }

    #[test]
    fn obsolete_and_ignored_bits_of_a_read_change_nothing() {
        let disk = example::disk();
        let rarc_fua_nv_reladr = 0b111;
        assert_eq!(
            media(&disk, &read_10(rarc_fua_nv_reladr, 0, 1)),
            media(&disk, &read_10(0, 0, 1))
        );
    }

    #[test]
    fn a_write_to_a_read_only_disk_is_write_protected_whatever_its_length() {
        let disk = Disk {
            read_only: true,
            ..example::disk()
        };
        assert_eq!(refusal(&disk, &write_10(0, 0, 1)), Sense::WRITE_PROTECTED);
        assert_eq!(refusal(&disk, &write_10(0, 0, 0)), Sense::WRITE_PROTECTED);
        assert!(media(&disk, &read_10(0, 0, 1)).is_some());
    }

    #[test]
    fn a_verify_that_compares_data_is_refused() {
        let disk = example::disk();
        for bytchk in 1..4 {
            let cdb = rw_10(0x2F, bytchk << 1, 0, 1);
            assert_eq!(refusal(&disk, &cdb), invalid(1, 2));
        }
    }

    #[test]
    fn verify_beyond_the_capacity_is_refused_with_lba_out_of_range() {
        let disk = example::disk();
        let last = example::BLOCKS - 1;
        assert_eq!(media(&disk, &rw_10(0x2F, 0, last, 1)), None);
        assert_eq!(refusal(&disk, &rw_10(0x2F, 0, last, 2)), out_of_range(2, 7));
    }

    #[test]
    fn synchronize_cache_flushes_if_the_device_can() {
        for (write_cache, expected) in [
            (
                WriteCache::Fixed(CachePolicy::WriteBack),
                Some(MediaOp::Flush),
            ),
            (
                WriteCache::Fixed(CachePolicy::WriteThrough),
                Some(MediaOp::Flush),
            ),
            (WriteCache::Absent, None),
        ] {
            let disk = Disk {
                write_cache: WriteCacheState::new(write_cache),
                ..example::disk()
            };
            let immed = 1 << 1;
            assert_eq!(media(&disk, &rw_10(0x35, 0, 0, 0)), expected);
            assert_eq!(media(&disk, &rw_10(0x35, immed, 3, 4)), expected);
            let mut sixteen = [0; 16];
            sixteen[0] = 0x91;
            assert_eq!(media(&disk, &sixteen), expected);
        }
    }

    #[test]
    fn synchronize_cache_of_blocks_that_do_not_exist_is_refused() {
        let cdb = rw_10(0x35, 0, example::BLOCKS, 1);
        assert_eq!(refusal(&example::disk(), &cdb), out_of_range(2, 7));
    }

    #[test]
    fn stopping_the_unit_flushes_unless_no_flush_is_set() {
        let disk = example::disk();
        let start_stop = |flags| media(&disk, &[0x1B, 0, 0, 0, flags, 0]);
        assert_eq!(start_stop(0b000), Some(MediaOp::Flush));
        assert_eq!(start_stop(0b001), None);
        assert_eq!(start_stop(0b100), None);
    }

    #[test]
    fn ejecting_and_power_conditions_are_refused_at_their_fields() {
        let disk = example::disk();
        let start_stop = |flags| refusal(&disk, &[0x1B, 0, 0, 0, flags, 0]);
        assert_eq!(start_stop(0b010), invalid(4, 1));
        assert_eq!(start_stop(0b011), invalid(4, 1));
        assert_eq!(start_stop(0x10), invalid(4, 7));
        assert_eq!(start_stop(0xF0), invalid(4, 7));
    }

    #[test]
    fn a_disk_without_blocks_has_no_medium() {
        let disk = Disk {
            capacity: example::capacity(0, 512),
            ..example::disk()
        };
        for cdb in [
            &[0; 6][..],
            &read_10(0, 0, 0),
            &write_10(0, 0, 0),
            &rw_10(0x2F, 0, 0, 0),
            &rw_10(0x35, 0, 0, 0),
        ] {
            assert_eq!(refusal(&disk, cdb), Sense::MEDIUM_NOT_PRESENT);
        }
    }
}
