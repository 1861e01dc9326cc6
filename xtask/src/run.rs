//! `cargo xtask run`: builds a driver and runs it in the testbed.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus, Stdio},
};

use clap::ValueEnum;
use packaging::architecture::Architecture;

use crate::{
    build::{self, BuildError},
    driver::Driver,
    tool::{self, ToolError},
};

const HELP: &str = "\
The command builds a driver of this project first. It passes all other options to the
testbed. The most useful ones:
  --disk IMAGE            disk image, WHOSE CONTENTS ARE OVERWRITTEN; the default is a
                          temporary image
  --size 1G               size of the temporary image
  --cpus 4                number of virtual CPUs
  --interrupts msix|intx  interrupt type of the device
  --verify                enable all checks, and run one thread at a time in an order
                          that the seed determines
  --verify-bytes 64M      how much to write and read back before the workload
  --seed N                repeat the run that printed this seed
  --seeds COUNT           with --verify: run COUNT seeds, starting at --seed; stop at
                          the first failure
  --restart N             power the adapter down and up N times before the workload
  --dump                  crash the machine at the end; a second copy of the driver
                          writes a crash dump
The arguments after -- describe the workload in diskspd's options. For all options:
  cargo run --profile host --package testbed -- run --help

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
    /// Driver of this project (ferrostor, ramdisk, locks), or path of a .sys file
    /// [default: ferrostor]
    #[arg(long, value_name = "NAME|FILE")]
    driver: Option<OsString>,

    /// Options that are passed to the testbed
    #[arg(allow_hyphen_values = true, hide = true)]
    testbed: Vec<OsString>,

    /// Options of the workload
    #[arg(last = true, hide = true)]
    workload: Vec<OsString>,
}

/// The driver was not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The driver is neither one of this project nor a file.
    #[error(
        "--driver {given}: no such file; give the path of a .sys file, or a driver of this \
         project: {}",
        known_drivers()
    )]
    NoDriver {
        /// The argument.
        given: String,
    },

    /// The driver was not built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The testbed cannot be built or started.
    #[error("the testbed was not run: {0}")]
    Testbed(#[from] ToolError),
}

/// Runs a driver and returns the testbed's exit code.
///
/// # Errors
/// See [`RunError`].
pub fn command(options: &Options) -> Result<ExitCode, RunError> {
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

    // The testbed checks the options, before the long build of the driver.
    let path = tool::build_testbed()?;
    let mut check = testbed_run(&path);
    check.arg("--check").args(&words).stdout(Stdio::null());
    let checked = tool::quiet_status(&mut check)?;
    if !checked.success() {
        return exit_code(&check, checked);
    }
    if let Chosen::Project(driver) = driver {
        build::driver(driver, Architecture::X64)?;
    }
    let mut run = testbed_run(&path);
    let end = tool::status(run.args(words))?;
    exit_code(&run, end)
}

/// `testbed run` in the user's current folder, so that relative paths work.
fn testbed_run(path: &Path) -> Command {
    let mut testbed = Command::new(path);
    testbed.arg("run").env("TESTBED_CALLER", "cargo xtask run");
    testbed
}

/// The testbed's exit code as this command's.
fn exit_code(testbed: &Command, end: ExitStatus) -> Result<ExitCode, RunError> {
    let code = end.code().and_then(|code| u8::try_from(code).ok());
    match code {
        Some(code) => Ok(code.into()),
        None => Err(ToolError::failed(testbed, end).into()),
    }
}

/// The names of the drivers of this project.
pub fn known_drivers() -> String {
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
    /// The driver, and the testbed's arguments after `run`. These include `--driver` unless it
    /// names a driver of this project.
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

    /// The arguments. Clap does not recognise `--driver` after an option of the testbed, so it
    /// can be in any of the three fields.
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

    /// The driver of a command line, and the testbed's arguments.
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
