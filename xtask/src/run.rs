//! `cargo xtask run`: builds a driver and runs it in the testbed.

use std::{
    ffi::OsString,
    process::{ExitCode, Stdio},
};

use packaging::architecture::Architecture::X64;

use crate::{
    build::{self, BuildError},
    driver::{Chosen, Driver, NoDriver},
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
  --device packed=on,...  properties of the disk, with QEMU's names: packed, indirect_desc,
                          event_idx, num-queues, queue-size, vectors, iommu_platform
  --verify                enable all checks, and run one thread at a time in an order
                          that the seed determines
  --verify-bytes 64M      how much to write and read back before the workload
  --seed N                seed of the data; with --verify it repeats a whole run
  --seeds COUNT           with --verify: run COUNT seeds, starting at --seed; stop at
                          the first failure
  --restart N             power the adapter down and up N times before the workload
  --dump                  crash the machine at the end; a second copy of the driver
                          writes a crash dump
The arguments after -- describe the workload. For all options:
  cargo run --profile host --package testbed -- run --help

Examples:
  cargo xtask run
  cargo xtask run --disk disk.img --interrupts intx
  cargo xtask run --device packed=on,num-queues=4
  cargo xtask run -- -b4K -d10 -t2 -o32 -r -w30 -L
  cargo xtask run --driver ramdisk
  cargo xtask run --verify --seed 7
  cargo xtask run --verify --seeds 20 -- -b8K -d60 -t4 -o16 -r -w30
  cargo xtask run --driver OTHER.sys";

/// The options of `cargo xtask run`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = HELP,
    override_usage = "cargo xtask run [--driver NAME|FILE] [TESTBED OPTIONS] [-- WORKLOAD OPTIONS]"
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
    #[error("--driver {0}")]
    NoDriver(#[from] NoDriver),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("the testbed was not run: {0}")]
    Testbed(#[from] ToolError),
}

/// Runs a driver and returns the testbed's exit code.
pub fn command(options: &Options) -> Result<ExitCode, RunError> {
    let (name, given) = options.driver_and_words();
    let driver = Chosen::parse(&name)?;
    let (file, house_rules): (_, &[_]) = match &driver {
        Chosen::Project(driver) => (build::file(*driver, X64), driver.testbed_options()),
        Chosen::File(file) => (file.clone(), &[]),
    };

    // The testbed checks the options, before the long build of the driver.
    let path = tool::build_testbed()?;
    let testbed = |flags: &[&str]| {
        let mut testbed = tool::testbed(&path, "run");
        testbed.args(flags).arg("--driver").arg(&file);
        testbed.args(house_rules).args(&given);
        testbed
    };
    let mut check = testbed(&["--check"]);
    let checked = tool::quiet_status(check.stdout(Stdio::null()))?;
    if !checked.success() {
        return Ok(tool::exit_code(&check, checked)?);
    }
    if let Chosen::Project(driver) = driver {
        build::driver(driver, X64)?;
    }
    let mut run = testbed(&[]);
    let end = tool::status(&mut run)?;
    Ok(tool::exit_code(&run, end)?)
}

impl Options {
    /// The value of `--driver`, and the testbed's other arguments after `run`. Clap does not
    /// recognise `--driver` after an option of the testbed, so it can be in any of the fields.
    fn driver_and_words(&self) -> (OsString, Vec<OsString>) {
        let mut words = self.testbed.clone();
        if !self.workload.is_empty() {
            words.push("--".into());
            words.extend(self.workload.iter().cloned());
        }
        if let Some(driver) = &self.driver {
            return (driver.clone(), words);
        }
        let named = words
            .iter()
            .take_while(|word| *word != "--")
            .map(|word| word.to_string_lossy())
            .position(|word| word == "--driver" || word.starts_with("--driver="));
        let Some(at) = named else {
            return (Driver::Ferrostor.name().into(), words);
        };
        let option = words.remove(at).to_string_lossy().into_owned();
        let name = match option.split_once('=') {
            Some((_, name)) => name.into(),
            None if at < words.len() => words.remove(at),
            None => OsString::new(),
        };
        (name, words)
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

    /// The user's arguments, the driver, and the testbed's other arguments.
    const LINES: &str = "\
        | ferrostor |
        --disk a.img --overwrite | ferrostor | --disk a.img --overwrite
        --seed 7 --help | ferrostor | --seed 7 --help
        -- -b4K -d10 -Sh | ferrostor | -- -b4K -d10 -Sh
        --size 1G -- -b4K -w30 | ferrostor | --size 1G -- -b4K -w30
        --no-such-option | ferrostor | --no-such-option
        --driver OTHER.sys | OTHER.sys |
        --driver ramdisk --cpus 2 -- -b4K | ramdisk | --cpus 2 -- -b4K
        --cpus 2 --driver ramdisk -- -b4K | ramdisk | --cpus 2 -- -b4K
        --cpus 2 --driver=OTHER.sys --seed 1 | OTHER.sys | --cpus 2 --seed 1
        --cpus 2 --driver | | --cpus 2
        --cpus 2 -- --driver OTHER.sys | ferrostor | --cpus 2 -- --driver OTHER.sys
        -- --driver ramdisk | ferrostor | -- --driver ramdisk";

    #[test]
    fn the_driver_is_found_wherever_it_is_named_and_the_testbed_gets_the_rest() {
        for line in LINES.lines() {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            let words = std::iter::once("run").chain(cells[0].split_whitespace());
            let (name, words) = Line::parse_from(words).options.driver_and_words();
            assert_eq!(name, cells[1], "{line}");
            assert_eq!(words.join(OsStr::new(" ")), cells[2], "{line}");
        }
    }
}
