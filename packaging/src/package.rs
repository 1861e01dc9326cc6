//! Makes the files of a driver package.
//!
//! ```text
//! x64/ferrostor.sys    the driver, signed
//! x64/ferrostor.inf    the INF file, stamped with date and version
//! x64/ferrostor.cat    the catalog: the digests of both, signed
//! x64/ferrostor.pdb    the driver's symbols
//! arm64/...            the same for ARM64
//! ```

use time::OffsetDateTime;

use crate::{
    architecture::Architecture,
    authenticode::{self, AuthenticodeError},
    catalog::Catalog,
    inf::{self, Inf, Stamp, StampError, Version},
    pkcs7::SignError,
    signer::Signer,
};

/// A file of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its path in the package, with `/` as the separator.
    pub path: String,
    /// Its contents.
    pub bytes: Vec<u8>,
}

impl File {
    /// A file at `path` with these `bytes`.
    pub fn new(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            path: path.into(),
            bytes: bytes.into(),
        }
    }
}

/// The properties that are the same for every architecture.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    /// The name of the INF file, without its ending.
    pub name: &'a str,
    /// The driver's version.
    pub version: Version,
    /// The INF file before it is stamped.
    pub inx: &'a str,
}

/// The stamped INF file for an architecture.
#[derive(Debug)]
pub struct Setup {
    name: String,
    architecture: Architecture,
    bytes: Vec<u8>,
    inf: Inf,
    catalog: String,
}

/// A package cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// The `.inx` cannot be stamped.
    #[error("cannot stamp the .inx: {0}")]
    Stamp(#[from] StampError),
    /// The INF file has no catalog.
    #[error("the .inx has no catalog for {}: add CatalogFile to [Version]", .0.name())]
    NoCatalog(Architecture),
    /// A driver file cannot be signed.
    #[error("cannot sign {file}: {source}")]
    Image {
        /// The file.
        file: String,
        /// The reason.
        source: AuthenticodeError,
    },
    /// A signature cannot have a signing time before 1970.
    #[error("the signing date {0} is before 1970: set SOURCE_DATE_EPOCH to a later date")]
    Date(OffsetDateTime),
    /// The catalog cannot be made.
    #[error("cannot make the catalog: {0}")]
    Catalog(#[from] SignError),
}

impl Product<'_> {
    /// The INF file, stamped for `architecture` with the date and the version.
    ///
    /// # Errors
    /// The `.inx` cannot be stamped, or has no catalog.
    pub fn setup(
        &self,
        architecture: Architecture,
        date: OffsetDateTime,
    ) -> Result<Setup, PackageError> {
        let text = inf::stamp(
            self.inx,
            &Stamp {
                architecture,
                date: date.date(),
                version: self.version,
            },
        )?;
        let bytes = inf::encode(&text);
        let inf = Inf::parse(&bytes).map_err(StampError::from)?;
        let catalog = inf.catalog_file(architecture);
        Ok(Setup {
            name: self.name.to_owned(),
            architecture,
            bytes,
            catalog: catalog.ok_or(PackageError::NoCatalog(architecture))?,
            inf,
        })
    }
}

impl Setup {
    /// The files that it installs, with their paths relative to the INF file.
    #[must_use]
    pub fn sources(&self) -> Vec<String> {
        let sources = self.inf.source_files(self.architecture).into_iter();
        sources.map(|path| path.replace('\\', "/")).collect()
    }

    /// The files in the folder of the architecture: the INF file, the catalog, the installed
    /// files (`sources`), and the driver's symbols. Driver files (`.sys`) are signed first,
    /// because the catalog has the digests of the signed files. `date` is the signing time.
    ///
    /// # Errors
    /// See [`PackageError`].
    pub fn files(
        self,
        sources: Vec<File>,
        symbols: Option<File>,
        signer: &Signer,
        date: OffsetDateTime,
    ) -> Result<Vec<File>, PackageError> {
        if date < OffsetDateTime::UNIX_EPOCH {
            return Err(PackageError::Date(date));
        }
        let hardware_ids = self.inf.hardware_ids(self.architecture);
        let first_build = self.inf.earliest_build(self.architecture);
        let name = format!("{}.inf", self.name);
        let mut catalog =
            Catalog::new(self.architecture, &hardware_ids, first_build).file(&name, &self.bytes);
        let mut files = vec![File::new(name, self.bytes)];
        for mut source in sources {
            let name = source.path.rsplit('/').next().unwrap_or_default();
            if name.to_lowercase().ends_with(".sys") {
                let signed = authenticode::sign(&source.bytes, signer, date);
                source.bytes = signed.map_err(|error| PackageError::Image {
                    file: source.path.clone(),
                    source: error,
                })?;
            }
            catalog = catalog.file(name, &source.bytes);
            files.push(source);
        }
        files.push(File::new(self.catalog, catalog.sign(signer, date)?));
        files.extend(symbols);
        for file in &mut files {
            file.path = format!("{}/{}", self.architecture.name(), file.path);
        }
        Ok(files)
    }
}
