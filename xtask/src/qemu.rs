//! Runs the testbed on disks that QEMU emulates: inside a guest of QEMU, through the guest's VFIO.
//! The driver file drives a device that this project did not write.
//!
//! - `software`: Debian's kernel and busybox
//! - `initramfs`: the guest's file system
//! - `guest`: QEMU, from power-on to power-off; `init.sh` is the guest's first process

mod guest;
mod initramfs;
mod software;

use std::path::Path;

use guest::Ended;
pub use guest::{GuestError, Run};
pub use software::is_possible;

/// The runs of the tests: a name, QEMU's properties, and options of the drive and of the testbed.
const RUNS: &[(&str, &str, &str, &str)] = &[
    ("default", "", "", "--cpus 2 --verify-bytes 8M"),
    ("packed", "packed=on", "", "--cpus 2 --verify-bytes 8M"),
    ("4 queues", "num-queues=4", "", "--cpus 4 --verify-bytes 8M"),
    (
        "4 queues, packed",
        "num-queues=4,packed=on",
        "",
        "--cpus 4 --verify-bytes 8M",
    ),
    ("1 vector", "vectors=1", "", "--cpus 2 --verify-bytes 8M"),
    ("INTx", "vectors=0", "", "--cpus 2 --verify-bytes 8M"),
    (
        "event_idx off",
        "event_idx=off",
        "",
        "--cpus 2 --verify-bytes 8M",
    ),
    (
        "indirect off",
        "indirect_desc=off",
        "",
        "--cpus 2 --verify-bytes 8M",
    ),
    (
        "packed, indirect off",
        "packed=on,indirect_desc=off",
        "",
        "--cpus 2 --verify-bytes 8M",
    ),
    (
        "queue size 16",
        "queue-size=16",
        "",
        "--cpus 2 --verify-bytes 8M",
    ),
    (
        "queue size 1024",
        "queue-size=1024",
        "",
        "--cpus 2 --verify-bytes 8M",
    ),
    (
        "4 KiB blocks",
        "logical_block_size=4096,physical_block_size=4096",
        "",
        "--cpus 2 --verify-bytes 8M",
    ),
    ("read-only", "", READ_ONLY, "--cpus 2 --verify-bytes 0"),
    (
        "restarts",
        "num-queues=2",
        "",
        "--cpus 2 --restart 3 --verify-bytes 8M",
    ),
    ("dump", "", "", "--cpus 2 --dump --verify-bytes 8M"),
    (
        "all checks",
        "num-queues=2",
        "",
        "--cpus 2 --verify --verify-bytes 8M",
    ),
    (
        "all checks, packed",
        "num-queues=2,packed=on",
        "",
        "--cpus 2 --verify --verify-bytes 8M",
    ),
];

const READ_ONLY: &str = "readonly=on";

/// A run failed, or was not performed.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    #[error(transparent)]
    Guest(#[from] GuestError),
    #[error("{failed} of {} runs on QEMU's disks failed: see their output above", RUNS.len())]
    Failed { failed: usize },
}

/// Performs one run, and shows its output. Returns whether it passed.
///
/// # Errors
/// See [`GuestError`].
pub fn run(testbed: &Path, driver: &Path, run: Run) -> Result<bool, GuestError> {
    let mut show = |_, line: &str| println!("{line}");
    let ended = guest::perform(testbed, driver, &[run], &mut show)?;
    Ok(ended.iter().all(Ended::is_good))
}

/// Performs the runs of the tests in one guest, and prints a table.
///
/// # Errors
/// See [`QemuError`].
pub fn check(testbed: &Path, driver: &Path) -> Result<(), QemuError> {
    let runs: Vec<Run> = RUNS
        .iter()
        .map(|(_, properties, drive, testbed)| {
            let writes = if *drive == READ_ONLY { "-w0" } else { "-w30" };
            let workload = format!("--memory 128M -- -b4K -r -o8 -t2 {writes} -d1 -W0");
            let words = testbed.split_whitespace().chain(workload.split(' '));
            Run {
                device: format!("virtio-blk-pci,{properties}"),
                drive,
                testbed: words.map(str::to_owned).collect(),
            }
        })
        .collect();
    let mut shown = None;
    let ended = guest::perform(testbed, driver, &runs, &mut |number, _| {
        if shown.replace(number) != Some(number) {
            eprintln!("{} of {}: {}", number + 1, RUNS.len(), RUNS[number].0);
        }
    })?;
    println!("| Run on QEMU's disk | Properties | Result |\n|---|---|---|");
    let mut failed = 0;
    for ((name, properties, drive, _), end) in RUNS.iter().zip(&ended) {
        let result = if end.is_good() { "PASS" } else { "FAIL" };
        let properties = [*properties, *drive];
        let properties: Vec<_> = properties.into_iter().filter(|it| !it.is_empty()).collect();
        println!("| {name} | {} | {result} |", properties.join("; "));
        if !end.is_good() {
            failed += 1;
            let faults = end.faults.join("\n");
            eprintln!("{name}: exit code {:?}\n{}{faults}", end.code, end.output);
        }
    }
    if failed > 0 {
        return Err(QemuError::Failed { failed });
    }
    Ok(())
}
