//! Logical unit numbers. There is one logical unit, and its number is 0.

use crate::cdb::fixed;
use crate::disk::Disk;
use crate::execute::Outcome;
use crate::reply::{Content, Reply, Writer};
use crate::sense::{CdbField, Sense};

/// A logical unit number of a single level. Only logical unit 0 exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lun(pub u16);

/// The logical units that SELECT REPORT asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Select {
    /// All logical units, or all but well known ones. Both are logical unit 0.
    Disks,
    /// Only well known logical units. There are none.
    WellKnown,
}

/// REPORT LUNS (SPC-4, "REPORT LUNS command"). The answer does not depend on the LUN that the
/// command was sent to.
pub(crate) fn report_luns<'d>(disk: &'d Disk, cdb: &[u8]) -> Result<Outcome<'d>, Sense> {
    let cdb = fixed::<12>(cdb)?;
    let select = match cdb[2] {
        0x00 | 0x02 => Select::Disks,
        0x01 => Select::WellKnown,
        _ => return Err(Sense::invalid_field(CdbField::byte(2))),
    };
    Ok(Outcome::Data(Reply {
        disk,
        content: Content::Luns(select),
        allocation: u32::from_be_bytes([cdb[6], cdb[7], cdb[8], cdb[9]]),
    }))
}

pub(crate) fn write(select: Select, out: &mut Writer<'_>) {
    match select {
        Select::Disks => {
            out.put(&[0, 0, 0, 8, 0, 0, 0, 0]);
            // LUN 0, single level, peripheral device addressing.
            out.put_zeros(8);
        }
        Select::WellKnown => out.put_zeros(8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use std::vec::Vec;

    fn report(lun: u16, select: u8, allocation: u8) -> Vec<u8> {
        let cdb = [0xA0, 0, select, 0, 0, 0, 0, 0, 0, allocation, 0, 0];
        example::data(&example::disk(), Lun(lun), &cdb)
    }

    #[test]
    fn lun_0_is_the_only_logical_unit() {
        let expected = [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(report(0, 0x00, 255), expected);
        assert_eq!(report(0, 0x02, 255), expected);
    }

    #[test]
    fn there_are_no_well_known_logical_units() {
        assert_eq!(report(0, 0x01, 255), [0; 8]);
    }

    #[test]
    fn every_lun_returns_the_same_list() {
        assert_eq!(report(7, 0, 255), report(0, 0, 255));
    }

    #[test]
    fn the_allocation_length_cuts_the_list_but_not_the_reported_length() {
        assert_eq!(report(0, 0, 8), [0, 0, 0, 8, 0, 0, 0, 0]);
        assert_eq!(report(0, 0, 0), []);
    }

    #[test]
    fn other_selections_are_refused_at_the_selection() {
        for select in [0x03, 0x10, 0x11, 0x12, 0xFF] {
            let cdb = [0xA0, 0, select, 0, 0, 0, 0, 0, 0, 255, 0, 0];
            let sense = example::disk().execute(Lun(0), &cdb).unwrap_err();
            assert_eq!(sense, Sense::invalid_field(CdbField { byte: 2, bit: 7 }));
        }
    }
}
