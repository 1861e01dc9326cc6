//! Tests `bootstrap/setup.sh` on machines without some tools. A test's machine is a
//! folder of commands. Most of them are stand-ins that record their calls.
#![cfg(target_os = "linux")]

use std::{
    env, fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Commands of every Linux, which the script can use.
const BASE: [&str; 7] = ["cat", "dirname", "env", "grep", "sed", "sh", "true"];

const APT_GET: &str = r#"
case " $* " in
*" --assume-no "*) echo "Need to get 98.9 MB of archives."; exit 1 ;;
esac
"#;

struct Machine(TempDir);

impl Machine {
    /// A machine without compiler and libraries, and with a toolchain that has no
    /// Windows targets.
    fn bare(user: &str) -> Self {
        let machine = Self(TempDir::new().expect("a temporary folder"));
        fs::create_dir(machine.bin()).expect("a folder");
        let path = env::var_os("PATH").expect("a PATH");
        for name in BASE {
            let real = env::split_paths(&path)
                .map(|folder| folder.join(name))
                .find(|file| file.is_file())
                .expect(name);
            symlink(real, machine.bin().join(name)).expect("a link");
        }
        machine.command("id", &format!("echo {user}"));
        machine.command("find", "");
        machine.command("rustc", &format!("echo {}", machine.0.path().display()));
        machine.command("rustup", "");
        machine.command("apt-get", APT_GET);
        machine
    }

    fn bin(&self) -> PathBuf {
        self.0.path().join("bin")
    }

    fn log(&self) -> PathBuf {
        self.0.path().join("log")
    }

    /// Adds a command that records its call and then runs `script`.
    fn command(&self, name: &str, script: &str) {
        let log = self.log();
        let text = format!(
            "#!/bin/sh\necho \"{name} $*\" >>'{}'\n{script}\n",
            log.display()
        );
        let file = self.bin().join(name);
        fs::write(&file, text).expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("permissions");
    }

    fn without(self, name: &str) -> Self {
        fs::remove_file(self.bin().join(name)).expect("a command");
        self
    }

    /// Runs the script for these needs.
    fn ensure(&self, needs: &[&str]) -> Output {
        Command::new(self.bin().join("sh"))
            .arg(Path::new(ROOT).join("bootstrap/setup.sh"))
            .arg("--only")
            .args(needs)
            .env_clear()
            .env("PATH", self.bin())
            .output()
            .expect("the script runs")
    }

    /// The recorded calls that install something.
    fn installed(&self) -> Vec<String> {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        log.lines()
            .filter(|call| call.starts_with("apt-get") || call.starts_with("rustup"))
            .filter(|call| !call.contains("--assume-no"))
            .map(str::to_owned)
            .collect()
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const INSTALL: &str = "apt-get install --option DPkg::Lock::Timeout=300 --yes \
                       --no-install-recommends";

#[test]
fn cargo_xtask_compiles_nothing_before_there_is_a_linker() {
    let machine = Machine::bare("1000").without("rustc");
    let cargo = PathBuf::from(env::var_os("CARGO").expect("cargo runs the tests"));
    let toolchain = cargo.parent().expect("a folder").to_owned();
    let path = env::join_paths([machine.bin(), toolchain]).expect("a PATH");
    let target = machine.0.path().join("target");
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
    assert_eq!(machine.installed(), [""; 0]);
}

#[test]
fn without_root_everything_missing_is_listed_with_the_commands_that_install_it() {
    let machine = Machine::bare("1000");
    let output = machine.ensure(&["cc", "libclang", "x64", "arm64", "rustfmt"]);
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
    assert_eq!(machine.installed(), [""; 0]);
}

#[test]
fn root_gets_all_packages_in_one_call() {
    let machine = Machine::bare("0");
    let output = machine.ensure(&["cc", "libclang", "x64", "xorriso", "clippy"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(
        machine.installed(),
        [
            &format!("{INSTALL} gcc libc6-dev libclang1 xorriso"),
            "rustup target add x86_64-pc-windows-msvc",
            "rustup component add clippy",
        ]
    );
}

#[test]
fn without_root_rustup_still_installs() {
    let machine = Machine::bare("1000");
    let output = machine.ensure(&["x64"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(
        machine.installed(),
        ["rustup target add x86_64-pc-windows-msvc"]
    );
}

#[test]
fn installed_tools_are_not_installed_again() {
    let machine = Machine::bare("0");
    machine.command("cc", "");
    machine.command("find", "echo /usr/lib/x86_64-linux-gnu/libclang-14.so.1");
    let target = "lib/rustlib/x86_64-pc-windows-msvc/lib";
    fs::create_dir_all(machine.0.path().join(target)).expect("a folder");
    let output = machine.ensure(&["cc", "libclang", "x64"]);
    assert!(
        output.status.success() && text(&output).is_empty(),
        "{}",
        text(&output)
    );
    assert_eq!(machine.installed(), [""; 0]);
}

#[test]
fn absent_or_old_package_lists_are_fetched() {
    let absent = Machine::bare("0");
    absent.command(
        "apt-get",
        r#"case " $* " in *" --assume-no "*) exit 100 ;; esac"#,
    );
    let old = Machine::bare("0");
    let updated = old.0.path().join("updated");
    let script = format!(
        "{APT_GET}\ncase $1 in\nupdate) : >'{0}' ;;\n*) [ -e '{0}' ] ;;\nesac",
        updated.display()
    );
    old.command("apt-get", &script);
    let install = format!("{INSTALL} xorriso");
    for (machine, calls) in [
        (absent, vec!["apt-get update", &install]),
        (old, vec![&install, "apt-get update", &install]),
    ] {
        let output = machine.ensure(&["xorriso"]);
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(machine.installed(), calls);
    }
}

#[test]
fn an_installation_that_fails_is_an_error() {
    let machine = Machine::bare("0");
    machine.command("rustup", "echo 'no network' >&2; exit 1");
    let output = machine.ensure(&["x64"]);
    assert_eq!(output.status.code(), Some(1));
    let end = "no network\nerror: the installation failed: see the output above\n";
    assert!(text(&output).ends_with(end), "{}", text(&output));
}

#[test]
fn other_systems_get_the_names_of_what_to_install() {
    for (machine, why) in [
        (
            Machine::bare("0").without("apt-get"),
            "this system has no apt-get",
        ),
        (
            Machine::bare("0").without("rustup"),
            "Rust is not from rustup (https://rustup.rs)",
        ),
    ] {
        let output = machine.ensure(&["cc", "x64"]);
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
        assert_eq!(machine.installed(), [""; 0]);
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
