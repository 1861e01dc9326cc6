//! MODE SENSE (6, 10) and MODE SELECT (6, 10): the disk's settings, as mode pages. At most the
//! write cache is changeable.

use core::iter;

use block::CachePolicy;

use crate::cdb::fixed;
use crate::disk::Disk;
use crate::execute::{CacheSwitch, MediaOp, Outcome};
use crate::reply::{Content, Reply, Writer};
use crate::sense::{AdditionalSense, CdbField, Sense};

/// The mode parameters that a MODE SENSE command asks for, and their format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    header: Header,
    pages: &'static [Page],
    values: Values,
    block_descriptor: bool,
}

/// The mode parameter header. The 6-byte and the 10-byte command have different headers.
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

/// The kind of values that PC asks for. The default values are the current ones, because the
/// disk saves no values.
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

/// MODE SENSE (10). LLBAA permits a longer block descriptor, but does not require one, so it is
/// ignored.
pub(crate) fn mode_sense_10<'d>(disk: &'d Disk, cdb: &[u8]) -> Result<Outcome<'d>, Sense> {
    let cdb = fixed::<10>(cdb)?;
    Ok(Outcome::Data(Reply {
        disk,
        content: Content::Mode(request(Header::Ten, [cdb[1], cdb[2], cdb[3]])?),
        allocation: u16::from_be_bytes([cdb[7], cdb[8]]).into(),
    }))
}

/// Parses bytes 1 to 3 of either CDB (SPC-4, "MODE SENSE (6) command").
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
    // No page has subpages, so "all subpages of a page" (FFh) means the page itself.
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

/// The length in bytes of a short LBA mode parameter block descriptor.
const BLOCK_DESCRIPTOR_LENGTH: u8 = 8;

/// Byte 2 of the caching page: write cache enable (SBC-3, "Caching mode page").
const WCE: u8 = 1 << 2;

pub(crate) fn write(disk: &Disk, request: Request, out: &mut Writer<'_>) {
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
        out.put(&block_descriptor(disk));
    }
    for page in request.pages {
        page.write(disk, request.values, out);
    }
}

/// SBC-3, "Short LBA mode parameter block descriptor".
fn block_descriptor(disk: &Disk) -> [u8; 8] {
    let blocks = u32::try_from(disk.capacity.blocks().0).unwrap_or(u32::MAX);
    let [b0, b1, b2, b3] = blocks.to_be_bytes();
    // A reserved byte, then a length of 24 bits. A block size has fewer bits, so the first
    // byte is 0.
    let [l0, l1, l2, l3] = disk.capacity.block_size().bytes().to_be_bytes();
    [b0, b1, b2, b3, l0, l1, l2, l3]
}

/// A MODE SELECT command with a valid CDB. [`ModeSelect::parse`] checks its parameter list,
/// which the initiator sends.
#[derive(Clone, Copy, Debug)]
#[must_use = "the parameter list may ask for a change"]
pub struct ModeSelect {
    header: Header,
    length: u8,
}

/// MODE SELECT (6).
pub(crate) fn mode_select_6<'d>(cdb: &[u8]) -> Result<Outcome<'d>, Sense> {
    let cdb = fixed::<6>(cdb)?;
    select(Header::Six, cdb[1], cdb[4].into())
}

/// MODE SELECT (10).
pub(crate) fn mode_select_10<'d>(cdb: &[u8]) -> Result<Outcome<'d>, Sense> {
    let cdb = fixed::<10>(cdb)?;
    select(Header::Ten, cdb[1], u16::from_be_bytes([cdb[7], cdb[8]]))
}

/// Parses byte 1 and the length of either CDB (SPC-4, "MODE SELECT (6) command"). Refuses SP and
/// RTD, because the disk saves no parameters and has no defaults.
fn select<'d>(header: Header, flags: u8, length: u16) -> Result<Outcome<'d>, Sense> {
    const PF: u8 = 1 << 4;
    const RTD: u8 = 1 << 1;
    const SP: u8 = 0x01;

    let refused = |bit| Err(Sense::invalid_field(CdbField { byte: 1, bit }));
    if flags & RTD != 0 {
        return refused(1);
    }
    if flags & SP != 0 {
        return refused(0);
    }
    if length == 0 {
        return Ok(Outcome::Good);
    }
    if flags & PF == 0 {
        return refused(4);
    }
    let length = u8::try_from(length).map_err(|_| Sense::PARAMETER_LIST_LENGTH_ERROR)?;
    Ok(Outcome::ModeSelect(ModeSelect { header, length }))
}

impl ModeSelect {
    /// The maximum length of a parameter list in bytes: that of MODE SELECT (6). It is several
    /// times the length of all mode pages.
    pub const MAX_LENGTH: usize = u8::MAX as usize;

    /// The length of the parameter list in bytes, 1 to [`Self::MAX_LENGTH`].
    #[must_use]
    pub fn length(&self) -> usize {
        self.length.into()
    }

    /// Checks the parameter list. Returns a [`MediaOp::SwitchCache`] if it switches the write
    /// cache, and `None` if every value is the current one. `list` must be a copy, because the
    /// initiator may write to its buffer at any time.
    ///
    /// A list is accepted as a whole or not at all. It may contain any of the mode pages. Each
    /// value must be the current one, unless it is changeable.
    ///
    /// # Errors
    ///
    /// PARAMETER LIST LENGTH ERROR if the list is shorter than [`Self::length`], or ends within
    /// a header, descriptor or page. INVALID FIELD IN PARAMETER LIST if it asks for a value
    /// that cannot be set.
    pub fn parse(&self, disk: &Disk, list: &[u8]) -> Result<Option<MediaOp>, Sense> {
        const CUT_OFF: Sense = Sense::PARAMETER_LIST_LENGTH_ERROR;
        const INVALID: Sense = Sense::INVALID_FIELD_IN_PARAMETER_LIST;
        const PS: u8 = 1 << 7;

        let list = list.get(..self.length()).ok_or(CUT_OFF)?;
        let (descriptors, mut rest) = match self.header {
            // MODE DATA LENGTH and the device-specific parameter are ignored
            // (SPC-4, "Mode parameter header formats"; SBC-3, "Mode parameters").
            Header::Six => match list.split_first_chunk().ok_or(CUT_OFF)? {
                ([_, 0, _, length], rest) => (u16::from(*length), rest),
                _ => return Err(INVALID),
            },
            // A medium type and LONGLBA are not supported.
            Header::Ten => match list.split_first_chunk().ok_or(CUT_OFF)? {
                ([_, _, 0, _, 0, _, high, low], rest) => (u16::from_be_bytes([*high, *low]), rest),
                _ => return Err(INVALID),
            },
        };
        if descriptors != 0 {
            if descriptors != BLOCK_DESCRIPTOR_LENGTH.into() {
                return Err(INVALID);
            }
            let (descriptor, pages) = rest.split_first_chunk::<8>().ok_or(CUT_OFF)?;
            let (blocks, block_length) = descriptor.split_at(4);
            let current = block_descriptor(disk);
            let (current_blocks, current_length) = current.split_at(4);
            // 0 blocks mean that the number does not change.
            if (blocks != current_blocks && blocks != [0; 4]) || block_length != current_length {
                return Err(INVALID);
            }
            rest = pages;
        }

        let mut change = None;
        while let Some((code, page)) = rest.split_first() {
            let (length, page) = page.split_first().ok_or(CUT_OFF)?;
            // PS is reserved here, but initiators send back the value of MODE SENSE.
            let kind = Page::of_code(code & !PS).ok_or(INVALID)?;
            if *length != kind.length() {
                return Err(INVALID);
            }
            let (parameters, pages) = page.split_at_checked((*length).into()).ok_or(CUT_OFF)?;
            let current = kind.parameters(disk).into_iter().chain(iter::repeat(0));
            let changeable = kind.changeable(disk).into_iter().chain(iter::repeat(0));
            for ((wanted, current), changeable) in parameters.iter().zip(current).zip(changeable) {
                let differs = wanted ^ current;
                if differs & !changeable != 0 {
                    return Err(INVALID);
                }
            }
            if let (Page::Caching, [flags, ..]) = (kind, parameters) {
                let policy = if flags & WCE == 0 {
                    CachePolicy::WriteThrough
                } else {
                    CachePolicy::WriteBack
                };
                change = (policy != disk.write_cache.policy())
                    .then_some(MediaOp::SwitchCache(CacheSwitch::new(policy, self.length)));
            }
            rest = pages;
        }
        Ok(change)
    }
}

impl Page {
    /// PAGE CODE and PAGE LENGTH.
    const HEADER_LENGTH: u8 = 2;

    /// The page with this code in its byte 0. No page has subpages, so SPF (bit 6) is 0.
    fn of_code(code: u8) -> Option<Self> {
        [Self::Caching, Self::Control, Self::InformationalExceptions]
            .into_iter()
            .find(|page| *page as u8 == code)
    }

    /// PAGE LENGTH: the number of bytes that follow it.
    const fn length(self) -> u8 {
        match self {
            Self::Caching => 0x12,
            Self::Control | Self::InformationalExceptions => 0x0A,
        }
    }

    /// The current values of bytes 2 and 3. All later parameters are 0.
    fn parameters(self, disk: &Disk) -> [u8; 2] {
        match self {
            // SBC-3, "Caching mode page".
            Self::Caching => match disk.write_cache.policy() {
                CachePolicy::WriteBack => [WCE, 0],
                CachePolicy::WriteThrough => [0, 0],
            },
            // SPC-4, "Control mode page". Sense data has the fixed format, and the device
            // may complete commands in any order.
            Self::Control => {
                const UNRESTRICTED_REORDERING: u8 = 0x1 << 4;
                [0, UNRESTRICTED_REORDERING]
            }
            // SPC-4, "Informational Exceptions Control mode page". No exceptions are
            // reported, and they cannot be enabled.
            Self::InformationalExceptions => {
                const DEXCPT: u8 = 1 << 3;
                [DEXCPT, 0]
            }
        }
    }

    /// The bits of bytes 2 and 3 that MODE SELECT can change. No later parameter is
    /// changeable.
    fn changeable(self, disk: &Disk) -> [u8; 2] {
        match self {
            Self::Caching if disk.write_cache.is_switchable() => [WCE, 0],
            _ => [0, 0],
        }
    }

    fn write(self, disk: &Disk, values: Values, out: &mut Writer<'_>) {
        let parameters = match values {
            Values::CurrentOrDefault => self.parameters(disk),
            Values::Changeable => self.changeable(disk),
        };
        out.put(&[self as u8, self.length()]);
        out.put(&parameters);
        out.put_zeros(usize::from(self.length()).saturating_sub(parameters.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::CachePolicy::{WriteBack, WriteThrough};
    use block::WriteCache;

    use crate::disk::WriteCacheState;
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
    fn mode_sense_6_returns_a_header_of_4_bytes_and_a_block_descriptor() {
        let data = six(&example::disk(), 0, 0x0A);
        assert_eq!(data[..4], [23, 0, 0x10, 8]);
        assert_eq!(data[4..12], [0, 0, 0x27, 0x10, 0, 0, 0x02, 0x00]);
        assert_eq!(data[12..], CONTROL);
    }

    #[test]
    fn mode_sense_10_returns_a_header_of_8_bytes_and_a_block_descriptor() {
        let data = ten(&example::disk(), 0, 0x0A);
        assert_eq!(data[..8], [0, 26, 0, 0x10, 0, 0, 0, 8]);
        assert_eq!(data[8..16], [0, 0, 0x27, 0x10, 0, 0, 0x02, 0x00]);
        assert_eq!(data[16..], CONTROL);
    }

    #[test]
    fn dbd_omits_the_block_descriptor() {
        let data = six(&example::disk(), DBD, 0x0A);
        assert_eq!(data[..4], [15, 0, 0x10, 0]);
        assert_eq!(data[4..], CONTROL);
        let data = ten(&example::disk(), DBD, 0x0A);
        assert_eq!(data[..8], [0, 18, 0, 0x10, 0, 0, 0, 0]);
        assert_eq!(data[8..], CONTROL);
    }

    #[test]
    fn all_pages_are_returned_in_ascending_order() {
        let data = six(&example::disk(), DBD, 0x3F);
        assert_eq!(data[4..], [&caching(1)[..], &CONTROL, &EXCEPTIONS].concat());
    }

    #[test]
    fn wce_reports_whether_the_write_cache_is_on() {
        for (write_cache, wce) in [
            (WriteCache::Fixed(WriteBack), 1),
            (WriteCache::Fixed(WriteThrough), 0),
            (WriteCache::Absent, 0),
        ] {
            let disk = Disk {
                write_cache: WriteCacheState::new(write_cache),
                ..example::disk()
            };
            assert_eq!(six(&disk, DBD, 0x08)[4..], caching(wce));
        }
    }

    #[test]
    fn the_header_reports_write_protection_and_dpofua() {
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
    fn only_wce_is_changeable_and_only_if_the_device_can_switch_its_cache() {
        for (write_cache, wce) in [
            (WriteCacheState::new(WriteCache::Switchable(WriteBack)), 1),
            (
                WriteCacheState::new(WriteCache::Switchable(WriteThrough)),
                1,
            ),
            (WriteCacheState::new(WriteCache::Fixed(WriteBack)), 0),
            (WriteCacheState::new(WriteCache::Absent), 0),
        ] {
            let disk = Disk {
                write_cache,
                ..example::disk()
            };
            let data = six(&disk, 0, 0x40 | 0x3F);
            // The header and the block descriptor stay current.
            assert_eq!(data[..12], six(&disk, 0, 0x3F)[..12]);
            let mut pages = caching(wce);
            pages.extend([0x0A, 0x0A, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            pages.extend([0x1C, 0x0A, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            assert_eq!(data[12..], pages);
        }
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
    fn an_unknown_page_is_refused_at_the_page_code() {
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
    fn asking_for_all_subpages_of_a_page_returns_the_page() {
        let disk = example::disk();
        let data = example::data(&disk, Lun(0), &[0x1A, 0, 0x3F, 0xFF, 255, 0]);
        assert_eq!(data, six(&disk, 0, 0x3F));
    }

    #[test]
    fn the_allocation_length_cuts_the_data_but_not_the_reported_length() {
        let disk = example::disk();
        let data = example::data(&disk, Lun(0), &[0x1A, 0, 0x3F, 0, 4, 0]);
        assert_eq!(data, [3 + 8 + 20 + 12 + 12, 0, 0x10, 8]);
        let none = example::data(&disk, Lun(0), &[0x1A, 0, 0x3F, 0, 0, 0]);
        assert_eq!(none, []);
    }

    #[test]
    fn a_number_of_blocks_beyond_32_bits_is_reported_as_all_ones() {
        let disk = Disk {
            capacity: example::capacity(1 << 33, 512),
            ..example::disk()
        };
        assert_eq!(six(&disk, 0, 0x08)[4..8], [0xFF; 4]);
    }

    const PF: u8 = 0x10;

    /// The result of a MODE SELECT (6) with `list`.
    fn select_6(disk: &Disk, list: &[u8]) -> Result<Option<CachePolicy>, Sense> {
        let length = list.len().try_into().unwrap();
        parse(disk, &[0x15, PF, 0, 0, length, 0], list)
    }

    fn select_10(disk: &Disk, list: &[u8]) -> Result<Option<CachePolicy>, Sense> {
        let [high, low] = u16::try_from(list.len()).unwrap().to_be_bytes();
        parse(disk, &[0x55, PF, 0, 0, 0, 0, 0, high, low, 0], list)
    }

    /// The policy that the list asks for, if it differs from the current one.
    fn parse(disk: &Disk, cdb: &[u8], list: &[u8]) -> Result<Option<CachePolicy>, Sense> {
        let Outcome::ModeSelect(select) = disk.execute(Lun(0), cdb)? else {
            panic!("a parameter list is accepted");
        };
        Ok(select.parse(disk, list)?.map(|operation| {
            assert_eq!(operation.bytes() as usize, select.length());
            match operation {
                MediaOp::SwitchCache(switch) => switch.policy(),
                other => panic!("{other:?}"),
            }
        }))
    }

    /// A parameter list of MODE SELECT (6) without a block descriptor.
    fn list(pages: &[u8]) -> Vec<u8> {
        [&[0; 4], pages].concat()
    }

    const CUT_OFF: Result<Option<CachePolicy>, Sense> = Err(Sense::PARAMETER_LIST_LENGTH_ERROR);
    const INVALID: Result<Option<CachePolicy>, Sense> = Err(Sense::INVALID_FIELD_IN_PARAMETER_LIST);

    #[test]
    fn mode_select_accepts_the_unchanged_data_of_mode_sense() {
        for write_cache in [
            WriteCacheState::new(WriteCache::Switchable(WriteBack)),
            WriteCacheState::new(WriteCache::Switchable(WriteThrough)),
            WriteCacheState::new(WriteCache::Fixed(WriteBack)),
            WriteCacheState::new(WriteCache::Absent),
        ] {
            let disk = Disk {
                write_cache,
                ..example::disk()
            };
            for flags in [0, DBD] {
                for page in [0x08, 0x0A, 0x1C, 0x3F] {
                    let list = six(&disk, flags, page);
                    assert_eq!(select_6(&disk, &list), Ok(None));
                    let list = ten(&disk, flags, page);
                    assert_eq!(select_10(&disk, &list), Ok(None));
                }
            }
        }
    }

    #[test]
    fn a_switchable_wce_is_switched_on_and_off() {
        for (first, wce, change) in [
            (WriteBack, 0, Some(WriteThrough)),
            (WriteBack, 1, None),
            (WriteThrough, 0, None),
            (WriteThrough, 1, Some(WriteBack)),
        ] {
            let disk = Disk {
                write_cache: WriteCacheState::new(WriteCache::Switchable(first)),
                ..example::disk()
            };
            assert_eq!(select_6(&disk, &list(&caching(wce))), Ok(change));
            let ten = [&[0; 8][..], &caching(wce)].concat();
            assert_eq!(select_10(&disk, &ten), Ok(change));
        }
    }

    #[test]
    fn wce_that_the_device_cannot_change_is_refused() {
        for (write_cache, wce) in [
            (WriteCache::Fixed(WriteBack), 0),
            (WriteCache::Fixed(WriteThrough), 1),
            (WriteCache::Absent, 1),
        ] {
            let disk = Disk {
                write_cache: WriteCacheState::new(write_cache),
                ..example::disk()
            };
            assert_eq!(select_6(&disk, &list(&caching(wce))), INVALID);
        }
    }

    #[test]
    fn mode_sense_reports_the_new_state_of_the_write_cache() {
        let disk = example::disk();
        disk.write_cache.switch(WriteThrough);
        assert_eq!(six(&disk, DBD, 0x08)[4..], caching(0));
        assert_eq!(select_6(&disk, &list(&caching(0))), Ok(None));
    }

    #[test]
    fn any_other_changed_bit_of_a_page_is_refused() {
        let disk = example::disk();
        let pages = six(&disk, DBD, 0x3F);
        for byte in 4..pages.len() {
            for bit in 0..8 {
                let mut list = pages.clone();
                list[byte] ^= 1 << bit;
                let accepted = match (byte, bit) {
                    // The bits PS of a page, and WCE.
                    (4 | 24 | 36, 7) | (6, 2) => true,
                    _ => false,
                };
                assert_eq!(select_6(&disk, &list).is_ok(), accepted, "{byte}, {bit}");
            }
        }
    }

    #[test]
    fn the_ps_bit_of_a_page_is_ignored() {
        let mut page = caching(0);
        page[0] |= 1 << 7;
        let change = select_6(&example::disk(), &list(&page));
        assert_eq!(change, Ok(Some(WriteThrough)));
    }

    #[test]
    fn the_last_of_two_caching_pages_counts() {
        let pages = [caching(0), caching(1)].concat();
        let change = select_6(&example::disk(), &list(&pages));
        assert_eq!(change, Ok(None));
    }

    #[test]
    fn a_truncated_list_is_a_length_error() {
        let disk = example::disk();
        let whole = six(&disk, 0, 0x3F);
        // A list may end after the header, after the descriptor, and after each page.
        for length in 1..whole.len() {
            // The header says that a descriptor follows.
            let complete = matches!(length, 12 | 32 | 44);
            let result = select_6(&disk, &whole[..length]);
            let expected = if complete { Ok(None) } else { CUT_OFF };
            assert_eq!(result, expected, "{length}");
        }
        let whole = ten(&disk, 0, 0x08);
        for length in (1..8).chain(9..16).chain(17..36) {
            assert_eq!(select_10(&disk, &whole[..length]), CUT_OFF, "{length}");
        }
    }

    #[test]
    fn a_buffer_shorter_than_the_list_is_a_length_error() {
        let disk = example::disk();
        let cdb = [0x15, PF, 0, 0, 24, 0];
        assert_eq!(parse(&disk, &cdb, &list(&caching(1))[..23]), CUT_OFF);
        assert_eq!(parse(&disk, &cdb, &[]), CUT_OFF);
        // Bytes after the list are ignored.
        let longer = [list(&caching(1)), vec![0xFF; 9]].concat();
        assert_eq!(parse(&disk, &cdb, &longer), Ok(None));
    }

    #[test]
    fn a_page_of_another_length_or_unknown_code_is_refused() {
        let disk = example::disk();
        for (at, value) in [
            (0, 0x01),
            (0, 0x48),
            (0, 0x3F),
            (1, 0x11),
            (1, 0x13),
            (1, 0xFF),
        ] {
            let mut page = caching(1);
            page[at] = value;
            assert_eq!(select_6(&disk, &list(&page)), INVALID);
        }
    }

    #[test]
    fn only_the_current_block_descriptor_is_accepted() {
        let disk = example::disk();
        let current = six(&disk, 0, 0x08);
        // The descriptor length of a long LBA, other blocks, a reserved byte,
        // another block length.
        for (at, value) in [(3, 16), (7, 0x11), (8, 1), (10, 4)] {
            let mut list = current.clone();
            list[at] = value;
            assert_eq!(select_6(&disk, &list), INVALID, "byte {at}");
        }
        let mut as_it_is = current;
        as_it_is[4..8].fill(0);
        assert_eq!(select_6(&disk, &as_it_is), Ok(None));
    }

    #[test]
    fn a_medium_type_and_long_lbas_are_refused() {
        let disk = example::disk();
        let mut list = six(&disk, DBD, 0x08);
        list[1] = 1;
        assert_eq!(select_6(&disk, &list), INVALID);
        for at in [2, 4] {
            let mut list = ten(&disk, DBD, 0x08);
            list[at] = 1;
            assert_eq!(select_10(&disk, &list), INVALID);
        }
    }

    #[test]
    fn the_cdb_must_set_pf_and_must_not_set_sp_or_rtd() {
        let disk = example::disk();
        for (flags, bit) in [(0, 4), (PF | 1, 0), (PF | 2, 1)] {
            let expected = Sense::invalid_field(CdbField { byte: 1, bit });
            for cdb in [
                &[0x15, flags, 0, 0, 24, 0][..],
                &[0x55, flags, 0, 0, 0, 0, 0, 0, 28, 0],
            ] {
                assert_eq!(disk.execute(Lun(0), cdb).unwrap_err(), expected);
            }
        }
    }

    #[test]
    fn an_empty_list_is_good_and_a_too_long_list_is_a_length_error() {
        let disk = example::disk();
        for cdb in [
            &[0x15, PF, 0, 0, 0, 0][..],
            &[0x15, 0, 0, 0, 0, 0],
            &[0x55, PF, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert!(matches!(disk.execute(Lun(0), cdb), Ok(Outcome::Good)));
        }
        let huge = [0x55, PF, 0, 0, 0, 0, 0, 1, 0, 0];
        let sense = disk.execute(Lun(0), &huge).unwrap_err();
        assert_eq!(sense, Sense::PARAMETER_LIST_LENGTH_ERROR);
        let longest = [0x55, PF, 0, 0, 0, 0, 0, 0, 255, 0];
        let Ok(Outcome::ModeSelect(select)) = disk.execute(Lun(0), &longest) else {
            panic!("255 bytes are accepted");
        };
        assert_eq!(select.length(), 255);
    }
}
