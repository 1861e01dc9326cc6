//! The example drivers do their work: whole runs of the command, in each shape
//! of interrupts and SRBs, and closely watched.
//!
//! The files are those that FERROSTOR_RAMDISK and FERROSTOR_LOCKS name.

use std::process::Command;

/// Runs the driver that `variable` names with these options of the command, and
/// a short load on two CPUs. What it printed.
fn passes(variable: &str, options: &[&str]) -> String {
    let driver = std::env::var(variable).unwrap_or_else(|_| panic!("{variable} names the file"));
    let output = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .args([
            "run",
            "--driver",
            &driver,
            "--function",
            "bell",
            "--house-rules",
        ])
        .args(["--cpus", "2"])
        .args(options)
        .args(["--", "-b4K", "-r", "-o16", "-t2", "-w30", "-d1", "-W0"])
        .output()
        .expect("the command starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    let judged = "violations: none; driver errors seen by the device: none";
    assert!(text.contains(judged), "{text}");
    assert!(text.ends_with("PASS\n"), "{text}");
    text
}

fn ramdisk_keeps_data(options: &[&str]) {
    let options = [&["--verify-bytes", "16M"], options].concat();
    let text = passes("FERROSTOR_RAMDISK", &options);
    assert!(text.contains("16MiB verified in "), "{text}");
    assert!(text.contains(" 0 mismatches"), "{text}");
}

#[test]
#[ignore = "needs built drivers: cargo xtask test"]
fn ramdisk_keeps_data_with_messages_and_storage_request_blocks() {
    ramdisk_keeps_data(&["--interrupts", "msix", "--srb", "storage"]);
}

#[test]
#[ignore = "needs built drivers: cargo xtask test"]
fn ramdisk_keeps_data_with_scsi_request_blocks() {
    ramdisk_keeps_data(&["--srb", "scsi"]);
}

#[test]
#[ignore = "needs built drivers: cargo xtask test"]
fn ramdisk_keeps_data_with_the_interrupt_pin() {
    ramdisk_keeps_data(&["--interrupts", "intx"]);
}

#[test]
#[ignore = "needs built drivers: cargo xtask test"]
fn ramdisk_keeps_data_over_a_restart() {
    ramdisk_keeps_data(&["--restart", "2"]);
}

#[test]
#[ignore = "needs built drivers: cargo xtask test"]
fn ramdisk_keeps_data_in_any_order_of_threads() {
    ramdisk_keeps_data(&["--verify", "--seed", "1"]);
    ramdisk_keeps_data(&["--verify", "--seed", "2", "--interrupts", "intx"]);
}

/// It fails requests if a count under a lock is not what it must be.
fn every_lock_excludes(options: &[&str]) {
    let options = [&["--verify-bytes", "0"], options].concat();
    let text = passes("FERROSTOR_LOCKS", &options);
    for callback in [
        "HwBuildIo",
        "HwStartIo",
        "HwDpcRoutine",
        "HwTimer",
        "HwStateChange",
        "HwWorkItem",
    ] {
        assert!(text.contains(&format!("\n{callback} ")), "{text}");
    }
}

#[test]
#[ignore = "needs built drivers: cargo xtask test"]
fn every_lock_excludes_in_every_callback_with_messages() {
    every_lock_excludes(&["--interrupts", "msix"]);
    every_lock_excludes(&["--interrupts", "msix", "--verify", "--seed", "1"]);
}

#[test]
#[ignore = "needs built drivers: cargo xtask test"]
fn every_lock_excludes_in_every_callback_with_the_interrupt_pin() {
    every_lock_excludes(&["--interrupts", "intx"]);
    every_lock_excludes(&["--interrupts", "intx", "--verify", "--seed", "1"]);
}

#[test]
#[ignore = "needs built drivers: cargo xtask test"]
fn every_lock_excludes_after_a_restart() {
    every_lock_excludes(&["--restart", "2"]);
}
