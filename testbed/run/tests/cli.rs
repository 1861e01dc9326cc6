//! Tests of the testbed's command line. A command that cannot be carried out prints one line
//! on standard error and exits with code 2.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

fn testbed(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_testbed"))
        .args(arguments)
        .output()
        .expect("the testbed is built")
}

/// The error line of a command that cannot be carried out.
fn refused(arguments: &[&str]) -> String {
    let output = testbed(arguments);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
    assert_eq!(error.lines().count(), 1, "{arguments:?}: {error}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    assert!(error.starts_with("testbed: "), "{error}");
    error
}

/// A folder with one file in it.
fn file(contents: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file.bin");
    fs::write(&path, contents).expect("the file is written");
    (folder, path)
}

/// The error line of a run with the image at `path`.
fn refused_image(path: &Path) -> String {
    let path = path.to_str().expect("a plain path");
    let error = refused(&["run", "--driver", "no.sys", "--disk", path]);
    assert!(error.contains(path), "{error}");
    error
}

#[test]
fn every_help_shows_examples_and_a_run_warns_of_the_disks_contents() {
    for command in ["", "run", "cost", "imports", "rules"] {
        let arguments = [command, "--help"].into_iter().filter(|it| !it.is_empty());
        let output = testbed(&arguments.collect::<Vec<_>>());
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success());
        let example = format!("Examples:\n  testbed {command}");
        assert!(text.contains(&example), "{text}");
        if ["", "run"].contains(&command) {
            assert!(text.contains("CONTENTS ARE OVERWRITTEN"), "{text}");
        }
    }
}

#[test]
fn a_caller_is_named_instead_of_the_testbed() {
    let output = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .args(["run", "--driver", "no.sys", "--frob"])
        .env("TESTBED_CALLER", "cargo xtask run")
        .output()
        .expect("the testbed is built");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.ends_with("'--frob' found (see cargo xtask run --help)\n"),
        "{error}"
    );
}

#[test]
fn an_error_names_the_help_of_its_own_command() {
    for (arguments, help) in [
        (&["run", "--frob"][..], "testbed run"),
        (&["cost", "--frob"], "testbed cost"),
        (&["imports"], "testbed imports"),
        (&["rules", "--frob"], "testbed rules"),
        (&["walk"], "testbed"),
        (&["--frob"], "testbed"),
    ] {
        let error = refused(arguments);
        assert!(
            error.ends_with(&format!("(see {help} --help)\n")),
            "{error}"
        );
    }
}

#[test]
fn a_check_refuses_options_without_a_driver() {
    let check = ["run", "--check", "--driver", "no.sys"];
    assert!(testbed(&check).status.success());
    for (arguments, named) in [
        (&["--", "-q"][..], "-q"),
        (&["--memory", "1M"], "--memory"),
        (&["--disk", "no.img"], "no.img"),
        (&["--seeds", "2"], "--verify"),
    ] {
        let error = refused(&[&check, arguments].concat());
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn a_seed_that_cannot_be_run_is_no_failure_of_the_driver() {
    let output = testbed(&[
        "run", "--driver", "no.sys", "--verify", "--seed", "7", "--seeds", "1",
    ]);

    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("no.sys"), "{text}");
    assert!(text.contains("\nseed 7: NO VERDICT in "), "{text}");
}

#[test]
fn what_cannot_be_carried_out_is_named() {
    for (arguments, named) in [
        ("walk", "'walk'"),
        ("run", "--driver <FILE.sys>"),
        ("run --driver x.sys --fast", "'--fast'"),
        ("run --driver x.sys --cpus 0", "0 is not in 1..=64"),
        ("run --driver x.sys --cpus 65", "65 is not in 1..=64"),
        (
            "run --driver x.sys --message-limit 0",
            "0 is not in 1..=65535",
        ),
        (
            "run --driver x.sys --verify --seeds 0",
            "0 is not in 1..=4294967295",
        ),
        ("run --driver x.sys --srb both", "'both'"),
        ("run --driver x.sys --size 12Q", "\"12Q\" is not a size"),
        ("run --driver x.sys --size 1000", "--size: 1000 bytes"),
        ("run --driver x.sys --size 0", "--size: 0 bytes"),
        ("run --driver x.sys --memory 1M", "--memory: 1048576 bytes"),
        (
            "run --driver x.sys --memory 33554433",
            "--memory: 33554433 bytes",
        ),
        ("run --driver x.sys --overwrite", "no image to overwrite"),
        (
            "run --driver x.sys --function disk",
            "give virtio-blk, bell",
        ),
        (
            "run --driver x.sys --function vfio:0:1.0",
            "give --overwrite",
        ),
        (
            "run --driver x.sys --function vfio:0:1.0 --overwrite --device packed=on",
            "--device: a function of the host",
        ),
        (
            "run --driver x.sys --function vfio:0:1.0 --overwrite --verify --seeds 2",
            "--seeds: a seed does not determine",
        ),
        ("compare disk.img --seed 1", "--verify-bytes <SIZE>"),
        (
            "compare /no/such/disk.img --seed 1 --verify-bytes 1M",
            "/no/such/disk.img: no such",
        ),
        (
            "run --driver x.sys --disk d --size 1M",
            "cannot be used with",
        ),
        (
            "run --driver x.sys --disk /no/such/disk.img",
            "/no/such/disk.img: no such",
        ),
        (
            "run --driver x.sys -- -x",
            "workload option -x: unexpected argument '-x'",
        ),
        (
            "run --driver x.sys -- -w101",
            "invalid value '101' for '-w <PERCENT>'",
        ),
    ] {
        let words: Vec<&str> = arguments.split(' ').collect();
        let error = refused(&words);
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn an_image_of_no_bytes_and_a_read_only_one_are_refused() {
    let (_folder, path) = file(b"");
    assert!(refused_image(&path).contains("0 bytes"));
    let (_folder, path) = file(&[0; 1 << 20]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).expect("it is ours");
    assert!(refused_image(&path).contains("read-only"));
}

#[test]
fn an_image_that_is_not_blank_is_refused_and_stays_as_it_is() {
    // A boot record, a VDI header, F2FS, md-RAID's last superblock, a file system
    // that nobody knows.
    for (at, bytes) in [
        (510, &b"\x55\xAA"[..]),
        (64, b"\x7F\x10\xDA\xBE"),
        (1024, b"\x10\x20\xF5\xF2"),
        ((1 << 20) - 65_536, b"\xFC\x4E\x2B\xA9"),
        (700_001, b"?"),
    ] {
        let mut disk = vec![0; 1 << 20];
        disk[at..at + bytes.len()].copy_from_slice(bytes);
        let (_folder, path) = file(&disk);

        let error = refused_image(&path);

        let told = format!("the image has data at byte {} ", at - at % 512);
        assert!(
            error.contains(&told) && error.contains("--overwrite"),
            "{error}"
        );
        assert_eq!(fs::read(&path).expect("it is there"), disk);
    }
}

#[test]
fn with_overwrite_an_image_that_is_not_blank_is_taken() {
    let mut disk = vec![0; 1 << 20];
    disk[510..512].copy_from_slice(&[0x55, 0xAA]);
    let (_folder, path) = file(&disk);
    let path = path.to_str().expect("a plain path");

    let error = refused(&["run", "--driver", "no.sys", "--disk", path, "--overwrite"]);

    assert!(error.contains("no.sys"), "{error}");
}

#[test]
fn a_driver_that_is_missing_or_no_driver_is_refused() {
    let (_folder, text) = file(b"This is no driver.\n");
    let (_other, empty) = file(b"");
    // An ELF file.
    let itself = std::env::current_exe().expect("it has a path");
    for path in [Path::new("/no/such/driver.sys"), &text, &empty, &itself] {
        let path = path.to_str().expect("a plain path");
        for arguments in [&["imports", path][..], &["run", "--driver", path]] {
            let error = refused(arguments);
            assert!(error.contains(path), "{error}");
        }
    }
}

#[test]
fn the_rules_are_printed_in_two_lists_with_their_sources_and_what_is_beyond_them() {
    let output = testbed(&["rules"]);

    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let mut rest = &*text;
    for part in [
        "\n  lock-order\n      StartIo and DPC locks are taken before",
        "\n      source: StorPortSpinLock3; storport-rules.md O1, O2\n",
        "\n  srb-touched\n",
        "\n\nHouse rules: rules of this project, where Microsoft's documentation is silent",
        "\n\nNot checked by the testbed:\n  - HwBuildIo accesses the adapter's state",
    ] {
        let found = rest.split_once(part);
        rest = found
            .unwrap_or_else(|| panic!("{part} is not in, or out of order:\n{text}"))
            .1;
    }
    // A rule in the other list would fail drivers of others, or fail none.
    let (_, house) = text.split_once("\nHouse rules").expect("the list");
    let (house, _) = house.split_once("\n\n").expect("its end");
    let names = house.lines().filter_map(|line| line.strip_prefix("  "));
    let names: Vec<_> = names.filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(
        names,
        [
            "lock-order-start-io",
            "lock-nested",
            "stop-at-dirql",
            "lock-threaded-dpc",
            "lock-release-order",
            "lock-other-thread",
            "srb-start-io-false",
            "srb-control",
            "ddi-dump-stack",
            "lock-in-dump-mode",
        ]
    );
}
