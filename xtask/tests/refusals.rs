//! Tests that commands reject wrong options before they build something, and that a failed
//! build leaves no old driver. Cargo and the testbed are stand-ins.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::{
    env, fs,
    process::{Command, Output},
};

use machine::{Machine, text};

mod machine;

/// A machine on which cargo runs the script `cargo`, and the testbed the script `testbed`.
fn machine(cargo: &str, testbed: &str) -> Machine {
    let machine = Machine::new();
    machine.command("bin/cargo", cargo);
    machine.command("target/host/testbed", testbed);
    machine
}

fn xtask(machine: &Machine, line: &str) -> Output {
    let path = env::var_os("PATH").expect("a PATH");
    let folders = [machine.path("bin")]
        .into_iter()
        .chain(env::split_paths(&path));
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(line.split_whitespace())
        .current_dir(machine.path(""))
        .env("PATH", env::join_paths(folders).expect("a PATH"))
        .env("CARGO_TARGET_DIR", machine.path("target"))
        .output()
        .expect("xtask runs")
}

/// The packages that cargo was called to build.
fn built(machine: &Machine) -> Vec<String> {
    let calls = machine.calls();
    let calls = calls.iter().filter(|call| call.starts_with("cargo "));
    let packages = calls.filter_map(|call| call.split_once("--package ")?.1.split(' ').next());
    packages.map(str::to_owned).collect()
}

#[test]
fn what_the_testbed_refuses_is_refused_before_the_driver_is_built() {
    let refusal = r#"
        [ "$TESTBED_CALLER" = 'cargo xtask run' ] || exit 9
        case "$*" in
        "run --check --driver $CARGO_TARGET_DIR/driver/x64/ferrostor.sys "*" --frob") exit 2 ;;
        esac
    "#;
    let machine = machine("", refusal);
    let output = xtask(&machine, "run --frob");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert_eq!(built(&machine), ["testbed"]);
}

#[test]
fn an_unknown_driver_is_refused_with_the_names_of_the_known_ones() {
    let machine = machine("", "");
    let output = xtask(&machine, "run --cpus 2 --driver nosuch");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output),
        "error: --driver nosuch: no such file; give the path of a .sys file, or a driver of this \
         project: ferrostor, ramdisk, locks\n"
    );
    assert_eq!(built(&machine), [""; 0]);
}

#[test]
fn every_command_refuses_a_wrong_option_before_it_builds() {
    for (line, named) in [
        ("build --arch x86", "[possible values: x64, arm64]"),
        ("build --driver nosuch", "ferrostor"),
        ("cost --driver nosuch", "ramdisk"),
        ("cost --beside nosuch.sys", "nosuch.sys"),
        ("cost --depth 1,257", "257"),
        (
            "cost --function nosuch",
            "[possible values: virtio-blk, bell]",
        ),
        ("cost --set-budget --driver ramdisk", "--driver"),
        (
            "package --key nosuch.pem --certificate nosuch.pem",
            "nosuch.pem",
        ),
        ("package --pkcs12 nosuch.p12", "FERROSTOR_PKCS12_PASSWORD"),
        ("package --out /dev/null/dist", "/dev/null/dist"),
        ("test --only nosuch", "clippy"),
        (
            "test --only loom --record /dev/null/table",
            "/dev/null/table",
        ),
        ("mutants --jobs 0", "--jobs"),
        ("lint", "<FILE>"),
    ] {
        let machine = machine("", "");
        let output = xtask(&machine, line);
        assert!(!output.status.success(), "{line}");
        assert!(text(&output).contains(named), "{line}: {}", text(&output));
        assert_eq!(built(&machine), [""; 0], "{line}");
    }
}

#[test]
fn a_failed_build_leaves_no_driver_of_an_earlier_one() {
    let machine = machine("exit 101", "");
    let old = machine.path("target/driver/x64/ferrostor.sys");
    fs::create_dir_all(old.parent().expect("a folder")).expect("a folder");
    fs::write(&old, "old").expect("a file");
    let output = xtask(&machine, "build");
    assert!(
        text(&output).contains("the driver was not built"),
        "{}",
        text(&output)
    );
    assert!(!output.status.success() && !old.exists());
}
