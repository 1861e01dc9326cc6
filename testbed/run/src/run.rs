//! `testbed run`: performs one run, from the driver file to the verdict, and prints the
//! results of its steps.

mod crash;
mod hardware;
mod imports;
mod settings;
pub mod used_image;

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    sync::Arc,
    time::SystemTime,
};

use indicatif::{ProgressBar, ProgressStyle};

use self::{
    crash::Crash,
    hardware::{DiskFile, Hardware},
};
pub use self::{
    hardware::TemporaryImageError,
    imports::print_imports,
    settings::{Embedded, FunctionKind, Settings},
};
pub(crate) use self::{
    hardware::{function, temporary_image},
    settings::properties,
};
use crate::{
    command_line,
    disk::{
        Disk,
        discovery::DiskError,
        port::{CommandError, Failure},
    },
    size::Size,
    status::key,
    summary::Summary,
    verify::{self, VerifyError},
    workload::{
        Workload, WorkloadError,
        options::{OptionError, Options},
        results::describe,
    },
};
use testbed_devices::{DiskImage, DiskImageError, HostFailure, VfioError, VirtioBlk};
use testbed_loader::{Image, ImageError};
use testbed_machine::{
    Machine, MachineError, MachineSettings, clock,
    memory::PAGE,
    schedule::{self, Trace},
    trap,
};
use testbed_storport::{
    self,
    adapter::{Adapter, AdapterSettings},
};

/// The default size of the verify pass. A smaller disk is verified completely.
const VERIFIED: u64 = 64 << 20;

/// The most memory for the buffers of the verify pass, and their greatest share of the
/// machine's memory. Each scattered page needs a mapping of the host, which limits their number.
const VERIFY_BUFFERS: u64 = 32 << 20;
const VERIFY_SHARE: u64 = 4;

/// The default workload, with one thread per CPU.
pub const DEFAULT_WORKLOAD: &str = "-b8K -d5 -W1 -o16 -r -w30 -Su -L";

/// The number of mismatches that are described.
pub(crate) const DESCRIBED: usize = 10;

/// The result of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All data was correct, and no rule was broken.
    Pass,
    /// Something was wrong. The last lines of the output say what.
    Fail,
}

/// A run without a verdict: it could not be set up, or the host failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The workload's options are wrong.
    #[error(transparent)]
    Options(#[from] OptionError),
    /// The driver file cannot be loaded.
    #[error(transparent)]
    Driver(#[from] ImageError),
    /// The image file cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskImageError),
    /// The image contains data.
    #[error(
        "{path}: the image has data at byte {at} that no finished run wrote, and a run overwrites \
         the whole image: name another image, or give --overwrite"
    )]
    Used {
        /// The image.
        path: PathBuf,
        /// The offset of the first sector with data.
        at: u64,
    },
    /// The host failed to read or write the open image.
    #[error("{0} (so the run has no verdict)")]
    Host(String),
    /// An option has an impossible value.
    #[error("{0}")]
    Setting(String),
    /// The machine cannot be set up.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The function of the host cannot be used.
    #[error("--function {0}")]
    Vfio(#[from] VfioError),
    /// The verify pass does not fit the disk or the machine.
    #[error("--verify-bytes: {0}")]
    Verify(VerifyError),
    /// The workload does not fit the disk or the machine.
    #[error(transparent)]
    Workload(WorkloadError),
    /// A temporary image cannot be made.
    #[error(transparent)]
    Temporary(#[from] TemporaryImageError),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// Checks `settings` without loading the driver: workload, sizes, image file.
///
/// # Errors
/// See [`run()`].
pub fn check(settings: &Settings) -> Result<(), RunError> {
    prepare(settings).map(drop)
}

/// Performs a run, and prints its results to `out`.
///
/// # Errors
/// See [`RunError`].
pub fn run(settings: &Settings, out: &mut dyn Write) -> Result<Verdict, RunError> {
    trap::ignore_file_size_signal();
    let (workload, disk) = prepare(settings)?;
    let imports = Image::imports_of(&settings.driver)?;
    imports::print_driver(&settings.driver, &imports, out)?;

    let seed = settings.seed.unwrap_or_else(seed_of_the_clock);
    if settings.is_scheduled() {
        trap::repeat_with(&command_line::repeating(std::env::args(), seed));
        schedule::begin(seed);
    }
    let machine = Machine::new(&MachineSettings {
        cpus: settings.cpus,
        memory_bytes: settings.memory.0,
        interrupts: settings.interrupts,
    })?;
    let image = Arc::new(Image::load(&settings.driver, &testbed_storport::resolve)?);
    let hardware = Hardware::new(settings, &machine, disk)?;
    hardware.print(settings, out)?;
    if schedule::trace().is_some() {
        writeln!(out, "schedule  one thread at a time, seed {seed}")?;
    }

    let mut run = Run {
        settings,
        seed,
        machine,
        hardware,
        reasons: Vec::new(),
        retries: 0,
        failed: BTreeMap::new(),
        verified: None,
    };
    run.start_use_and_stop(&image, workload, out)
}

/// Checks the settings, and opens the image file.
fn prepare(settings: &Settings) -> Result<(Option<Options>, Option<DiskFile>), RunError> {
    let workload = workload_options(settings)?;
    check_sizes(settings)?;
    let disk = match settings.function {
        FunctionKind::Embedded(Embedded::VirtioBlk) => Some(DiskFile::open(settings)?),
        FunctionKind::Embedded(Embedded::Bell) | FunctionKind::Vfio(_) => None,
    };
    if let Some(disk) = &disk {
        check_verify(settings, &disk.image)?;
    }
    Ok((workload, disk))
}

/// Parses the workload's options.
fn workload_options(settings: &Settings) -> Result<Option<Options>, OptionError> {
    if settings.no_workload {
        return Ok(None);
    }
    if !settings.workload.is_empty() {
        return Options::parse(&settings.workload).map(Some);
    }
    let default = format!("{DEFAULT_WORKLOAD} -t{}", settings.cpus);
    let given: Vec<String> = default.split(' ').map(str::to_owned).collect();
    Options::parse(&given).map(Some)
}

fn check_sizes(settings: &Settings) -> Result<(), RunError> {
    let setting = |why: String| Err(RunError::Setting(why));
    let Size(size) = settings.size;
    if settings.disk.is_none() && (size == 0 || !size.is_multiple_of(512)) {
        return setting(format!(
            "--size: {size} bytes is not a disk size: give a multiple of 512, at least 512"
        ));
    }
    check_function(settings)?;
    let Size(memory) = settings.memory;
    if !memory.is_multiple_of(PAGE as u64) || memory < 16 << 20 {
        return setting(format!(
            "--memory: {memory} bytes is not a memory size: give a multiple of {PAGE}, at least \
             16M"
        ));
    }
    Ok(())
}

/// Checks the options that only some functions have.
fn check_function(settings: &Settings) -> Result<(), RunError> {
    let has_image = settings.function == FunctionKind::Embedded(Embedded::VirtioBlk);
    let is_vfio = matches!(settings.function, FunctionKind::Vfio(_));
    let wrong = if settings.disk.is_some() && !has_image {
        "--disk: only the function virtio-blk has a disk image: leave out --disk or --function"
    } else if is_vfio && !settings.overwrite {
        "--function: the run overwrites the whole disk of a function of the host, whatever is on \
         it: give --overwrite if that is meant"
    } else if settings.overwrite && settings.disk.is_none() && !is_vfio {
        "--overwrite: there is no image to overwrite: give --disk"
    } else if is_vfio && settings.device.is_some() {
        "--device: a function of the host has the properties that it has: leave out --device"
    } else if is_vfio && settings.seeds.is_some() {
        "--seeds: a seed does not determine the order of a function of the host: leave out --seeds"
    } else {
        return Ok(());
    };
    Err(RunError::Setting(wrong.to_owned()))
}

fn check_verify(settings: &Settings, image: &DiskImage) -> Result<(), RunError> {
    match settings.verify_bytes {
        Some(size) if size.0 > image.bytes() => Err(RunError::Setting(format!(
            "--verify-bytes: {size} is more than the size of the disk: give at most {}",
            Size(image.bytes())
        ))),
        _ => Ok(()),
    }
}

/// Applies the settings to the disk. Returns the workload, which fits the disk.
fn apply_to_disk<'a>(
    settings: &Settings,
    disk: &'a Disk,
    workload: Option<Options>,
    seed: u64,
) -> Result<Option<Workload<'a>>, RunError> {
    if settings.keep_going {
        disk.failures().tolerate();
    }
    let is_protected = disk.facts().write_protected;
    if is_protected && settings.dump {
        return Err(RunError::Setting(
            "--dump: the disk is write-protected, so no dump can be written: leave out --dump"
                .to_owned(),
        ));
    }
    let workload = workload.map(|options| {
        if is_protected && settings.workload.is_empty() {
            options.without_writes()
        } else {
            options
        }
    });
    workload
        .map(|options| Workload::new(disk, options, seed))
        .transpose()
        .map_err(RunError::Workload)
}

/// The size of the verify pass; 0 for none.
fn verified_bytes(settings: &Settings, disk: &Disk) -> Result<u64, RunError> {
    match (settings.verify_bytes, disk.facts().write_protected) {
        (Some(Size(1..)), true) => Err(RunError::Setting(
            "--verify-bytes: the disk is write-protected: leave out the option, or give 0"
                .to_owned(),
        )),
        (Some(size), _) => Ok(size.0),
        (None, true) => Ok(0),
        (None, false) => Ok(VERIFIED.min(disk.bytes())),
    }
}

/// A run in progress.
struct Run<'a> {
    settings: &'a Settings,
    seed: u64,
    machine: Arc<Machine>,
    hardware: Hardware,
    /// The reasons for the verdict FAIL.
    reasons: Vec<String>,
    /// The number of commands that the class driver retried.
    retries: u64,
    /// The failures that --keep-going ignored, with their counts.
    failed: BTreeMap<String, u64>,
    /// The settings of the verify pass, if the disk has its data.
    verified: Option<verify::Settings>,
}

impl Run<'_> {
    fn start_use_and_stop(
        &mut self,
        image: &Arc<Image>,
        workload: Option<Options>,
        out: &mut dyn Write,
    ) -> Result<Verdict, RunError> {
        let begin = clock::instant();
        let started = Adapter::start(
            &self.machine,
            image,
            &self.hardware.function,
            AdapterSettings {
                checks: self.settings.checks(),
                srb: self.settings.srb,
                message_limit: self.settings.message_limit,
                ..AdapterSettings::default()
            },
        );
        let adapter = match started {
            Ok(adapter) => adapter,
            Err(failed) => {
                self.reasons
                    .push(format!("the adapter did not start: {failed}"));
                let summary = Summary {
                    report: *failed.report,
                    driver_errors: self.hardware.function.driver_errors(),
                    house_rules: self.settings.house_rules,
                    ..Summary::default()
                };
                write!(out, "{}", summary.event_log())?;
                for advice in summary.advice() {
                    writeln!(out, "{advice}")?;
                }
                self.reasons.extend(summary.faults());
                return self.verdict(out);
            }
        };
        let limits = adapter.limits();
        writeln!(
            out,
            "adapter   started in {:.2?}; {}{} a transfer, {} scatter/gather elements, alignment \
             mask {:#x}",
            clock::instant() - begin,
            self.hardware.queues(),
            Size(limits.max_transfer_bytes.into()),
            limits.max_physical_breaks,
            limits.alignment_mask,
        )?;
        if !self.use_disk(&adapter, workload, out)? {
            adapter.shut_down();
            if let Err(error) = adapter.stop() {
                self.reasons.push(error.to_string());
            }
        }
        self.report(&adapter, out)?;
        self.verdict(out)
    }

    /// Performs discovery, verify pass, power cycles, workload and crash. Returns whether the
    /// machine has crashed.
    fn use_disk(
        &mut self,
        adapter: &Arc<Adapter>,
        workload: Option<Options>,
        out: &mut dyn Write,
    ) -> Result<bool, RunError> {
        let disk = match Disk::discover(adapter.clone(), self.machine.memory()) {
            Ok(disk) => disk,
            Err(error) => {
                self.reasons.push(format!("no usable disk: {error}"));
                return Ok(false);
            }
        };
        print_disk(&disk, adapter, out)?;
        // Reports an unsuitable workload before the long verify pass.
        let workload = apply_to_disk(self.settings, &disk, workload, self.seed)?;
        if self.verify(&disk, out)? == Verdict::Pass
            && self.sleep(adapter, &disk, out)? == Verdict::Pass
            && let Some(workload) = &workload
        {
            self.work(&disk, workload, out)?;
        }
        self.retries = disk.retries();
        self.failed = disk.failures().counts();
        if self.reasons.is_empty() && self.settings.dump {
            self.crash(adapter, &disk, out)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Crashes the machine, and lets a second copy of the driver write a dump.
    fn crash(
        &mut self,
        adapter: &Arc<Adapter>,
        disk: &Disk,
        out: &mut dyn Write,
    ) -> Result<(), RunError> {
        let crash = Crash {
            machine: &self.machine,
            adapter,
            disk,
            hardware: &self.hardware,
            settings: self.settings,
            seed: self.seed,
        };
        let outcome = match crash.happen() {
            Ok(outcome) => outcome,
            Err(error) => {
                self.reasons.push(error.to_string());
                return Ok(());
            }
        };
        let [first, second] = outcome.lines();
        writeln!(out)?;
        writeln!(out, "dump      {first}")?;
        writeln!(out, "          {second}")?;
        for line in outcome.findings.describe(DESCRIBED) {
            writeln!(out, "          {line}")?;
        }
        self.reasons.extend(outcome.reasons());
        let summary = Summary {
            report: outcome.report,
            house_rules: self.settings.house_rules,
            ..Summary::default()
        };
        for advice in summary.advice() {
            writeln!(out, "{advice} (in the dump stack)")?;
        }
        self.reasons.extend(
            summary
                .faults()
                .into_iter()
                .map(|fault| format!("{fault} (in the dump stack)")),
        );
        Ok(())
    }

    fn verify(&mut self, disk: &Disk, out: &mut dyn Write) -> Result<Verdict, RunError> {
        let bytes = verified_bytes(self.settings, disk)?;
        writeln!(out)?;
        if bytes == 0 {
            let why = match self.settings.verify_bytes {
                Some(_) => "nothing (--verify-bytes 0)",
                None => "nothing: the disk is write-protected",
            };
            writeln!(out, "verify    {why}")?;
            return Ok(Verdict::Pass);
        }
        let seed = self.seed;
        let settings = verify::Settings {
            bytes,
            seed,
            cpus: self.settings.cpus,
            buffer_bytes: VERIFY_BUFFERS.min(self.settings.memory.0 / VERIFY_SHARE),
        };
        self.verified = Some(settings);
        let progress = progress("verifying {wide_bar} {percent}%");
        let outcome = verify::verify(disk, self.hardware.contents.as_ref(), settings, &progress);
        progress.finish_and_clear();
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error @ (VerifyError::Length(_) | VerifyError::Memory(_))) => {
                return Err(RunError::Verify(error));
            }
            Err(error @ VerifyError::Image(_)) => {
                let image = &self.hardware.disk_name;
                return Err(RunError::Host(format!("{image}: {error}")));
            }
            Err(error) => {
                let advice = match &error {
                    VerifyError::Transfer(error)
                    | VerifyError::Flush(DiskError::Command(error)) => self.after_failure(error),
                    _ => "",
                };
                self.reasons.push(format!(
                    "the verify pass (--seed {seed}) was aborted: {error}{advice}"
                ));
                return Ok(Verdict::Fail);
            }
        };
        if outcome.failed > 0 {
            // The data after a failed write is unknown.
            self.verified = None;
        }
        let mismatches = outcome.findings.count();
        writeln!(
            out,
            "verify    {} verified in {} extents, {mismatches} mismatches (seed {seed}, {:.2?})",
            Size(outcome.bytes),
            outcome.extents,
            outcome.elapsed,
        )?;
        write!(
            out,
            "          {} rewrites, {} reads, ",
            outcome.rewrites, outcome.reads
        )?;
        match self.hardware.contents {
            Some(_) => writeln!(
                out,
                "image file compared, with {} unwritten sectors",
                outcome.untouched
            )?,
            None => writeln!(out, "no image file to compare")?,
        }
        if outcome.failed > 0 {
            writeln!(
                out,
                "          {} transfers failed; their data was not compared",
                outcome.failed
            )?;
        }
        for line in outcome.findings.describe(DESCRIBED) {
            writeln!(out, "          {line}")?;
        }
        if mismatches == 0 {
            return Ok(Verdict::Pass);
        }
        self.reasons.push(format!(
            "{mismatches} sectors differ from the written data; --seed {seed} repeats the pass"
        ));
        Ok(Verdict::Fail)
    }

    /// Powers the adapter down and up, and reads the data of the verify pass after each time.
    fn sleep(
        &mut self,
        adapter: &Adapter,
        disk: &Disk,
        out: &mut dyn Write,
    ) -> Result<Verdict, RunError> {
        let restarts = self.settings.restart;
        if restarts == 0 {
            return Ok(Verdict::Pass);
        }
        let begin = clock::instant();
        let mut mismatches = 0;
        for time in 1..=restarts {
            if let Err(error) = adapter.restart() {
                self.reasons.push(format!("power cycle {time}: {error}"));
                return Ok(Verdict::Fail);
            }
            let Some(settings) = self.verified else {
                continue;
            };
            let progress = progress("reading again {wide_bar} {percent}%");
            let findings = verify::read_again(disk, settings, &progress);
            progress.finish_and_clear();
            match findings {
                Ok(findings) => {
                    mismatches += findings.count();
                    for line in findings.describe(DESCRIBED) {
                        writeln!(out, "          power cycle {time}: {line}")?;
                    }
                }
                Err(error) => {
                    self.reasons.push(format!(
                        "reading after power cycle {time} was aborted: {error}"
                    ));
                    return Ok(Verdict::Fail);
                }
            }
        }
        let read = match self.verified {
            Some(settings) => format!(
                "{} read again after each, {mismatches} mismatches",
                Size(settings.bytes)
            ),
            None => "nothing to read again".to_owned(),
        };
        writeln!(
            out,
            "restart   {restarts} power cycles, {read} ({:.2?})",
            clock::instant() - begin
        )?;
        if mismatches == 0 {
            return Ok(Verdict::Pass);
        }
        self.reasons
            .push(format!("{mismatches} sectors changed in a power cycle"));
        Ok(Verdict::Fail)
    }

    fn work(
        &mut self,
        disk: &Disk,
        workload: &Workload<'_>,
        out: &mut dyn Write,
    ) -> Result<(), RunError> {
        let options = workload.options();
        let write_through = if options.write_through {
            disk.facts().write_through().describe()
        } else {
            "off"
        };
        writeln!(out)?;
        if self.settings.workload.is_empty() {
            writeln!(
                out,
                "The default workload; to change it, give options after --"
            )?;
        }
        writeln!(out, "{}\n", describe(options, write_through))?;
        let progress = progress("workload {wide_bar} {percent}%");
        let results = workload.run(&progress);
        progress.finish_and_clear();
        match results {
            Ok(results) => {
                write!(out, "{results}")?;
                Ok(())
            }
            Err(WorkloadError::Transfer(error)) => {
                let advice = self.after_failure(&error);
                self.reasons
                    .push(format!("the workload was aborted: {error}{advice}"));
                Ok(())
            }
            Err(error) => Err(RunError::Workload(error)),
        }
    }

    fn report(&mut self, adapter: &Adapter, out: &mut dyn Write) -> io::Result<()> {
        let summary = Summary {
            report: adapter.report(),
            device: self.hardware.function.counters(),
            queues: self.hardware.queue_requests(),
            driver_errors: self.hardware.function.driver_errors(),
            accesses: trap::driver_errors(),
            retries: self.retries,
            failed: self.failed.clone(),
            house_rules: self.settings.house_rules,
        };
        writeln!(out)?;
        write!(out, "{summary}")?;
        self.reasons.extend(summary.faults());
        if let Some(trace) = schedule::trace() {
            print_trace(&trace, out)?;
        }
        Ok(())
    }

    /// Prints the verdict. There is none if the host failed to read or write the image.
    fn verdict(&self, out: &mut dyn Write) -> Result<Verdict, RunError> {
        writeln!(out)?;
        if let Some(failure) = self.host_failure() {
            writeln!(out, "NO VERDICT: {failure}")?;
            for line in self.reasons.iter().flat_map(|reason| reason.lines()) {
                writeln!(out, "  also observed: {line}")?;
            }
            return Err(RunError::Host(failure.to_string()));
        }
        if self.reasons.is_empty() {
            writeln!(out, "PASS")?;
            return Ok(Verdict::Pass);
        }
        writeln!(out, "FAIL")?;
        for line in self.reasons.iter().flat_map(|reason| reason.lines()) {
            writeln!(out, "  {line}")?;
        }
        if self.settings.is_scheduled() {
            let command = command_line::repeating(std::env::args(), self.seed);
            writeln!(out, "  to repeat this run: {command}")?;
        }
        Ok(Verdict::Fail)
    }

    fn host_failure(&self) -> Option<&HostFailure> {
        let image = self.hardware.device.as_deref().map(VirtioBlk::image);
        image.and_then(DiskImage::host_failure)
    }

    /// What to do about a failed transfer, as the end of a sentence.
    fn after_failure(&self, error: &CommandError) -> &'static str {
        match &error.how {
            _ if self.host_failure().is_some() => "",
            Failure::Status {
                sense: Some(sense), ..
            } if sense.key == key::DATA_PROTECT => {
                "; if the disk is meant to be read-only, give --verify-bytes 0, and -- -w0"
            }
            _ => "; if the disk is meant to fail, give --keep-going",
        }
    }
}

/// Prints a digest of the schedule. Two runs are identical if their digests are.
fn print_trace(trace: &Trace, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "schedule  {} scheduling points ({} at driver instructions) in {:.2?} of virtual time, {} \
         thread switches, digest {:016x}",
        trace.points, trace.instructions, trace.time, trace.switches, trace.digest
    )
}

fn print_disk(disk: &Disk, adapter: &Adapter, out: &mut dyn Write) -> io::Result<()> {
    let facts = disk.facts();
    let address = facts.address;
    writeln!(
        out,
        "disk      {}:{}:{}, {} in {} blocks of {}, queue depth {}",
        address.path,
        address.target,
        address.lun,
        Size(disk.bytes()),
        facts.blocks,
        facts.block_bytes,
        adapter.queue_depth(address),
    )?;
    for answer in &facts.answers {
        let result = match &answer.result {
            Ok(result) => result.clone(),
            Err(error) => format!("failed: {error}"),
        };
        writeln!(out, "          {}: {result}", answer.command)?;
    }
    Ok(())
}

/// A progress bar on standard error. It is hidden unless that is a terminal.
pub(crate) fn progress(template: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

/// A seed from the clock, with few digits, so that it is easy to type.
#[must_use]
pub fn seed_of_the_clock() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| u64::from(since.subsec_nanos()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::disk::fake_port::{FakePort, failed};
    use testbed_machine::memory::Memory;

    const DISK: u64 = 4 << 20;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    fn disk(port: FakePort) -> Disk {
        let memory = Memory::new(64 << 20).expect("memory");
        let exclusive = false;
        let port = Arc::new(FakePort { exclusive, ..port });
        Disk::discover(port, &memory).expect("the fake is a disk")
    }

    fn settings(line: &str) -> Settings {
        let words = format!("testbed --driver no.sys {line}");
        Line::parse_from(words.split_whitespace()).settings
    }

    fn workload<'a>(settings: &Settings, disk: &'a Disk) -> Result<Workload<'a>, RunError> {
        let options = workload_options(settings)?;
        let workload = apply_to_disk(settings, disk, options, 1)?;
        Ok(workload.expect("a workload"))
    }

    #[test]
    fn a_write_protected_disk_is_only_read_and_what_writes_to_it_is_refused() {
        // The size of the verify pass, and the percentage of writes.
        let planned = |line, disk: &_| {
            let settings = settings(line);
            let writes = workload(&settings, disk)?.options().write_percent;
            Ok::<_, RunError>((verified_bytes(&settings, disk)?, writes))
        };
        let writable = disk(FakePort::new(DISK, 512));
        assert_eq!(planned("", &writable).expect("it fits"), (DISK, 30));

        let protected = disk(FakePort {
            write_protected: true,
            ..FakePort::new(DISK, 512)
        });
        for line in ["", "--verify-bytes 0 -- -b4K"] {
            assert_eq!(planned(line, &protected).expect("it fits"), (0, 0));
        }
        for (line, refusal) in [
            ("--verify-bytes 1M", "--verify-bytes: the disk is write-pr"),
            ("--dump", "--dump: the disk is write-protected, so no dump"),
            ("-- -w1", "-w: the disk is write-protected: give -w0, or l"),
        ] {
            let error = planned(line, &protected).expect_err(line).to_string();
            assert!(error.starts_with(refusal), "{error}");
        }
    }

    #[test]
    fn a_run_goes_on_after_a_failed_transfer_only_if_it_shall() {
        for (line, goes_on) in [("-- -d1 -W0", false), ("--keep-going -- -d1 -W0", true)] {
            let disk = disk(FakePort::new(DISK, 512).meddling(|io| {
                io.completion = failed(io.completion.clone(), 0x3, 0x11);
            }));
            let workload = workload(&settings(line), &disk).expect("it fits");

            let end = workload.run(&ProgressBar::hidden());

            assert_eq!(end.is_ok(), goes_on, "{line}");
        }
    }
}
