//! Runs of the file that FERROSTOR_DRIVER names under `--verify`: a seed gives the same run
//! each time.

mod command;

const DRIVER: &str = "FERROSTOR_DRIVER";
const CHECKED: [&str; 5] = ["--verify", "--size", "64M", "--verify-bytes", "1M"];
/// A short workload on four CPUs.
const SHORT: &str = "-b8K -r -o4 -t4 -w30 -d1 -W0";

/// The counts of a run that passed, and its trace.
fn counted(options: &[&str]) -> String {
    let text = command::passes(DRIVER, &[&CHECKED, options].concat(), SHORT);
    // The part before it has the CPU time of the host.
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
    let options = [&CHECKED[..], &["--seed", "10", "--seeds", "4"]].concat();
    let output = command::run(DRIVER, &options, SHORT);

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
