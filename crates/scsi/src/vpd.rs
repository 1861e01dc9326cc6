//! The vital product data pages: supported pages, serial number, device
//! identification and block limits.

use block::Blocks;

use crate::disk::Disk;
use crate::inquiry::Peripheral;
use crate::reply::Writer;

/// A page, by its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Page {
    SupportedPages = 0x00,
    UnitSerialNumber = 0x80,
    DeviceIdentification = 0x83,
    BlockLimits = 0xB0,
}

/// The supported pages, in ascending order.
///
/// A logical unit that does not exist has only the first. A disk without a serial number has
/// no Unit Serial Number page.
fn supported(disk: &Disk, peripheral: Peripheral) -> impl Iterator<Item = Page> {
    let present = peripheral == Peripheral::Disk;
    let serial = !disk.identity.serial.is_empty();
    [
        (Page::SupportedPages, true),
        (Page::UnitSerialNumber, present && serial),
        (Page::DeviceIdentification, present),
        (Page::BlockLimits, present),
    ]
    .into_iter()
    .filter_map(|(page, supported)| supported.then_some(page))
}

/// The page with this code, if it is supported.
pub(crate) fn page(disk: &Disk, peripheral: Peripheral, code: u8) -> Option<Page> {
    supported(disk, peripheral).find(|&page| page as u8 == code)
}

pub(crate) fn write(disk: &Disk, peripheral: Peripheral, page: Page, out: &mut Writer<'_>) {
    out.put(&[peripheral as u8, page as u8, 0]);
    match page {
        Page::SupportedPages => supported_pages(disk, peripheral, out),
        Page::UnitSerialNumber => unit_serial_number(disk, out),
        Page::DeviceIdentification => device_identification(disk, out),
        Page::BlockLimits => block_limits(disk, out),
    }
}

/// SPC-4, "Supported VPD Pages VPD page", from the low byte of the page length on.
fn supported_pages(disk: &Disk, peripheral: Peripheral, out: &mut Writer<'_>) {
    let count = supported(disk, peripheral).fold(0_u8, |count, _| count.saturating_add(1));
    out.put(&[count]);
    for page in supported(disk, peripheral) {
        out.put(&[page as u8]);
    }
}

/// SPC-4, "Unit Serial Number VPD page", from the low byte of the page length on.
fn unit_serial_number(disk: &Disk, out: &mut Writer<'_>) {
    out.put(&[disk.identity.serial.length()]);
    out.put(disk.identity.serial.as_bytes());
}

/// SPC-4, "Device Identification VPD page", from the low byte of the page length
/// on: one T10 vendor ID based designator, made of vendor, product and serial
/// number, as that standard recommends.
///
/// Without a serial number there is no designator. One of vendor and product alone would be
/// the same for all such disks, and an initiator could take them for one disk.
fn device_identification(disk: &Disk, out: &mut Writer<'_>) {
    const CODE_SET_ASCII: u8 = 0x2;
    const LOGICAL_UNIT_T10_VENDOR_ID: u8 = 0x01;
    const HEADER_LENGTH: u8 = 4;
    const VENDOR_AND_PRODUCT_LENGTH: u8 = 8 + 16;

    let identity = &disk.identity;
    if identity.serial.is_empty() {
        out.put(&[0]);
        return;
    }
    let length = VENDOR_AND_PRODUCT_LENGTH.saturating_add(identity.serial.length());
    out.put(&[
        HEADER_LENGTH.saturating_add(length),
        CODE_SET_ASCII,
        LOGICAL_UNIT_T10_VENDOR_ID,
        0,
        length,
    ]);
    out.put(&identity.vendor);
    out.put(&identity.product);
    out.put(identity.serial.as_bytes());
}

/// SBC-3, "Block Limits VPD page", from the low byte of the page length on. The limits of
/// commands that are not supported are 0.
fn block_limits(disk: &Disk, out: &mut Writer<'_>) {
    const PAGE_LENGTH: u8 = 0x3C;

    // A transfer has at most 2^31 bytes, so the limit fits its field. Advice that does not
    // fit its field is not reported.
    let Blocks(maximum) = disk.capacity.longest_transfer();
    let Blocks(optimal) = disk.topology.optimal;
    let Blocks(granularity) = disk.topology.granularity;
    let maximum = u32::try_from(maximum).unwrap_or(0);
    let optimal = u32::try_from(optimal).unwrap_or(0);
    let granularity = u16::try_from(granularity).unwrap_or(0);

    out.put(&[PAGE_LENGTH, 0, 0]);
    out.put(&granularity.to_be_bytes());
    out.put(&maximum.to_be_bytes());
    out.put(&optimal.to_be_bytes());
    out.put_zeros(48);
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::Topology;

    use crate::example;
    use crate::identity::{Identity, Serial};
    use crate::luns::Lun;
    use crate::sense::{CdbField, Sense};
    use std::vec::Vec;

    fn vpd(disk: &Disk, lun: u16, code: u8) -> Vec<u8> {
        example::data(disk, Lun(lun), &[0x12, 1, code, 1, 0, 0])
    }

    fn with_serial(serial: Serial) -> Disk {
        let disk = example::disk();
        Disk {
            identity: Identity {
                serial,
                ..disk.identity
            },
            ..disk
        }
    }

    #[test]
    fn page_00_lists_the_pages_in_ascending_order() {
        let page = vpd(&example::disk(), 0, 0x00);
        assert_eq!(page, [0, 0x00, 0, 4, 0x00, 0x80, 0x83, 0xB0]);
    }

    #[test]
    fn page_80_is_the_serial_number() {
        let page = vpd(&example::disk(), 0, 0x80);
        assert_eq!(page[..4], [0, 0x80, 0, 6]);
        assert_eq!(&page[4..], b"disk-7");
    }

    #[test]
    fn page_83_is_one_designator_of_vendor_product_and_serial_number() {
        let page = vpd(&example::disk(), 0, 0x83);
        assert_eq!(page[..8], [0, 0x83, 0, 34, 0x02, 0x01, 0, 30]);
        assert_eq!(&page[8..], b"EXAMPLE Disk            disk-7");
    }

    #[test]
    fn a_disk_without_a_serial_number_has_no_designator() {
        let disk = with_serial(Serial::EMPTY);
        assert_eq!(vpd(&disk, 0, 0x00), [0, 0x00, 0, 3, 0x00, 0x83, 0xB0]);
        assert_eq!(vpd(&disk, 0, 0x83), [0, 0x83, 0, 0]);
        let sense = disk.execute(Lun(0), &[0x12, 1, 0x80, 0, 255, 0]);
        let expected = Sense::invalid_field(CdbField { byte: 2, bit: 7 });
        assert_eq!(sense.unwrap_err(), expected);
    }

    #[test]
    fn the_longest_serial_number_fits_both_pages() {
        let disk = with_serial(Serial::new(&[0xFF; 20]));
        assert_eq!(vpd(&disk, 0, 0x80).len(), 4 + 60);
        let page = vpd(&disk, 0, 0x83);
        assert_eq!(page.len(), 4 + 4 + 84);
        assert_eq!((page[3], page[7]), (88, 84));
    }

    #[test]
    fn page_b0_reports_the_transfer_limits() {
        let disk = Disk {
            capacity: example::disk()
                .capacity
                .with_longest_transfer(0x10203 * 512),
            topology: Topology {
                optimal: Blocks(0x0506_0708),
                granularity: Blocks(0x090A),
                ..Topology::default()
            },
            ..example::disk()
        };
        let page = vpd(&disk, 0, 0xB0);
        assert_eq!(page.len(), 64);
        assert_eq!(page[..8], [0, 0xB0, 0, 0x3C, 0, 0, 9, 10]);
        assert_eq!(page[8..16], [0, 1, 2, 3, 5, 6, 7, 8]);
        assert_eq!(page[16..], [0; 48]);
    }

    #[test]
    fn advice_that_does_not_fit_its_field_is_not_reported() {
        let disk = Disk {
            topology: Topology {
                optimal: Blocks(1 << 32),
                granularity: Blocks(1 << 16),
                ..Topology::default()
            },
            ..example::disk()
        };
        let page = vpd(&disk, 0, 0xB0);
        assert_eq!((&page[6..8], &page[12..16]), (&[0; 2][..], &[0; 4][..]));
    }

    #[test]
    fn a_page_that_is_not_listed_is_refused_at_the_page_code() {
        let sense = example::disk()
            .execute(Lun(0), &[0x12, 1, 0xB1, 0, 255, 0])
            .unwrap_err();
        assert_eq!(sense, Sense::invalid_field(CdbField { byte: 2, bit: 7 }));
    }

    #[test]
    fn a_unit_that_does_not_exist_has_only_page_00() {
        let disk = example::disk();
        assert_eq!(vpd(&disk, 1, 0x00), [0x7F, 0x00, 0, 1, 0x00]);
        assert!(disk.execute(Lun(1), &[0x12, 1, 0x83, 0, 255, 0]).is_err());
    }
}
