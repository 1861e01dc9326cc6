//! What a driver's build script adds to the link beside what wdk-build adds: the
//! version that Windows shows of the file, the messages of its events, and the
//! version of Windows that it is for.
//!
//! The resources are written as a `.res` file, which Microsoft's linker and LLVM's
//! both take: no resource compiler or message compiler is needed, on any host.

mod block;
mod message_table;
mod resource_file;
mod version;

use std::{env, io, path::PathBuf};

pub use crate::message_table::{Message, MessageError};
use crate::{resource_file::Resource, version::Version};

/// Why the link can't be configured.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
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
    /// The messages make no table.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The resources can't be written.
    #[error("{path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Configures the link of the calling build script's cdylib.
///
/// The version resource has the name, version and description of the package's
/// manifest. `messages` become a message table; without any there is none.
///
/// Call it after `wdk_build::configure_wdk_binary_build`, whose `/SUBSYSTEM` names no
/// version: linkers take the last one that they are given.
///
/// # Errors
/// See [`LinkError`].
pub fn configure(messages: &[Message<'_>]) -> Result<(), LinkError> {
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
    let mut resources = vec![Resource::version(version.resource())];
    if !messages.is_empty() {
        resources.push(Resource::message_table(message_table::resource(messages)?));
    }
    let path = PathBuf::from(cargo_variable("OUT_DIR")?).join("driver.res");
    std::fs::write(&path, resource_file::of(&resources)).map_err(|source| LinkError::Write {
        path: path.clone(),
        source,
    })?;
    println!("cargo::rustc-cdylib-link-arg={}", path.display());
    // Linkers write 6.0 if they are not told, Windows Vista.
    println!("cargo::rustc-cdylib-link-arg=/SUBSYSTEM:NATIVE,10.0");
    Ok(())
}

fn number(variable: &'static str) -> Result<u16, LinkError> {
    let text = cargo_variable(variable)?;
    text.parse()
        .map_err(|_| LinkError::Number { variable, text })
}

fn cargo_variable(name: &'static str) -> Result<String, LinkError> {
    env::var(name).map_err(|_| LinkError::NotABuildScript { variable: name })
}
