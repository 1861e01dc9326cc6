//! The errors of a build that depends on the WDK.

use std::{
    error::Error as _,
    fmt::{self, Debug},
    path::PathBuf,
};

use thiserror::Error;

use crate::ApiSubset;

/// An I/O error, and the path of the file or folder.
#[derive(Debug, Error)]
#[error("{}", path.display())]
pub struct IoError {
    path: PathBuf,
    source: std::io::Error,
}

impl IoError {
    /// The error of an operation on `path`.
    pub fn with_path(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self {
            path: path.into(),
            source,
        }
    }
}

/// Why a build could not be configured.
#[derive(Error)]
pub enum ConfigError {
    /// A file or folder could not be read or written.
    #[error(transparent)]
    Io(#[from] IoError),

    /// A variable that Cargo sets for build scripts is not set.
    #[error("{variable} is not set: wdk-build works in Cargo build scripts only")]
    NotABuildScript {
        /// The variable's name.
        variable: &'static str,
    },

    /// A driver for this target cannot be built.
    #[error(
        "drivers are built for x86_64-pc-windows-msvc or aarch64-pc-windows-msvc, not for {target}: pass one of them with --target"
    )]
    UnsupportedTarget {
        /// The target of the build.
        target: String,
    },

    /// The C runtime would be loaded from a DLL, which a kernel driver cannot
    /// do.
    #[error(
        "the C runtime is not linked statically: put rustflags = [\"-C\", \"target-feature=+crt-static\"] for this target into .cargo/config.toml"
    )]
    StaticCrtNotEnabled,

    /// `cargo metadata` failed.
    #[error("cannot read the manifests of the workspace")]
    CargoMetadata(#[from] cargo_metadata::Error),

    /// No manifest of the workspace names a driver model.
    #[error("no [package.metadata.wdk.driver-model] in the workspace of {}", manifest.display())]
    NoDriverModel {
        /// The workspace's manifest.
        manifest: PathBuf,
    },

    /// A manifest names a driver model that cannot be built here.
    #[error(
        "{} asks for the driver model {driver_type}: without the WDK only driver-type = \"WDM\" can be built",
        manifest.display()
    )]
    UnsupportedDriverModel {
        /// The manifest that names it.
        manifest: PathBuf,
        /// The driver model that it names.
        driver_type: String,
    },

    /// One of the two variables that name a WDK is set without the other.
    #[error(
        "{missing} is not set: to use a WDK, set both WDKContentRoot (the folder that contains Include) and Version_Number (the folder in Include, such as 10.0.22621.0)"
    )]
    HalfAKit {
        /// The variable that is missing.
        missing: &'static str,
    },

    /// The header tree lacks a folder.
    #[error("{} is not a folder: the headers must be in Include/<version>/{{km/crt,km,shared}}", folder.display())]
    FolderNotFound {
        /// The missing folder.
        folder: PathBuf,
    },

    /// The header tree has no header of a subset that wdk-sys needs.
    #[error("{} has none of the headers of {api_subset:?}: {:?}", include.display(), api_subset.headers())]
    NoHeaders {
        /// The subset.
        api_subset: ApiSubset,
        /// The header tree.
        include: PathBuf,
    },

    /// An import library cannot be made of a definition file.
    #[error("cannot make an import library of {}", def.display())]
    ImportLibrary {
        /// The definition file.
        def: PathBuf,
        /// What is wrong.
        source: std::io::Error,
    },

    /// The load configuration's object file cannot be made.
    #[error("cannot make the load configuration")]
    LoadConfig(#[from] object::write::Error),
}

/// Writes the error and its causes as a sentence, because a build script that returns the
/// error from `main` prints its `Debug` form.
impl Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
