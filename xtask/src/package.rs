//! `cargo xtask package`: what a user copies to a virtual machine and installs.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use clap::ValueEnum as _;
use packaging::{
    architecture::Architecture,
    archive::{self, ArchiveError},
    check::Verdict,
    image::{Image, ImageError},
    inf::{self, InfError, Version, VersionError},
    lint::{self, Terms},
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
Made are a folder, <NAME>-<VERSION>, and the same as .zip and as .iso, which can be
attached to a virtual machine as a CD.

Without a key of yours the package is signed with a test key, which is made on
first use in ~/.local/share/ferrostor/test-signing. Windows takes such a package
in test mode alone: see docs/windows.md.

The package's date, also that of its signatures, is SOURCE_DATE_EPOCH, in seconds
since 1970, or else the date of the last commit; where Git knows none, it is now.
The same sources, key and date make the same bytes.

With --inx and --driver-file a driver of yours is packaged instead, as by stampinf,
inf2cat and signtool: the .inx is stamped, all files that its [SourceDisksFiles]
names are taken from beside the .sys and listed in the catalog, and the .sys and the
catalog are signed. A .pdb beside the .sys is added. The date is SOURCE_DATE_EPOCH,
or now.

Examples:
  cargo xtask package
  cargo xtask package --arch x64 --out /tmp/ferrostor
  cargo xtask package --key signing.key --certificate signing.pem
  FERROSTOR_PKCS12_PASSWORD=... cargo xtask package --pkcs12 signing.p12
  cargo xtask package --inx my.inx --driver-file x64=my.sys --driver-file arm64=a64/my.sys";

/// The options of `cargo xtask package`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Options {
    /// Package for this processor; can be given several times [default: all]
    #[arg(long, value_enum, conflicts_with = "inx")]
    arch: Vec<Architecture>,

    /// The folder to put the package into
    #[arg(long, value_name = "FOLDER", default_value = "dist")]
    out: PathBuf,

    /// Package the driver of this .inx, not Ferrostor
    #[arg(long, value_name = "FILE", requires = "driver_file")]
    inx: Option<PathBuf>,

    /// The driver file for a processor, x64 or arm64, not signed; can be given for each
    #[arg(long, value_name = "ARCH=FILE", requires = "inx", value_parser = driver_file)]
    driver_file: Vec<(Architecture, PathBuf)>,

    /// The name of the package and of its setup file [default: the name of the .inx]
    #[arg(long, requires = "inx")]
    name: Option<String>,

    /// The version in the setup file, as 1.2.3.0 [default: that of the driver file]
    #[arg(long, value_name = "VERSION", requires = "inx")]
    driver_version: Option<Version>,

    /// Sign with this private key, a PEM file
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,

    /// The certificate of that key, a PEM file; those it was issued by may follow in it
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,

    /// Sign with the key and certificates of this PKCS#12 file (.p12, .pfx); its password
    /// is in a variable, see --password-variable
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    pkcs12: Option<PathBuf>,

    /// The environment variable that has the password of the PKCS#12 file
    #[arg(long, value_name = "NAME", default_value = "FERROSTOR_PKCS12_PASSWORD")]
    password_variable: String,

    /// The folder of the test key [default: that of the variable FERROSTOR_SIGNING_DIR,
    /// or ~/.local/share/ferrostor/test-signing]
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["key", "pkcs12"])]
    test_key: Option<PathBuf>,
}

/// `x64=my.sys`
fn driver_file(text: &str) -> Result<(Architecture, PathBuf), String> {
    let (architecture, path) = text
        .split_once('=')
        .ok_or("a processor and a file are expected, as x64=my.sys")?;
    Ok((Architecture::from_str(architecture, false)?, path.into()))
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
    #[error("{variable} is not set: it should have the password of {}", file.display())]
    NoPassword {
        /// The PKCS#12 file.
        file: PathBuf,
        /// The variable.
        variable: String,
    },
    /// There is no one to sign.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The workspace's version is no driver's.
    #[error("the version in Cargo.toml: {0}")]
    Version(#[from] VersionError),
    /// The files can't be made.
    #[error(transparent)]
    Files(#[from] package::PackageError),
    /// A setup file can't be read.
    #[error("{}: {source}", path.display())]
    Inx {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: InfError,
    },
    /// A driver file can't be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A driver file has no version.
    #[error("{}: it has no version resource; give the version with --driver-version", .0.display())]
    NoVersion(PathBuf),
    /// A driver file is for another processor.
    #[error("{}: it is not for {}", path.display(), asked.name())]
    Processor {
        /// The file.
        path: PathBuf,
        /// The processor that was named.
        asked: Architecture,
    },
    /// A processor has two driver files.
    #[error("--driver-file gives two files for {}", .0.name())]
    Twice(Architecture),
    /// The setup file does not install the driver file.
    #[error(
        "{}: [SourceDisksFiles] does not name {name} for {}", inx.display(), architecture.name()
    )]
    NotInstalled {
        /// The setup file.
        inx: PathBuf,
        /// The driver file's name.
        name: String,
        /// The processor.
        architecture: Architecture,
    },
    /// The files are not as they should be.
    #[error("not packaged, because of what is marked NO or 'not judged' above: {}", .0.join(", "))]
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
    match &options.inx {
        Some(inx) => package_other(options, inx),
        None => package_ferrostor(options),
    }
}

/// Builds and packages this project's driver, whose advice it must meet itself.
fn package_ferrostor(options: &Options) -> Result<(), PackageError> {
    let architectures = match options.arch.as_slice() {
        [] => Architecture::value_variants(),
        some => some,
    };
    // A wrong key, date or folder is an error before anything is built.
    let date = date(|| last_commit(workspace::root()))?;
    let name = Driver::Ferrostor.name();
    let signer = options.signer()?;
    let out = &options.out;
    fs::create_dir_all(out).map_err(|source| PackageError::file(out, source))?;

    let product = Product {
        name,
        version: version()?,
        inx: &read_inx(&workspace::root().join("inf/ferrostor.inx"))?,
    };
    let mut files = shared_files()?;
    for &architecture in architectures {
        let image = build::driver(Driver::Ferrostor, architecture)?;
        let setup = product.setup(architecture, date)?;
        let sources = vec![File::new(format!("{name}.sys"), read(&image)?)];
        let symbols = File::new(format!("{name}.pdb"), read(&image.with_extension("pdb"))?);
        files.extend(setup.files(sources, Some(symbols), &signer, date)?);
    }
    let package = Package {
        name,
        version: env!("CARGO_PKG_VERSION"),
        date,
        advice_decides: true,
    };
    package.finish(options, files, &signer)
}

/// Packages a driver of someone else's.
fn package_other(options: &Options, inx: &Path) -> Result<(), PackageError> {
    let date = date(|| None)?;
    let name = match (&options.name, inx.file_stem()) {
        (Some(name), _) => name.clone(),
        (None, stem) => stem.unwrap_or_default().to_string_lossy().into_owned(),
    };
    let text = read_inx(inx)?;
    let mut version = options.driver_version;
    for (index, (architecture, path)) in options.driver_file.iter().enumerate() {
        let mut earlier = options.driver_file.iter().take(index);
        if earlier.any(|(other, _)| other == architecture) {
            return Err(PackageError::Twice(*architecture));
        }
        let image = Image::read(path)?;
        if image.architecture() != Ok(*architecture) {
            return Err(PackageError::Processor {
                path: path.clone(),
                asked: *architecture,
            });
        }
        version = version.or(image.version());
    }
    let first = options.driver_file.first().map(|(_, path)| path.clone());
    let version = version.ok_or(PackageError::NoVersion(first.unwrap_or_default()))?;
    let product = Product {
        name: &name,
        version,
        inx: &text,
    };
    let signer = options.signer()?;

    let mut files = Vec::new();
    for (architecture, path) in &options.driver_file {
        let setup = product.setup(*architecture, date)?;
        let sources = sources(&setup, inx, *architecture, path)?;
        let symbols = path.with_extension("pdb");
        let symbols = match (symbols.is_file(), symbols.file_name()) {
            (true, Some(name)) => Some(File::new(name.to_string_lossy(), read(&symbols)?)),
            _ => None,
        };
        files.extend(setup.files(sources, symbols, &signer, date)?);
    }
    let package = Package {
        name: &name,
        version: &version.to_string(),
        date,
        advice_decides: false,
    };
    package.finish(options, files, &signer)
}

/// The files that a setup file installs: the driver file, and those beside it.
fn sources(
    setup: &package::Setup,
    inx: &Path,
    architecture: Architecture,
    driver: &Path,
) -> Result<Vec<File>, PackageError> {
    let name = driver.file_name().unwrap_or_default().to_string_lossy();
    let folder = driver.parent().unwrap_or(Path::new(""));
    let mut is_installed = false;
    let mut files = Vec::new();
    for source in setup.sources() {
        let own = source.rsplit('/').next().unwrap_or_default();
        let path = if own.eq_ignore_ascii_case(&name) {
            is_installed = true;
            driver.to_owned()
        } else {
            let there = folder.join(&source);
            if there.is_file() {
                there
            } else {
                folder.join(own)
            }
        };
        files.push(File::new(source, read(&path)?));
    }
    if is_installed {
        return Ok(files);
    }
    Err(PackageError::NotInstalled {
        inx: inx.to_owned(),
        name: name.into_owned(),
        architecture,
    })
}

/// What a finished package is called, and how it is judged.
struct Package<'a> {
    name: &'a str,
    version: &'a str,
    date: OffsetDateTime,
    advice_decides: bool,
}

impl Package<'_> {
    /// Judges the files and writes the package.
    fn finish(
        &self,
        options: &Options,
        mut files: Vec<File>,
        signer: &Signer,
    ) -> Result<(), PackageError> {
        files.push(File::new(
            options.certificate_name(self.name),
            signer.certificate_der().map_err(SignerError::from)?,
        ));
        files.sort_by(|one, other| one.path.cmp(&other.path));
        self.check(&files)?;
        self.write(&options.out, &files)
    }

    /// Refuses files with faults, which it prints.
    fn check(&self, files: &[File]) -> Result<(), PackageError> {
        let terms = Terms {
            today: OffsetDateTime::now_utc().date(),
            advice_decides: self.advice_decides,
        };
        let mut faulty = Vec::new();
        for report in lint::files(files, &[], terms) {
            if report.verdict() == Verdict::Holds {
                let checks = report.checks.iter();
                let not_taken = checks.filter(|check| check.fault().is_some()).count();
                let passed = report.checks.len() - not_taken;
                let advice = match not_taken {
                    0 => String::new(),
                    count => format!(", {count} pieces of advice not taken"),
                };
                println!("{}: {passed} checks passed{advice}", report.subject);
            } else {
                print!("{report}");
                faulty.push(report.subject);
            }
        }
        if faulty.is_empty() {
            Ok(())
        } else {
            Err(PackageError::Faults(faulty))
        }
    }

    /// Writes folder, archive and image of a disc, each whole or not at all.
    fn write(&self, out: &Path, files: &[File]) -> Result<(), PackageError> {
        let name = format!("{}-{}", self.name, self.version);
        fs::create_dir_all(out).map_err(|source| PackageError::file(out, source))?;
        // In the same file system as what they will replace.
        let unfinished =
            tempfile::tempdir_in(out).map_err(|source| PackageError::file(out, source))?;
        let new = unfinished.path().join(&name);
        for File { path, bytes } in files {
            let path = new.join(path);
            fs::create_dir_all(path.parent().unwrap_or(&new))
                .and_then(|()| fs::write(&path, bytes))
                .map_err(|source| PackageError::file(&path, source))?;
        }
        let [zip, iso] = ["zip", "iso"].map(|ending| format!("{name}.{ending}"));
        let archive = archive::zip(&name, files, self.date)?;
        let new_zip = unfinished.path().join(&zip);
        fs::write(&new_zip, archive).map_err(|source| PackageError::file(&new_zip, source))?;
        self.disc(&new, &unfinished.path().join(&iso))?;

        // Another run may be here too: one after the other they replace all three.
        let folder = fs::File::open(out).map_err(|source| PackageError::file(out, source))?;
        folder
            .lock()
            .map_err(|source| PackageError::file(out, source))?;
        for made in [&name, &zip, &iso] {
            let to = out.join(made);
            let old = unfinished.path().join(format!("old-{made}"));
            // A folder replaces an empty one only.
            match fs::rename(&to, &old) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => fs::rename(unfinished.path().join(made), &to),
            }
            .map_err(|source| PackageError::file(&to, source))?;
        }
        drop(folder);
        let strict = if self.advice_decides {
            "--house-rules "
        } else {
            ""
        };
        println!(
            "what was checked, in full: cargo xtask lint {strict}{0}\n{0}:",
            out.join(&name).display()
        );
        for File { path, bytes } in files {
            println!("  {:>9}  {path}", bytes.len());
        }
        println!("{}\n{}", out.join(zip).display(), out.join(iso).display());
        Ok(())
    }

    /// An ISO image of `folder`, as Windows reads it: by Joliet. The same bytes for
    /// the same files and date.
    fn disc(&self, folder: &Path, file: &Path) -> Result<(), PackageError> {
        let seconds = self.date.unix_timestamp().to_string();
        // ISO 9660 has capitals, digits and underscores; Joliet shows 16 of them.
        let label: String = self
            .name
            .chars()
            .map(|c| match c.is_ascii_alphanumeric() {
                true => c.to_ascii_uppercase(),
                false => '_',
            })
            .take(16)
            .collect();
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
                .args(["-volid", &label, "-padding", "0", "-outdev"])
                .arg(file)
                .arg("-map")
                .arg(folder)
                .args(["/", "-alter_date_r", "b", &format!("@{seconds}"), "/", "--"]),
        )
        .map_err(PackageError::Disc)
    }
}

impl Options {
    /// What the signer's certificate is called in the package.
    fn certificate_name(&self, name: &str) -> String {
        if self.key.is_none() && self.pkcs12.is_none() {
            format!("{name}-test.cer")
        } else {
            "signer.cer".into()
        }
    }

    /// The user's key, or the one for tests.
    fn signer(&self) -> Result<Signer, PackageError> {
        if let (Some(key), Some(certificate)) = (&self.key, &self.certificate) {
            warn_of_others(key);
            return Ok(Signer::from_pem(key, certificate)?);
        }
        if let Some(file) = &self.pkcs12 {
            // On the command line all users of the machine could read it.
            let variable = &self.password_variable;
            let password = env::var(variable).map_err(|_| PackageError::NoPassword {
                file: file.clone(),
                variable: variable.clone(),
            })?;
            warn_of_others(file);
            return Ok(Signer::from_pkcs12(file, &password)?);
        }
        let folder = match &self.test_key {
            Some(folder) => folder.clone(),
            None => signer::test_folder()?,
        };
        println!("signed with the test key in {}", folder.display());
        let signer = Signer::test(&folder)?;
        warn_of_others(&folder.join(signer::TEST_FILE));
        Ok(signer)
    }
}

/// Says so if others than its owner can read or write a key's file.
fn warn_of_others(key: &Path) {
    if let Some(mode) = signer::exposed_to_others(key) {
        eprintln!(
            "warning: {0}: its mode {mode:04o} lets other users at the signing key; chmod 600 {0}",
            key.display()
        );
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

/// The text of a setup file, in whatever encoding Windows takes.
fn read_inx(path: &Path) -> Result<String, PackageError> {
    let text = inf::decode(&read(path)?).map_err(|source| PackageError::Inx {
        path: path.to_owned(),
        source,
    })?;
    Ok(text.1)
}

/// The workspace's version, as drivers have it.
///
/// # Errors
/// It is none that a driver can have.
pub fn version() -> Result<Version, VersionError> {
    format!("{}.0", env!("CARGO_PKG_VERSION")).parse()
}

/// The package's date: the user's, or what `otherwise` returns, or now.
fn date(otherwise: impl FnOnce() -> Option<String>) -> Result<OffsetDateTime, PackageError> {
    let seconds = env::var("SOURCE_DATE_EPOCH")
        .ok()
        .or_else(otherwise)
        .unwrap_or_else(|| OffsetDateTime::now_utc().unix_timestamp().to_string());
    seconds
        .parse()
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or(PackageError::Date(seconds))
}

/// The date of the last commit of the repository whose root `project` is. Sources
/// without a history of their own may lie in another project's repository, whose date
/// is not theirs.
fn last_commit(project: &Path) -> Option<String> {
    let git = |arguments: &[&str]| {
        tool::output(tool("git").args(arguments).current_dir(project)).inspect_err(|error| {
            eprintln!("{error}: no commit to take the date from, so the package's is now");
        })
    };
    let top = git(&["rev-parse", "--show-toplevel"]).ok()?;
    if fs::canonicalize(&top).ok() != fs::canonicalize(project).ok() {
        eprintln!("{top} is the repository of another project: the package's date is now");
        return None;
    }
    git(&["log", "-1", "--format=%ct"]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_that_of_the_projects_own_repository_only() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("project");
        fs::create_dir(&inner).unwrap();
        assert_eq!(last_commit(&inner), None);
        for arguments in [
            &["init", "--quiet"][..],
            &[
                "-c",
                "user.name=a",
                "-c",
                "user.email=a@b",
                "commit",
                "--quiet",
                "--allow-empty",
                "--message=a",
            ],
        ] {
            let mut git = tool("git");
            git.args(arguments)
                .current_dir(folder.path())
                .env("GIT_COMMITTER_DATE", "1790000000 +0000");
            tool::run(&mut git).unwrap();
        }
        assert_eq!(last_commit(folder.path()).as_deref(), Some("1790000000"));
        assert_eq!(last_commit(&inner), None);
    }

    #[test]
    fn a_driver_file_is_given_with_its_processor() {
        assert_eq!(
            driver_file("arm64=a/my.sys"),
            Ok((Architecture::Arm64, "a/my.sys".into()))
        );
        assert!(driver_file("my.sys").unwrap_err().contains("x64=my.sys"));
        assert!(driver_file("x86=my.sys").is_err());
    }
}
