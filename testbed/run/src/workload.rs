//! The workload: threads keep I/Os outstanding for the given time. Its options are those of
//! Microsoft's diskspd, a benchmark for disks.

pub mod options;
pub mod results;

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use self::{
    options::Options,
    results::{Latencies, Results},
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

/// A workload could not be run, or was aborted.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// The options do not fit the disk.
    #[error("{0}")]
    Misfit(String),
    /// The machine has too little memory for the buffers.
    #[error("the workload's buffers need {bytes}: lower -o, -t or -b, or raise --memory; {source}")]
    Memory {
        /// Bytes of all buffers.
        bytes: Size,
        /// The first buffer that was not allocated.
        source: MemoryError,
    },
    /// An I/O failed.
    #[error(transparent)]
    Transfer(#[from] CommandError),
}

/// A workload that fits its disk, ready to run.
pub struct Workload<'a> {
    disk: &'a Disk,
    shared: Arc<Shared>,
    seed: u64,
}

/// State that all threads share.
struct Shared {
    options: Options,
    /// The number of places for an I/O on the disk.
    places: u64,
    /// Logical blocks of an I/O.
    blocks: u64,
    failed: AtomicBool,
    failures: Arc<Failures>,
}

impl<'a> Workload<'a> {
    /// Checks `options` against `disk`.
    ///
    /// # Errors
    /// [`WorkloadError::Misfit`].
    pub fn new(disk: &'a Disk, options: Options, seed: u64) -> Result<Self, WorkloadError> {
        let facts = disk.facts();
        let (bytes, block) = (options.block_bytes, facts.block_bytes);
        let misfit = if !bytes.is_multiple_of(block) {
            format!(
                "-b: {bytes} bytes is not a multiple of the disk's block size: give a multiple of \
                 {block}"
            )
        } else if u64::from(bytes) > disk.bytes() {
            format!(
                "-b: {bytes} bytes is more than the size of the disk: give at most {}",
                disk.bytes()
            )
        } else if options.write_percent > 0 && facts.write_protected {
            "-w: the disk is write-protected: give -w0, or leave out -w".to_owned()
        } else {
            let shared = Shared {
                places: disk.bytes() / u64::from(bytes),
                blocks: u64::from(bytes / block),
                failed: AtomicBool::new(false),
                failures: Arc::clone(disk.failures()),
                options,
            };
            return Ok(Self {
                disk,
                shared: Arc::new(shared),
                seed,
            });
        };
        Err(WorkloadError::Misfit(misfit))
    }

    /// The options.
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
        let mut workers = (0..options.threads)
            .map(|thread| self.worker(thread, progress))
            .collect::<Result<Vec<_>, _>>()?;
        progress.set_length(1000 * u64::from(options.warm_up_s + options.duration_s));
        // The memory is allocated, and the time begins.
        let begin = clock::instant();
        for worker in &mut workers {
            worker.begin = begin;
        }
        let initiators = workers
            .into_iter()
            .map(|worker| Box::new(worker) as Box<dyn Initiator>)
            .collect();
        let mut results = Results {
            options: options.clone(),
            reads: Latencies::default(),
            writes: Latencies::default(),
        };
        for initiator in self.disk.run(initiators) {
            if let Ok(worker) = initiator.into_any().downcast::<Worker>() {
                if let Some(error) = worker.error {
                    return Err(error.into());
                }
                results.reads.add(&worker.reads);
                results.writes.add(&worker.writes);
            }
        }
        Ok(results)
    }

    /// Allocates the buffers of a thread, and chooses its first place.
    fn worker(&self, thread: u32, progress: &ProgressBar) -> Result<Worker, WorkloadError> {
        let Options {
            threads,
            outstanding,
            block_bytes,
            ..
        } = self.shared.options;
        let mut random = StdRng::seed_from_u64(self.seed.wrapping_add(thread.into()));
        let buffers = self
            .disk
            .buffers(&mut random, outstanding as usize, block_bytes)
            .map_err(|source| WorkloadError::Memory {
                bytes: Size(u64::from(threads) * u64::from(outstanding) * u64::from(block_bytes)),
                source,
            })?;
        // Data that no stamp has, until a read overwrites it.
        let pattern: Vec<u8> = (0..block_bytes).map(|at| at as u8).collect();
        for buffer in &buffers {
            buffer.write(&pattern);
        }
        Ok(Worker {
            begin: clock::instant(),
            random,
            operations: vec![Operation::Read; buffers.len()],
            buffers,
            next: self.shared.places * u64::from(thread) / u64::from(threads),
            reads: Latencies::default(),
            writes: Latencies::default(),
            error: None,
            progress: progress.clone(),
            shared: Arc::clone(&self.shared),
        })
    }
}

/// One thread of the workload.
struct Worker {
    shared: Arc<Shared>,
    begin: Instant,
    random: StdRng,
    buffers: Vec<Buffer>,
    /// The operation of each outstanding I/O.
    operations: Vec<Operation>,
    /// The next sequential place.
    next: u64,
    reads: Latencies,
    writes: Latencies,
    error: Option<CommandError>,
    progress: ProgressBar,
}

impl Worker {
    fn transfer(&mut self, slot: usize) -> Transfer {
        let Shared {
            options,
            places,
            blocks,
            ..
        } = &*self.shared;
        let place = if options.random {
            self.random.random_range(0..*places)
        } else {
            let place = self.next;
            self.next = (place + 1) % places;
            place
        };
        let operation = if self.random.random_range(0..100) < options.write_percent {
            Operation::Write
        } else {
            Operation::Read
        };
        self.operations[slot] = operation;
        Transfer {
            token: slot as u64,
            operation,
            lba: place * blocks,
            buffer: self.buffers[slot].clone(),
            durability: if options.write_through {
                Durability::Through
            } else {
                Durability::Cached
            },
        }
    }
}

impl Initiator for Worker {
    fn start(&mut self, issue: &mut dyn FnMut(Transfer)) {
        for slot in 0..self.buffers.len() {
            issue(self.transfer(slot));
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
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let measured = self.begin + seconds(self.shared.options.warm_up_s);
        let end = measured + seconds(self.shared.options.duration_s);
        if succeeded && (measured..end).contains(&done.at) {
            match self.operations[slot] {
                Operation::Read => self.reads.record(done.latency),
                Operation::Write => self.writes.record(done.latency),
            }
        }
        let passed = (done.at - self.begin).as_millis();
        self.progress
            .set_position(u64::try_from(passed).unwrap_or(u64::MAX));
        if done.at < end && !self.shared.failed.load(Ordering::Relaxed) {
            issue(self.transfer(slot));
        }
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::{options::tests::accepted as options, *};
    use crate::disk::{
        cdb::{Command, opcode},
        fake_port::{FakePort, Io, failed},
    };
    use testbed_machine::memory::Memory;

    const DISK: u64 = 4 << 20;

    /// Runs a workload of one second. `prepare` gets the disk before.
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
        let results = Workload::new(&disk, options, 5)
            .and_then(|workload| workload.run(&ProgressBar::hidden()));
        (results, port)
    }

    fn run_on(port: FakePort, line: &str) -> (Result<Results, WorkloadError>, Arc<FakePort>) {
        run_prepared(port, line, |_| {})
    }

    /// The first 64 transfers of a workload.
    fn extents(line: &str) -> Vec<(u64, u32)> {
        let (results, port) = run_on(FakePort::new(DISK, 512), line);
        results.expect("it runs");
        let commands = port.commands(|command| command.extent().is_some());
        let extents = commands.iter().filter_map(Command::extent);
        extents.take(64).collect()
    }

    #[test]
    fn the_counts_are_those_of_the_completed_ios() {
        let (results, port) = run_on(FakePort::new(DISK, 512), "-b4K -t3 -o4 -r -w50");
        let results = results.expect("it runs");

        let done = |code| {
            port.commands(|command: &Command| command.cdb[0] == code)
                .len() as u64
        };
        let (reads, writes) = (results.reads.ios(), results.writes.ios());
        // Those outstanding at the end complete after it.
        assert!((reads..=reads + 12).contains(&done(opcode::READ_10)));
        assert!((writes..=writes + 12).contains(&done(opcode::WRITE_10)));
        let share = writes as f64 / (reads + writes) as f64;
        assert!((0.4..0.6).contains(&share), "{share}");
    }

    #[test]
    fn random_offsets_are_those_of_the_seed_and_lie_on_the_whole_disk() {
        let one = extents("-b4K -o1 -r");
        assert_eq!(one, extents("-b4K -o1 -r"));
        assert!(one.iter().all(|(lba, blocks)| lba % 8 == 0 && *blocks == 8));
        let last = DISK / 512 - 8;
        assert!(one.iter().all(|(lba, _)| *lba <= last));
        assert!(one.iter().any(|(lba, _)| *lba > last / 2));
        assert!(one.iter().any(|(lba, _)| *lba < last / 2));
    }

    #[test]
    fn sequential_threads_start_with_their_parts_and_wrap_at_the_end_of_the_disk() {
        let places = |line| -> Vec<u64> {
            let extents = extents(line).into_iter();
            extents.map(|(lba, _)| lba / 1024).collect()
        };
        assert_eq!(places("-b512K -o1")[..10], [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]);
        // The fake takes the requests in any order, here that of the second thread first.
        assert_eq!(places("-b512K -o1 -t2")[0], 4);
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
        // A third failed, and is not counted as done.
        let done = results.reads.ios() + results.writes.ios();
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
            (512, "-b8M", "-b: 8388608 bytes is more than the size of"),
            (512, "-b2M -o100", "lower -o, -t or -b"),
        ] {
            let error = run_on(FakePort::new(DISK, block_bytes), line)
                .0
                .expect_err(line);
            assert!(error.to_string().contains(why), "{line}: {error}");
        }
    }
}
