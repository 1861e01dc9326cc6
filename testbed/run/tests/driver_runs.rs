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
