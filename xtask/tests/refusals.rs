//! Tests that commands reject wrong options before they build something, and that a failed
//! build leaves no old driver. Cargo and the testbed are stand-ins.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

/// A folder with the stand-ins and cargo's target folder.
struct Machine(TempDir);

impl Machine {
    /// A machine on which cargo runs the script `cargo`, and the testbed the script `testbed`.
    fn new(cargo: &str, testbed: &str) -> Self {
        let machine = Self(TempDir::new().expect("a temporary folder"));
        machine.script("bin/cargo", &format!("echo \"$1 $*\" >>\"$LOG\"\n{cargo}"));
        machine.script("target/host/testbed", testbed);
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn script(&self, name: &str, text: &str) {
        let file = self.path(name);
        let folder = file.parent().expect("a folder");
        fs::create_dir_all(folder).expect("a folder");
        fs::write(&file, format!("#!/bin/sh\n{text}\n")).expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("permissions");
    }

    fn xtask(&self, line: &str) -> Output {
        let path = env::var_os("PATH").expect("a PATH");
        let folders = [self.path("bin")]
            .into_iter()
            .chain(env::split_paths(&path));
        Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(line.split_whitespace())
            .current_dir(self.0.path())
            .env("PATH", env::join_paths(folders).expect("a PATH"))
            .env("CARGO_TARGET_DIR", self.path("target"))
            .env("LOG", self.path("log"))
            .output()
            .expect("xtask runs")
    }

    /// The packages that cargo was called to build.
    fn built(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        let words: Vec<&str> = log.split_whitespace().collect();
        let pairs = words.windows(2).filter(|pair| pair[0] == "--package");
        pairs.map(|pair| pair[1].to_owned()).collect()
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_the_testbed_refuses_is_refused_before_the_driver_is_built() {
    let refusal = r#"
        [ "$TESTBED_CALLER" = 'cargo xtask run' ] || exit 9
        case "$*" in
        "run --check --driver $CARGO_TARGET_DIR/driver/x64/ferrostor.sys "*" --frob") exit 2 ;;
        esac
    "#;
    let machine = Machine::new("", refusal);
    let output = machine.xtask("run --frob");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert_eq!(machine.built(), ["testbed"]);
}

#[test]
fn an_unknown_driver_is_refused_with_the_names_of_the_known_ones() {
    let machine = Machine::new("", "");
    let output = machine.xtask("run --cpus 2 --driver nosuch");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output),
        "error: --driver nosuch: no such file; give the path of a .sys file, or a driver of this \
         project: ferrostor, ramdisk, locks\n"
    );
    assert_eq!(machine.built(), [""; 0]);
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
        ("lint", "<FILE>"),
    ] {
        let machine = Machine::new("", "");
        let output = machine.xtask(line);
        assert!(!output.status.success(), "{line}");
        assert!(text(&output).contains(named), "{line}: {}", text(&output));
        assert_eq!(machine.built(), [""; 0], "{line}");
    }
}

#[test]
fn a_failed_build_leaves_no_driver_of_an_earlier_one() {
    let machine = Machine::new("exit 101", "");
    let old = machine.path("target/driver/x64/ferrostor.sys");
    fs::create_dir_all(old.parent().expect("a folder")).expect("a folder");
    fs::write(&old, "old").expect("a file");
    let output = machine.xtask("build");
    assert!(
        text(&output).contains("the driver was not built"),
        "{}",
        text(&output)
    );
    assert!(!output.status.success() && !Path::new(&old).exists());
}
