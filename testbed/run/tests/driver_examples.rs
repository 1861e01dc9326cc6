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

#[test]
#[ignore = "needs built drivers: cargo xtask test"]
fn ramdisk_keeps_data() {
    for options in [
        &["--interrupts", "msix", "--srb", "storage"][..],
        &["--srb", "scsi"],
        &["--interrupts", "intx"],
        &["--restart", "2"],
        &["--verify", "--seed", "1"],
        &["--verify", "--seed", "2", "--interrupts", "intx"],
    ] {
        let verified = [&["--verify-bytes", "16M"], options].concat();
        let text = passes("FERROSTOR_RAMDISK", &verified);
        assert!(text.contains("16MiB verified in "), "{options:?}: {text}");
        assert!(text.contains(" 0 mismatches"), "{options:?}: {text}");
    }
}

/// The driver fails requests if a count under a lock is not what it must be.
#[test]
#[ignore = "needs built drivers: cargo xtask test"]
fn every_lock_excludes_in_every_callback() {
    for options in [
        &["--interrupts", "msix"][..],
        &["--interrupts", "msix", "--verify", "--seed", "1"],
        &["--interrupts", "intx"],
        &["--interrupts", "intx", "--verify", "--seed", "1"],
        &["--restart", "2"],
    ] {
        let text = passes(
            "FERROSTOR_LOCKS",
            &[&["--verify-bytes", "0"], options].concat(),
        );
        for callback in [
            "HwBuildIo",
            "HwStartIo",
            "HwDpcRoutine",
            "HwTimer",
            "HwStateChange",
            "HwWorkItem",
        ] {
            assert!(
                text.contains(&format!("\n{callback} ")),
                "{options:?}: {text}"
            );
        }
    }
}
