//! Tools that the steps of `cargo xtask test` need. `bootstrap/setup.sh` checks and installs
//! them. For all other commands, the script does so before xtask starts.

use std::{env, path::PathBuf, process::Command};

use packaging::architecture::Architecture;

use crate::tool::{self, ToolError, tool};

/// Something that `bootstrap/setup.sh` can install.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The Rust target of the driver.
    Target(Architecture),
    /// rustfmt, of the Rust toolchain in use.
    Rustfmt,
    /// Clippy, of the Rust toolchain in use.
    Clippy,
    /// The library that bindgen parses C headers with.
    Libclang,
    /// Makes ISO images.
    Xorriso,
    /// An independent program that verifies signatures.
    Osslsigncode,
    /// Miri, of the nightly toolchain.
    Miri,
    /// QEMU for x86-64.
    Qemu,
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
            Self::Qemu => "qemu",
        }
    }
}

/// A tool is missing and could not be installed. The script has printed the details.
#[derive(Debug, thiserror::Error)]
#[error("tools are missing on this machine: install those listed above, and run the command again")]
pub struct SetupError(#[source] ToolError);

/// Installs the missing ones of `needs`.
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

/// The folder of the Rust toolchain in use.
pub fn sysroot() -> Result<PathBuf, ToolError> {
    tool::output(tool("rustc").args(["--print", "sysroot"])).map(PathBuf::from)
}
