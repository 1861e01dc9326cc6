//! Whole runs of the command with the example drivers that FERROSTOR_RAMDISK and
//! FERROSTOR_LOCKS name, with each type of interrupts and SRBs, and with all checks.

mod command;

/// A short workload on two CPUs.
const SHORT: &str = "-b4K -r -o16 -t2 -w30 -d1 -W0";

/// Runs an example on the bell, with two CPUs.
fn passes(variable: &str, options: &[&str]) -> String {
    let options = [&["--function", "bell", "--cpus", "2"], options].concat();
    command::passes(variable, &options, SHORT)
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
