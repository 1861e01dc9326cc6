//! A port driver for tests, without a miniport: a disk in a file. The test decides how each
//! transfer ends.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    cdb::{Command, opcode},
    port::Port,
};
use testbed_machine::lock;
use testbed_storport::{
    adapter::AdapterLimits,
    request::{Completion, Data, Direction, Program, Request},
};

/// A transfer in the hands of a test.
pub(crate) struct Io {
    /// Which way.
    pub direction: Direction,
    /// The byte of the disk where it begins.
    pub at: u64,
    /// What is written, or what was read.
    pub bytes: Vec<u8>,
    /// The completion, that of a success until the test changes it.
    pub completion: Completion,
    /// Whether it comes back at all.
    pub lost: bool,
}

/// Called with each transfer: before its data go to the disk, after they came
/// from it.
pub(crate) type Meddle = Box<dyn FnMut(&mut Io) + Send>;

pub(crate) struct FakePort {
    pub disk: File,
    pub block_bytes: u32,
    pub max_transfer_bytes: u32,
    pub max_physical_breaks: u32,
    /// Bit WCE of the caching mode page.
    pub write_cache: bool,
    /// Bit DPOFUA of the mode parameter header.
    pub force_unit_access: bool,
    /// Bit WP of the mode parameter header.
    pub write_protected: bool,
    /// Answers to fail, each time the command comes, by operation code.
    pub refused: Vec<u8>,
    /// How many commands end with UNIT ATTENTION before the first succeeds.
    pub attentions: AtomicU32,
    /// Whether writes in flight over the same blocks as others are an error of
    /// the test's subject.
    pub exclusive: bool,
    /// Has its hands in each transfer.
    pub meddle: Mutex<Meddle>,
    /// All commands that came, in order.
    pub commands: Mutex<Vec<Command>>,
}

impl FakePort {
    pub fn new(bytes: u64, block_bytes: u32) -> Self {
        let disk = tempfile::tempfile().expect("a temporary file");
        disk.set_len(bytes).expect("a sparse file");
        Self {
            disk,
            block_bytes,
            max_transfer_bytes: 1 << 20,
            max_physical_breaks: 254,
            write_cache: true,
            force_unit_access: false,
            write_protected: false,
            refused: Vec::new(),
            attentions: AtomicU32::new(0),
            exclusive: true,
            meddle: Mutex::new(Box::new(|_| {})),
            commands: Mutex::default(),
        }
    }

    pub fn meddling(self, meddle: impl FnMut(&mut Io) + Send + 'static) -> Self {
        Self {
            meddle: Mutex::new(Box::new(meddle)),
            ..self
        }
    }

    /// The commands so far that `wanted` accepts.
    pub fn commands(&self, wanted: impl Fn(&Command) -> bool) -> Vec<Command> {
        let commands = lock(&self.commands);
        commands.iter().copied().filter(wanted).collect()
    }

    /// Carries out a request; nothing comes back from a lost one.
    fn carry_out(&self, request: &Request) -> Option<Completion> {
        let command = Command {
            cdb: request.cdb,
            length: request.cdb_length,
        };
        lock(&self.commands).push(command);
        let success = Completion {
            token: request.token,
            srb_status: 0x01,
            sense_valid: false,
            scsi_status: 0,
            sense: Vec::new(),
            transferred: request.data.as_ref().map_or(0, |data| data.bytes),
            latency: Duration::ZERO,
        };
        let attention =
            self.attentions
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(1)
                });
        if attention.is_ok() {
            return Some(failed(success, 0x6, 0x29));
        }
        if self.refused.contains(&command.cdb[0]) {
            return Some(failed(success, 0x5, 0x20));
        }
        let Some(data) = &request.data else {
            return Some(success);
        };
        match command.extent() {
            Some((lba, blocks)) => self.transfer(data, lba, blocks, success),
            None => Some(self.answer(&command, data, success)),
        }
    }

    fn transfer(
        &self,
        data: &Data,
        lba: u64,
        blocks: u32,
        success: Completion,
    ) -> Option<Completion> {
        assert_eq!(data.bytes, blocks * self.block_bytes);
        assert!(data.bytes <= self.max_transfer_bytes);
        let first_page = data.offset / 4096;
        let last_page = (data.offset + data.bytes as usize - 1) / 4096;
        assert!(last_page - first_page < self.max_physical_breaks as usize);
        let mut io = Io {
            direction: data.direction,
            at: lba * u64::from(self.block_bytes),
            bytes: vec![0; data.bytes as usize],
            completion: success,
            lost: false,
        };
        let mut meddle = lock(&self.meddle);
        match data.direction {
            Direction::Out => {
                assert!(data.block.read(data.offset, &mut io.bytes));
                meddle(&mut io);
                self.disk
                    .write_all_at(&io.bytes, io.at)
                    .expect("the file takes it");
            }
            Direction::In => {
                self.disk
                    .read_exact_at(&mut io.bytes, io.at)
                    .expect("the disk is as long as it says");
                meddle(&mut io);
                assert!(data.block.write(data.offset, &io.bytes));
            }
        }
        (!io.lost).then_some(io.completion)
    }

    fn answer(&self, command: &Command, data: &Data, success: Completion) -> Completion {
        let last = self.disk.metadata().expect("a file").len() / u64::from(self.block_bytes) - 1;
        let mut caching = [0; 20];
        caching[..3].copy_from_slice(&[0x08, 18, u8::from(self.write_cache) << 2]);
        let specific = u8::from(self.write_protected) << 7 | u8::from(self.force_unit_access) << 4;
        let mut bytes = Vec::new();
        match (command.cdb[0], command.cdb[1] & 1, command.cdb[2]) {
            (opcode::INQUIRY, 0, _) => {
                bytes.extend([0, 0, 6, 2, 31, 0, 0, 2]);
                bytes.extend(b"Fake    Disk            1.0 ");
            }
            (opcode::INQUIRY, _, 0x00) => bytes.extend([0, 0x00, 0, 4, 0x00, 0x80, 0x83, 0xB0]),
            (opcode::INQUIRY, _, 0x80) => bytes.extend(b"\x00\x80\x00\x06SER 01"),
            (opcode::INQUIRY, _, 0x83) => {
                bytes.extend([0, 0x83, 0, 12, 1, 3, 0, 8, 0x61, 2, 3, 4, 5, 6, 7, 8]);
            }
            (opcode::INQUIRY, _, 0xB0) => {
                bytes.extend([0, 0xB0, 0, 0x3C]);
                bytes.extend([0; 0x3C]);
                bytes[11] = 8;
            }
            (opcode::READ_CAPACITY_10, ..) => {
                bytes.extend((last.min(u64::from(u32::MAX)) as u32).to_be_bytes());
                bytes.extend(self.block_bytes.to_be_bytes());
            }
            (opcode::SERVICE_ACTION_IN_16, ..) => {
                bytes.extend(last.to_be_bytes());
                bytes.extend(self.block_bytes.to_be_bytes());
                bytes.resize(32, 0);
            }
            (opcode::MODE_SENSE_6, ..) => {
                bytes.extend([23, 0, specific, 0]);
                bytes.extend(caching);
            }
            (opcode::MODE_SENSE_10, ..) => {
                bytes.extend([0, 26, 0, specific, 0, 0, 0, 0]);
                bytes.extend(caching);
            }
            (opcode::REPORT_LUNS, ..) => {
                bytes.extend([0, 0, 0, 8]);
                bytes.resize(16, 0);
            }
            _ => return failed(success, 0x5, 0x24),
        }
        bytes.truncate(data.bytes as usize);
        assert!(data.block.write(data.offset, &bytes));
        Completion {
            srb_status: if bytes.len() < data.bytes as usize {
                0x12
            } else {
                0x01
            },
            transferred: bytes.len() as u32,
            ..success
        }
    }
}

/// `completion` as an error with this sense key and code.
pub(crate) fn failed(completion: Completion, key: u8, code: u8) -> Completion {
    let mut sense = vec![0; 18];
    sense[0] = 0x70;
    sense[2] = key;
    sense[7] = 10;
    sense[12] = code;
    Completion {
        srb_status: 0x04,
        scsi_status: 2,
        sense_valid: true,
        sense,
        transferred: 0,
        ..completion
    }
}

impl Port for FakePort {
    fn execute(&self, request: Request) -> Completion {
        self.carry_out(&request).expect("tests lose transfers only")
    }

    /// Carries out one request after the other, out of order.
    fn run(&self, mut programs: Vec<Box<dyn Program>>) -> Vec<Box<dyn Program>> {
        let mut random = StdRng::seed_from_u64(1);
        let mut in_flight: Vec<(usize, Request)> = Vec::new();
        for (index, program) in programs.iter_mut().enumerate() {
            program.start(&mut |request| in_flight.push((index, request)));
        }
        while !in_flight.is_empty() {
            if self.exclusive {
                assert_no_overlap(&in_flight);
            }
            let (index, request) = in_flight.swap_remove(random.random_range(0..in_flight.len()));
            if let Some(completion) = self.carry_out(&request) {
                let issue = &mut |request| in_flight.push((index, request));
                programs[index].completed(completion, issue);
            }
        }
        programs
    }

    fn limits(&self) -> AdapterLimits {
        AdapterLimits {
            max_transfer_bytes: self.max_transfer_bytes,
            max_physical_breaks: self.max_physical_breaks,
            alignment_mask: 3,
        }
    }

    fn topology(&self) -> (u8, u8, u8) {
        (1, 1, 1)
    }
}

/// Whoever writes while another transfer of the same blocks is in flight can't
/// know what will be there.
fn assert_no_overlap(in_flight: &[(usize, Request)]) {
    let extents: Vec<(u64, u64, bool)> = in_flight
        .iter()
        .filter_map(|(_, request)| {
            let command = Command {
                cdb: request.cdb,
                length: request.cdb_length,
            };
            let (lba, blocks) = command.extent()?;
            let writes = request
                .data
                .as_ref()
                .is_some_and(|data| data.direction == Direction::Out);
            Some((lba, lba + u64::from(blocks), writes))
        })
        .collect();
    for (number, left) in extents.iter().enumerate() {
        for right in &extents[number + 1..] {
            let overlap = left.0 < right.1 && right.0 < left.1 && (left.2 || right.2);
            assert!(!overlap, "{left:?} and {right:?} are in flight together");
        }
    }
}
