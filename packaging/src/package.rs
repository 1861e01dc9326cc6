//! A driver package: which files it has, and what is in them.
//!
//! ```text
//! x64/ferrostor.sys    the driver, signed
//! x64/ferrostor.inf    the setup file, stamped with date and version
//! x64/ferrostor.cat    the catalog: the hashes of both, signed
//! x64/ferrostor.pdb    the driver's symbols
//! arm64/...            the same for the other processor
//! ```

/// A file of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Where it lies, from the package's folder on, with `/` between folders.
    pub path: String,
    /// What is in it.
    pub bytes: Vec<u8>,
}

impl File {
    /// A file at `path` of `bytes`.
    pub fn new(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            path: path.into(),
            bytes: bytes.into(),
        }
    }
}
