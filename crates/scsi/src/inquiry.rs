//! INQUIRY: the standard data, and the selection of a vital product data (VPD) page.

use crate::cdb::fixed;
use crate::disk::Disk;
use crate::execute::Outcome;
use crate::reply::{Content, Reply, Writer};
use crate::sense::{CdbField, Sense};
use crate::vpd;

/// The peripheral at a LUN: PERIPHERAL QUALIFIER and PERIPHERAL DEVICE TYPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Peripheral {
    /// A direct access block device, connected.
    Disk = 0x00,
    /// No logical unit: qualifier 011b, device type 1Fh.
    Absent = 0x7F,
}

/// INQUIRY (SPC-4, "INQUIRY command").
pub(crate) fn inquiry<'d>(
    disk: &'d Disk,
    peripheral: Peripheral,
    cdb: &[u8],
) -> Result<Outcome<'d>, Sense> {
    const EVPD: u8 = 0x01;
    /// Obsolete. It is refused, because it asks for data that the disk does not have.
    const CMDDT: u8 = 1 << 1;

    let cdb = fixed::<6>(cdb)?;
    if cdb[1] & CMDDT != 0 {
        return Err(Sense::invalid_field(CdbField { byte: 1, bit: 1 }));
    }
    let refused_page = Sense::invalid_field(CdbField::byte(2));
    let content = if cdb[1] & EVPD != 0 {
        let page = vpd::page(disk, peripheral, cdb[2]).ok_or(refused_page)?;
        Content::Vpd(peripheral, page)
    } else if cdb[2] == 0 {
        Content::Inquiry(peripheral)
    } else {
        return Err(refused_page);
    };
    Ok(Outcome::Data(Reply {
        disk,
        content,
        allocation: u16::from_be_bytes([cdb[3], cdb[4]]).into(),
    }))
}

/// The standard data (SPC-4, "Standard INQUIRY data"), up to and including the
/// version descriptors: 74 bytes.
pub(crate) fn write(disk: &Disk, peripheral: Peripheral, out: &mut Writer<'_>) {
    const VERSION_SPC_4: u8 = 0x06;
    const HISUP: u8 = 1 << 4;
    const RESPONSE_DATA_FORMAT: u8 = 2;
    const ADDITIONAL_LENGTH: u8 = 74 - 5;
    const CMDQUE: u8 = 1 << 1;
    // The values for "no version claimed" (SPC-4, "Version descriptor
    // values").
    const SAM_5: u16 = 0x00A0;
    const SPC_4: u16 = 0x0460;
    const SBC_3: u16 = 0x04C0;

    out.put(&[
        peripheral as u8,
        0,
        VERSION_SPC_4,
        HISUP | RESPONSE_DATA_FORMAT,
        ADDITIONAL_LENGTH,
        0,
        0,
        CMDQUE,
    ]);
    out.put(&disk.identity.vendor);
    out.put(&disk.identity.product);
    out.put(&disk.identity.revision);
    out.put_zeros(22);
    for standard in [SAM_5, SPC_4, SBC_3] {
        out.put(&standard.to_be_bytes());
    }
    out.put_zeros(10);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use crate::luns::Lun;

    #[test]
    fn the_standard_data_describes_the_disk() {
        let data = example::data(&example::disk(), Lun(0), &[0x12, 0, 0, 0, 255, 0]);
        assert_eq!(data.len(), 74);
        assert_eq!(data[..8], [0x00, 0, 0x06, 0x12, 69, 0, 0, 0x02]);
        assert_eq!(&data[8..36], b"EXAMPLE Disk            0001");
        assert_eq!(data[36..58], [0; 22]);
        assert_eq!(data[58..64], [0x00, 0xA0, 0x04, 0x60, 0x04, 0xC0]);
        assert_eq!(data[64..], [0; 10]);
    }

    #[test]
    fn the_allocation_length_has_16_bits() {
        let data = example::data(&example::disk(), Lun(0), &[0x12, 0, 0, 1, 0, 0]);
        assert_eq!(data.len(), 74);
    }

    #[test]
    fn the_allocation_length_cuts_the_data_but_not_the_reported_length() {
        let data = example::data(&example::disk(), Lun(0), &[0x12, 0, 0, 0, 36, 0]);
        assert_eq!((data.len(), data[4]), (36, 69));
    }

    #[test]
    fn qualifier_and_device_type_say_that_a_unit_does_not_exist() {
        let data = example::data(&example::disk(), Lun(1), &[0x12, 0, 0, 0, 255, 0]);
        assert_eq!((data.len(), data[0]), (74, 0x7F));
    }

    #[test]
    fn a_page_code_without_evpd_is_refused_at_the_page_code() {
        let disk = example::disk();
        let sense = disk.execute(Lun(0), &[0x12, 0, 0x80, 0, 255, 0]);
        let expected = Sense::invalid_field(CdbField { byte: 2, bit: 7 });
        assert_eq!(sense.unwrap_err(), expected);
    }

    #[test]
    fn command_support_data_is_refused_at_the_bit_that_asks_for_it() {
        let disk = example::disk();
        let sense = disk.execute(Lun(0), &[0x12, 2, 0, 0, 255, 0]);
        let expected = Sense::invalid_field(CdbField { byte: 1, bit: 1 });
        assert_eq!(sense.unwrap_err(), expected);
    }
}
