//! `cargo xtask run`: a driver in the testbed.

use std::{
    ffi::OsString,
    path::PathBuf,
    process::{Command, ExitCode, ExitStatus, Stdio},
};

use clap::ValueEnum;
use packaging::architecture::Architecture;

use crate::{
    build::{self, BuildError},
    driver::Driver,
    tool::{self, ToolError, cargo},
    workspace,
};

const HELP: &str = "\
A driver of this project is built first. All options except --driver are those of
the testbed. The most useful ones:
  --disk IMAGE            the disk, WHOSE CONTENTS ARE OVERWRITTEN; without it a
                          temporary image is used
  --size 1G               the length of the temporary image
  --cpus 4                virtual CPUs
  --interrupts msix|intx  how the device interrupts
  --verify                watch the driver closely, and run one thread at a time,
                          in an order that a seed chooses
  --verify-bytes 64M      how much to write and read back before the workload
  --seed N                repeat the run that printed this seed
  --seeds COUNT           with --verify: run this many seeds, from --seed on, and
                          stop at one that fails
  --restart N             let the adapter sleep N times before the workload
  --dump                  crash at the end, and have a second copy write a dump
What follows -- is a workload in diskspd's options. The full list of both:
  cargo run --profile host --package ferrostor-testbed -- run --help

Examples:
  cargo xtask run
  cargo xtask run --disk disk.img --interrupts intx
  cargo xtask run -- -b4K -d10 -t2 -o32 -r -w30 -L
  cargo xtask run --driver ramdisk
  cargo xtask run --verify --seed 7
  cargo xtask run --verify --seeds 20 -- -b8K -d60 -t4 -o16 -r -w30
  cargo xtask run --driver OTHER.sys";

/// The options of `cargo xtask run`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = HELP,
    override_usage = "cargo xtask run [--driver NAME|FILE] [TESTBED OPTIONS] [-- DISKSPD OPTIONS]"
)]
pub struct Options {
    /// Run this driver of the project, ferrostor, ramdisk or locks, or this driver
    /// file [default: ferrostor]
    #[arg(long, value_name = "NAME|FILE")]
    driver: Option<OsString>,

    /// Options of the testbed, which reads them itself
    #[arg(allow_hyphen_values = true, hide = true)]
    testbed: Vec<OsString>,

    /// Options of the workload
    #[arg(last = true, hide = true)]
    workload: Vec<OsString>,
}

/// Why there was no run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The driver is neither one of this project nor a file.
    #[error(
        "--driver {given}: there is no such file, and the drivers of this project are {}",
        known_drivers()
    )]
    NoDriver {
        /// What was given.
        given: String,
    },
    /// Driver code can't run on this machine.
    #[error("the testbed runs x64 drivers on the processor itself: it needs Linux on x86-64")]
    Machine,
    /// There is no driver to run.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The testbed can't be built or started.
    #[error("the testbed was not run: {0}")]
    Testbed(#[from] ToolError),
}

/// Runs a driver and gives the testbed's own exit code.
///
/// # Errors
/// See [`RunError`].
pub fn command(options: &Options) -> Result<ExitCode, RunError> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err(RunError::Machine);
    }
    let (driver, given) = options.driver_and_words();
    let mut words: Vec<OsString> = Vec::new();
    if let Chosen::File(file) = &driver
        && !file.is_file()
    {
        let given = file.display().to_string();
        return Err(RunError::NoDriver { given });
    }
    if let Chosen::Project(driver) = driver {
        let file = build::file(driver, Architecture::X64);
        words.extend(["--driver".into(), file.into()]);
        words.extend(driver.testbed_options().iter().map(OsString::from));
    }
    words.extend(given);

    // The testbed reads its options itself. It is asked before the driver is built,
    // which takes longer.
    tool::run(cargo("build").args(["--profile", "host", "--package", "ferrostor-testbed"]))?;
    let mut check = testbed(&["run", "--check"]);
    let checked = tool::quiet_status(check.args(&words).stdout(Stdio::null()))?;
    if !checked.success() {
        return exit_code(checked);
    }
    if let Chosen::Project(driver) = driver {
        build::driver(driver, Architecture::X64)?;
    }
    exit_code(tool::status(testbed(&["run"]).args(words))?)
}

/// A call of the testbed from the user's folder, so that a relative path is the
/// user's.
fn testbed(words: &[&str]) -> Command {
    let mut testbed = Command::new(workspace::target().join("host/testbed"));
    testbed.args(words).env("TESTBED_CALLER", "cargo xtask run");
    testbed
}

/// The testbed's exit code as this command's.
fn exit_code(end: ExitStatus) -> Result<ExitCode, RunError> {
    let code = end.code().and_then(|code| u8::try_from(code).ok());
    match code {
        Some(code) => Ok(code.into()),
        None => Err(ToolError::failed(&testbed(&["run"]), end).into()),
    }
}

fn known_drivers() -> String {
    let names: Vec<_> = Driver::value_variants()
        .iter()
        .map(|driver| driver.name())
        .collect();
    names.join(", ")
}

/// The driver that the command line names.
#[derive(Debug, PartialEq, Eq)]
enum Chosen {
    /// One of this project, which is built first.
    Project(Driver),
    /// A driver file.
    File(PathBuf),
    /// `--driver` without a value, which the testbed refuses.
    Nothing,
}

impl Options {
    /// The driver, and what the testbed is told after `run`. That includes the
    /// driver unless it is one of this project.
    fn driver_and_words(&self) -> (Chosen, Vec<OsString>) {
        let mut words = self.words();
        let named = words
            .iter()
            .take_while(|word| *word != "--")
            .map(|word| word.to_string_lossy())
            .position(|word| word == "--driver" || word.starts_with("--driver="));
        let Some(first) = named else {
            return (Chosen::Project(Driver::Ferrostor), words);
        };
        let option = words[first].to_string_lossy().into_owned();
        let (name, length) = match option.split_once('=') {
            Some((_, name)) => (name.to_owned(), 1),
            None => match words.get(first + 1) {
                Some(name) => (name.to_string_lossy().into_owned(), 2),
                None => return (Chosen::Nothing, words),
            },
        };
        match Driver::from_str(&name, false) {
            Ok(driver) => {
                words.drain(first..first + length);
                (Chosen::Project(driver), words)
            }
            Err(_) => (Chosen::File(name.into()), words),
        }
    }

    /// The words of the command line: clap leaves `--driver` to the testbed
    /// when an option of the testbed stands before it.
    fn words(&self) -> Vec<OsString> {
        let mut words = Vec::new();
        if let Some(driver) = &self.driver {
            words.extend(["--driver".into(), driver.clone()]);
        }
        words.extend(self.testbed.iter().cloned());
        if !self.workload.is_empty() {
            words.push("--".into());
            words.extend(self.workload.iter().cloned());
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    /// The driver of a command line, and what the testbed is told.
    fn told(line: &str) -> (Chosen, String) {
        let words = std::iter::once("run").chain(line.split_whitespace());
        let (driver, words) = Line::parse_from(words).options.driver_and_words();
        let told = words.join(OsStr::new(" "));
        (driver, told.into_string().unwrap())
    }

    #[test]
    fn options_reach_the_testbed_unchanged() {
        for line in [
            "",
            "--disk a.img --overwrite",
            "--seed 7 --help",
            "-- -b4K -d10 -Sh",
            "--size 1G -- -b4K -w30",
            "--no-such-option",
        ] {
            let ferrostor = Chosen::Project(Driver::Ferrostor);
            assert_eq!(told(line), (ferrostor, line.to_owned()));
        }
    }

    #[test]
    fn a_driver_file_is_seen_wherever_it_is_named() {
        for line in [
            "--driver OTHER.sys",
            "--driver OTHER.sys --disk a.img -- -b4K",
            "--disk a.img --driver OTHER.sys",
            "--cpus 2 --driver=OTHER.sys -- -b4K",
        ] {
            let file = Chosen::File("OTHER.sys".into());
            assert_eq!(told(line), (file, line.to_owned()));
        }
    }

    #[test]
    fn a_driver_of_the_project_is_built_wherever_it_is_named() {
        for (line, others) in [
            ("--driver ramdisk", ""),
            ("--driver ramdisk --cpus 2 -- -b4K", "--cpus 2 -- -b4K"),
            ("--cpus 2 --driver ramdisk -- -b4K", "--cpus 2 -- -b4K"),
            ("--cpus 2 --driver=ramdisk --seed 1", "--cpus 2 --seed 1"),
        ] {
            let ramdisk = Chosen::Project(Driver::Ramdisk);
            assert_eq!(told(line), (ramdisk, others.to_owned()));
        }
    }

    #[test]
    fn the_workloads_options_name_no_driver() {
        for line in [
            "--cpus 2 -- --driver OTHER.sys",
            "-- --driver OTHER.sys",
            "-- --driver ramdisk",
        ] {
            let ferrostor = Chosen::Project(Driver::Ferrostor);
            assert_eq!(told(line), (ferrostor, line.to_owned()));
        }
    }

    #[test]
    fn a_driver_option_without_a_value_is_the_testbeds_to_refuse() {
        let line = "--cpus 2 --driver";
        assert_eq!(told(line), (Chosen::Nothing, line.to_owned()));
    }
}
