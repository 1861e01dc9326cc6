//! What the steps of a test need on this machine. `bootstrap/setup.sh` checks
//! and installs it. For every other command the script has done so before xtask
//! started.

use std::{env, path::PathBuf, process::Command};

use packaging::architecture::Architecture;

use crate::tool::{self, ToolError, tool};

/// Something that `bootstrap/setup.sh` can install.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Rust's libraries for the driver.
    Target(Architecture),
    /// rustfmt, of the Rust toolchain in use.
    Rustfmt,
    /// Clippy, of the Rust toolchain in use.
    Clippy,
    /// The library that bindgen reads C headers with.
    Libclang,
    /// Makes ISO images.
    Xorriso,
    /// Verifies signatures. It is not part of this project.
    Osslsigncode,
    /// Miri, of the nightly toolchain.
    Miri,
}

impl Need {
    /// Its name in the script.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Target(architecture) => architecture.name(),
            Self::Rustfmt => "rustfmt",
            Self::Clippy => "clippy",
            Self::Libclang => "libclang",
            Self::Xorriso => "xorriso",
            Self::Osslsigncode => "osslsigncode",
            Self::Miri => "miri",
        }
    }
}

/// Something is missing and could not be installed. The script has printed what
/// and why.
#[derive(Debug, thiserror::Error)]
#[error("this machine lacks what is named above")]
pub struct SetupError(#[source] ToolError);

/// Installs each of `needs` that is missing.
///
/// # Errors
/// One is missing and cannot be installed.
pub fn ensure(needs: &[Need]) -> Result<(), SetupError> {
    let names = needs.iter().map(|need| need.name());
    let mut script = tool("sh");
    script.args(["bootstrap/setup.sh", "--only"]).args(names);
    tool::output(&mut script).map(drop).map_err(SetupError)
}

/// A command that runs a tool of the nightly toolchain.
#[must_use]
pub fn nightly(call: &[&str]) -> Command {
    let mut command = tool("rustup");
    command.args(["run", "nightly"]).args(call);
    command
}

/// Whether rustup has a nightly toolchain.
#[must_use]
pub fn has_nightly() -> bool {
    let has_rustup = env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|folder| folder.join("rustup").is_file()));
    has_rustup
        && tool::output(tool("rustup").args(["toolchain", "list"]))
            .is_ok_and(|list| list.lines().any(|line| line.starts_with("nightly")))
}

/// The folder of the toolchain in use.
///
/// # Errors
/// rustc cannot be started or reports failure.
pub fn sysroot() -> Result<PathBuf, ToolError> {
    tool::output(tool("rustc").args(["--print", "sysroot"])).map(PathBuf::from)
}
