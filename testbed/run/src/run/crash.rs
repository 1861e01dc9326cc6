//! Crashes the machine under load, and writes a dump: a second copy of the driver writes it
//! through the same PCI function. Then compares the dump byte by byte.

use std::{any::Any, fs::File, io, ops::Range, os::unix::fs::FileExt, sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{Hardware, Settings};
use crate::{
    disk::{
        Disk,
        buffer::Buffer,
        cdb::{Command, Medium, Operation},
    },
    size::Size,
    stamp::{SECTOR, Stamp},
    status::{SrbStatus, big_endian, srb},
    verify::findings::{Findings, Place},
};
use testbed_devices::Faults;
use testbed_loader::{Image, ImageError};
use testbed_machine::{
    Machine,
    memory::{Memory, MemoryError, PAGE},
    schedule,
};
use testbed_storport::{
    self,
    adapter::{Adapter, StartError},
    control_request::ControlRequest,
    dump::{self, DumpError, DumpStack},
    report::Report,
    request::{Address, Completion, Direction, Program, Request},
};

/// The size of a dump, at most a quarter of the disk.
const DUMPED: u64 = 16 << 20;

/// The longest write of a dump.
const LONGEST: u32 = 64 << 10;

/// Requests of each CPU that are in flight when the machine crashes, and their length.
const DEPTH: u64 = 16;
const LOAD: u32 = PAGE as u32;

/// Requests that the device serves before it stalls and the machine crashes.
const SERVED: u64 = 256;

/// Bytes of the data that the dump port reads.
const INQUIRY: u32 = 36;
const CAPACITY: u32 = 8;

/// The polling interval of the load.
const LOOK: Duration = Duration::from_millis(1);

/// The machine crashes when the stalled device had all requests of the driver at this many looks
/// in a row, and at the latest after the second number of looks.
const EQUAL_LOOKS: u32 = 4;
const MOST_LOOKS: u32 = 1000;

/// The stamps' generation: no verify pass writes as often.
const GENERATION: u64 = u64::MAX;

/// The result of a dump.
#[derive(Debug)]
pub struct Outcome {
    /// Requests in flight in the crashed driver.
    pub outstanding: u32,
    /// The disk's queues that these are in.
    pub queues: Option<usize>,
    /// Bytes dumped.
    pub bytes: u64,
    /// The number of writes.
    pub writes: u64,
    /// Bytes of the longest write.
    pub longest: u32,
    /// Bytes of device extension and uncached extension.
    pub memory: (u32, u32),
    /// The mismatches on the disk.
    pub findings: Findings,
    /// Why the dump is incomplete.
    pub error: Option<CrashError>,
    /// Whether the device wrote to the crashed driver's memory after the dump stack was
    /// initialized.
    pub old_memory_changed: bool,
    /// The report of the dump stack.
    pub report: Report,
}

/// The dump was not written, or is incomplete.
#[derive(Debug, thiserror::Error)]
pub enum CrashError {
    /// The second copy of the driver cannot be loaded.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The dump stack did not start.
    #[error("the dump stack did not start: {0}")]
    Start(#[from] StartError),
    /// A request was lost.
    #[error("dump stack: {0}")]
    Dump(#[from] DumpError),
    /// A request failed.
    #[error("dump stack: {what} completed as {status}, with {transferred} bytes transferred")]
    Request {
        /// The request.
        what: String,
        /// SRB status.
        status: SrbStatus,
        /// DataTransferLength.
        transferred: u32,
    },
    /// The disk or a limit of the dump stack is too small, or the data of a command is wrong.
    #[error("{0}")]
    Room(String),
    /// The machine has too little memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The image file cannot be read.
    #[error("cannot read the image file: {0}")]
    File(#[from] io::Error),
}

/// A crash of a run.
pub(super) struct Crash<'a> {
    pub(super) machine: &'a Arc<Machine>,
    pub(super) adapter: &'a Arc<Adapter>,
    pub(super) disk: &'a Disk,
    pub(super) hardware: &'a Hardware,
    pub(super) settings: &'a Settings,
    pub(super) seed: u64,
}

impl Crash<'_> {
    /// Crashes the machine and writes the dump. The adapter cannot be used afterwards.
    ///
    /// # Errors
    /// See [`CrashError`]. Wrong data is not an error, but in the findings.
    pub(super) fn happen(&self) -> Result<Outcome, CrashError> {
        let region = self.region()?;
        // Windows loads the second copy when it starts, before any crash.
        let image = Arc::new(Image::load(
            &self.settings.driver,
            &testbed_storport::resolve,
        )?);
        self.load(region.start)?;
        self.adapter.crash();
        let outstanding = self.adapter.outstanding();
        let device = self.hardware.device.as_ref();
        let queues = device.map(|device| {
            let kept = device.stalled_requests();
            kept.iter().filter(|count| **count > 0).count()
        });

        let function = &self.hardware.function;
        let stack = DumpStack::start(self.machine, &image, function, self.settings.srb)?;
        let old_memory = self.adapter.uncached_extension();
        let mut dump = Dump {
            stack: &stack,
            memory: self.machine.memory(),
            address: self.disk.facts().address,
            block_bytes: self.disk.facts().block_bytes,
            seed: self.seed,
            longest: 0,
            writes: 0,
        };
        let (findings, error) = match self.dump(&mut dump, &region) {
            Ok(findings) => (findings, None),
            Err(error) => (dump.findings(), Some(error)),
        };
        Ok(Outcome {
            outstanding,
            queues,
            bytes: (region.end - region.start) * SECTOR as u64,
            writes: dump.writes,
            longest: dump.longest,
            memory: stack.memory(),
            findings,
            error,
            old_memory_changed: old_memory != self.adapter.uncached_extension(),
            report: stack.report(),
        })
    }

    fn dump(&self, dump: &mut Dump<'_>, region: &Range<u64>) -> Result<Findings, CrashError> {
        dump.ask(self.disk.facts().blocks)?;
        dump.write(region)?;
        dump.settle()?;
        match &self.hardware.contents {
            Some(contents) => dump.compare_image(region, contents),
            None => dump.compare_read(region),
        }
    }

    /// The sectors of the dump, at the end of the disk.
    fn region(&self) -> Result<Range<u64>, CrashError> {
        let bytes = DUMPED.min(self.disk.bytes() / 4) / u64::from(LONGEST) * u64::from(LONGEST);
        let end = self.disk.bytes() / SECTOR as u64;
        if bytes == 0 {
            return Err(CrashError::Room(format!(
                "--dump: a disk of {} is too small for a dump: give it at least {}",
                Size(self.disk.bytes()),
                Size(4 * u64::from(LONGEST))
            )));
        }
        Ok(end - bytes / SECTOR as u64..end)
    }

    /// Starts requests on the sectors below `end`, and makes the device stall.
    fn load(&self, end: u64) -> Result<(), CrashError> {
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut programs: Vec<Box<dyn Program>> = Vec::new();
        for _ in 0..self.settings.cpus {
            let buffers = self.disk.buffers(&mut random, DEPTH as usize, LOAD)?;
            programs.push(Box::new(Load {
                random: StdRng::from_rng(&mut random),
                buffers,
                address: self.disk.facts().address,
                block_bytes: self.disk.facts().block_bytes,
                places: end * SECTOR as u64 / u64::from(LOAD),
            }));
        }
        let function = &self.hardware.function;
        let before = function.counters().requests;
        self.adapter.leave_running(programs);
        let Some(device) = &self.hardware.device else {
            schedule::sleep(LOOK);
            return Ok(());
        };
        while function.counters().requests < before + SERVED {
            schedule::sleep(LOOK);
        }
        device.set_faults(Faults {
            stalled: std::iter::once(0..end).collect(),
            ..Faults::default()
        });
        // Until the device keeps all requests that the driver has, and Storport sends no more.
        let mut equal = 0;
        for _ in 0..MOST_LOOKS {
            schedule::sleep(LOOK);
            let kept: usize = device.stalled_requests().iter().sum();
            let is_equal = kept > 0 && kept == self.adapter.outstanding() as usize;
            equal = if is_equal { equal + 1 } else { 0 };
            if equal == EQUAL_LOOKS {
                break;
            }
        }
        Ok(())
    }
}

/// Keeps requests of a CPU in flight, without end.
struct Load {
    random: StdRng,
    buffers: Vec<Buffer>,
    address: Address,
    block_bytes: u32,
    /// The number of places, each as long as a request.
    places: u64,
}

impl Load {
    fn request(&mut self, token: u64) -> Option<Request> {
        let buffer = self.buffers.get(usize::try_from(token).ok()?)?;
        let place = self.random.random_range(0..self.places);
        let operation = if self.random.random_bool(0.5) {
            Operation::Read
        } else {
            Operation::Write
        };
        let lba = place * u64::from(LOAD) / u64::from(self.block_bytes);
        let blocks = LOAD / self.block_bytes;
        let command = Command::transfer(operation, lba, blocks, Medium::Cached);
        Some(command.request(
            token,
            self.address,
            Some(buffer.data(operation.direction())),
        ))
    }
}

impl Program for Load {
    fn start(&mut self, issue: &mut dyn FnMut(Request)) {
        for token in 0..DEPTH {
            if let Some(request) = self.request(token) {
                issue(request);
            }
        }
    }

    fn completed(&mut self, completion: Completion, issue: &mut dyn FnMut(Request)) {
        if let Some(request) = self.request(completion.token) {
            issue(request);
        }
    }

    fn finished(&self) -> bool {
        false
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// A dump in progress.
struct Dump<'a> {
    stack: &'a DumpStack,
    memory: &'a Arc<Memory>,
    address: Address,
    block_bytes: u32,
    seed: u64,
    longest: u32,
    writes: u64,
}

impl Dump<'_> {
    /// Bytes of a write: whole blocks, within the limits of the dump stack.
    fn chunk(&self) -> Result<u32, CrashError> {
        let limits = self.stack.limits();
        let most = LONGEST
            .min(limits.max_transfer_bytes)
            .min(limits.max_physical_breaks.saturating_mul(PAGE as u32));
        match most / self.block_bytes * self.block_bytes {
            0 => Err(CrashError::Room(format!(
                "dump stack: its limits of {} bytes and {} scatter/gather elements allow no \
                 block of {} bytes",
                limits.max_transfer_bytes, limits.max_physical_breaks, self.block_bytes
            ))),
            chunk => Ok(chunk),
        }
    }

    /// A page-aligned buffer, because whole pages are dumped.
    fn buffer(&self, bytes: u32) -> Result<Buffer, CrashError> {
        let mut random = StdRng::seed_from_u64(self.seed);
        let mask = self.stack.limits().alignment_mask.max(PAGE as u32 - 1);
        let buffers = Buffer::scattered(self.memory, &mut random, mask, 1, bytes)?;
        buffers
            .into_iter()
            .next()
            .ok_or_else(|| CrashError::Room("no buffer for the dump".to_owned()))
    }

    /// The transfers of a region: first sector and length in bytes.
    fn pieces(&self, region: &Range<u64>, chunk: u32) -> impl Iterator<Item = (u64, u32)> + use<> {
        let end = region.end;
        (region.start..end)
            .step_by(chunk as usize / SECTOR)
            .map(move |first| {
                let left = (end - first) * SECTOR as u64;
                (first, left.min(u64::from(chunk)) as u32)
            })
    }

    fn stamp(&self, sector: u64) -> Stamp {
        Stamp {
            sector,
            generation: GENERATION,
            seed: self.seed,
        }
    }

    fn piece(&self, operation: Operation, first: u64, buffer: &Buffer) -> Request {
        let lba = first * SECTOR as u64 / u64::from(self.block_bytes);
        let blocks = buffer.bytes / self.block_bytes;
        let command = Command::transfer(operation, lba, blocks, Medium::Cached);
        command.request(0, self.address, Some(buffer.data(operation.direction())))
    }

    /// Sends the commands of the dump port before its first write. These are not documented.
    /// Some miniports cannot handle an LBA before READ CAPACITY.
    fn ask(&self, blocks: u64) -> Result<(), CrashError> {
        let inquiry = self.answer(Command::inquiry(INQUIRY as u8), INQUIRY, "INQUIRY")?;
        if inquiry[0] != 0 {
            return Err(CrashError::Room(format!(
                "dump stack: INQUIRY returned device type {:#04x}, not 0 (disk)",
                inquiry[0]
            )));
        }
        let capacity = self.answer(Command::read_capacity_10(), CAPACITY, "READ CAPACITY")?;
        let last = big_endian(&capacity[..4]);
        let expected = (blocks - 1).min(u64::from(u32::MAX));
        if last != expected {
            return Err(CrashError::Room(format!(
                "dump stack: READ CAPACITY returned the last LBA {last} instead of {expected}"
            )));
        }
        Ok(())
    }

    /// Executes a command, and returns its data, which must be complete.
    fn answer(&self, command: Command, bytes: u32, what: &str) -> Result<Vec<u8>, CrashError> {
        let buffer = self.buffer(bytes)?;
        let data = Some(buffer.data(Direction::In));
        let completion = self
            .stack
            .execute(&command.request(0, self.address, data))?;
        good(&completion, what, bytes)?;
        Ok(buffer.read())
    }

    /// Writes the stamps of a region, one write at a time.
    fn write(&mut self, region: &Range<u64>) -> Result<(), CrashError> {
        let chunk = self.chunk()?;
        let whole = self.buffer(chunk)?;
        let middle = region.start + (region.end - region.start) / 2;
        let mut reset = false;
        for (first, bytes) in self.pieces(region, chunk) {
            let buffer = whole.first(bytes);
            let sectors = first..first + u64::from(bytes) / SECTOR as u64;
            let stamps: Vec<u8> = sectors
                .flat_map(|sector| self.stamp(sector).bytes())
                .collect();
            buffer.write(&stamps);
            let request = self.piece(Operation::Write, first, &buffer);
            // One write is interrupted by a reset.
            let completion = if first >= middle && !reset {
                reset = true;
                let completion = self.stack.execute_through_reset(&request)?;
                if completion.srb_status == srb::BUS_RESET {
                    // The reset completed the request, so it is sent again.
                    self.stack.execute(&request)?
                } else {
                    completion
                }
            } else {
                self.stack.execute(&request)?
            };
            good(&completion, "WRITE", bytes)?;
            self.longest = self.longest.max(bytes);
            self.writes += 1;
        }
        Ok(())
    }

    /// Flushes the disk's cache, with every request that does so.
    fn settle(&self) -> Result<(), CrashError> {
        let command = Command::synchronize_cache();
        let completion = self
            .stack
            .execute(&command.request(0, self.address, None))?;
        good(&completion, "SYNCHRONIZE CACHE", 0)?;
        // The dump stack checks their results.
        self.stack.control(ControlRequest::Flush(self.address))?;
        self.stack.control(ControlRequest::Shutdown(self.address))?;
        Ok(())
    }

    fn findings(&self) -> Findings {
        Findings::new(self.seed, self.block_bytes)
    }

    fn check(&self, findings: &mut Findings, place: Place, first: u64, bytes: &[u8]) {
        let (sectors, _) = bytes.as_chunks::<SECTOR>();
        for (sector, found) in (first..).zip(sectors) {
            findings.written(place, self.stamp(sector), found);
        }
    }

    /// Compares a region of the image file with the written data.
    fn compare_image(&self, region: &Range<u64>, contents: &File) -> Result<Findings, CrashError> {
        let mut findings = self.findings();
        for (first, bytes) in self.pieces(region, LONGEST) {
            let mut found = vec![0; bytes as usize];
            contents.read_exact_at(&mut found, first * SECTOR as u64)?;
            self.check(&mut findings, Place::Image, first, &found);
        }
        Ok(findings)
    }

    /// Compares a region, read through the dump stack, with the written data.
    fn compare_read(&self, region: &Range<u64>) -> Result<Findings, CrashError> {
        let chunk = self.chunk()?;
        let whole = self.buffer(chunk)?;
        let mut findings = self.findings();
        for (first, bytes) in self.pieces(region, chunk) {
            let buffer = whole.first(bytes);
            buffer.write(&vec![0xEE; bytes as usize]);
            let completion = self
                .stack
                .execute(&self.piece(Operation::Read, first, &buffer))?;
            good(&completion, "READ", bytes)?;
            self.check(&mut findings, Place::Driver, first, &buffer.read());
        }
        Ok(findings)
    }
}

/// Checks that a request succeeded completely.
fn good(completion: &Completion, what: &str, bytes: u32) -> Result<(), CrashError> {
    let status = SrbStatus(completion.srb_status);
    if completion.srb_status == srb::SUCCESS && completion.transferred == bytes {
        return Ok(());
    }
    Err(CrashError::Request {
        what: what.to_owned(),
        status,
        transferred: completion.transferred,
    })
}

impl Outcome {
    /// The faults of the driver that are not in its report.
    pub(super) fn reasons(&self) -> Vec<String> {
        let mut reasons: Vec<String> = self.error.iter().map(ToString::to_string).collect();
        let mismatches = self.findings.count();
        if mismatches > 0 {
            reasons.push(format!(
                "{mismatches} sectors of the dump differ from the written data"
            ));
        }
        if self.old_memory_changed {
            reasons.push(
                "the device wrote to the crashed driver's memory after the dump stack was \
                 initialized, so the dump stack did not reset it"
                    .to_owned(),
            );
        }
        reasons
    }

    /// Describes the dump in two lines.
    pub(super) fn lines(&self) -> [String; 2] {
        let (extension, uncached) = self.memory;
        let queues = match self.queues {
            None => String::new(),
            Some(1) => " in 1 queue".to_owned(),
            Some(count) => format!(" in {count} queues"),
        };
        [
            format!(
                "crashed with {} requests in flight{queues}; {} in {} writes of at most {}, {} \
                 mismatches",
                self.outstanding,
                Size(self.bytes),
                self.writes,
                Size(self.longest.into()),
                self.findings.count()
            ),
            format!(
                "{extension} bytes of device extension and {uncached} of uncached extension, at \
                 most {}",
                dump::MEMORY
            ),
        ]
    }
}
