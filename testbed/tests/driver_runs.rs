//! The driver file does its work: whole runs of the command, in each shape of
//! interrupts, SRBs and PCI identity.
//!
//! The file is the one that FERROSTOR_DRIVER names.

use std::process::{Command, Output};

/// The driver file.
fn driver() -> String {
    std::env::var("FERROSTOR_DRIVER").expect("FERROSTOR_DRIVER names the driver file")
}

/// Runs it with these options of the command: 16 MiB verified, then a short
/// load on two CPUs.
fn run(options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_testbed"))
        .args([
            "run",
            "--driver",
            &driver(),
            "--cpus",
            "2",
            "--size",
            "64M",
            "--verify-bytes",
            "16M",
        ])
        .args(options)
        .args(["--", "-b4K", "-r", "-o16", "-t2", "-w30", "-d1", "-W0"])
        .output()
        .expect("the command starts")
}

fn passes(options: &[&str]) {
    let output = run(options);
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
#[ignore = "needs a built driver: cargo xtask test"]
fn data_survive_messages_and_storage_request_blocks() {
    passes(&["--interrupts", "msix", "--srb", "storage"]);
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn data_survive_scsi_request_blocks() {
    passes(&["--srb", "scsi"]);
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn data_survive_the_interrupt_pin() {
    passes(&["--interrupts", "intx"]);
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn data_survive_on_a_transitional_device() {
    passes(&["--device-id", "transitional"]);
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn the_driver_imports_from_its_port_driver_alone() {
    let output = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .args(["imports", &driver()])
        .output()
        .expect("the command starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let modules: Vec<&str> = text.lines().filter(|line| !line.starts_with(' ')).collect();
    assert!(output.status.success(), "{text}");
    assert_eq!(modules.len(), 1, "{text}");
    assert!(modules[0].starts_with("storport.sys ("), "{text}");
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn data_survive_sleeps_of_the_adapter() {
    passes(&["--restart", "2"]);
}
