//! What a driver's build script adds to the link beside what wdk-build adds: the
//! version that Windows shows of the file, the messages of its events, the version of
//! Windows that it is for, and an empty list of exports.
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
    /// An input of the linker can't be written.
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
    let resources = write("driver.res", &resource_file::of(&resources))?;
    println!("cargo::rustc-cdylib-link-arg={}", resources.display());
    // rustc has a cdylib export every function whose name is not mangled, such as memcpy
    // and __CxxFrameHandler3, and calls by pointer may reach each of them. Of several
    // module-definition files the linker takes the last: this one exports nothing.
    let exports = write("exports.def", b"EXPORTS\r\n")?;
    println!("cargo::rustc-cdylib-link-arg=/DEF:{}", exports.display());
    // Linkers write 6.0 if they are not told, Windows Vista.
    println!("cargo::rustc-cdylib-link-arg=/SUBSYSTEM:NATIVE,10.0");
    Ok(())
}

/// Writes an input of the linker into the build script's folder.
fn write(name: &str, contents: &[u8]) -> Result<PathBuf, LinkError> {
    let path = PathBuf::from(cargo_variable("OUT_DIR")?).join(name);
    std::fs::write(&path, contents).map_err(|source| LinkError::Write {
        path: path.clone(),
        source,
    })?;
    Ok(path)
}

fn number(variable: &'static str) -> Result<u16, LinkError> {
    let text = cargo_variable(variable)?;
    text.parse()
        .map_err(|_| LinkError::Number { variable, text })
}

fn cargo_variable(name: &'static str) -> Result<String, LinkError> {
    env::var(name).map_err(|_| LinkError::NotABuildScript { variable: name })
}
