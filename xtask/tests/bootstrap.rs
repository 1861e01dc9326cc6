//! Tests `bootstrap/setup.sh` on machines without some tools. A test's machine is a
//! folder of commands. Most of them are stand-ins that record their calls.
#![cfg(target_os = "linux")]

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use machine::{Machine, text};

mod machine;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Commands of every Linux, which the script can use.
const BASE: [&str; 7] = ["cat", "dirname", "env", "grep", "sed", "sh", "true"];

const APT_GET: &str = r#"
case " $* " in
*" --assume-no "*) echo "Need to get 98.9 MB of archives."; exit 1 ;;
esac
"#;

/// A machine without compiler and libraries, and with a toolchain that has no
/// Windows targets.
fn bare(user: &str) -> Machine {
    let machine = Machine::new();
    let path = env::var_os("PATH").expect("a PATH");
    for name in BASE {
        let real = env::split_paths(&path)
            .map(|folder| folder.join(name))
            .find(|file| file.is_file())
            .expect(name);
        symlink(real, machine.path("bin").join(name)).expect("a link");
    }
    machine.command("bin/id", &format!("echo {user}"));
    machine.command("bin/find", "");
    machine.command("bin/rustc", &format!("echo {}", machine.path("").display()));
    machine.command("bin/rustup", "");
    machine.command("bin/apt-get", APT_GET);
    machine
}

fn bare_without(user: &str, command: &str) -> Machine {
    let machine = bare(user);
    fs::remove_file(machine.path("bin").join(command)).expect("a command");
    machine
}

/// Runs the script for these needs.
fn ensure(machine: &Machine, needs: &str) -> Output {
    Command::new(machine.path("bin/sh"))
        .arg(Path::new(ROOT).join("bootstrap/setup.sh"))
        .arg("--only")
        .args(needs.split(' '))
        .env_clear()
        .env("PATH", machine.path("bin"))
        .output()
        .expect("the script runs")
}

/// The recorded calls that install something.
fn installed(machine: &Machine) -> Vec<String> {
    let mut calls = machine.calls();
    calls.retain(|call| call.starts_with("apt-get") || call.starts_with("rustup"));
    calls.retain(|call| !call.contains("--assume-no"));
    calls
}

const INSTALL: &str = "apt-get install --option DPkg::Lock::Timeout=300 --yes \
                       --no-install-recommends";

#[test]
fn cargo_xtask_compiles_nothing_before_there_is_a_linker() {
    let machine = bare_without("1000", "rustc");
    let cargo = PathBuf::from(env::var_os("CARGO").expect("cargo runs the tests"));
    let toolchain = cargo.parent().expect("a folder").to_owned();
    let path = env::join_paths([machine.path("bin"), toolchain]).expect("a PATH");
    let target = machine.path("target");
    // In a subfolder, and with flags that only a normal linker understands.
    let output = Command::new(cargo)
        .args(["xtask", "package"])
        .current_dir(Path::new(ROOT).join("docs"))
        .env("PATH", path)
        .env("CARGO_TARGET_DIR", target)
        .env("RUSTFLAGS", "-Clink-arg=-fuse-ld=mold")
        .env_remove("LIBCLANG_PATH")
        .output()
        .expect("cargo runs");
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.starts_with("Missing on this machine:\n  a C compiler"),
        "{text}"
    );
    let install = "apt-get install --no-install-recommends gcc libc6-dev libclang1 xorriso\n";
    assert!(text.contains(install), "{text}");
    assert_eq!(installed(&machine), [""; 0]);
}

#[test]
fn without_root_everything_missing_is_listed_with_the_commands_that_install_it() {
    let machine = bare("1000");
    let output = ensure(&machine, "cc libclang x64 arm64 rustfmt");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output),
        "\
Missing on this machine:
  a C compiler (cc), to link programs for this machine (Debian: gcc libc6-dev)
  libclang, to parse C headers (Debian: libclang1)
  Rust target x86_64-pc-windows-msvc, to compile the driver (25 MB to download, 110 MB on disk)
  Rust target aarch64-pc-windows-msvc, to compile the driver (25 MB to download, 110 MB on disk)
  Rust component rustfmt, to check the formatting of the sources
  apt-get: Need to get 98.9 MB of archives.
To install, run:
  apt-get update
  apt-get install --no-install-recommends gcc libc6-dev libclang1
  rustup target add x86_64-pc-windows-msvc aarch64-pc-windows-msvc
  rustup component add rustfmt
error: nothing was installed, because apt-get needs root: run the commands above, then repeat
"
    );
    assert_eq!(installed(&machine), [""; 0]);
}

#[test]
fn root_gets_all_packages_in_one_call_and_rustup_installs_without_root() {
    let packages = format!("{INSTALL} gcc libc6-dev libclang1 xorriso");
    let x64 = "rustup target add x86_64-pc-windows-msvc";
    let clippy = "rustup component add clippy";
    for (user, needs, calls) in [
        (
            "0",
            "cc libclang x64 xorriso clippy",
            vec![&*packages, x64, clippy],
        ),
        ("1000", "x64", vec![x64]),
    ] {
        let machine = bare(user);
        let output = ensure(&machine, needs);
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(installed(&machine), calls);
    }
}

#[test]
fn installed_tools_are_not_installed_again() {
    let machine = bare("0");
    machine.command("bin/cc", "");
    machine.command(
        "bin/find",
        "echo /usr/lib/x86_64-linux-gnu/libclang-14.so.1",
    );
    let target = "lib/rustlib/x86_64-pc-windows-msvc/lib";
    fs::create_dir_all(machine.path(target)).expect("a folder");
    let output = ensure(&machine, "cc libclang x64");
    assert!(
        output.status.success() && text(&output).is_empty(),
        "{}",
        text(&output)
    );
    assert_eq!(installed(&machine), [""; 0]);
}

#[test]
fn absent_or_old_package_lists_are_fetched() {
    let absent = bare("0");
    absent.command(
        "bin/apt-get",
        r#"case " $* " in *" --assume-no "*) exit 100 ;; esac"#,
    );
    let old = bare("0");
    let updated = old.path("updated");
    let script = format!(
        "{APT_GET}\ncase $1 in\nupdate) : >'{0}' ;;\n*) [ -e '{0}' ] ;;\nesac",
        updated.display()
    );
    old.command("bin/apt-get", &script);
    let install = format!("{INSTALL} xorriso");
    for (machine, calls) in [
        (absent, vec!["apt-get update", &install]),
        (old, vec![&install, "apt-get update", &install]),
    ] {
        let output = ensure(&machine, "xorriso");
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(installed(&machine), calls);
    }
}

#[test]
fn an_installation_that_fails_is_an_error() {
    let machine = bare("0");
    machine.command("bin/rustup", "echo 'no network' >&2; exit 1");
    let output = ensure(&machine, "x64");
    assert_eq!(output.status.code(), Some(1));
    let end = "no network\nerror: the installation failed: see the output above\n";
    assert!(text(&output).ends_with(end), "{}", text(&output));
}

#[test]
fn other_systems_get_the_names_of_what_to_install() {
    for (machine, why) in [
        (bare_without("0", "apt-get"), "this system has no apt-get"),
        (
            bare_without("0", "rustup"),
            "Rust is not from rustup (https://rustup.rs)",
        ),
    ] {
        let output = ensure(&machine, "cc x64");
        let text = text(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        for part in ["gcc libc6-dev", "rustup target add x86_64-pc-windows-msvc"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(
            text.ends_with(&format!(
                "error: nothing was installed, because {why}: run the commands above, then repeat\n"
            )),
            "{text}"
        );
        assert_eq!(installed(&machine), [""; 0]);
    }
}

#[test]
fn a_command_needs_only_what_it_uses() {
    for (line, needs) in [
        ("run", "cc libclang x64"),
        ("run --driver OTHER.sys", "cc"),
        ("build --arch arm64", "cc libclang arm64"),
        ("package", "cc libclang x64 arm64 xorriso"),
        ("package --arch=x64", "cc libclang x64 xorriso"),
        (
            "package --inx my.inx --driver-file x64=my.sys",
            "cc xorriso",
        ),
        ("test --only fmt", "cc"),
        ("run --help", "cc"),
        ("lint dist", "cc"),
        ("", "cc"),
    ] {
        let output = Command::new("sh")
            .arg(Path::new(ROOT).join("bootstrap/setup.sh"))
            .arg("--needs")
            .args(line.split_whitespace())
            .output()
            .expect("the script runs");
        let printed = String::from_utf8_lossy(&output.stdout);
        assert_eq!(printed.trim_end(), needs, "{line}");
    }
}

#[test]
fn the_readme_has_the_figures_that_the_script_prints() {
    let [script, readme] = ["bootstrap/setup.sh", "README.md"]
        .map(|file| fs::read_to_string(Path::new(ROOT).join(file)).expect("a text"));
    for command in ["run", "package"] {
        let start = format!("    {command}) echo \"");
        let line = script.lines().find_map(|line| line.strip_prefix(&start));
        let figures = line
            .and_then(|line| line.strip_suffix("\" ;;"))
            .expect("figures");
        let row = format!(
            "| `cargo xtask {command}` | {} |",
            figures.replace(", ", " | ")
        );
        assert!(readme.contains(&row), "{row}");
    }
}

#[test]
fn no_build_but_the_bootstrap_has_a_linker_of_this_project() {
    let text = fs::read_to_string(Path::new(ROOT).join(".cargo/config.toml")).expect("a text");
    let config: toml::Table = text.parse().expect("TOML");
    for (triple, settings) in config["target"].as_table().expect("a table") {
        assert!(settings.get("linker").is_none(), "{triple}");
    }
    assert!(config.get("build").is_none(), "no rustc of its own");
}
