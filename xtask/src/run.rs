//! `cargo xtask run`: builds a driver and runs it in the testbed.

use std::{
    ffi::{OsStr, OsString},
    process::{ExitCode, Stdio},
};

use packaging::architecture::Architecture::X64;

use crate::{
    build::{self, BuildError},
    driver::{Chosen, Driver, NoDriver},
    qemu,
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
With --backend qemu, the testbed runs in a guest of QEMU, without KVM, and drives QEMU's
disk by VFIO. --device is then QEMU's device with its properties; the IOMMU and the modern
interface are on if they are not named. The disk has 256 MiB: leave out --disk and --size.
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
  cargo xtask run --driver OTHER.sys
  cargo xtask run --backend qemu
  cargo xtask run --backend qemu --device virtio-blk-pci,packed=on -- -b4K -d5";

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

    /// What is behind the PCI function: the testbed's own device, or qemu, a disk of QEMU in a
    /// guest of its own [default: testbed]
    #[arg(long, value_name = "BACKEND")]
    backend: Option<OsString>,

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
    #[error("--backend {0}: there is no such backend: give testbed or qemu")]
    NoBackend(String),
    #[error("--backend qemu: the driver has a RAM disk, and QEMU's disk is not for it")]
    NoDisk,
    #[error(transparent)]
    Guest(#[from] qemu::GuestError),
}

/// Runs a driver and returns the testbed's exit code.
pub fn command(options: &Options) -> Result<ExitCode, RunError> {
    let mut words = options.words();
    let name = take(&mut words, "--driver").unwrap_or_else(|| Driver::Ferrostor.name().into());
    let driver = Chosen::parse(&name)?;
    let backend = take(&mut words, "--backend");
    let (file, house_rules): (_, &[_]) = match &driver {
        Chosen::Project(driver) => (build::file(*driver, X64), driver.testbed_options()),
        Chosen::File(file) => (file.clone(), &[]),
    };
    let guest = match backend.as_deref().map(OsStr::to_string_lossy).as_deref() {
        None | Some("testbed") => None,
        Some("qemu") if house_rules.contains(&"bell") => return Err(RunError::NoDisk),
        Some("qemu") => Some(guest_run(&mut words, house_rules)),
        Some(other) => return Err(RunError::NoBackend(other.to_owned())),
    };

    // The testbed checks the options, before the long build of the driver.
    let path = tool::build_testbed()?;
    let testbed = |flags: &[&str]| {
        let mut testbed = tool::testbed(&path, "run");
        testbed.args(flags).arg("--driver").arg(&file);
        testbed.args(house_rules).args(&words);
        testbed
    };
    let flags: &[_] = match guest {
        None => &["--check"],
        Some(_) => &["--check", "--function", "vfio:0000:01:00.0", "--overwrite"],
    };
    let mut check = testbed(flags);
    let checked = tool::quiet_status(check.stdout(Stdio::null()))?;
    if !checked.success() {
        return Ok(tool::exit_code(&check, checked)?);
    }
    if let Chosen::Project(driver) = driver {
        build::driver(driver, X64)?;
    }
    if let Some(run) = guest {
        let passed = qemu::run(&path, &file, run)?;
        return Ok(if passed {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    let mut run = testbed(&[]);
    let end = tool::status(&mut run)?;
    Ok(tool::exit_code(&run, end)?)
}

/// The run in a guest of QEMU that `house_rules` and `words` describe. Takes QEMU's options from
/// `words`.
fn guest_run(words: &mut Vec<OsString>, house_rules: &[&str]) -> qemu::Run {
    let device = take(words, "--device").unwrap_or_else(|| "virtio-blk-pci".into());
    let words = words.iter().map(|word| word.to_string_lossy().into_owned());
    let house_rules = house_rules.iter().map(|word| (*word).to_owned());
    qemu::Run {
        device: device.to_string_lossy().into_owned(),
        drive: qemu::Drive::Usual,
        testbed: house_rules.chain(words).collect(),
    }
}

/// Removes `option`, with its value, from the words before `--`. Returns the value, which is empty
/// if it is missing.
fn take(words: &mut Vec<OsString>, option: &str) -> Option<OsString> {
    let with_value = format!("{option}=");
    let at = words
        .iter()
        .take_while(|word| *word != "--")
        .map(|word| word.to_string_lossy())
        .position(|word| word == option || word.starts_with(&with_value))?;
    let word = words.remove(at).to_string_lossy().into_owned();
    Some(match word.strip_prefix(&with_value) {
        Some(value) => value.into(),
        None if at < words.len() && words[at] != "--" => words.remove(at),
        None => OsString::new(),
    })
}

impl Options {
    /// All arguments. Clap does not recognise an option of this command after one of the testbed,
    /// so it can be in any of the fields.
    fn words(&self) -> Vec<OsString> {
        let own = [("--driver", &self.driver), ("--backend", &self.backend)];
        let own = own
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_ref()?)));
        let mut words: Vec<_> = own
            .flat_map(|(name, value)| [name.into(), value.clone()])
            .collect();
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
            let mut words = Line::parse_from(words).options.words();
            let name = take(&mut words, "--driver");
            let name = name.unwrap_or_else(|| "ferrostor".into());
            assert_eq!(name, cells[1], "{line}");
            assert_eq!(words.join(OsStr::new(" ")), cells[2], "{line}");
        }
    }
}
