//! A driver's file: parsed, mapped, relocated and bound to its imports as the
//! Windows loader would.

use std::path::{Path, PathBuf};

/// One imported function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The module, as the file spells it: `storport.sys`.
    pub module: String,
    /// The function, or `#n` for an import by ordinal.
    pub function: String,
}

/// Why a file is not a driver that can run here.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file can't be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host says.
        source: std::io::Error,
    },
    /// The file is not what it must be; `why` names the part and the remedy.
    #[error("{path}: {why}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Functions that the machine does not have.
    #[error("{path}: imports what the testbed does not provide: {names}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// All of them, `module!function`, comma-separated.
        names: String,
    },
}

/// A loaded driver. It stays mapped until the process ends: the code may be on
/// some thread's stack.
#[derive(Debug)]
pub struct Image {}

impl Image {
    /// The imports of the file at `path`, without loading it.
    ///
    /// # Errors
    /// Read or malformed.
    pub fn imports_of(_path: &Path) -> Result<Vec<Import>, ImageError> {
        todo!()
    }

    /// Loads the file: sections mapped with their protections, relocated,
    /// imports bound to what `resolve(module, function)` gives, security
    /// cookie set.
    ///
    /// # Errors
    /// Any [`ImageError`]; all missing imports are named at once.
    pub fn load(
        _path: &Path,
        _resolve: &dyn Fn(&str, &str) -> Option<usize>,
    ) -> Result<Self, ImageError> {
        todo!()
    }

    /// The file's name without its folder: `ferrostor.sys`.
    #[must_use]
    pub fn name(&self) -> &str {
        todo!()
    }

    /// The imports that were bound.
    #[must_use]
    pub fn imports(&self) -> &[Import] {
        todo!()
    }

    /// The address of DriverEntry.
    #[must_use]
    pub fn entry(&self) -> usize {
        todo!()
    }

    /// The offset of `address` in the image, if it lies in it.
    #[must_use]
    pub fn offset_of(&self, _address: usize) -> Option<u32> {
        todo!()
    }
}
