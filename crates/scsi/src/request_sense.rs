//! REQUEST SENSE: the state of the disk, as data.
//!
//! A command that ends in CHECK CONDITION returns its sense data at once, so the disk keeps
//! none for later. REQUEST SENSE reports only whether the disk can be accessed
//! (SPC-4, "REQUEST SENSE command").

use crate::cdb::fixed;
use crate::disk::Disk;
use crate::execute::Outcome;
use crate::inquiry::Peripheral;
use crate::reply::{Content, Reply, Writer};
use crate::sense::Sense;

/// The format of sense data that DESC asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Format {
    Fixed,
    Descriptor,
}

/// REQUEST SENSE. If the logical unit does not exist, the sense data reports that, with status
/// GOOD.
pub(crate) fn request_sense<'d>(
    disk: &'d Disk,
    peripheral: Peripheral,
    cdb: &[u8],
) -> Result<Outcome<'d>, Sense> {
    const DESC: u8 = 0x01;
    let cdb = fixed::<6>(cdb)?;
    let format = if cdb[1] & DESC == 0 {
        Format::Fixed
    } else {
        Format::Descriptor
    };
    let sense = match peripheral {
        Peripheral::Disk => disk.ready().err().unwrap_or(Sense::NO_SENSE),
        Peripheral::Absent => Sense::LOGICAL_UNIT_NOT_SUPPORTED,
    };
    Ok(Outcome::Data(Reply {
        disk,
        content: Content::Sense(format, sense),
        allocation: cdb[4].into(),
    }))
}

pub(crate) fn write(format: Format, sense: Sense, out: &mut Writer<'_>) {
    match format {
        Format::Fixed => out.put(&sense.fixed()),
        Format::Descriptor => out.put(&sense.descriptor()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use crate::luns::Lun;

    const FIXED: [u8; 6] = [0x03, 0, 0, 0, 252, 0];
    const DESCRIPTOR: [u8; 6] = [0x03, 1, 0, 0, 252, 0];

    #[test]
    fn a_ready_disk_has_nothing_to_report() {
        let disk = example::disk();
        let mut fixed = [0; 18];
        fixed[0] = 0x70;
        fixed[7] = 10;
        assert_eq!(example::data(&disk, Lun(0), &FIXED), fixed);
        let descriptor = [0x72, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(example::data(&disk, Lun(0), &DESCRIPTOR), descriptor);
    }

    #[test]
    fn a_disk_without_blocks_reports_that_it_has_no_medium() {
        let disk = Disk {
            capacity: example::capacity(0, 512),
            ..example::disk()
        };
        let data = example::data(&disk, Lun(0), &FIXED);
        assert_eq!((data[2], data[12]), (0x02, 0x3A));
    }

    #[test]
    fn the_data_reports_a_unit_that_does_not_exist() {
        let data = example::data(&example::disk(), Lun(1), &DESCRIPTOR);
        assert_eq!(data[..4], [0x72, 0x05, 0x25, 0x00]);
    }

    #[test]
    fn the_allocation_length_cuts_the_data() {
        let data = example::data(&example::disk(), Lun(0), &[0x03, 0, 0, 0, 8, 0]);
        assert_eq!(data, [0x70, 0, 0, 0, 0, 0, 0, 10]);
    }
}
