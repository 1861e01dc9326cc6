//! The version that Windows shows of a driver file (its Details page, `driverquery`,
//! the debugger's `lm v`), for a driver's build script to put into the link.
//!
//! The resource is written as a `.res` file, which Microsoft's linker and LLVM's both
//! take: no resource compiler is needed, on any host. Its values are those of the
//! package that is built: the name, the version and the description of its manifest.

mod block;
mod resource_file;
mod version;

use std::{env, io, path::PathBuf};

use crate::version::Version;

/// Why a driver gets no version.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    /// Cargo sets this variable for build scripts, and it is not set.
    #[error("{variable} is not set: only a build script can call this")]
    NotABuildScript {
        /// The variable.
        variable: &'static str,
    },
    /// A number of the package's version is no number of a file's version.
    #[error("{variable} is {text}: the numbers of a file's version go up to 65535")]
    Number {
        /// The variable that holds it.
        variable: &'static str,
        /// What it holds.
        text: String,
    },
    /// The resource can't be written.
    #[error("{path}: {source}")]
    Write {
        /// Where it was to be.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Gives the driver that the calling build script belongs to its version.
///
/// # Errors
/// See [`VersionError`].
pub fn link() -> Result<(), VersionError> {
    let name = cargo_variable("CARGO_PKG_NAME")?;
    let version = Version {
        numbers: [
            number("CARGO_PKG_VERSION_MAJOR")?,
            number("CARGO_PKG_VERSION_MINOR")?,
            number("CARGO_PKG_VERSION_PATCH")?,
            0,
        ],
        description: cargo_variable("CARGO_PKG_DESCRIPTION")?,
        file: format!("{name}.sys"),
    };
    let path = PathBuf::from(cargo_variable("OUT_DIR")?).join("version.res");
    let file = resource_file::of_version(&version.resource());
    std::fs::write(&path, file).map_err(|source| VersionError::Write {
        path: path.clone(),
        source,
    })?;
    println!("cargo::rustc-cdylib-link-arg={}", path.display());
    Ok(())
}

fn number(variable: &'static str) -> Result<u16, VersionError> {
    let text = cargo_variable(variable)?;
    text.parse()
        .map_err(|_| VersionError::Number { variable, text })
}

fn cargo_variable(name: &'static str) -> Result<String, VersionError> {
    env::var(name).map_err(|_| VersionError::NotABuildScript { variable: name })
}
