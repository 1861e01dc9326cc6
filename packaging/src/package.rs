//! A driver package: which files it has, and what is in them.
//!
//! ```text
//! x64/ferrostor.sys    the driver, signed
//! x64/ferrostor.inf    the setup file, stamped with date and version
//! x64/ferrostor.cat    the catalog: the hashes of both, signed
//! x64/ferrostor.pdb    the driver's symbols
//! arm64/...            the same for the other processor
//! ```

use time::OffsetDateTime;

use crate::{
    architecture::Architecture,
    authenticode::{self, AuthenticodeError},
    catalog::{Catalog, CatalogError},
    inf::{self, Inf, InfError, Stamp, StampError, Version},
    signer::{Signer, SigningTime},
};

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

/// A driver for one processor, as the linker left it.
#[derive(Clone, Debug)]
pub struct Driver {
    /// The processor.
    pub architecture: Architecture,
    /// The driver file, not signed.
    pub image: Vec<u8>,
    /// Its symbols.
    pub symbols: Vec<u8>,
}

/// What is the same for every processor.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    /// The name of every file, without its ending.
    pub name: &'a str,
    /// The driver's version.
    pub version: Version,
    /// The setup file before it is stamped.
    pub inx: &'a str,
}

/// Why a package can't be made.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// The `.inx` can't be stamped.
    #[error("the .inx can't be stamped: {0}")]
    Stamp(#[from] StampError),
    /// What was stamped is no setup file.
    #[error("the stamped .inx is no setup file: {0}")]
    Inf(#[from] InfError),
    /// The driver file can't be signed.
    #[error("the driver file can't be signed: {0}")]
    Image(#[from] AuthenticodeError),
    /// A signature can't say the date.
    #[error("{0} is before 1970, and a signature can't say it")]
    Date(OffsetDateTime),
    /// The catalog can't be made.
    #[error("the catalog can't be made: {0}")]
    Catalog(#[from] CatalogError),
}

impl Product<'_> {
    /// The four files of a processor's folder: stamped with `date`, signed by
    /// `signer` with `date` as the time of signing.
    ///
    /// The driver file is signed first, since the catalog has the hash of what
    /// is installed.
    ///
    /// # Errors
    /// See [`PackageError`].
    pub fn files(
        &self,
        driver: Driver,
        signer: &Signer,
        date: OffsetDateTime,
    ) -> Result<[File; 4], PackageError> {
        let Driver {
            architecture,
            image,
            symbols,
        } = driver;
        let time = u64::try_from(date.unix_timestamp())
            .map(SigningTime::from)
            .map_err(|_| PackageError::Date(date))?;
        let setup = inf::stamp(
            self.inx,
            &Stamp {
                architecture,
                date: date.date(),
                version: self.version,
            },
        )?;
        let hardware_ids = Inf::parse(setup.as_bytes())?.hardware_ids(architecture);
        let image = authenticode::sign(&image, signer, time)?;
        let [sys, inf, cat, pdb] =
            ["sys", "inf", "cat", "pdb"].map(|ending| format!("{}.{ending}", self.name));
        let catalog = Catalog::new(architecture, hardware_ids)
            .image(&sys, &image)?
            .file(&inf, setup.as_bytes())
            .sign(signer, time)?;
        let folder = architecture.name();
        Ok([
            File::new(format!("{folder}/{sys}"), image),
            File::new(format!("{folder}/{inf}"), setup),
            File::new(format!("{folder}/{cat}"), catalog),
            File::new(format!("{folder}/{pdb}"), symbols),
        ])
    }
}
