//! READ CAPACITY (10) and (16): the number and the size of the blocks.

use crate::cdb::fixed;
use crate::disk::Disk;
use crate::execute::Outcome;
use crate::reply::{Content, Reply, Writer};
use crate::sense::{CdbField, Sense};

/// Partial medium indicator. This field and the LBA are obsolete. An LBA without PMI was always
/// an error (SBC-2, "READ CAPACITY (10) command").
const PMI: u8 = 0x01;

/// READ CAPACITY (10).
pub(crate) fn read_capacity_10<'d>(disk: &'d Disk, cdb: &[u8]) -> Result<Outcome<'d>, Sense> {
    let cdb = fixed::<10>(cdb)?;
    if cdb[8] & PMI == 0 && [cdb[2], cdb[3], cdb[4], cdb[5]] != [0; 4] {
        return Err(Sense::invalid_field(CdbField::byte(2)));
    }
    disk.ready()?;
    Ok(Outcome::Data(Reply {
        disk,
        content: Content::Capacity10,
        allocation: u32::MAX, // the CDB has no allocation length
    }))
}

/// SERVICE ACTION IN (16). READ CAPACITY (16) is the only supported service action.
pub(crate) fn service_action_in_16<'d>(disk: &'d Disk, cdb: &[u8]) -> Result<Outcome<'d>, Sense> {
    const SERVICE_ACTION: u8 = 0x1F;
    const READ_CAPACITY_16: u8 = 0x10;

    let cdb = fixed::<16>(cdb)?;
    if cdb[1] & SERVICE_ACTION != READ_CAPACITY_16 {
        return Err(Sense::invalid_field(CdbField { byte: 1, bit: 4 }));
    }
    let lba = [
        cdb[2], cdb[3], cdb[4], cdb[5], cdb[6], cdb[7], cdb[8], cdb[9],
    ];
    if cdb[14] & PMI == 0 && lba != [0; 8] {
        return Err(Sense::invalid_field(CdbField::byte(2)));
    }
    disk.ready()?;
    Ok(Outcome::Data(Reply {
        disk,
        content: Content::Capacity16,
        allocation: u32::from_be_bytes([cdb[10], cdb[11], cdb[12], cdb[13]]),
    }))
}

/// SBC-3, "READ CAPACITY (10) parameter data". A last LBA that does not fit 32 bits is reported
/// as FFFFFFFFh, and the initiator then sends READ CAPACITY (16).
pub(crate) fn write_10(disk: &Disk, out: &mut Writer<'_>) {
    let last = u32::try_from(last_lba(disk)).unwrap_or(u32::MAX);
    out.put(&last.to_be_bytes());
    out.put(&disk.capacity.block_size().bytes().to_be_bytes());
}

/// SBC-3, "READ CAPACITY (16) parameter data". The disk has no protection information and is
/// fully provisioned.
pub(crate) fn write_16(disk: &Disk, out: &mut Writer<'_>) {
    out.put(&last_lba(disk).to_be_bytes());
    out.put(&disk.capacity.block_size().bytes().to_be_bytes());
    out.put(&[0, disk.topology.alignment.physical_exponent()]);
    out.put(&disk.topology.alignment.lowest_aligned().to_be_bytes());
    out.put_zeros(16);
}

/// The last LBA. A disk without blocks is not ready, so this is not called for it.
fn last_lba(disk: &Disk) -> u64 {
    disk.capacity.last().map_or(0, |lba| lba.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::{Alignment, Topology};

    use crate::example;
    use crate::luns::Lun;
    use std::vec::Vec;

    const TEN: [u8; 10] = [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    fn sixteen(allocation: u8) -> [u8; 16] {
        [
            0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, allocation, 0, 0,
        ]
    }

    fn with_capacity(sectors: u64, block_size: u32) -> Disk {
        Disk {
            capacity: example::capacity(sectors, block_size),
            ..example::disk()
        }
    }

    fn capacity_10(disk: &Disk) -> Vec<u8> {
        example::data(disk, Lun(0), &TEN)
    }

    fn capacity_16(disk: &Disk) -> Vec<u8> {
        example::data(disk, Lun(0), &sixteen(32))
    }

    #[test]
    fn both_commands_report_the_last_lba_and_the_block_size() {
        let disk = with_capacity(8_000, 4096);
        assert_eq!(capacity_10(&disk), [0, 0, 0x03, 0xE7, 0, 0, 0x10, 0]);
        let data = capacity_16(&disk);
        assert_eq!(data.len(), 32);
        assert_eq!(data[..12], [0, 0, 0, 0, 0, 0, 0x03, 0xE7, 0, 0, 0x10, 0]);
        assert_eq!(data[12..], [0; 20]);
    }

    #[test]
    fn only_read_capacity_16_reports_a_last_lba_beyond_32_bits() {
        for (blocks, told) in [
            (0xFFFF_FFFF, 0xFFFF_FFFE_u32),
            (0x1_0000_0000, 0xFFFF_FFFF),
            (0x1_0000_0001, 0xFFFF_FFFF),
        ] {
            let disk = with_capacity(blocks, 512);
            assert_eq!(capacity_10(&disk)[..4], told.to_be_bytes());
            assert_eq!(capacity_16(&disk)[..8], (blocks - 1).to_be_bytes());
        }
    }

    #[test]
    fn read_capacity_16_reports_the_physical_block_alignment() {
        let disk = Disk {
            topology: Topology {
                alignment: Alignment::new(3, 7).unwrap(),
                ..Topology::default()
            },
            ..example::disk()
        };
        assert_eq!(capacity_16(&disk)[12..16], [0, 3, 0, 7]);
    }

    #[test]
    fn an_allocation_length_of_0_is_not_an_error() {
        assert_eq!(example::data(&example::disk(), Lun(0), &sixteen(0)), []);
    }

    #[test]
    fn the_allocation_length_cuts_the_data() {
        let data = example::data(&example::disk(), Lun(0), &sixteen(12));
        assert_eq!(data.len(), 12);
    }

    #[test]
    fn an_lba_without_pmi_is_refused_at_the_lba() {
        let disk = example::disk();
        let expected = Sense::invalid_field(CdbField { byte: 2, bit: 7 });
        let mut ten = TEN;
        ten[5] = 1;
        assert_eq!(disk.execute(Lun(0), &ten).unwrap_err(), expected);
        ten[8] = PMI;
        assert!(disk.execute(Lun(0), &ten).is_ok());

        let mut sixteen = sixteen(32);
        sixteen[9] = 1;
        assert_eq!(disk.execute(Lun(0), &sixteen).unwrap_err(), expected);
        sixteen[14] = PMI;
        assert!(disk.execute(Lun(0), &sixteen).is_ok());
    }

    #[test]
    fn other_service_actions_are_refused_at_the_service_action() {
        let disk = example::disk();
        for action in (0..0x20).filter(|&action| action != 0x10) {
            let mut cdb = sixteen(32);
            cdb[1] = action;
            let expected = Sense::invalid_field(CdbField { byte: 1, bit: 4 });
            assert_eq!(disk.execute(Lun(0), &cdb).unwrap_err(), expected);
        }
    }

    #[test]
    fn a_disk_without_blocks_refuses_read_capacity() {
        let disk = with_capacity(0, 512);
        for cdb in [&TEN[..], &sixteen(32)] {
            let sense = disk.execute(Lun(0), cdb).unwrap_err();
            assert_eq!(sense, Sense::MEDIUM_NOT_PRESENT);
        }
    }
}
