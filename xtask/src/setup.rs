//! What a command needs of the machine, and how the machine gets it.
//!
//! A look first: what is there already is not touched. What is missing is
//! announced and installed; where that can't be done, all of it is named with
//! the way to get it, and nothing is installed.
//!
//! One thing is not here, because xtask could not be linked without it: the C
//! compiler, which `xtask/host-linker` installs.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use packaging::architecture::Architecture;

use crate::tool::{self, ToolError, tool};

/// Something a command can't do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Rust's core library for the driver.
    Target(Architecture),
    /// rustfmt, of the Rust toolchain in use.
    Rustfmt,
    /// Clippy, of the Rust toolchain in use.
    Clippy,
    /// The library by which bindgen reads C headers.
    Libclang,
    /// What makes ISO images.
    Xorriso,
    /// What verifies signatures, written by others than this project.
    Osslsigncode,
    /// Miri, of the nightly toolchain.
    Miri,
}

/// Why a command's needs are not met.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Something is missing and xtask may not or cannot install it.
    #[error("missing: {}", .0.join("; "))]
    Missing(Vec<String>),
    /// Something is missing and its installation failed.
    #[error(
        "{what} is missing ({purpose}) and was not installed: {source}; see above why, install it and try again"
    )]
    NotInstalled {
        /// What it is.
        what: String,
        /// What it is needed for.
        purpose: &'static str,
        /// The installer's end.
        source: ToolError,
    },
    /// The toolchain in use can't be asked where it is.
    #[error(transparent)]
    Toolchain(#[from] ToolError),
}

/// What xtask may do on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Powers {
    root: bool,
    apt_get: bool,
    rustup: bool,
}

/// Sees to it that every one of `needs` is met.
///
/// # Errors
/// One is not and can't be: the error names all that is missing.
pub fn ensure(needs: &[Need]) -> Result<(), SetupError> {
    let mut missing = Vec::new();
    for &need in needs {
        if !need.is_met()? {
            missing.push(need);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let obstacles = obstacles(&missing, Powers::of_this_machine());
    if !obstacles.is_empty() {
        return Err(SetupError::Missing(obstacles));
    }
    missing.into_iter().try_for_each(Need::install)
}

/// What stands between each missing need and its installation, with the way
/// to get it; empty if nothing does.
fn obstacles(missing: &[Need], powers: Powers) -> Vec<String> {
    let any = missing.iter().any(|need| need.obstacle(powers).is_some());
    missing
        .iter()
        .filter(|_| any)
        .map(|need| {
            let why = need
                .obstacle(powers)
                .map_or_else(String::new, |obstacle| format!("; {obstacle}"));
            format!(
                "{} ({}{why}): {}",
                need.title(),
                need.purpose(),
                need.installer().join(" ")
            )
        })
        .collect()
}

impl Need {
    fn title(self) -> String {
        match self {
            Self::Target(architecture) => format!("Rust target {}", architecture.target()),
            Self::Rustfmt => "Rust component rustfmt".into(),
            Self::Clippy => "Rust component clippy".into(),
            Self::Libclang => "libclang, Debian package libclang1".into(),
            Self::Xorriso => "xorriso, Debian package xorriso".into(),
            Self::Osslsigncode => "osslsigncode, Debian package osslsigncode".into(),
            Self::Miri => "Rust components miri and rust-src of nightly".into(),
        }
    }

    fn purpose(self) -> &'static str {
        match self {
            Self::Target(_) => "to compile the driver",
            Self::Rustfmt => "to check the form of the sources",
            Self::Clippy => "to lint the sources",
            Self::Libclang => "to read C headers",
            Self::Xorriso => "to make an ISO image",
            Self::Osslsigncode => "to verify signatures",
            Self::Miri => "to interpret tests and find undefined behaviour",
        }
    }

    /// The call that installs it.
    fn installer(self) -> Vec<&'static str> {
        match self {
            Self::Target(architecture) => vec!["rustup", "target", "add", architecture.target()],
            Self::Rustfmt => vec!["rustup", "component", "add", "rustfmt"],
            Self::Clippy => vec!["rustup", "component", "add", "clippy"],
            Self::Libclang => apt_get_install("libclang1"),
            Self::Xorriso => apt_get_install("xorriso"),
            Self::Osslsigncode => apt_get_install("osslsigncode"),
            Self::Miri => [
                "rustup",
                "component",
                "add",
                "--toolchain",
                "nightly",
                "miri",
                "rust-src",
            ]
            .to_vec(),
        }
    }

    /// Why that call is not for xtask to make.
    fn obstacle(self, powers: Powers) -> Option<&'static str> {
        match self.installer().first() {
            Some(&"apt-get") if !powers.apt_get => Some("this system has no apt-get"),
            Some(&"apt-get") if !powers.root => Some("this is not root"),
            Some(&"rustup") if !powers.rustup => Some("no rustup here: https://rustup.rs"),
            _ => None,
        }
    }

    fn install(self) -> Result<(), SetupError> {
        eprintln!("Installing: {} ({})", self.title(), self.purpose());
        let call = self.installer();
        let install = || tool::run(&mut installer(&call));
        let installed = match call.as_slice() {
            // Package lists may be absent or out of date; they are fetched only
            // then, because that takes longer than the rest.
            ["apt-get", ..] => install().or_else(|_| {
                tool::run(&mut installer(&["apt-get", "update"])).and_then(|()| install())
            }),
            _ => install(),
        };
        installed.map_err(|source| SetupError::NotInstalled {
            what: self.title(),
            purpose: self.purpose(),
            source,
        })
    }

    fn is_met(self) -> Result<bool, ToolError> {
        let in_sysroot = |part: &str| Ok(sysroot()?.join(part).exists());
        match self {
            Self::Target(architecture) => {
                in_sysroot(&format!("lib/rustlib/{}/lib", architecture.target()))
            }
            Self::Rustfmt => in_sysroot("bin/cargo-fmt"),
            Self::Clippy => in_sysroot("bin/cargo-clippy"),
            Self::Libclang => Ok(env::var_os("LIBCLANG_PATH").is_some() || finds_libclang()),
            Self::Xorriso => Ok(is_on_path("xorriso")),
            Self::Osslsigncode => Ok(is_on_path("osslsigncode")),
            Self::Miri => {
                let sysroot = PathBuf::from(tool::output(&mut nightly(&[
                    "rustc", "--print", "sysroot",
                ]))?);
                Ok(sysroot.join("bin/cargo-miri").exists()
                    && sysroot.join("lib/rustlib/src/rust/library").exists())
            }
        }
    }
}

/// The call that installs a Debian package.
fn apt_get_install(package: &'static str) -> Vec<&'static str> {
    vec![
        "apt-get",
        "install",
        "--yes",
        "--no-install-recommends",
        package,
    ]
}

/// A tool of the nightly toolchain.
#[must_use]
pub fn nightly(call: &[&str]) -> Command {
    let mut command = tool("rustup");
    command.args(["run", "nightly"]).args(call);
    command
}

/// Whether rustup has a nightly toolchain.
#[must_use]
pub fn has_nightly() -> bool {
    is_on_path("rustup")
        && tool::output(tool("rustup").args(["toolchain", "list"]))
            .is_ok_and(|list| list.lines().any(|line| line.starts_with("nightly")))
}

fn installer(call: &[&str]) -> Command {
    let mut words = call.iter();
    let mut command = tool(words.next().copied().unwrap_or_default());
    command.args(words);
    if call.starts_with(&["apt-get"]) {
        command.env("DEBIAN_FRONTEND", "noninteractive");
        // Another installation may be under way: it is given time to end.
        command.args(["-o", "DPkg::Lock::Timeout=300"]);
    }
    command
}

/// The folder of the toolchain in use.
///
/// # Errors
/// It can't be asked.
pub fn sysroot() -> Result<PathBuf, ToolError> {
    tool::output(tool("rustc").args(["--print", "sysroot"])).map(PathBuf::from)
}

impl Powers {
    fn of_this_machine() -> Self {
        Self {
            root: tool::output(tool("id").arg("-u")).is_ok_and(|id| id == "0"),
            apt_get: is_on_path("apt-get"),
            rustup: is_on_path("rustup"),
        }
    }
}

fn is_on_path(name: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(name).is_file()))
}

/// Whether libclang lies where bindgen looks for it.
fn finds_libclang() -> bool {
    let named = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let usual = [
        "/usr/lib",
        "/usr/lib64",
        "/usr/local/lib",
        "/usr/local/lib64",
    ];
    let folders = env::split_paths(&named)
        .chain(usual.map(PathBuf::from))
        .chain(subfolders("/usr/lib"))
        .chain(subfolders("/usr/lib").map(|folder| folder.join("lib")));
    folders
        .flat_map(fs::read_dir)
        .flatten()
        .flatten()
        .any(|entry| is_libclang(&entry.file_name().to_string_lossy()))
}

fn subfolders(folder: impl AsRef<Path>) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}

/// Whether a file of this name is libclang: `libclang.so`, `libclang-14.so.1`
/// and the like, but not clang's C++ interface.
fn is_libclang(name: &str) -> bool {
    let Some((stem, rest)) = name.split_once(".so") else {
        return false;
    };
    let version = stem.strip_prefix("libclang");
    let version = version.and_then(|v| v.strip_prefix('-').or(v.is_empty().then_some("")));
    version.is_some_and(|v| v.chars().all(|c| c.is_ascii_digit() || c == '.'))
        && (rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Powers = Powers {
        root: true,
        apt_get: true,
        rustup: true,
    };
    const TARGET: Need = Need::Target(Architecture::X64);

    #[test]
    fn root_on_debian_with_rustup_installs_everything() {
        let missing = [
            TARGET,
            Need::Rustfmt,
            Need::Clippy,
            Need::Libclang,
            Need::Miri,
        ];
        assert_eq!(obstacles(&missing, ALL), [""; 0]);
    }

    #[test]
    fn not_root_names_the_package_and_the_command() {
        let powers = Powers { root: false, ..ALL };
        assert_eq!(
            obstacles(&[Need::Libclang], powers),
            [
                "libclang, Debian package libclang1 (to read C headers; this is not root): \
                 apt-get install --yes --no-install-recommends libclang1"
            ]
        );
    }

    #[test]
    fn without_root_what_rustup_installs_is_no_obstacle() {
        let powers = Powers { root: false, ..ALL };
        assert_eq!(obstacles(&[TARGET, Need::Clippy], powers), [""; 0]);
    }

    #[test]
    fn one_obstacle_names_all_that_is_missing() {
        let powers = Powers { root: false, ..ALL };
        let named = obstacles(&[TARGET, Need::Libclang], powers);
        assert_eq!(named.len(), 2);
        assert_eq!(
            named[0],
            "Rust target x86_64-pc-windows-msvc (to compile the driver): \
             rustup target add x86_64-pc-windows-msvc"
        );
    }

    #[test]
    fn another_system_than_debian_is_told_what_to_look_for() {
        let powers = Powers {
            apt_get: false,
            ..ALL
        };
        let named = obstacles(&[Need::Libclang], powers);
        assert!(named[0].contains("this system has no apt-get"));
    }

    #[test]
    fn a_toolchain_without_rustup_is_told_of_rustup() {
        let powers = Powers {
            rustup: false,
            ..ALL
        };
        let named = obstacles(&[TARGET], powers);
        assert!(named[0].contains("no rustup here: https://rustup.rs"));
    }

    #[test]
    fn libclang_is_known_by_any_of_its_names() {
        for name in [
            "libclang.so",
            "libclang.so.1",
            "libclang-14.so.1",
            "libclang-14.0.6.so",
            "libclang.so.14.0.6",
        ] {
            assert!(is_libclang(name), "{name}");
        }
        for name in [
            "libclang-cpp.so.14",
            "libclang-cpp14.so",
            "libclang.a",
            "libclangAST.so.14",
            "libclang.sol",
            "clang.so",
        ] {
            assert!(!is_libclang(name), "{name}");
        }
    }
}
