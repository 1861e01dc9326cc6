//! The example drivers do their work: whole runs of the command, in each shape
//! of interrupts and SRBs.
//!
//! The files are those that FERROSTOR_RAMDISK and the like name.

use std::process::Command;

/// Runs the memory disk with these options of the command: 16 MiB verified,
/// then a short load on two CPUs.
fn ramdisk_passes(options: &[&str]) {
    let driver = std::env::var("FERROSTOR_RAMDISK").expect("FERROSTOR_RAMDISK names the file");
    let output = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .args(["run", "--driver", &driver, "--function", "bell"])
        .args(["--cpus", "2", "--verify-bytes", "16M"])
        .args(options)
        .args(["--", "-b4K", "-r", "-o16", "-t2", "-w30", "-d1", "-W0"])
        .output()
        .expect("the command starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.contains("16MiB verified in "), "{text}");
    assert!(text.contains(" 0 mismatches"), "{text}");
    let judged = "violations: none; complaints of the device: none";
    assert!(text.contains(judged), "{text}");
    assert!(text.ends_with("PASS\n"), "{text}");
}

#[test]
#[ignore = "needs built drivers: cargo xtask test"]
fn ramdisk_keeps_data_with_messages_and_storage_request_blocks() {
    ramdisk_passes(&["--interrupts", "msix", "--srb", "storage"]);
}

#[test]
#[ignore = "needs built drivers: cargo xtask test"]
fn ramdisk_keeps_data_with_scsi_request_blocks() {
    ramdisk_passes(&["--srb", "scsi"]);
}

#[test]
#[ignore = "needs built drivers: cargo xtask test"]
fn ramdisk_keeps_data_with_the_interrupt_pin() {
    ramdisk_passes(&["--interrupts", "intx"]);
}
