//! Whole runs of the command with the file that FERROSTOR_DRIVER names, with each type of
//! interrupts, SRBs and PCI identity.

mod command;

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

const DRIVER: &str = "FERROSTOR_DRIVER";
/// A short workload on two CPUs.
const SHORT: &str = "-b4K -r -o16 -t2 -w30 -d1 -W0";

/// V60, V70.
#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn data_survive_each_type_of_interrupts_srbs_and_device_and_sleeps() {
    let disk = ["--cpus", "2", "--size", "64M", "--verify-bytes", "16M"];
    for options in [
        &["--interrupts", "msix", "--srb", "storage"][..],
        &["--srb", "scsi"],
        &["--interrupts", "intx"],
        &["--device-id", "transitional"],
        &["--restart", "2"],
    ] {
        let text = command::passes(DRIVER, &[&disk, options].concat(), SHORT);
        assert!(text.contains("16MiB verified in "), "{options:?}: {text}");
        assert!(text.contains(" 0 mismatches"), "{options:?}: {text}");
    }
}

/// Each pair of values of two properties occurs in at least one run: ring, indirect descriptors,
/// EVENT_IDX, queues, messages (one for each queue and one more, one, none) and shape of SRBs. The
/// last runs go round small rings.
const PAIRWISE: &str = "
    packed=off,indirect_desc=on,event_idx=on,num-queues=1,vectors=2 storage
    packed=on,indirect_desc=off,event_idx=off,num-queues=1,vectors=1 scsi
    packed=on,indirect_desc=on,event_idx=off,num-queues=2,vectors=3 scsi
    packed=off,indirect_desc=off,event_idx=on,num-queues=2,vectors=0 scsi
    packed=on,indirect_desc=on,event_idx=on,num-queues=4,vectors=0 storage
    packed=off,indirect_desc=off,event_idx=off,num-queues=4,vectors=5 storage
    packed=off,indirect_desc=on,event_idx=off,num-queues=1,vectors=0 scsi
    packed=off,indirect_desc=on,event_idx=on,num-queues=4,vectors=1 scsi
    packed=on,indirect_desc=off,event_idx=on,num-queues=2,vectors=1 storage
    packed=on,indirect_desc=off,event_idx=on,num-queues=1,vectors=2 storage
    packed=on,indirect_desc=off,event_idx=on,num-queues=4,vectors=5,queue-size=8 storage
    packed=on,indirect_desc=on,event_idx=on,num-queues=2,vectors=3,queue-size=4 scsi
    packed=off,indirect_desc=off,event_idx=on,num-queues=2,vectors=3,queue-size=4 storage";

/// The properties that [`PAIRWISE`] is about, each with its values.
const VALUES: [&[&str]; 6] = [
    &["packed=off", "packed=on"],
    &["indirect_desc=off", "indirect_desc=on"],
    &["event_idx=off", "event_idx=on"],
    &["num-queues=1", "num-queues=2", "num-queues=4"],
    &["all messages", "vectors=1", "vectors=0"],
    &["storage", "scsi"],
];

#[test]
fn the_pairwise_runs_have_every_pair_of_values() {
    let runs: Vec<Vec<&str>> = PAIRWISE
        .trim()
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.trim().split([',', ' ']).collect();
            let all = words.windows(2).any(|pair| {
                [
                    ["num-queues=1", "vectors=2"],
                    ["num-queues=2", "vectors=3"],
                    ["num-queues=4", "vectors=5"],
                ]
                .contains(&[pair[0], pair[1]])
            });
            words
                .into_iter()
                .chain(all.then_some("all messages"))
                .collect()
        })
        .collect();
    for (number, first) in VALUES.iter().enumerate() {
        for second in &VALUES[number + 1..] {
            for one in *first {
                for other in *second {
                    let has_both = |run: &Vec<&str>| run.contains(one) && run.contains(other);
                    assert!(runs.iter().any(has_both), "no run with {one} and {other}");
                }
            }
        }
    }
}

/// V05, V40, V41: a notification that the device wants and does not get would stop the run.
#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn data_survive_on_every_ring_with_every_pair_of_properties() {
    let lines = PAIRWISE.trim().lines().map(str::trim);
    for (number, line) in (1_u32..).zip(lines) {
        let (device, srb) = line.split_once(' ').expect("properties and SRBs");
        let seed = number.to_string();
        let options = [
            "--cpus", "4", "--verify", "--seed", &seed, "--device", device,
        ];
        let sizes = [
            "--srb",
            srb,
            "--verify-bytes",
            "1M",
            "--restart",
            "1",
            "--dump",
        ];

        let text = command::passes(DRIVER, &[options, sizes].concat(), SHORT);

        assert!(text.contains(" 0 mismatches"), "{line}: {text}");
        let value = |name: &str| device.split(name).nth(1).map(|it| &it[..1]);
        let queues = match (value("num-queues="), value("vectors=")) {
            (_, Some("0" | "1" | "2")) | (Some("1"), _) => "1 queue".to_owned(),
            (queues, _) => format!("{} queues", queues.expect("a number")),
        };
        assert!(text.contains(&format!("; {queues}, ")), "{line}: {text}");
        // When the machine crashes, each queue has requests.
        let crashed = format!(" requests in flight in {queues}; ");
        assert!(text.contains(&crashed), "{line}: {text}");
    }
}

/// Each of four processors sends its requests to a queue of its own. With the pin there is one.
#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn each_processor_has_a_queue_of_its_own() {
    for (device, spread) in [("num-queues=4", true), ("num-queues=4,vectors=0", false)] {
        let options = ["--cpus", "4", "--verify-bytes", "1M", "--device", device];

        let text = command::passes(DRIVER, &options, "-b4K -r -o4 -t4 -d1 -W0");

        let line = text.split("device requests by queue: ").nth(1);
        let counts: Vec<u64> = line
            .and_then(|line| line.lines().next())
            .expect("four queues")
            .split(", ")
            .map(|count| count.parse().expect("a number"))
            .collect();
        let [first, others @ ..] = &counts[..] else {
            panic!("{text}");
        };
        assert!(*first > 0 && others.len() == 3, "{counts:?}");
        assert!(others.iter().all(|it| (*it > 0) == spread), "{counts:?}");
    }
}

/// V92: the driver uses as many queues as processors, messages and DPC objects allow.
#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn each_queue_has_a_message_of_its_own() {
    for (device, cpus, limit, queues) in [
        ("num-queues=64", "40", "2048", "31 queues, "),
        ("num-queues=64", "40", "32", "31 queues, "),
        ("num-queues=64", "40", "31", "30 queues, "),
        ("num-queues=8", "3", "32", "3 queues, "),
    ] {
        let options = ["--cpus", cpus, "--device", device, "--message-limit", limit];
        let sizes = ["--verify-bytes", "4M"];

        let text = command::passes(
            DRIVER,
            &[&options[..], &sizes].concat(),
            "-b4K -r -o2 -d1 -W0",
        );

        assert!(text.contains(queues), "{device} {cpus} {limit}: {text}");
    }
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn the_driver_imports_from_its_port_driver_alone() {
    let output = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .args(["imports", &command::driver(DRIVER)])
        .output()
        .expect("the command starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let modules: Vec<&str> = text.lines().filter(|line| !line.starts_with(' ')).collect();
    assert!(output.status.success(), "{text}");
    assert_eq!(modules.len(), 1, "{text}");
    assert!(modules[0].starts_with("storport.sys ("), "{text}");
}

/// A sparse image.
fn image(bytes: u64) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("disk.img");
    let file = File::create(&path).expect("a file");
    file.set_len(bytes).expect("a sparse file");
    (folder, path)
}

/// A short run on an image.
fn run_on(path: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_testbed"));
    command
        .args(["run", "--driver", &command::driver(DRIVER), "--cpus", "2"])
        .args(["--memory", "64M", "--verify-bytes", "4M", "--disk"])
        .arg(path)
        .args(["--", "-b4K", "-r", "-o4", "-w50", "-d1", "-W0"]);
    command
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn the_image_of_an_earlier_run_is_taken_again_and_not_after_others_wrote_to_it() {
    let (_folder, path) = image(64 << 20);
    for time in ["first", "second"] {
        let output = run_on(&path).output().expect("the command starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{time}: {errors}");
    }
    let file = File::options().write(true).open(&path).expect("the image");
    file.write_all_at(b"a file system", 1 << 20)
        .expect("written");
    let before = fs::read(&path).expect("the image");

    let output = run_on(&path).output().expect("the command starts");

    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("--overwrite"), "{errors}");
    assert!(fs::read(&path).expect("the image") == before);
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn an_error_of_the_host_ends_a_run_without_a_verdict() {
    let (_folder, path) = image(1 << 30);
    let run = run_on(&path);
    // In blocks of 512 or 1024 bytes: room for the machine's memory, which is a file
    // too, and not for the image.
    let output = Command::new("sh")
        .args(["-c", "ulimit -f 262144; exec \"$@\"", "sh"])
        .arg(run.get_program())
        .args(run.get_args())
        .output()
        .expect("the command starts");

    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}\n{errors}");
    assert!(text.contains("\nNO VERDICT: "), "{text}");
    assert!(!text.contains("\nFAIL\n"), "{text}");
    assert!(!text.contains("--keep-going"), "{text}");
    let path = path.display().to_string();
    for part in [&path, "cannot write", "ulimit -f"] {
        assert!(errors.contains(part), "{errors}");
    }
}
