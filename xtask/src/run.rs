//! `cargo xtask run`: a driver in the testbed.

use std::{
    ffi::OsString,
    path::PathBuf,
    process::{Command, ExitCode},
};

use crate::{
    architecture::Architecture,
    build::{self, BuildError},
    setup,
    tool::{self, ToolError, cargo},
    workspace,
};

const HELP: &str = "\
All options but --driver are the testbed's own. Those used most:
  --disk IMAGE            the disk, WHOSE CONTENTS ARE OVERWRITTEN; without it a
                          temporary image is used
  --size 1G               the length of the temporary image
  --cpus 4                virtual CPUs
  --interrupts msix|intx  how the device interrupts
  --verify                watch the driver as closely as can be
  --verify-bytes 64M      how much to write and read back before the workload
  --seed N                repeat the run that printed this seed
  --restart N             let the adapter sleep N times before the workload
What follows -- is a workload in diskspd's options. The full list of both:
  cargo run --profile host --package ferrostor-testbed -- run --help

Examples:
  cargo xtask run
  cargo xtask run --disk disk.img --interrupts intx
  cargo xtask run -- -b4K -d10 -t2 -o32 -r -w30 -L
  cargo xtask run --driver OTHER.sys";

/// The options of `cargo xtask run`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = HELP,
    override_usage = "cargo xtask run [--driver FILE] [TESTBED OPTIONS] [-- DISKSPD OPTIONS]"
)]
pub struct Options {
    /// Run this driver file; without it ferrostor is built and run
    #[arg(long, value_name = "FILE")]
    driver: Option<PathBuf>,

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
    let mut words = Vec::new();
    if !options.names_a_driver() {
        setup::ensure(&build::needs(Architecture::X64)).map_err(BuildError::from)?;
        words = vec!["--driver".into(), build::driver(Architecture::X64)?.into()];
    }
    words.extend(options.words());

    tool::run(cargo("build").args(["--profile", "host", "--package", "ferrostor-testbed"]))?;
    // Where the user stands, so that a relative path is the user's.
    let mut testbed = Command::new(workspace::target().join("host/testbed"));
    let end = tool::status(testbed.arg("run").args(words))?;
    let code = end.code().and_then(|code| u8::try_from(code).ok());
    match code {
        Some(code) => Ok(code.into()),
        None => Err(ToolError::failed(&testbed, end).into()),
    }
}

impl Options {
    /// What the testbed is told after `run`.
    fn words(&self) -> Vec<OsString> {
        let mut words = Vec::new();
        if let Some(driver) = &self.driver {
            words.extend(["--driver".into(), driver.into()]);
        }
        words.extend(self.testbed.iter().cloned());
        if !self.workload.is_empty() {
            words.push("--".into());
            words.extend(self.workload.iter().cloned());
        }
        words
    }

    /// Whether a driver file is named: clap leaves `--driver` to the testbed
    /// when an option of the testbed stands before it.
    fn names_a_driver(&self) -> bool {
        self.words()
            .iter()
            .map(|word| word.to_string_lossy())
            .take_while(|word| word != "--")
            .any(|word| word == "--driver" || word.starts_with("--driver="))
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

    /// What the testbed is told for a command line, and whether a driver is
    /// named in it.
    fn told(line: &str) -> (String, bool) {
        let words = std::iter::once("run").chain(line.split_whitespace());
        let options = Line::parse_from(words).options;
        let told = options.words().join(OsStr::new(" "));
        (told.into_string().unwrap(), options.names_a_driver())
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
            assert_eq!(told(line), (line.to_owned(), false));
        }
    }

    #[test]
    fn a_driver_is_seen_wherever_it_is_named() {
        for line in [
            "--driver OTHER.sys",
            "--driver OTHER.sys --disk a.img -- -b4K",
            "--disk a.img --driver OTHER.sys",
            "--cpus 2 --driver=OTHER.sys -- -b4K",
        ] {
            assert_eq!(told(line), (line.to_owned(), true));
        }
    }

    #[test]
    fn the_workloads_options_name_no_driver() {
        assert!(!told("--cpus 2 -- --driver OTHER.sys").1);
        assert!(!told("-- --driver OTHER.sys").1);
    }
}
