//! The items of the SCSI Compliance test of the Windows Hardware Lab Kit that do not need Windows,
//! on a disk in memory.
//!
//! Items for commands and pages that the disk does not support are left out: UNMAP, LOG SENSE, GET
//! LBA STATUS (thin provisioning), the power condition mode page, and the VPD pages B1h and B2h.

use scsi::block::CachePolicy::{WriteBack, WriteThrough};
use scsi::block::{BlockSize, Capacity, Sectors, Topology, WriteCache};
use scsi::{
    AdditionalSense, Disk, Identity, Lun, MediaOp, Outcome, Sense, SenseKey, Serial,
    WriteCacheState,
};

const BLOCK: usize = 4096;
const BLOCKS: u32 = 2048;

/// A disk and its medium.
struct Target {
    disk: Disk,
    medium: Vec<u8>,
    /// How many writes a power failure would lose.
    unflushed: usize,
}

impl Target {
    fn new(write_cache: WriteCacheState) -> Self {
        let sectors = Sectors(u64::from(BLOCKS) * (BLOCK as u64 / 512));
        let block_size = BlockSize::new(BLOCK as u32).unwrap();
        Self {
            disk: Disk {
                capacity: Capacity::new(sectors, block_size).unwrap(),
                topology: Topology::default(),
                write_cache,
                dpo_fua: true,
                read_only: false,
                identity: Identity {
                    vendor: *b"EXAMPLE ",
                    product: *b"Disk            ",
                    revision: *b"0001",
                    serial: Serial::new(b"disk-7\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
                },
            },
            medium: vec![0; BLOCKS as usize * BLOCK],
            unflushed: 0,
        }
    }

    /// Executes a command with the data in `buffer`. Returns the number of transferred bytes for
    /// GOOD, and the sense data for CHECK CONDITION.
    fn send(&mut self, cdb: &[u8], buffer: &mut [u8]) -> Result<usize, Sense> {
        let operation = match self.disk.execute(Lun(0), cdb)? {
            Outcome::Good => return Ok(0),
            Outcome::Data(reply) => return Ok(reply.write_to(buffer)),
            Outcome::Media(operation) => operation,
            Outcome::ModeSelect(select) => match select.parse(&self.disk, buffer)? {
                Some(operation) => operation,
                None => return Ok(select.length()),
            },
        };
        match operation {
            MediaOp::Read(extent) => {
                let start = extent.sector().0 as usize * 512;
                let end = start + extent.bytes() as usize;
                buffer.copy_from_slice(&self.medium[start..end]);
            }
            MediaOp::Write(extent) | MediaOp::DurableWrite(extent) => {
                let start = extent.sector().0 as usize * 512;
                let end = start + extent.bytes() as usize;
                self.medium[start..end].copy_from_slice(buffer);
                if self.disk.write_cache.policy() == WriteBack {
                    self.unflushed += 1;
                }
                if let MediaOp::DurableWrite(_) = operation {
                    self.unflushed = 0;
                }
            }
            MediaOp::Flush => self.unflushed = 0,
            MediaOp::SwitchCache(switch) => {
                self.unflushed = 0;
                self.disk.write_cache.switch(switch.policy());
            }
        }
        Ok(operation.bytes() as usize)
    }

    fn good(&mut self, cdb: &[u8]) {
        assert_eq!(self.send(cdb, &mut []), Ok(0));
    }

    fn data(&mut self, cdb: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0xEE; 1024];
        let length = self.send(cdb, &mut buffer).unwrap();
        buffer.truncate(length);
        buffer
    }

    fn refused(&mut self, cdb: &[u8]) -> AdditionalSense {
        let sense = self.send(cdb, &mut []).unwrap_err();
        assert_eq!(sense.key(), SenseKey::IllegalRequest);
        sense.additional()
    }
}

fn target() -> Target {
    Target::new(WriteCacheState::new(WriteCache::Switchable(WriteBack)))
}

fn six(operation: u8, lba: u32, blocks: u8) -> Vec<u8> {
    let [_, l1, l2, l3] = lba.to_be_bytes();
    vec![operation, l1, l2, l3, blocks, 0]
}

fn ten(operation: u8, flags: u8, lba: u32, blocks: u16) -> Vec<u8> {
    let mut cdb = vec![operation, flags];
    cdb.extend(lba.to_be_bytes());
    cdb.push(0);
    cdb.extend(blocks.to_be_bytes());
    cdb.push(0);
    cdb
}

fn sixteen(operation: u8, flags: u8, lba: u64, blocks: u32) -> Vec<u8> {
    let mut cdb = vec![operation, flags];
    cdb.extend(lba.to_be_bytes());
    cdb.extend(blocks.to_be_bytes());
    cdb.extend([0, 0]);
    cdb
}

/// The READ or WRITE commands of 6, 10 and 16 bytes for the same blocks.
fn transfers(six_code: u8, lba: u32, blocks: u8) -> [Vec<u8>; 3] {
    [
        six(six_code, lba, blocks),
        ten(six_code + 0x20, 0, lba, blocks.into()),
        sixteen(six_code + 0x80, 0, lba.into(), blocks.into()),
    ]
}

/// Pseudo-random numbers, which are the same in every run.
fn random(seed: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(Some(seed), |&number| {
        Some(number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223))
    })
    .map(|number| number >> 8)
}

/// Blocks whose bytes all depend on the LBA and on `generation`.
fn stamped(lba: u32, blocks: u8, generation: u8) -> Vec<u8> {
    (lba..lba + u32::from(blocks))
        .flat_map(|lba| [(lba % 251) as u8 ^ generation; BLOCK])
        .collect()
}

#[test]
fn item_1_test_unit_ready_is_good() {
    target().good(&[0; 6]);
}

#[test]
fn item_1_request_sense_is_good_with_a_response_code_of_70h_to_73h_and_a_fitting_length() {
    for desc in [0, 1] {
        let data = target().data(&[0x03, desc, 0, 0, 252, 0]);
        assert!((0x70..=0x73).contains(&data[0]));
        assert!(usize::from(data[7]) <= data.len() - 8);
    }
}

#[test]
fn item_2_and_3_every_read_returns_the_data_of_any_write() {
    for write_cache in [
        WriteCache::Absent,
        WriteCache::Fixed(WriteThrough),
        WriteCache::Fixed(WriteBack),
    ] {
        let mut target = Target::new(WriteCacheState::new(write_cache));
        let sequential = (0..1000).map(|number| number * 2);
        let scattered = random(1).map(|number| number % (BLOCKS - 4)).take(1000);
        for (number, lba) in sequential.chain(scattered).enumerate() {
            let blocks = 1 + (number % 4) as u8;
            let mut written = stamped(lba, blocks, number as u8);
            let write = &transfers(0x0A, lba, blocks)[number % 3];
            assert_eq!(target.send(write, &mut written), Ok(written.len()));
            for read in transfers(0x08, lba, blocks) {
                let mut buffer = vec![0; written.len()];
                assert_eq!(target.send(&read, &mut buffer), Ok(written.len()));
                assert!(buffer == written, "blocks from {lba} differ");
            }
        }
    }
}

#[test]
fn item_3_write_10_with_fua_is_durable_when_it_is_good() {
    let mut target = target();
    let mut block = stamped(9, 1, 0);
    target.send(&ten(0x2A, 0x08, 9, 1), &mut block).unwrap();
    assert_eq!(target.unflushed, 0);
}

#[test]
fn item_3_synchronize_cache_10_makes_earlier_writes_durable() {
    let mut target = target();
    let mut block = stamped(9, 1, 0);
    target.send(&ten(0x2A, 0, 9, 1), &mut block).unwrap();
    assert_eq!(target.unflushed, 1);
    target.good(&ten(0x35, 0, 0, 0));
    assert_eq!(target.unflushed, 0);
}

#[test]
fn item_4_verify_of_no_blocks_is_good() {
    target().good(&ten(0x2F, 0, 0, 0));
    target().good(&sixteen(0x8F, 0, 0, 0));
}

#[test]
fn item_4_verify_of_random_blocks_is_good() {
    let mut target = target();
    for lba in random(4).map(|number| number % BLOCKS).take(1000) {
        target.good(&ten(0x2F, 0, lba, 1));
        target.good(&sixteen(0x8F, 0, lba.into(), 1));
    }
}

#[test]
fn item_4_verify_beyond_the_capacity_is_refused() {
    let out_of_range = AdditionalSense::LogicalBlockAddressOutOfRange;
    for (lba, blocks) in [(BLOCKS, 1), (BLOCKS - 1, 2)] {
        let verify_10 = ten(0x2F, 0, lba, blocks);
        let verify_16 = sixteen(0x8F, 0, lba.into(), blocks.into());
        assert_eq!(target().refused(&verify_10), out_of_range);
        assert_eq!(target().refused(&verify_16), out_of_range);
    }
}

#[test]
fn item_5_inquiry_is_answered_at_every_length_up_to_255() {
    for length in 0..=255 {
        let data = target().data(&[0x12, 0, 0, 0, length, 0]);
        assert_eq!(data.len(), usize::from(length).min(74));
    }
}

#[test]
fn item_5_inquiry_for_a_page_without_evpd_is_refused() {
    for page in 1..=255 {
        let refusal = target().refused(&[0x12, 0, page, 0, 255, 0]);
        assert_eq!(refusal, AdditionalSense::InvalidFieldInCdb);
    }
}

#[test]
fn item_5_standard_inquiry_data_is_that_of_a_disk() {
    const HISUP: u8 = 1 << 4;
    let data = target().data(&[0x12, 0, 0, 0, 255, 0]);
    assert!(data.len() >= 36);
    assert_eq!(data[0], 0, "qualifier 0, device type 0");
    assert!(data[2] >= 4, "VERSION");
    assert_eq!(data[3] & 0x0F, 2, "RESPONSE DATA FORMAT");
    assert_ne!(data[3] & HISUP, 0);
    assert_eq!(usize::from(data[4]), data.len() - 5, "ADDITIONAL LENGTH");
    let ascii = data[8..36].iter().all(|byte| (b' '..=b'~').contains(byte));
    assert!(ascii, "vendor, product, revision");
    assert_ne!(data[58..60], [0, 0], "version descriptors");
}

#[test]
fn item_6_every_listed_vpd_page_is_readable() {
    let mut target = target();
    let list = target.data(&[0x12, 1, 0x00, 0, 255, 0]);
    assert_eq!(usize::from(list[3]), list.len() - 4);
    for required in [0x00, 0x80, 0x83, 0xB0] {
        assert!(list[4..].contains(&required), "{required:02X}h");
    }
    for &page in &list[4..] {
        let data = target.data(&[0x12, 1, page, 0, 255, 0]);
        assert_eq!(data[1], page);
    }
}

#[test]
fn item_6_vpd_80_is_an_ascii_serial_number() {
    let page = target().data(&[0x12, 1, 0x80, 0, 255, 0]);
    assert!(page.len() > 4);
    assert!(page[4..].iter().all(|byte| (b' '..=b'~').contains(byte)));
}

#[test]
fn item_6_vpd_83_identifies_the_logical_unit() {
    let page = target().data(&[0x12, 1, 0x83, 0, 255, 0]);
    let (association, designator) = (page[5] >> 4 & 0x3, page[5] & 0xF);
    assert_eq!(association, 0, "the logical unit");
    assert_eq!(designator, 1, "T10 vendor ID based");
    assert!(page[8..].ends_with(b"disk-7"));
}

#[test]
fn item_7_mode_sense_6_and_10_of_all_pages_have_the_mandatory_pages() {
    let six = target().data(&[0x1A, 0x08, 0x3F, 0, 255, 0]);
    assert_eq!(usize::from(six[0]), six.len() - 1);
    let ten = target().data(&[0x5A, 0x08, 0x3F, 0, 0, 0, 0, 0, 255, 0]);
    assert_eq!(usize::from(ten[1]), ten.len() - 2);

    for mut pages in [&six[4..], &ten[8..]] {
        let mut codes = Vec::new();
        while let [code, length, rest @ ..] = pages {
            codes.push(code & 0x3F);
            pages = &rest[usize::from(*length)..];
        }
        assert!(codes.contains(&0x08), "caching");
        assert!(codes.contains(&0x1C), "informational exceptions");
    }
}

#[test]
fn item_7_mode_sense_has_a_block_descriptor_unless_dbd() {
    for (dbd, length) in [(0x00, 8), (0x08, 0)] {
        let six = target().data(&[0x1A, dbd, 0x08, 0, 255, 0]);
        assert_eq!(six[3], length);
        let ten = target().data(&[0x5A, dbd, 0x08, 0, 0, 0, 0, 0, 255, 0]);
        assert_eq!(ten[6..8], [0, length]);
    }
}

#[test]
fn item_7_mode_sense_has_current_changeable_and_default_values_and_no_saved_ones() {
    for control in [0b00, 0b01, 0b10] {
        let data = target().data(&[0x1A, 0x08, control << 6 | 0x08, 0, 255, 0]);
        assert_eq!(data[4..6], [0x08, 0x12]);
    }
    let refusal = target().refused(&[0x1A, 0x08, 0b11 << 6 | 0x08, 0, 255, 0]);
    assert_eq!(refusal, AdditionalSense::SavingParametersNotSupported);
}

/// According to its log, the test sends PS = 1, a medium type of 0, no block descriptor and a
/// page of 20 bytes.
#[test]
fn item_8_mode_select_6_and_10_toggle_the_write_cache_and_restore_it() {
    for (sense, select, header) in [
        (
            vec![0x1A, 8, 8, 0, 255, 0],
            vec![0x15, 0x10, 0, 0, 24, 0],
            4,
        ),
        (
            vec![0x5A, 8, 8, 0, 0, 0, 0, 0, 255, 0],
            vec![0x55, 0x10, 0, 0, 0, 0, 0, 0, 28, 0],
            8,
        ),
    ] {
        let mut target = target();
        let original = target.data(&sense);
        let mut list = original.clone();
        list[..header].fill(0);
        list[header] |= 1 << 7;
        list[header + 2] ^= 1 << 2;

        assert_eq!(target.send(&select, &mut list), Ok(list.len()));
        let mut toggled = original.clone();
        toggled[header + 2] ^= 1 << 2;
        assert_eq!(target.data(&sense), toggled);
        target.send(&ten(0x2A, 0, 0, 1), &mut [0; BLOCK]).unwrap();
        assert_eq!(target.unflushed, 0, "writes are durable without a cache");

        list[header + 2] ^= 1 << 2;
        assert_eq!(target.send(&select, &mut list), Ok(list.len()));
        assert_eq!(target.data(&sense), original);
    }
}

#[test]
fn item_9_read_capacity_10_reports_the_last_lba_and_the_block_size() {
    let data = target().data(&ten(0x25, 0, 0, 0));
    assert_eq!(data[..4], (BLOCKS - 1).to_be_bytes());
    assert_eq!(data[4..], (BLOCK as u32).to_be_bytes());
}

#[test]
fn item_9_read_capacity_10_of_a_large_disk_is_all_ones() {
    let mut target = target();
    target.disk.capacity = Capacity::new(Sectors(1 << 40), BlockSize::SECTOR).unwrap();
    assert_eq!(target.data(&ten(0x25, 0, 0, 0))[..4], [0xFF; 4]);
    let data = target.data(&sixteen(0x9E, 0x10, 0, 32));
    assert_eq!(data[..8], ((1_u64 << 40) - 1).to_be_bytes());
}

#[test]
fn item_9_read_capacity_16_of_allocation_length_0_is_good() {
    assert_eq!(target().data(&sixteen(0x9E, 0x10, 0, 0)), []);
}

#[test]
fn item_10_report_luns_has_lun_0_in_a_single_level() {
    let data = target().data(&[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0]);
    assert_eq!(data[..4], 8_u32.to_be_bytes());
    assert_eq!(data[8..], [0; 8]);
}

#[test]
fn item_10_start_stop_unit_is_good_with_and_without_immed_and_start() {
    for immed in [0, 1] {
        for start in [0, 1] {
            let mut target = target();
            target.good(&[0x1B, immed, 0, 0, start, 0]);
            target.good(&[0; 6]);
        }
    }
}

#[test]
fn item_11_vpd_b0_has_a_page_length_of_3ch() {
    let page = target().data(&[0x12, 1, 0xB0, 0, 255, 0]);
    assert_eq!((page[3], page.len()), (0x3C, 64));
}
