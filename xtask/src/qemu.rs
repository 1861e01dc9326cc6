//! Runs the testbed on disks that QEMU emulates: inside a guest of QEMU, through the guest's VFIO.
//! The driver file drives a device that this project did not write.
//!
//! - `software`: Debian's kernel and busybox
//! - `initramfs`: the guest's file system
//! - `guest`: QEMU, from power-on to power-off; `init.sh` is the guest's first process

mod guest;
mod initramfs;
mod software;

use std::{path::Path, process::Stdio, time::Duration};

use crate::{driver::Driver, tool};
use guest::Ended;
pub use guest::{Drive, GuestError, Run};
pub use software::is_possible;

/// A run of the tests.
struct Case {
    name: &'static str,
    /// QEMU's properties of the device.
    properties: &'static str,
    drive: Drive,
    cpus: &'static str,
    /// Further options of the testbed.
    options: &'static str,
    then: Then,
}

/// What follows the verify pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// A workload of reads and writes.
    Workload,
    /// Nothing. The image is compared after QEMU has ended.
    Compare,
}

impl Case {
    const fn new(name: &'static str, properties: &'static str) -> Self {
        Self {
            name,
            properties,
            drive: Drive::Usual,
            cpus: "2",
            options: "",
            then: Then::Workload,
        }
    }

    const fn of_drive(self, drive: Drive) -> Self {
        Self { drive, ..self }
    }

    const fn on_cpus(self, cpus: &'static str) -> Self {
        Self { cpus, ..self }
    }

    const fn with(self, options: &'static str) -> Self {
        Self { options, ..self }
    }

    const fn compared(self) -> Self {
        Self {
            then: Then::Compare,
            ..self
        }
    }

    fn run(&self) -> Run {
        let (verified, writes) = match self.drive {
            Drive::ReadOnly => ("0", "-w0"),
            _ => (VERIFIED, "-w30"),
        };
        let workload = match self.then {
            Then::Workload => format!("-- -b4K -r -o8 -t2 {writes} -d1 -W0"),
            Then::Compare => "--no-workload".to_owned(),
        };
        let Self {
            properties,
            cpus,
            options,
            ..
        } = self;
        let common = Driver::Ferrostor.testbed_options().join(" ");
        let all = format!(
            "{common} --cpus {cpus} --memory 128M --seed {SEED} --verify-bytes {verified} {options} {workload}"
        );
        Run {
            device: format!("virtio-blk-pci,{properties}"),
            drive: self.drive,
            testbed: all.split_whitespace().map(str::to_owned).collect(),
        }
    }

    /// What is wrong with the output: an error of the drive that the driver did not report.
    fn unexpected(&self, end: &Ended) -> Option<String> {
        let wants_failure = matches!(self.drive, Drive::Fails(_));
        (wants_failure != end.output.contains(FAILED))
            .then(|| format!("\"{FAILED}\" is in the output: {}", !wants_failure))
    }
}

/// How long a run of the tests may print nothing.
const PATIENCE: Duration = Duration::from_secs(120);

/// The seed of all runs, and how much each verifies.
const SEED: &str = "1";
const VERIFIED: &str = "8M";

const FOUR_KIB: &str = "logical_block_size=4096,physical_block_size=4096";

const CASES: &[Case] = &[
    Case::new("default", ""),
    Case::new("packed", "packed=on"),
    Case::new("4 queues", "num-queues=4").on_cpus("4"),
    Case::new("4 queues, packed", "num-queues=4,packed=on").on_cpus("4"),
    Case::new("1 vector", "vectors=1"),
    Case::new("INTx", "vectors=0"),
    Case::new("event_idx off", "event_idx=off"),
    Case::new("indirect off", "indirect_desc=off"),
    Case::new("packed, indirect off", "packed=on,indirect_desc=off"),
    Case::new("queue size 16", "queue-size=16"),
    Case::new("queue size 1024", "queue-size=1024"),
    Case::new("4 KiB blocks", FOUR_KIB),
    Case::new("read-only", "").of_drive(Drive::ReadOnly),
    Case::new("restarts", "num-queues=2").with("--restart 3"),
    Case::new("INTx, restarts", "vectors=0").with("--restart 3"),
    Case::new("dump", "").with("--dump"),
    Case::new("all checks", "num-queues=2").with("--verify"),
    Case::new("all checks, packed", "num-queues=2,packed=on").with("--verify"),
    Case::new("image compared", "").compared(),
    Case::new("image compared, packed", "num-queues=2,packed=on").compared(),
    Case::new("image compared, 4 KiB blocks", FOUR_KIB).compared(),
    Case::new("reads fail", "")
        .of_drive(Drive::Fails("read"))
        .with("--keep-going"),
    Case::new("a write fails", "")
        .of_drive(Drive::Fails("write"))
        .with("--keep-going"),
    Case::new("a flush fails", "")
        .of_drive(Drive::Fails("flush"))
        .with("--keep-going"),
];

/// A run failed, or was not performed.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    #[error(transparent)]
    Guest(#[from] GuestError),
    #[error("{failed} of {} runs on QEMU's disks failed: see their output above", CASES.len())]
    Failed { failed: usize },
}

/// Performs one run, and shows its output. Returns whether it passed.
///
/// # Errors
/// See [`GuestError`].
pub fn run(testbed: &Path, driver: &Path, run: Run) -> Result<bool, GuestError> {
    let mut show = |_, line: &str| println!("{line}");
    let folder = tempfile::tempdir()?;
    let ended = guest::perform(testbed, driver, &[run], &folder, Duration::MAX, &mut show)?;
    Ok(ended.iter().all(Ended::is_good))
}

/// Performs the runs of the tests in one guest, and prints a table.
///
/// # Errors
/// See [`QemuError`].
pub fn check(testbed: &Path, driver: &Path) -> Result<(), QemuError> {
    let runs: Vec<Run> = CASES.iter().map(Case::run).collect();
    let folder = tempfile::tempdir().map_err(GuestError::from)?;
    let mut shown = None;
    let ended = guest::perform(
        testbed,
        driver,
        &runs,
        &folder,
        PATIENCE,
        &mut |number, _| {
            if shown.replace(number) != Some(number) {
                eprintln!("{} of {}: {}", number + 1, CASES.len(), CASES[number].name);
            }
        },
    )?;
    println!("| Run on QEMU's disk | Properties | Result |\n|---|---|---|");
    let mut failed = 0;
    for (number, (case, end)) in CASES.iter().zip(&ended).enumerate() {
        let mut faults = end.faults.clone();
        faults.extend(case.unexpected(end));
        if case.then == Then::Compare {
            faults.extend(mismatches(testbed, &guest::image(&folder, number), case)?);
        }
        let is_good = end.code == Some(0) && faults.is_empty();
        let result = if is_good { "PASS" } else { "FAIL" };
        println!("| {} | {} | {result} |", case.name, case.properties);
        if !is_good {
            failed += 1;
            let faults = faults.join("\n");
            eprintln!(
                "{}: exit code {:?}\n{}{faults}",
                case.name, end.code, end.output
            );
        }
    }
    if failed > 0 {
        return Err(QemuError::Failed { failed });
    }
    Ok(())
}

/// What the testbed prints of failures that --keep-going ignored.
const FAILED: &str = "transfers failed, ";

/// How the image differs from what the run wrote.
fn mismatches(testbed: &Path, image: &Path, case: &Case) -> Result<Option<String>, GuestError> {
    let mut compare = tool::tool(testbed);
    compare.arg("compare").arg(image);
    compare.args(["--seed", SEED, "--verify-bytes", VERIFIED]);
    if case.properties == FOUR_KIB {
        compare.args(["--block-bytes", "4096"]);
    }
    let status = tool::quiet_status(compare.stdout(Stdio::null()))?;
    Ok((!status.success()).then(|| "the image differs from what the run wrote".to_owned()))
}
