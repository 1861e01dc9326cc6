//! Linker options for a driver's build script, in addition to those of wdk-build: a version
//! resource, a message table for the driver's events, the subsystem version, and an empty
//! export list.
//!
//! The resources are in a `.res` file, which Microsoft's linker and LLVM's accept. So no host
//! needs a resource compiler or message compiler.

mod message_table;
mod resource_file;
mod version;

use std::{env, io, path::PathBuf};

pub use crate::message_table::{Message, MessageError};
use crate::version::Version;

/// The link cannot be configured.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A variable that Cargo sets for build scripts is not set.
    #[error("{variable} is not set: call driver_link::configure from a build script")]
    NotABuildScript {
        /// The variable.
        variable: &'static str,
    },
    /// A number of the package's version does not fit a file version.
    #[error("{variable} is {text}: each number of a file version must be at most 65535")]
    Number {
        /// The variable.
        variable: &'static str,
        /// Its value.
        text: String,
    },
    /// The messages do not form a valid table.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// An input of the linker cannot be written.
    #[error("{path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Configures the link of the build script's cdylib.
///
/// The version resource has the name, version and description from the package's manifest.
/// `messages` become the message table; if there are none, the file has no table.
///
/// Call it after `wdk_build::configure_wdk_binary_build`, whose `/SUBSYSTEM` option has no
/// version: linkers use the last `/SUBSYSTEM` option.
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
    let mut resources = vec![(resource_file::VERSION, version.resource())];
    if !messages.is_empty() {
        let table = message_table::resource(messages)?;
        resources.push((resource_file::MESSAGE_TABLE, table));
    }
    let resources = write("driver.res", &resource_file::of(&resources))?;
    println!("cargo::rustc-cdylib-link-arg={}", resources.display());
    // In a cdylib, rustc exports every function with an unmangled name, such as memcpy and
    // __CxxFrameHandler3. Exports are valid targets of indirect calls. The linker uses the last
    // module-definition file, and this one exports nothing.
    let exports = write("exports.def", b"EXPORTS\r\n")?;
    println!("cargo::rustc-cdylib-link-arg=/DEF:{}", exports.display());
    // The default is 6.0, Windows Vista.
    println!("cargo::rustc-cdylib-link-arg=/SUBSYSTEM:NATIVE,10.0");
    Ok(())
}

/// Writes an input of the linker to the build script's output folder.
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
