//! Finds the disk and reads its properties, as class drivers do.

use std::sync::Arc;

use super::{
    cdb::Command,
    port::{CommandError, Failure, Port, RETRIES},
    transfer::WriteThrough,
};
use crate::status::big_endian;
use testbed_machine::memory::{Memory, MemoryError, Placement};
use testbed_storport::request::{Address, Data, Direction};

/// The allocation length of the commands.
const ALLOCATION: u8 = 252;

/// All pages.
const ALL_PAGES: u8 = 0x3F;

/// The caching mode page (SBC-4, 6.5.6).
const CACHING_PAGE: u8 = 0x08;

/// There is no usable disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// No unit responded as a disk.
    #[error(
        "none of {buses} buses with {targets} targets and {luns} units each has a disk; {last}"
    )]
    NoDisk {
        /// The number of buses.
        buses: u8,
        /// Targets per bus.
        targets: u8,
        /// Units per target.
        luns: u8,
        /// The response of the last unit.
        last: String,
    },
    /// A mandatory command failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The data of a response is malformed or contradicts another response.
    #[error("{command}: {why}")]
    Answer {
        /// The command.
        command: Command,
        /// What is wrong with the data.
        why: String,
    },
    /// The machine has no memory left.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// The standard INQUIRY data that the testbed uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inquiry {
    /// Vendor, product and revision, without padding.
    pub vendor: String,
    /// Product.
    pub product: String,
    /// Revision.
    pub revision: String,
    /// VERSION: 5 is SPC-3, 6 SPC-4, 7 SPC-5.
    pub version: u8,
    /// CMDQUE: whether it queues commands.
    pub queues: bool,
}

/// The properties of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its address.
    pub address: Address,
    /// Its INQUIRY data.
    pub inquiry: Inquiry,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// The number of logical blocks.
    pub blocks: u64,
    /// Bytes of a physical block.
    pub physical_block_bytes: u32,
    /// Whether writes are cached (WCE of the caching page).
    pub write_cache: bool,
    /// Whether FUA is supported (DPOFUA of the mode parameter header).
    pub force_unit_access: bool,
    /// Whether the disk is write-protected (WP of the mode parameter header).
    pub write_protected: bool,
    /// All commands and their results, in order.
    pub answers: Vec<Answer>,
}

impl Facts {
    /// How to write through the cache.
    #[must_use]
    pub fn write_through(&self) -> WriteThrough {
        match (self.force_unit_access, self.write_cache) {
            (true, _) => WriteThrough::ForceUnitAccess,
            (false, true) => WriteThrough::FlushAfter,
            (false, false) => WriteThrough::Always,
        }
    }
}

/// A command of discovery and its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The command.
    pub command: Command,
    /// The answer in words, or how the command failed.
    pub result: Result<String, String>,
}

/// Asks questions and keeps a record of them.
struct Inquirer<'a> {
    port: &'a dyn Port,
    memory: &'a Arc<Memory>,
    address: Address,
    answers: Vec<Answer>,
}

/// Sends one command with up to `allocation` bytes of answer, again after
/// attentions and resets.
pub(crate) fn ask(
    port: &dyn Port,
    memory: &Arc<Memory>,
    address: Address,
    command: Command,
    allocation: u8,
) -> Result<Vec<u8>, DiskError> {
    let block = match allocation {
        0 => None,
        bytes => Some(Arc::new(
            memory.allocate(usize::from(bytes), Placement::Scattered)?,
        )),
    };
    let mut retries = 0;
    loop {
        let data = block.as_ref().map(|block| Data {
            block: Arc::clone(block),
            offset: 0,
            bytes: allocation.into(),
            direction: Direction::In,
        });
        let completion = port.execute(command.request(0, address, data));
        match Failure::status_of(&completion) {
            Some(how) if how.is_worth_a_retry() && retries < RETRIES => retries += 1,
            Some(how) => return Err(CommandError { command, how }.into()),
            None => {
                let length = completion.transferred.min(allocation.into());
                let mut bytes = vec![0; length as usize];
                if let Some(block) = block {
                    let inside = block.read(0, &mut bytes);
                    debug_assert!(inside, "the answer is no longer than its buffer");
                }
                return Ok(bytes);
            }
        }
    }
}

/// Looks at every unit until one is a disk, and learns all about that one.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn discover(port: &dyn Port, memory: &Arc<Memory>) -> Result<Facts, DiskError> {
    let (buses, targets, luns) = port.topology();
    let mut last = "the adapter has no bus, target or unit".to_owned();
    for path in 0..buses {
        for target in 0..targets {
            for lun in 0..luns {
                let address = Address { path, target, lun };
                let mut inquirer = Inquirer {
                    port,
                    memory,
                    address,
                    answers: Vec::new(),
                };
                match inquirer.inquiry() {
                    Ok(inquiry) => return inquirer.learn(inquiry),
                    Err(DiskError::Memory(error)) => return Err(error.into()),
                    Err(error) => {
                        last = format!("the last unit, {path}:{target}:{lun}: {error}");
                    }
                }
            }
        }
    }
    Err(DiskError::NoDisk {
        buses,
        targets,
        luns,
        last,
    })
}

impl Inquirer<'_> {
    fn ask(&mut self, command: Command, allocation: u8) -> Result<Vec<u8>, DiskError> {
        ask(self.port, self.memory, self.address, command, allocation)
    }

    fn note(&mut self, command: Command, answer: String) {
        self.answers.push(Answer {
            command,
            result: Ok(answer),
        });
    }

    /// Notes the failure of a command that a disk need not know.
    fn note_failure(&mut self, command: Command, error: DiskError) -> Result<(), DiskError> {
        if let DiskError::Memory(_) = error {
            return Err(error);
        }
        let text = match error {
            DiskError::Command(error) => error.how.to_string(),
            other => other.to_string(),
        };
        self.answers.push(Answer {
            command,
            result: Err(text),
        });
        Ok(())
    }

    fn inquiry(&mut self) -> Result<Inquiry, DiskError> {
        // Class drivers ask for 36 bytes: more is not safe to ask of all.
        let command = Command::inquiry(36);
        let bytes = self.ask(command, 36)?;
        let wrong = |why: String| DiskError::Answer { command, why };
        let [first, _, version, _, _, _, _, flags] = bytes
            .first_chunk::<8>()
            .ok_or_else(|| wrong(format!("{} bytes of standard data, not 36", bytes.len())))?;
        match (first >> 5, first & 0x1F) {
            (0, 0) => {}
            (0, kind) => return Err(wrong(format!("device type {kind:02X}h, not 00h (disk)"))),
            (qualifier, _) => {
                return Err(wrong(format!(
                    "no device (peripheral qualifier {qualifier})"
                )));
            }
        }
        let text = bytes
            .get(8..36)
            .ok_or_else(|| wrong(format!("{} bytes of standard data, not 36", bytes.len())))?;
        let inquiry = Inquiry {
            vendor: ascii(&text[..8]),
            product: ascii(&text[8..24]),
            revision: ascii(&text[24..]),
            version: *version,
            queues: flags & 0x02 != 0,
        };
        self.note(
            command,
            format!(
                "disk, vendor {:?}, product {:?}, revision {:?}, version {}",
                inquiry.vendor, inquiry.product, inquiry.revision, inquiry.version
            ),
        );
        Ok(inquiry)
    }

    fn learn(mut self, inquiry: Inquiry) -> Result<Facts, DiskError> {
        self.product_data()?;
        let command = Command::test_unit_ready();
        self.ask(command, 0)?;
        self.note(command, "ready".to_owned());
        let (blocks, block_bytes, physical_block_bytes) = self.capacity()?;
        let modes = self.modes()?;
        self.luns()?;
        Ok(Facts {
            address: self.address,
            inquiry,
            block_bytes,
            blocks,
            physical_block_bytes,
            write_cache: modes.is_some_and(|modes| modes.write_cache),
            force_unit_access: modes.is_some_and(|modes| modes.force_unit_access),
            write_protected: modes.is_some_and(|modes| modes.write_protected),
            answers: self.answers,
        })
    }

    /// The pages that the disk says it has, of those that are asked for.
    fn product_data(&mut self) -> Result<(), DiskError> {
        let command = Command::vital_product_data(0x00, ALLOCATION);
        let pages = match self.page(0x00) {
            Ok(pages) => pages,
            Err(error) => return self.note_failure(command, error),
        };
        let names: Vec<String> = pages.iter().map(|page| format!("{page:02X}")).collect();
        self.note(command, format!("pages {}", names.join(" ")));
        for (page, describe) in [
            (0x80, serial_number as fn(&[u8]) -> String),
            (0x83, designators),
            (0xB0, block_limits),
        ] {
            if !pages.contains(&page) {
                continue;
            }
            let command = Command::vital_product_data(page, ALLOCATION);
            match self.page(page) {
                Ok(bytes) => self.note(command, describe(&bytes)),
                Err(error) => self.note_failure(command, error)?,
            }
        }
        Ok(())
    }

    /// A vital product data page without its header.
    fn page(&mut self, page: u8) -> Result<Vec<u8>, DiskError> {
        let command = Command::vital_product_data(page, ALLOCATION);
        let bytes = self.ask(command, ALLOCATION)?;
        let wrong = |why: String| DiskError::Answer { command, why };
        let header = bytes
            .first_chunk::<4>()
            .ok_or_else(|| wrong(format!("{} bytes, less than a page header", bytes.len())))?;
        if header[1] != page {
            return Err(wrong(format!("returned page {:02X}h instead", header[1])));
        }
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        bytes.get(4..4 + length).map(<[u8]>::to_vec).ok_or_else(|| {
            wrong(format!(
                "the page length is {length}, but {} bytes were returned",
                bytes.len() - 4
            ))
        })
    }

    /// Blocks, bytes of a logical and of a physical block.
    fn capacity(&mut self) -> Result<(u64, u32, u32), DiskError> {
        let short = Command::read_capacity_10();
        let bytes = self.ask(short, 8)?;
        let (last, block_bytes) = capacity_fields::<8>(short, &bytes)?;
        self.note(short, format!("last LBA {last}, blocks of {block_bytes}"));
        let long = Command::read_capacity_16(32);
        let bytes = match self.ask(long, 32) {
            Ok(bytes) => bytes,
            // Only a disk beyond 32 bits needs it.
            Err(error) if last != u64::from(u32::MAX) => {
                self.note_failure(long, error)?;
                return Ok((last + 1, block_bytes, block_bytes));
            }
            Err(error) => return Err(error),
        };
        let (long_last, long_block_bytes) = capacity_fields::<12>(long, &bytes)?;
        let exponent = bytes.get(13).map_or(0, |byte| byte & 0x0F);
        let physical = block_bytes << exponent;
        self.note(
            long,
            format!("last LBA {long_last}, blocks of {long_block_bytes}, physically {physical}"),
        );
        let expected = long_last.min(u64::from(u32::MAX));
        if (last, block_bytes) != (expected, long_block_bytes) {
            return Err(DiskError::Answer {
                command: long,
                why: format!(
                    "it contradicts READ CAPACITY(10), which returned last LBA {last} and blocks \
                     of {block_bytes}"
                ),
            });
        }
        let blocks = long_last
            .checked_add(1)
            .filter(|blocks| blocks.checked_mul(block_bytes.into()).is_some())
            .ok_or_else(|| DiskError::Answer {
                command: long,
                why: "the disk's size in bytes exceeds 64 bits".to_owned(),
            })?;
        Ok((blocks, block_bytes, physical))
    }

    /// Both forms of MODE SENSE; nothing if the disk knows neither.
    fn modes(&mut self) -> Result<Option<Modes>, DiskError> {
        let mut found = None;
        for (command, header_bytes) in [
            (Command::mode_sense_6(CACHING_PAGE, ALLOCATION), 4),
            (Command::mode_sense_10(CACHING_PAGE, ALLOCATION), 8),
        ] {
            let answer = self
                .ask(command, ALLOCATION)
                .and_then(|bytes| Modes::decode(command, header_bytes, &bytes));
            match answer {
                Ok(modes) => {
                    self.note(command, modes.describe());
                    if found.is_some_and(|found| found != modes) {
                        return Err(DiskError::Answer {
                            command,
                            why: "it contradicts MODE SENSE(6)".to_owned(),
                        });
                    }
                    found = Some(modes);
                }
                Err(error) => self.note_failure(command, error)?,
            }
        }
        if found.is_none() {
            found = self.mode_header()?;
        }
        Ok(found)
    }

    /// The header of all mode pages: how a class driver learns that a disk is
    /// write-protected. A disk without a caching page may answer it.
    fn mode_header(&mut self) -> Result<Option<Modes>, DiskError> {
        let command = Command::mode_sense_6(ALL_PAGES, ALLOCATION);
        let answer = self
            .ask(command, ALLOCATION)
            .and_then(|bytes| Modes::decode_header(command, 4, &bytes).map(|(modes, _)| modes));
        match answer {
            Ok(modes) => {
                self.note(command, modes.describe());
                Ok(Some(modes))
            }
            Err(error) => self.note_failure(command, error).map(|()| None),
        }
    }

    fn luns(&mut self) -> Result<(), DiskError> {
        let command = Command::report_luns(ALLOCATION);
        let bytes = match self.ask(command, ALLOCATION) {
            Ok(bytes) => bytes,
            Err(error) => return self.note_failure(command, error),
        };
        let length = bytes
            .get(..4)
            .map_or(0, |length| big_endian(length) as usize);
        let list = bytes.get(8..).unwrap_or_default();
        let luns: Vec<String> = list[..length.min(list.len())]
            .chunks_exact(8)
            .map(|lun| (u16::from_be_bytes([lun[0], lun[1]]) & 0x3FFF).to_string())
            .collect();
        self.note(command, format!("LUN {}", luns.join(", ")));
        Ok(())
    }
}

/// Last LBA and block size: the first fields of both capacity answers, `N`
/// bytes together.
fn capacity_fields<const N: usize>(
    command: Command,
    bytes: &[u8],
) -> Result<(u64, u32), DiskError> {
    let wrong = |why: String| DiskError::Answer { command, why };
    let fields = bytes
        .first_chunk::<N>()
        .ok_or_else(|| wrong(format!("{} bytes, too few", bytes.len())))?;
    let (last, block) = fields.split_at(N - 4);
    let block_bytes = big_endian(block) as u32;
    if !block_bytes.is_power_of_two() || !(512..=65536).contains(&block_bytes) {
        return Err(wrong(format!(
            "the block size {block_bytes} is not a power of two from 512 to 65536"
        )));
    }
    Ok((big_endian(last), block_bytes))
}

/// Flags of the mode parameter header and the caching page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Modes {
    write_cache: bool,
    force_unit_access: bool,
    write_protected: bool,
}

impl Modes {
    /// An answer to a request for the caching page.
    fn decode(command: Command, header_bytes: usize, bytes: &[u8]) -> Result<Self, DiskError> {
        let wrong = |why: String| DiskError::Answer { command, why };
        let (header, page) = Self::decode_header(command, header_bytes, bytes)?;
        // The answer has no caching page.
        if page.is_empty() {
            return Ok(header);
        }
        let page = page
            .get(..3)
            .ok_or_else(|| wrong(format!("the caching page ends after {} bytes", page.len())))?;
        if page[0] & 0x3F != CACHING_PAGE {
            return Err(wrong(format!(
                "returned page {:02X}h instead",
                page[0] & 0x3F
            )));
        }
        Ok(Self {
            write_cache: page[2] & 0x04 != 0,
            ..header
        })
    }

    /// The header, and what follows the block descriptors.
    fn decode_header(
        command: Command,
        header_bytes: usize,
        bytes: &[u8],
    ) -> Result<(Self, &[u8]), DiskError> {
        let wrong = |why: String| DiskError::Answer { command, why };
        let header = bytes
            .get(..header_bytes)
            .ok_or_else(|| wrong(format!("{} bytes, less than the header", bytes.len())))?;
        // Block descriptor length and device-specific parameter end the short
        // header; in the long one they are at 6 and 3.
        let (specific, descriptors) = match header_bytes {
            4 => (header[2], usize::from(header[3])),
            _ => (
                header[3],
                usize::from(u16::from_be_bytes([header[6], header[7]])),
            ),
        };
        let rest = bytes
            .get(header_bytes + descriptors..)
            .ok_or_else(|| wrong("the block descriptors are truncated".to_owned()))?;
        let header = Self {
            write_cache: false,
            force_unit_access: specific & 0x10 != 0,
            write_protected: specific & 0x80 != 0,
        };
        Ok((header, rest))
    }

    fn describe(&self) -> String {
        format!(
            "write cache {}, DPOFUA {}{}",
            if self.write_cache { "on" } else { "off" },
            if self.force_unit_access { "yes" } else { "no" },
            if self.write_protected {
                ", write-protected"
            } else {
                ""
            },
        )
    }
}

/// Text without its padding: spaces by the standard, NULs in some drivers.
fn ascii(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .rposition(|byte| !matches!(byte, b' ' | 0))
        .map_or(0, |last| last + 1);
    let text: String = bytes[..end]
        .iter()
        .map(|&byte| match byte {
            0x20..0x7F => char::from(byte),
            _ => '?',
        })
        .collect();
    text.trim_start().to_owned()
}

fn serial_number(page: &[u8]) -> String {
    format!("serial number {:?}", ascii(page))
}

/// The designation descriptors (SPC-5, 7.7.6).
fn designators(page: &[u8]) -> String {
    let mut found = Vec::new();
    let mut rest = page;
    while let [code_set, kind, _, length, ..] = *rest {
        let Some(value) = rest.get(4..4 + usize::from(length)) else {
            found.push("truncated".to_owned());
            break;
        };
        let name = match kind & 0x0F {
            0x0 => "vendor specific",
            0x1 => "T10",
            0x2 => "EUI-64",
            0x3 => "NAA",
            0x8 => "SCSI name",
            _ => "other",
        };
        found.push(match code_set & 0x0F {
            0x1 => {
                let digits: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{name} {digits}")
            }
            _ => format!("{name} {:?}", ascii(value)),
        });
        rest = &rest[4 + value.len()..];
    }
    if found.is_empty() {
        return "no designator".to_owned();
    }
    format!("designator {}", found.join(", "))
}

/// The block limits page (SBC-4, 6.6.4), its header already cut off.
fn block_limits(page: &[u8]) -> String {
    let field = |from: usize, to: usize| page.get(from - 4..to - 4).map_or(0, big_endian);
    format!(
        "optimal granularity {}, maximum transfer {}, optimal transfer {} blocks, unmap {} blocks \
         in {} descriptors",
        field(6, 8),
        field(8, 12),
        field(12, 16),
        field(20, 24),
        field(24, 28),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_without_padding_and_unprintable_bytes_show() {
        assert_eq!(ascii(b"VirtIO\0\0\0"), "VirtIO");
        assert_eq!(ascii(b"  Disk  "), "Disk");
        assert_eq!(ascii(b"a\x01b\xFF"), "a?b?");
        assert_eq!(ascii(b"\0\0"), "");
    }

    #[test]
    fn malformed_designators_are_described_and_no_panic() {
        assert_eq!(designators(&[]), "no designator");
        assert_eq!(designators(&[1, 3, 0, 8, 1, 2]), "designator truncated");
        assert_eq!(
            designators(&[1, 3, 0, 2, 0xAB, 0xCD, 2, 1, 0, 1, b'x']),
            "designator NAA abcd, T10 \"x\""
        );
    }

    #[test]
    fn the_caching_page_is_found_behind_block_descriptors_in_both_forms() {
        let page = [0x08, 18, 0x04];
        let mut short = vec![0, 0, 0x90, 8];
        short.extend([0; 8]);
        short.extend(page);
        let mut long = vec![0, 0, 0, 0x90, 0, 0, 0, 8];
        long.extend([0; 8]);
        long.extend(page);

        for (command, header_bytes, bytes) in [
            (Command::mode_sense_6(8, 252), 4, short),
            (Command::mode_sense_10(8, 252), 8, long),
        ] {
            let modes = Modes::decode(command, header_bytes, &bytes).expect("it is well-formed");
            assert!(modes.write_cache && modes.force_unit_access && modes.write_protected);
            assert!(Modes::decode(command, header_bytes, &bytes[..6]).is_err());
            assert!(Modes::decode(command, header_bytes, &[]).is_err());
        }
    }

    #[test]
    fn a_header_without_a_page_tells_of_write_protection() {
        for (command, header_bytes, bytes) in [
            (Command::mode_sense_6(8, 252), 4, &[3, 0, 0x80, 0][..]),
            (
                Command::mode_sense_10(8, 252),
                8,
                &[0, 6, 0, 0x80, 0, 0, 0, 0],
            ),
        ] {
            let modes = Modes::decode(command, header_bytes, bytes).expect("it is a header");
            assert!(modes.write_protected && !modes.write_cache);
        }
    }
}
