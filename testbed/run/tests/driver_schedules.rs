//! The driver file under `--verify`: a seed gives the same run each time.
//!
//! The file is the one that FERROSTOR_DRIVER names.

use std::process::{Command, Output};

/// Runs the driver closely watched, with these options and a short load on four
/// CPUs.
fn run(options: &[&str]) -> Output {
    let driver = std::env::var("FERROSTOR_DRIVER").expect("FERROSTOR_DRIVER names the driver file");
    Command::new(env!("CARGO_BIN_EXE_testbed"))
        .args([
            "run",
            "--driver",
            &driver,
            "--verify",
            "--size",
            "64M",
            "--house-rules",
        ])
        .args(["--verify-bytes", "1M"])
        .args(options)
        .args(["--", "-b8K", "-r", "-o4", "-t4", "-w30", "-d1", "-W0"])
        .output()
        .expect("the command starts")
}

/// What a run that passed counted, and its trace.
fn counted(options: &[&str]) -> String {
    let output = run(options);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    let judged = "violations: none; driver errors seen by the device: none";
    assert!(text.contains(judged), "{text}");
    // What stands above it are also the host's CPU times.
    let from = text.find("callback ").expect("callbacks are counted");
    text[from..].to_owned()
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    for shape in [&[][..], &["--interrupts", "intx", "--srb", "scsi"]] {
        let seeded = |seed| counted(&[shape, &["--seed", seed]].concat());

        let first = seeded("1");

        assert!(first.contains(" digest "), "{first}");
        assert_eq!(seeded("1"), first);
        assert_ne!(seeded("2"), first);
    }
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn many_seeds_pass_each_in_its_own_process() {
    let output = run(&["--seed", "10", "--seeds", "4"]);

    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    for seed in 10..14 {
        assert!(text.contains(&format!("seed {seed}: PASS in ")), "{text}");
    }
    assert!(
        text.contains("PASS: 4 seeds, starting at 10, in "),
        "{text}"
    );
}
