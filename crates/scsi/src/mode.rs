//! MODE SENSE (6) and (10): how the disk is set, in mode pages.

use crate::cdb::fixed;
use crate::disk::{Disk, WriteCache};
use crate::execute::Outcome;
use crate::reply::{Content, Reply, Writer};
use crate::sense::{AdditionalSense, CdbField, Sense};

/// What to tell of the mode parameters, and in which form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    header: Header,
    pages: &'static [Page],
    values: Values,
    block_descriptor: bool,
}

/// The mode parameter header, which the two commands have a different one of.
#[derive(Clone, Copy, Debug)]
enum Header {
    Six,
    Ten,
}

/// A mode page, by its code.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
enum Page {
    Caching = 0x08,
    Control = 0x0A,
    InformationalExceptions = 0x1C,
}

/// Which values of the parameters: PC. The default values are the current ones,
/// since nothing can change them, and nothing is saved.
#[derive(Clone, Copy, Debug)]
enum Values {
    CurrentOrDefault,
    Changeable,
}

/// MODE SENSE (6).
pub(crate) fn mode_sense_6<'d>(disk: &'d Disk, cdb: &[u8]) -> Result<Outcome<'d>, Sense> {
    let cdb = fixed::<6>(cdb)?;
    Ok(Outcome::Data(Reply {
        disk,
        content: Content::Mode(request(Header::Six, [cdb[1], cdb[2], cdb[3]])?),
        allocation: cdb[4].into(),
    }))
}

/// MODE SENSE (10). LLBAA permits a longer block descriptor, and demands none.
pub(crate) fn mode_sense_10<'d>(disk: &'d Disk, cdb: &[u8]) -> Result<Outcome<'d>, Sense> {
    let cdb = fixed::<10>(cdb)?;
    Ok(Outcome::Data(Reply {
        disk,
        content: Content::Mode(request(Header::Ten, [cdb[1], cdb[2], cdb[3]])?),
        allocation: u16::from_be_bytes([cdb[7], cdb[8]]).into(),
    }))
}

/// What bytes 1 to 3 of either CDB ask for (SPC-4, "MODE SENSE (6) command").
fn request(header: Header, [flags, page, subpage]: [u8; 3]) -> Result<Request, Sense> {
    const DBD: u8 = 1 << 3;

    let values = match page >> 6 {
        0b00 | 0b10 => Values::CurrentOrDefault,
        0b01 => Values::Changeable,
        _ => {
            return Err(Sense::illegal_request(
                AdditionalSense::SavingParametersNotSupported,
                CdbField::byte(2),
            ));
        }
    };
    let pages: &[Page] = match page & 0x3F {
        0x08 => &[Page::Caching],
        0x0A => &[Page::Control],
        0x1C => &[Page::InformationalExceptions],
        0x3F => &[Page::Caching, Page::Control, Page::InformationalExceptions],
        _ => return Err(Sense::invalid_field(CdbField { byte: 2, bit: 5 })),
    };
    // No page has subpages, so all of a page's subpages (FFh) are the page.
    if !matches!(subpage, 0x00 | 0xFF) {
        return Err(Sense::invalid_field(CdbField::byte(3)));
    }
    Ok(Request {
        header,
        pages,
        values,
        block_descriptor: flags & DBD == 0,
    })
}

pub(crate) fn write(disk: &Disk, request: Request, out: &mut Writer<'_>) {
    const BLOCK_DESCRIPTOR_LENGTH: u8 = 8;
    const WP: u8 = 1 << 7;
    const DPOFUA: u8 = 1 << 4;

    let mut device_specific = 0;
    if disk.read_only {
        device_specific |= WP;
    }
    if disk.dpo_fua {
        device_specific |= DPOFUA;
    }
    let descriptors = if request.block_descriptor {
        BLOCK_DESCRIPTOR_LENGTH
    } else {
        0
    };
    let body = request.pages.iter().fold(descriptors, |sum, page| {
        sum.saturating_add(Page::HEADER_LENGTH)
            .saturating_add(page.length())
    });
    // MODE DATA LENGTH does not count itself (SPC-4, "Mode parameter header
    // formats").
    match request.header {
        Header::Six => out.put(&[3_u8.saturating_add(body), 0, device_specific, descriptors]),
        Header::Ten => {
            let length = 6_u8.saturating_add(body);
            out.put(&[0, length, 0, device_specific, 0, 0, 0, descriptors]);
        }
    }
    if request.block_descriptor {
        write_block_descriptor(disk, out);
    }
    for page in request.pages {
        page.write(disk, request.values, out);
    }
}

/// SBC-3, "Short LBA mode parameter block descriptor".
fn write_block_descriptor(disk: &Disk, out: &mut Writer<'_>) {
    let blocks = u32::try_from(disk.capacity.blocks().0).unwrap_or(u32::MAX);
    out.put(&blocks.to_be_bytes());
    // A reserved byte, then 24 bits: more than a block size has.
    out.put(&disk.capacity.block_size().bytes().to_be_bytes());
}

impl Page {
    /// PAGE CODE and PAGE LENGTH.
    const HEADER_LENGTH: u8 = 2;

    /// PAGE LENGTH: what follows it, in bytes.
    const fn length(self) -> u8 {
        match self {
            Self::Caching => 0x12,
            Self::Control | Self::InformationalExceptions => 0x0A,
        }
    }

    /// Bytes 2 and 3. All later parameters are 0.
    fn parameters(self, disk: &Disk) -> [u8; 2] {
        match self {
            // SBC-3, "Caching mode page".
            Self::Caching => {
                const WCE: u8 = 1 << 2;
                match disk.write_cache {
                    WriteCache::Enabled => [WCE, 0],
                    WriteCache::Disabled | WriteCache::Absent => [0, 0],
                }
            }
            // SPC-4, "Control mode page". Fixed format sense data; the device
            // completes commands in any order it likes.
            Self::Control => {
                const UNRESTRICTED_REORDERING: u8 = 0x1 << 4;
                [0, UNRESTRICTED_REORDERING]
            }
            // SPC-4, "Informational Exceptions Control mode page". None are
            // reported, nor could they be enabled.
            Self::InformationalExceptions => {
                const DEXCPT: u8 = 1 << 3;
                [DEXCPT, 0]
            }
        }
    }

    fn write(self, disk: &Disk, values: Values, out: &mut Writer<'_>) {
        let parameters = match values {
            Values::CurrentOrDefault => self.parameters(disk),
            // A mask of what MODE SELECT could change.
            Values::Changeable => [0; 2],
        };
        out.put(&[self as u8, self.length()]);
        out.put(&parameters);
        out.put_zeros(usize::from(self.length()).saturating_sub(parameters.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use crate::luns::Lun;
    use std::vec;
    use std::vec::Vec;

    const DBD: u8 = 1 << 3;

    fn six(disk: &Disk, flags: u8, page: u8) -> Vec<u8> {
        example::data(disk, Lun(0), &[0x1A, flags, page, 0, 255, 0])
    }

    fn ten(disk: &Disk, flags: u8, page: u8) -> Vec<u8> {
        example::data(disk, Lun(0), &[0x5A, flags, page, 0, 0, 0, 0, 1, 0, 0])
    }

    fn caching(wce: u8) -> Vec<u8> {
        let mut page = vec![0; 20];
        page[..3].copy_from_slice(&[0x08, 0x12, wce << 2]);
        page
    }

    const CONTROL: [u8; 12] = [0x0A, 0x0A, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0];
    const EXCEPTIONS: [u8; 12] = [0x1C, 0x0A, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn six_bytes_of_cdb_get_a_header_of_4_and_a_block_descriptor() {
        let data = six(&example::disk(), 0, 0x0A);
        assert_eq!(data[..4], [23, 0, 0x10, 8]);
        assert_eq!(data[4..12], [0, 0, 0x27, 0x10, 0, 0, 0x02, 0x00]);
        assert_eq!(data[12..], CONTROL);
    }

    #[test]
    fn ten_bytes_of_cdb_get_a_header_of_8_and_a_block_descriptor() {
        let data = ten(&example::disk(), 0, 0x0A);
        assert_eq!(data[..8], [0, 26, 0, 0x10, 0, 0, 0, 8]);
        assert_eq!(data[8..16], [0, 0, 0x27, 0x10, 0, 0, 0x02, 0x00]);
        assert_eq!(data[16..], CONTROL);
    }

    #[test]
    fn dbd_leaves_the_block_descriptor_out() {
        let data = six(&example::disk(), DBD, 0x0A);
        assert_eq!(data[..4], [15, 0, 0x10, 0]);
        assert_eq!(data[4..], CONTROL);
        let data = ten(&example::disk(), DBD, 0x0A);
        assert_eq!(data[..8], [0, 18, 0, 0x10, 0, 0, 0, 0]);
        assert_eq!(data[8..], CONTROL);
    }

    #[test]
    fn all_pages_come_in_ascending_order() {
        let data = six(&example::disk(), DBD, 0x3F);
        assert_eq!(data[4..], [&caching(1)[..], &CONTROL, &EXCEPTIONS].concat());
    }

    #[test]
    fn wce_tells_whether_the_write_cache_is_on() {
        for (write_cache, wce) in [
            (WriteCache::Enabled, 1),
            (WriteCache::Disabled, 0),
            (WriteCache::Absent, 0),
        ] {
            let disk = Disk {
                write_cache,
                ..example::disk()
            };
            assert_eq!(six(&disk, DBD, 0x08)[4..], caching(wce));
        }
    }

    #[test]
    fn the_header_tells_write_protection_and_dpofua() {
        for (read_only, dpo_fua, expected) in [
            (false, false, 0x00),
            (false, true, 0x10),
            (true, false, 0x80),
            (true, true, 0x90),
        ] {
            let disk = Disk {
                read_only,
                dpo_fua,
                ..example::disk()
            };
            assert_eq!(six(&disk, 0, 0x08)[2], expected);
            assert_eq!(ten(&disk, 0, 0x08)[3], expected);
        }
    }

    #[test]
    fn default_values_are_the_current_ones() {
        let disk = example::disk();
        assert_eq!(six(&disk, 0, 0x80 | 0x3F), six(&disk, 0, 0x3F));
    }

    #[test]
    fn nothing_is_changeable_but_the_header_and_block_descriptor_stay_current() {
        let disk = example::disk();
        let current = six(&disk, 0, 0x08);
        let changeable = six(&disk, 0, 0x40 | 0x08);
        assert_eq!(changeable[..14], current[..14]);
        assert_eq!(changeable[14..], [0; 18]);
    }

    #[test]
    fn saved_values_are_refused_with_saving_not_supported() {
        for cdb in [
            &[0x1A, 0, 0xC0 | 0x3F, 0, 255, 0][..],
            &[0x5A, 0, 0xC0 | 0x3F, 0, 0, 0, 0, 1, 0, 0],
        ] {
            let sense = example::disk().execute(Lun(0), cdb).unwrap_err();
            let expected = Sense::illegal_request(
                AdditionalSense::SavingParametersNotSupported,
                CdbField { byte: 2, bit: 7 },
            );
            assert_eq!(sense, expected);
        }
    }

    #[test]
    fn a_page_that_is_not_there_is_refused_at_the_page_code() {
        let disk = example::disk();
        let sense = disk.execute(Lun(0), &[0x1A, 0, 0x01, 0, 255, 0]);
        let expected = Sense::invalid_field(CdbField { byte: 2, bit: 5 });
        assert_eq!(sense.unwrap_err(), expected);
    }

    #[test]
    fn a_subpage_is_refused_at_the_subpage_code() {
        let disk = example::disk();
        for page in [0x08, 0x0A, 0x3F] {
            let sense = disk.execute(Lun(0), &[0x1A, 0, page, 0x01, 255, 0]);
            let expected = Sense::invalid_field(CdbField { byte: 3, bit: 7 });
            assert_eq!(sense.unwrap_err(), expected);
        }
    }

    #[test]
    fn all_subpages_of_a_page_are_the_page() {
        let disk = example::disk();
        let data = example::data(&disk, Lun(0), &[0x1A, 0, 0x3F, 0xFF, 255, 0]);
        assert_eq!(data, six(&disk, 0, 0x3F));
    }

    #[test]
    fn the_allocation_length_cuts_the_data_but_not_its_told_length() {
        let disk = example::disk();
        let data = example::data(&disk, Lun(0), &[0x1A, 0, 0x3F, 0, 4, 0]);
        assert_eq!(data, [3 + 8 + 20 + 12 + 12, 0, 0x10, 8]);
        let none = example::data(&disk, Lun(0), &[0x1A, 0, 0x3F, 0, 0, 0]);
        assert_eq!(none, []);
    }

    #[test]
    fn more_blocks_than_32_bits_hold_are_told_as_all_ones() {
        let disk = Disk {
            capacity: example::capacity(1 << 33, 512),
            ..example::disk()
        };
        assert_eq!(six(&disk, 0, 0x08)[4..8], [0xFF; 4]);
    }
}
