//! Runs a workload: threads keep I/Os outstanding for the given time.

use std::{
    any::Any,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use nix::sys::resource::{Usage, UsageWho, getrusage};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

use super::{
    options::{Access, Options, WriteSource},
    position::{Position, Range},
    results::{Results, ThreadResults, cpu_seconds},
};
use crate::{
    disk::{
        Disk,
        buffer::Buffer,
        cdb::Operation,
        failures::Failures,
        port::CommandError,
        transfer::{Done, Durability, Initiator, Transfer},
    },
    size::Size,
};
use testbed_machine::{clock, memory::MemoryError};

/// The alignment of data in a write source, as for unbuffered I/O.
const SOURCE_ALIGNMENT: u64 = 512;

/// The interval of the progress bar.
const TICK: Duration = Duration::from_millis(100);

/// A workload could not be run, or was aborted.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// The options do not fit the disk or the machine.
    #[error("{0}")]
    Misfit(String),
    /// An I/O failed.
    #[error(transparent)]
    Transfer(#[from] CommandError),
}

/// The machine has too little memory for buffers of `bytes` in all.
fn no_memory(bytes: u64, source: &MemoryError) -> WorkloadError {
    WorkloadError::Misfit(format!(
        "the workload's buffers need {}: lower -o, -t or -b, or raise --memory; {source}",
        Size(bytes)
    ))
}

/// A workload that fits its disk, ready to run.
pub struct Workload<'a> {
    disk: &'a Disk,
    shared: Arc<Shared>,
    /// The virtual CPU of each thread.
    cpus: Vec<u32>,
    cpu_count: u32,
}

/// State that all threads share.
struct Shared {
    options: Options,
    range: Range,
    /// Bytes of a logical block.
    disk_block: u64,
    durability: Durability,
    /// The data of `-Z<size>`.
    source: Option<Buffer>,
    failed: AtomicBool,
    failures: Arc<Failures>,
}

impl<'a> Workload<'a> {
    /// Checks `options` against `disk` and a machine of `cpu_count` CPUs.
    ///
    /// # Errors
    /// [`WorkloadError::Misfit`].
    pub fn new(
        disk: &'a Disk,
        mut options: Options,
        cpu_count: u32,
    ) -> Result<Self, WorkloadError> {
        let disk_block = u64::from(disk.facts().block_bytes);
        let random = matches!(options.access, Access::Random | Access::Mixed { .. });
        for (option, bytes) in [
            ("-b", u64::from(options.block_bytes)),
            ("-B", options.base),
            ("-T", options.thread_stride),
            (if random { "-r" } else { "-s" }, options.step),
        ] {
            if !bytes.is_multiple_of(disk_block) {
                return Err(WorkloadError::Misfit(format!(
                    "{option}: {bytes} bytes is not a multiple of the disk's block size: give a \
                     multiple of {disk_block}"
                )));
            }
        }
        if options.write_percent > 0 && disk.facts().write_protected {
            let why = "-w: the disk is write-protected: give -w0, or leave out -w";
            return Err(WorkloadError::Misfit(why.to_owned()));
        }
        let chosen = match &options.cpus[..] {
            [] => (0..cpu_count).collect(),
            cpus => cpus.to_vec(),
        };
        if let Some(cpu) = chosen.iter().find(|&&cpu| cpu >= cpu_count) {
            return Err(WorkloadError::Misfit(format!(
                "-a: the machine has no CPU {cpu}: give 0 to {}, or raise --cpus",
                cpu_count - 1
            )));
        }
        let threads = options.threads as usize;
        let cpus = chosen.into_iter().cycle().take(threads).collect();
        let range = Range::new(&options, disk.bytes()).map_err(WorkloadError::Misfit)?;
        let source = source(disk, &mut options)?;
        Ok(Self {
            disk,
            shared: Arc::new(Shared {
                range,
                disk_block,
                durability: if options.write_through {
                    Durability::Through
                } else {
                    Durability::Cached
                },
                source,
                failed: AtomicBool::new(false),
                failures: Arc::clone(disk.failures()),
                options,
            }),
            cpus,
            cpu_count,
        })
    }

    /// The options, with warnings.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// Runs the workload. `progress` counts milliseconds.
    ///
    /// # Errors
    /// The machine has too little memory for buffers, or a transfer failed.
    pub fn run(&self, progress: &ProgressBar) -> Result<Results, WorkloadError> {
        let options = &self.shared.options;
        let workers: Result<Vec<Worker>, _> = (0..options.threads)
            .map(|thread| self.worker(thread))
            .collect();
        let workers = workers?;
        // The memory is allocated, and the time begins.
        let clock = Clock::starting_now(options);
        let mut initiators: Vec<Option<Box<dyn Initiator>>> = Vec::new();
        for (worker, &cpu) in workers.into_iter().zip(&self.cpus) {
            let place = place_on(cpu, self.cpu_count, &initiators);
            initiators.resize_with(initiators.len().max(place + 1), || None);
            initiators[place] = Some(Box::new(Worker { clock, ..worker }));
        }
        let initiators = initiators
            .into_iter()
            .map(|initiator| initiator.unwrap_or_else(|| Box::new(Vacancy)))
            .collect();
        let (running, over) = mpsc::channel::<()>();
        let (initiators, host_cpus) = thread::scope(|scope| {
            let watch = scope.spawn(move || watch(clock, progress, &over));
            let initiators = self.disk.run(initiators);
            drop(running);
            (initiators, watch.join().unwrap_or_default())
        });
        let mut threads = vec![None; options.threads as usize];
        for initiator in initiators {
            if let Ok(worker) = initiator.into_any().downcast::<Worker>() {
                if let Some(error) = worker.error {
                    return Err(error.into());
                }
                threads[worker.thread as usize] = Some(worker.results);
            }
        }
        Ok(Results {
            options: options.clone(),
            threads: threads.into_iter().flatten().collect(),
            host_cpus,
        })
    }

    /// Allocates the buffers of a thread, and chooses its first position.
    fn worker(&self, thread: u32) -> Result<Worker, WorkloadError> {
        let shared = Arc::clone(&self.shared);
        let options = &self.shared.options;
        let (outstanding, block) = (options.outstanding, options.block_bytes);
        let mut random = StdRng::seed_from_u64(u64::from(options.seed) + u64::from(thread));
        let mut buffers = |wanted: bool| {
            if !wanted {
                return Ok(Vec::new());
            }
            let all = u64::from(options.threads) * u64::from(outstanding) * u64::from(block) * 2;
            let buffers = self.disk.buffers(&mut random, outstanding as usize, block);
            buffers.map_err(|error| no_memory(all, &error))
        };
        let reads = buffers(options.write_percent < 100)?;
        let writes = buffers(options.write_percent > 0 && shared.source.is_none())?;
        if options.source == WriteSource::Pattern {
            let pattern: Vec<u8> = (0..block).map(|at| at as u8).collect();
            for buffer in &writes {
                buffer.write(&pattern);
            }
        }
        let position = Position::new(&shared.range, thread, outstanding, &mut random);
        let last = choose(&mut random, options.write_percent);
        Ok(Worker {
            clock: Clock::starting_now(options),
            thread,
            random,
            reads,
            writes,
            operations: vec![last; outstanding as usize],
            position,
            last,
            results: ThreadResults::new(options),
            error: None,
            shared,
        })
    }
}

/// The next free index of CPU `cpu` in the list of initiators. The initiator with index i runs
/// on CPU i modulo `cpu_count`.
fn place_on<T>(cpu: u32, cpu_count: u32, taken: &[Option<T>]) -> usize {
    (cpu as usize..)
        .step_by(cpu_count as usize)
        .find(|&place| taken.get(place).is_none_or(Option::is_none))
        .unwrap_or_default()
}

/// The greatest buffer of `-Z<size>`, and its greatest share of the machine's memory. Each
/// scattered page needs a mapping of the host, which limits their number.
const SOURCE_MOST: u64 = 32 << 20;
const SOURCE_SHARE: u64 = 4;

/// Makes the buffer of `-Z<size>`. If it is too large for the machine, it is shortened with a
/// warning, so that the data of writes repeats sooner.
fn source(disk: &Disk, options: &mut Options) -> Result<Option<Buffer>, WorkloadError> {
    let WriteSource::Buffer { bytes, file } = &options.source else {
        return Ok(None);
    };
    if options.write_percent == 0 {
        return Ok(None);
    }
    let bytes = *bytes;
    let room = SOURCE_MOST.min(disk.memory_bytes() / SOURCE_SHARE);
    let kept = bytes.min(room.max(options.block_bytes.into()));
    let length = u32::try_from(kept).unwrap_or(u32::MAX);
    let mut random = StdRng::seed_from_u64(u64::from(options.seed));
    let contents = match file {
        None => random_bytes(&mut random, length),
        Some(path) => {
            let misfit = |why| WorkloadError::Misfit(format!("-Z: {}: {why}", path.display()));
            let contents = fs::read(path).map_err(|error| misfit(error.to_string()))?;
            if contents.is_empty() {
                return Err(misfit("the file is empty: name one with data".to_owned()));
            }
            contents.into_iter().cycle().take(length as usize).collect()
        }
    };
    if kept < bytes {
        options.warnings.push(format!(
            "-Z: the buffer is {} instead of {}, because the machine has too little memory",
            Size(kept),
            Size(bytes)
        ));
    }
    let buffers = disk.buffers(&mut random, 1, length);
    let buffer = buffers.map_err(|error| no_memory(kept, &error))?.remove(0);
    buffer.write(&contents);
    Ok(Some(buffer))
}

fn random_bytes(random: &mut StdRng, length: u32) -> Vec<u8> {
    let mut bytes = vec![0; length as usize];
    random.fill_bytes(&mut bytes);
    bytes
}

/// The times of a workload's phases.
#[derive(Clone, Copy, Debug)]
struct Clock {
    begin: Instant,
    measured_begin: Instant,
    measured_end: Instant,
    end: Instant,
}

impl Clock {
    fn starting_now(options: &Options) -> Self {
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let begin = clock::instant();
        let measured_begin = begin + seconds(options.warm_up_s);
        let measured_end = measured_begin + seconds(options.duration_s);
        Self {
            begin,
            measured_begin,
            measured_end,
            end: measured_end + seconds(options.cool_down_s),
        }
    }
}

/// Updates the progress bar until the workload ends. Returns the number of the host's CPUs that
/// this process used in the measured time. That is real time, even if the clock is virtual.
fn watch(clock: Clock, progress: &ProgressBar, over: &mpsc::Receiver<()>) -> f64 {
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    progress.set_length(milliseconds(clock.end - clock.begin));
    let mut samples: Vec<(Instant, Usage)> = Vec::new();
    let sample = || {
        let usage = getrusage(UsageWho::RUSAGE_SELF).ok();
        usage.map(|usage| (Instant::now(), usage))
    };
    let boundaries = [clock.measured_begin, clock.measured_end];
    loop {
        let now = clock::instant();
        let passed = boundaries
            .iter()
            .filter(|boundary| **boundary <= now)
            .count();
        if samples.len() < passed {
            samples.extend(sample());
        }
        progress.set_position(milliseconds(now - clock.begin));
        let pause = boundaries
            .get(passed)
            .map_or(TICK, |next| TICK.min(*next - now));
        if over.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
            break;
        }
    }
    if samples.len() == 1 {
        // The last I/O completed shortly before the end of the measurement.
        samples.extend(sample());
    }
    match &samples[..] {
        [(begin, first), (end, last), ..] => {
            cpu_seconds(first, last) / (*end - *begin).as_secs_f64()
        }
        _ => 0.0,
    }
}

/// One thread of the workload.
struct Worker {
    shared: Arc<Shared>,
    clock: Clock,
    thread: u32,
    random: StdRng,
    reads: Vec<Buffer>,
    writes: Vec<Buffer>,
    /// The operation of each outstanding I/O.
    operations: Vec<Operation>,
    position: Position,
    last: Operation,
    results: ThreadResults,
    error: Option<CommandError>,
}

impl Worker {
    fn next(&mut self, slot: usize) -> Option<Transfer> {
        let options = &self.shared.options;
        let range = &self.shared.range;
        let (offset, continued) = self.position.advance(range, slot, &mut self.random);
        // A sequential run of mixed access has only reads or only writes.
        if !(continued && matches!(options.access, Access::Mixed { .. })) {
            self.last = choose(&mut self.random, options.write_percent);
        }
        let operation = self.last;
        let buffer = match operation {
            Operation::Read => self.reads.get(slot)?.clone(),
            Operation::Write => match &self.shared.source {
                Some(source) => piece_of(source, options.block_bytes, &mut self.random),
                None => self.writes.get(slot)?.clone(),
            },
        };
        if operation == Operation::Write && options.source == WriteSource::RandomEach {
            buffer.write(&random_bytes(&mut self.random, buffer.bytes));
        }
        *self.operations.get_mut(slot)? = operation;
        Some(Transfer {
            token: slot as u64,
            operation,
            lba: (options.base + offset) / self.shared.disk_block,
            buffer,
            durability: self.shared.durability,
        })
    }
}

/// A read or a write.
fn choose(random: &mut StdRng, write_percent: u8) -> Operation {
    if random.random_range(0..100) < write_percent {
        Operation::Write
    } else {
        Operation::Read
    }
}

/// A block's length of `source`, from anywhere in it.
fn piece_of(source: &Buffer, block: u32, random: &mut StdRng) -> Buffer {
    let room = u64::from(source.bytes - block) / SOURCE_ALIGNMENT;
    let shift = random.random_range(0..=room) * SOURCE_ALIGNMENT;
    Buffer {
        block: Arc::clone(&source.block),
        offset: source.offset + shift as usize,
        bytes: block,
    }
}

impl Initiator for Worker {
    fn start(&mut self, issue: &mut dyn FnMut(Transfer)) {
        for slot in 0..self.operations.len() {
            if let Some(transfer) = self.next(slot) {
                issue(transfer);
            }
        }
    }

    fn done(&mut self, done: Done, issue: &mut dyn FnMut(Transfer)) {
        let succeeded = done.result.is_ok();
        if let Err(error) = done.result
            && let Some(error) = self.shared.failures.pass_over(error)
        {
            self.error.get_or_insert(error);
            self.shared.failed.store(true, Ordering::Relaxed);
            return;
        }
        let slot = done.token as usize;
        let measured = self.clock.measured_begin..self.clock.measured_end;
        if succeeded && measured.contains(&done.at) {
            let tally = match self.operations.get(slot) {
                Some(Operation::Write) => &mut self.results.writes,
                _ => &mut self.results.reads,
            };
            let at = done.at - measured.start;
            tally.record(&self.shared.options, done.latency, at);
        }
        if done.at < self.clock.end
            && !self.shared.failed.load(Ordering::Relaxed)
            && let Some(transfer) = self.next(slot)
        {
            issue(transfer);
        }
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Nobody, on a CPU that no thread was bound to.
struct Vacancy;

impl Initiator for Vacancy {
    fn start(&mut self, _issue: &mut dyn FnMut(Transfer)) {}

    fn done(&mut self, _done: Done, _issue: &mut dyn FnMut(Transfer)) {}

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::{
        super::{options::tests::accepted as options, results::Tally},
        *,
    };
    use crate::disk::{
        cdb::{Command, opcode},
        fake_port::{FakePort, Io, failed},
    };
    use testbed_machine::memory::Memory;
    use testbed_storport::request::Direction;

    const DISK: u64 = 4 << 20;

    /// Runs a workload of one second on two CPUs. `prepare` gets the disk before.
    fn run_prepared(
        port: FakePort,
        line: &str,
        prepare: impl FnOnce(&Disk),
    ) -> (Result<Results, WorkloadError>, Arc<FakePort>) {
        let exclusive = false;
        let port = Arc::new(FakePort { exclusive, ..port });
        let memory = Memory::new(64 << 20).expect("memory");
        let disk = Disk::discover(port.clone(), &memory).expect("the fake is a disk");
        prepare(&disk);
        let options = options(&format!("{line} -d1 -W0"));
        let results = Workload::new(&disk, options, 2)
            .and_then(|workload| workload.run(&ProgressBar::hidden()));
        (results, port)
    }

    fn run_on(port: FakePort, line: &str) -> (Result<Results, WorkloadError>, Arc<FakePort>) {
        run_prepared(port, line, |_| {})
    }

    /// Runs a workload and gives what it wrote to `look`.
    fn written(line: &str, look: impl Fn(&[u8]) -> bool + Send + 'static) -> bool {
        let all = Arc::new(Mutex::new(true));
        let verdict = all.clone();
        let port = FakePort::new(DISK, 512).meddling(move |io: &mut Io| {
            if io.direction == Direction::Out && !look(&io.bytes) {
                *verdict.lock().expect("no holder panics") = false;
            }
        });
        run_on(port, line).0.expect("it runs");
        *all.lock().expect("no holder panics")
    }

    #[test]
    fn what_is_counted_is_what_was_done() {
        let (results, port) = run_on(FakePort::new(DISK, 512), "-b4K -t3 -o4 -r -w50 -L -D100");
        let results = results.expect("it runs");

        let sum = |of: fn(&ThreadResults) -> &Tally| {
            let mut sum = Tally::default();
            results
                .threads
                .iter()
                .for_each(|thread| sum.add(of(thread)));
            sum
        };
        let (reads, writes) = (sum(|thread| &thread.reads), sum(|thread| &thread.writes));
        let done = |code| {
            port.commands(|command: &Command| command.cdb[0] == code)
                .len() as u64
        };
        assert_eq!(results.threads.len(), 3);
        assert!(results.threads.iter().all(|thread| thread.reads.ios > 0));
        assert_eq!(reads.bytes, reads.ios * 4096);
        assert_eq!(writes.bytes, writes.ios * 4096);
        // Those outstanding at the end complete after it.
        let all = done(opcode::READ_10) + done(opcode::WRITE_10);
        assert!((all - 12..=all).contains(&(reads.ios + writes.ios)));
        let share = writes.ios as f64 / (reads.ios + writes.ios) as f64;
        assert!((0.4..0.6).contains(&share), "{share}");
    }

    #[test]
    fn the_same_seed_gives_the_same_offsets_and_another_thread_others() {
        let first = |line: &str| {
            let (results, port) = run_on(FakePort::new(DISK, 512), line);
            results.expect("it runs");
            let reads = port.commands(|command| command.extent().is_some());
            reads[..8]
                .iter()
                .map(|read| read.extent())
                .collect::<Vec<_>>()
        };
        let one = first("-b4K -o1 -r -z5");
        assert_eq!(one, first("-b4K -o1 -r -z5"));
        assert_ne!(one, first("-b4K -o1 -r -z6"));
    }

    #[test]
    fn writes_carry_the_pattern_zeros_or_random_bytes() {
        assert!(written("-b4K -w100 -r", |bytes| {
            bytes.iter().enumerate().all(|(at, &byte)| byte == at as u8)
        }));
        assert!(written("-b4K -w100 -r -Z", |bytes| {
            bytes.iter().all(|&byte| byte == 0)
        }));
        let random = |bytes: &[u8]| {
            let zeros = bytes.iter().filter(|&&byte| byte == 0).count();
            zeros < 64
        };
        assert!(written("-b4K -w100 -r -Zr", random));
        assert!(written("-b4K -w100 -r -Z64K", random));
        assert!(written("-b4K -w100 -r -Z1G", random));
    }

    #[test]
    fn where_failures_are_tolerated_the_workload_goes_on_and_they_are_counted() {
        let mut number = 0;
        let port = FakePort::new(DISK, 512).meddling(move |io: &mut Io| {
            number += 1;
            if number % 3 == 0 {
                io.completion = failed(io.completion.clone(), 0x3, 0x11);
            }
        });
        let mut failures = None;
        let (results, _) = run_prepared(port, "-b4K -r -w50 -t2 -o2", |disk| {
            disk.failures().tolerate();
            failures = Some(Arc::clone(disk.failures()));
        });
        let results = results.expect("it goes on");

        let counts = failures.expect("it was prepared").counts();
        let [(how, failed)] = &Vec::from_iter(counts)[..] else {
            panic!("one kind of failure");
        };
        assert!(how.contains("MEDIUM ERROR"), "{how}");
        let done: u64 = results
            .threads
            .iter()
            .map(|thread| thread.reads.ios + thread.writes.ios)
            .sum();
        // A third failed, and is not counted as done.
        assert!((done / 3..=done).contains(failed), "{failed} of {done}");
    }

    #[test]
    fn a_transfer_that_fails_ends_the_workload_with_its_error() {
        let mut number = 0;
        let port = FakePort::new(DISK, 512).meddling(move |io| {
            number += 1;
            if number == 10 {
                io.completion = failed(io.completion.clone(), 0x3, 0x11);
            }
        });

        let error = run_on(port, "-b4K -r -o4 -t2")
            .0
            .expect_err("a read failed");
        assert!(error.to_string().contains("MEDIUM ERROR"), "{error}");
    }

    #[test]
    fn what_does_not_fit_the_disk_or_the_machine_is_refused() {
        for (block_bytes, line, why) in [
            (4096, "-b6K", "-b: 6144 bytes is not a multiple"),
            (4096, "-b8K -r2K", "-r: 2048 bytes is not a multiple"),
            (4096, "-b8K -s2K", "-s: 2048 bytes is not a multiple"),
            (4096, "-b8K -B2K", "-B: 2048 bytes is not a multiple"),
            (512, "-b8M", "is shorter than a block"),
            (512, "-a2", "no CPU 2: give 0 to 1"),
            (512, "-b2M -o100", "lower -o, -t or -b"),
            (512, "-b4K -w100 -Z64K,/no/such/file", "-Z: /no/such/file: "),
        ] {
            let error = run_on(FakePort::new(DISK, block_bytes), line)
                .0
                .expect_err(line);
            assert!(error.to_string().contains(why), "{line}: {error}");
        }
    }

    #[test]
    fn threads_are_placed_so_that_number_modulo_cpus_is_their_cpu() {
        let mut taken: Vec<Option<()>> = Vec::new();
        let mut places = Vec::new();
        for cpu in [1, 3, 1, 0] {
            let place = place_on(cpu, 4, &taken);
            taken.resize(taken.len().max(place + 1), None);
            taken[place] = Some(());
            places.push(place);
        }
        assert_eq!(places, [1, 3, 5, 0]);
    }
}
