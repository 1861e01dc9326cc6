//! `cargo xtask package`: what a user copies to a virtual machine and installs.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use clap::ValueEnum as _;
use packaging::{
    architecture::Architecture,
    archive::{self, ArchiveError},
    inf::{Version, VersionError},
    lint::{self, LintError},
    package::{self, File, Product},
    signer::{self, Signer, SignerError},
};
use time::OffsetDateTime;

use crate::{
    build::{self, BuildError},
    driver::Driver,
    tool::{self, ToolError, tool},
    workspace,
};

const HELP: &str = "\
Made are a folder, ferrostor-<VERSION>, and the same as .zip and as .iso, which
can be attached to a virtual machine as a CD.

Without a key of yours the package is signed with a test key, which is made on
first use in ~/.local/share/ferrostor/test-signing. Windows takes such a package
in test mode alone: see docs/windows.md.

The package's date, also that of its signatures, is SOURCE_DATE_EPOCH, in seconds
since 1970, or else the date of the last commit; where Git knows none, it is now.
The same sources, key and date make the same bytes.

Examples:
  cargo xtask package
  cargo xtask package --arch x64 --out /tmp/ferrostor
  cargo xtask package --key signing.key --certificate signing.pem
  FERROSTOR_PKCS12_PASSWORD=... cargo xtask package --pkcs12 signing.p12";

/// The options of `cargo xtask package`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Options {
    /// Package for this processor; can be given several times [default: all]
    #[arg(long, value_enum)]
    arch: Vec<Architecture>,

    /// The folder to put the package into
    #[arg(long, value_name = "FOLDER", default_value = "dist")]
    out: PathBuf,

    /// Sign with this private key, a PEM file
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,

    /// The certificate of that key, a PEM file; those it was issued by may follow in it
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,

    /// Sign with the key and certificates of this PKCS#12 file (.p12, .pfx); the
    /// variable FERROSTOR_PKCS12_PASSWORD has its password
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    pkcs12: Option<PathBuf>,
}

/// Why there is no package.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// There is no driver to package.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The variable has no date.
    #[error("SOURCE_DATE_EPOCH is '{0}', and should be a number of seconds since 1970")]
    Date(String),
    /// There is no password.
    #[error("{PASSWORD} is not set: it has the password of {}", .0.display())]
    NoPassword(PathBuf),
    /// There is no one to sign.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The workspace's version is no driver's.
    #[error("the version in Cargo.toml: {0}")]
    Version(#[from] VersionError),
    /// The files can't be made.
    #[error(transparent)]
    Files(#[from] package::PackageError),
    /// The files can't be judged.
    #[error(transparent)]
    Lint(#[from] LintError),
    /// The files are not what Windows demands.
    #[error("not packaged, because of what is marked NO above: {}", .0.join(", "))]
    Faults(Vec<String>),
    /// There is no archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// There is no image of a disc.
    #[error("the ISO image was not made: {0}")]
    Disc(#[source] ToolError),
    /// A file can't be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl PackageError {
    fn file(path: &Path, source: io::Error) -> Self {
        Self::File {
            path: path.to_owned(),
            source,
        }
    }
}

/// The variable that has the password of a PKCS#12 file: on the command line all
/// users of the machine could read it.
const PASSWORD: &str = "FERROSTOR_PKCS12_PASSWORD";

/// What is the same for all processors: from where in the project, and to where
/// in the package. A folder's files are all taken.
pub const SHARED: [(&str, &str); 9] = [
    ("inf/README.txt", "README.txt"),
    ("docs/windows.md", "docs/windows.md"),
    ("docs/windows.svg", "docs/windows.svg"),
    ("docs/parameters.md", "docs/parameters.md"),
    ("docs/troubleshooting.md", "docs/troubleshooting.md"),
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("LICENSE-MIT", "LICENSE-MIT"),
    ("THIRD-PARTY.md", "THIRD-PARTY.md"),
    ("tools/windows", "tools/windows"),
];

/// Makes the package, and says what was checked on the finished files and what
/// there is now.
///
/// Nothing is put in its place before all of it is made and found good.
///
/// # Errors
/// See [`PackageError`].
pub fn command(options: &Options) -> Result<(), PackageError> {
    let architectures = match options.arch.as_slice() {
        [] => Architecture::value_variants(),
        some => some,
    };
    // A wrong key, date or folder is an error before anything is built.
    let date = date()?;
    let signer = options.signer()?;
    let out = &options.out;
    fs::create_dir_all(out).map_err(|source| PackageError::file(out, source))?;

    let inx = read(&workspace::root().join("inf/ferrostor.inx"))?;
    let product = Product {
        name: Driver::Ferrostor.name(),
        version: version()?,
        inx: &String::from_utf8_lossy(&inx),
    };
    let mut files = shared_files()?;
    files.push(File::new(
        options.certificate_name(),
        signer.certificate_der().map_err(SignerError::from)?,
    ));
    for &architecture in architectures {
        let image = build::driver(Driver::Ferrostor, architecture)?;
        let driver = package::Driver {
            architecture,
            symbols: read(&image.with_extension("pdb"))?,
            image: read(&image)?,
        };
        files.extend(product.files(driver, &signer, date)?);
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    check(&files)?;
    write(out, &files, date)
}

/// Refuses files with faults, which it prints.
fn check(files: &[File]) -> Result<(), PackageError> {
    let mut faulty = Vec::new();
    for report in lint::files(files, OffsetDateTime::now_utc().date())? {
        if report.holds() {
            println!("{}: {} checks passed", report.path, report.claims());
        } else {
            print!("{report}");
            faulty.push(report.path);
        }
    }
    if faulty.is_empty() {
        Ok(())
    } else {
        Err(PackageError::Faults(faulty))
    }
}

/// Writes folder, archive and image of a disc, each whole or not at all.
fn write(out: &Path, files: &[File], date: OffsetDateTime) -> Result<(), PackageError> {
    let name = format!("ferrostor-{}", env!("CARGO_PKG_VERSION"));
    // In the same file system as what they will replace.
    let unfinished = tempfile::tempdir_in(out).map_err(|source| PackageError::file(out, source))?;
    let new = unfinished.path().join(&name);
    for File { path, bytes } in files {
        let path = new.join(path);
        fs::create_dir_all(path.parent().unwrap_or(&new))
            .and_then(|()| fs::write(&path, bytes))
            .map_err(|source| PackageError::file(&path, source))?;
    }
    let [zip, iso] = ["zip", "iso"].map(|ending| format!("{name}.{ending}"));
    let archive = archive::zip(&name, files, date)?;
    let new_zip = unfinished.path().join(&zip);
    fs::write(&new_zip, archive).map_err(|source| PackageError::file(&new_zip, source))?;
    disc(&new, &unfinished.path().join(&iso), date)?;

    let folder = out.join(&name);
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(|source| PackageError::file(&folder, source))?;
    }
    for made in [&name, &zip, &iso] {
        let to = out.join(made);
        fs::rename(unfinished.path().join(made), &to)
            .map_err(|source| PackageError::file(&to, source))?;
    }
    println!(
        "what was checked, in full: cargo xtask lint {0}\n{0}:",
        folder.display()
    );
    for File { path, bytes } in files {
        println!("  {:>9}  {path}", bytes.len());
    }
    println!("{}\n{}", out.join(zip).display(), out.join(iso).display());
    Ok(())
}

impl Options {
    /// What the signer's certificate is called in the package.
    fn certificate_name(&self) -> &'static str {
        if self.key.is_none() && self.pkcs12.is_none() {
            "ferrostor-test.cer"
        } else {
            "signer.cer"
        }
    }

    /// The user's key, or the one for tests.
    fn signer(&self) -> Result<Signer, PackageError> {
        if let (Some(key), Some(certificate)) = (&self.key, &self.certificate) {
            return Ok(Signer::from_pem(key, certificate)?);
        }
        if let Some(file) = &self.pkcs12 {
            let password =
                env::var(PASSWORD).map_err(|_| PackageError::NoPassword(file.clone()))?;
            return Ok(Signer::from_pkcs12(file, &password)?);
        }
        let folder = signer::test_folder()?;
        println!("signed with the test key in {}", folder.display());
        Ok(Signer::test(&folder)?)
    }
}

/// What of the project is in the package as it is.
fn shared_files() -> Result<Vec<File>, PackageError> {
    let mut files = Vec::new();
    for (from, to) in SHARED {
        let from = workspace::root().join(from);
        if !from.is_dir() {
            files.push(File::new(to, read(&from)?));
            continue;
        }
        for entry in fs::read_dir(&from).map_err(|source| PackageError::file(&from, source))? {
            let entry = entry.map_err(|source| PackageError::file(&from, source))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            files.push(File::new(format!("{to}/{name}"), read(&entry.path())?));
        }
    }
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<u8>, PackageError> {
    fs::read(path).map_err(|source| PackageError::file(path, source))
}

/// The workspace's version, as drivers have it.
///
/// # Errors
/// It is none that a driver can have.
pub fn version() -> Result<Version, VersionError> {
    format!("{}.0", env!("CARGO_PKG_VERSION")).parse()
}

/// The package's date: the user's, or that of the last commit, or now.
fn date() -> Result<OffsetDateTime, PackageError> {
    let commit = || tool::output(tool("git").args(["log", "-1", "--format=%ct"]));
    let seconds = match env::var("SOURCE_DATE_EPOCH") {
        Ok(seconds) => seconds,
        Err(_) => match commit() {
            Ok(seconds) => seconds,
            Err(error) => {
                eprintln!("{error}: no commit to take the date from, so the package's is now");
                OffsetDateTime::now_utc().unix_timestamp().to_string()
            }
        },
    };
    seconds
        .parse()
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or(PackageError::Date(seconds))
}

/// An ISO image of `folder`, as Windows reads it: by Joliet. The same bytes for
/// the same files and date.
fn disc(folder: &Path, file: &Path, date: OffsetDateTime) -> Result<(), PackageError> {
    let seconds = date.unix_timestamp().to_string();
    tool::run(
        tool("xorriso")
            .env("SOURCE_DATE_EPOCH", &seconds)
            .args(["-report_about", "WARNING"])
            .args([
                "-joliet",
                "on",
                "-rockridge",
                "off",
                "-compliance",
                "joliet_long_names",
            ])
            .args(["-volid", "FERROSTOR", "-padding", "0", "-outdev"])
            .arg(file)
            .arg("-map")
            .arg(folder)
            .args(["/", "-alter_date_r", "b", &format!("@{seconds}"), "/", "--"]),
    )
    .map_err(PackageError::Disc)
}
