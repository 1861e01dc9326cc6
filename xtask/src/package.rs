//! `cargo xtask package`: makes the signed driver package, as a folder, .zip and ISO image.

use std::{
    env, io,
    path::{Path, PathBuf},
};

use clap::ValueEnum as _;
use fs_err as fs;
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
The command writes the folder <NAME>-<VERSION>, and the same files as a .zip and as
an .iso, which can be attached to a virtual machine as a CD.

Without --key or --pkcs12, the package is signed with a test key. The command
generates the key on first use, in the folder FERROSTOR_SIGNING_DIR, or else in
ferrostor/test-signing in XDG_DATA_HOME (by default ~/.local/share). Windows accepts
such a package only in test-signing mode: see docs/windows.md.

SOURCE_DATE_EPOCH (seconds since 1970) sets the date of the package and of its
signatures. The default is the date of the last commit, or the current time if Git
knows no commit. The same sources, key and date give the same bytes.

With --inx and --driver-file, the command packages another driver, as stampinf,
inf2cat and signtool do. It stamps the .inx, collects the files that
[SourceDisksFiles] names from the folder of the .sys, lists them in the catalog, and
signs the .sys and the catalog. A .pdb beside the .sys is included. The date is
SOURCE_DATE_EPOCH or the current time.

Examples:
  cargo xtask package
  cargo xtask package --arch x64 --out /tmp/ferrostor
  cargo xtask package --key signing.key --certificate signing.pem
  FERROSTOR_PKCS12_PASSWORD=... cargo xtask package --pkcs12 signing.p12
  cargo xtask package --inx my.inx --driver-file x64=my.sys --driver-file arm64=a64/my.sys";

/// The environment variable that has the password of the PKCS#12 file.
const PASSWORD: &str = "FERROSTOR_PKCS12_PASSWORD";

/// The options of `cargo xtask package`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Options {
    /// Processor architecture; can be repeated [default: all]
    #[arg(long, value_enum, conflicts_with = "inx")]
    arch: Vec<Architecture>,

    /// Output folder
    #[arg(long, value_name = "FOLDER", default_value = "dist")]
    out: PathBuf,

    /// Package another driver, whose INF template is this file
    #[arg(long, value_name = "FILE", requires = "driver_file")]
    inx: Option<PathBuf>,

    /// Unsigned driver file for an architecture, x64 or arm64; can be given once for each
    #[arg(long, value_name = "ARCH=FILE", requires = "inx", value_parser = driver_file)]
    driver_file: Vec<(Architecture, PathBuf)>,

    /// Name of the package and of its INF file [default: the name of the .inx]
    #[arg(long, requires = "inx")]
    name: Option<String>,

    /// DriverVer version in the INF file, such as 1.2.3.0 [default: the version of the
    /// driver file]
    #[arg(long, value_name = "VERSION", requires = "inx")]
    driver_version: Option<Version>,

    /// Private key to sign with, a PEM file
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,

    /// Certificate of --key, a PEM file; the certificates of its issuers may follow in it
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,

    /// PKCS#12 file (.p12, .pfx) with the key and certificates to sign with; the environment
    /// variable FERROSTOR_PKCS12_PASSWORD has its password
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    pkcs12: Option<PathBuf>,
}

/// Parses `x64=my.sys`.
fn driver_file(text: &str) -> Result<(Architecture, PathBuf), String> {
    let (architecture, path) = text
        .split_once('=')
        .ok_or("expected ARCH=FILE, such as x64=my.sys")?;
    Ok((Architecture::from_str(architecture, false)?, path.into()))
}

/// An error that prevents a package.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("SOURCE_DATE_EPOCH is '{0}': set it to a number of seconds since 1970, or unset it")]
    Date(String),
    #[error("{PASSWORD} is not set: set it to the password of {}", .0.display())]
    NoPassword(PathBuf),
    #[error(transparent)]
    Signer(#[from] SignerError),
    #[error(transparent)]
    Files(#[from] package::PackageError),
    #[error("{}: {source}", path.display())]
    Inx { path: PathBuf, source: InfError },
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("{}: the file has no version resource: give the version with --driver-version", .0.display())]
    NoVersion(PathBuf),
    #[error("{}: the driver file is not for {}: correct ARCH in --driver-file", .0.display(), .1.name())]
    Processor(PathBuf, Architecture),
    #[error("--driver-file is given twice for {}: keep one file", .0.name())]
    Twice(Architecture),
    #[error(
        "{}: [SourceDisksFiles] does not list {name} for {}: add it", inx.display(), architecture.name()
    )]
    NotInstalled {
        inx: PathBuf,
        name: String,
        architecture: Architecture,
    },
    #[error("no package was made: fix the checks marked NO or 'not judged' above, in {}", .0.join(", "))]
    Faults(Vec<String>),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("the ISO image was not made: {0}")]
    Disc(#[source] ToolError),
    #[error(transparent)]
    File(#[from] io::Error),
}

/// Files that are the same for all architectures: source in the project, and destination
/// in the package. Of a folder, all files are packaged.
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

/// Makes the package of Ferrostor, or of the driver of `--inx`. Prints the results of its checks
/// and its contents.
///
/// An older package is replaced only after the new one is complete and passed its checks.
pub fn command(options: &Options) -> Result<(), PackageError> {
    // A wrong key, date, folder or INF file is reported before the long build.
    let (date, inx) = match &options.inx {
        Some(inx) => (date(|| None)?, inx.clone()),
        None => (
            date(|| last_commit(workspace::root()))?,
            workspace::root().join("inf/ferrostor.inx"),
        ),
    };
    let is_ours = options.inx.is_none();
    let text = read_inx(&inx)?;
    let signer = options.signer()?;
    fs::create_dir_all(&options.out)?;

    let drivers = options.drivers()?;
    let mut version = options.driver_version;
    for (architecture, path) in &drivers {
        let image = Image::read(path)?;
        if image.architecture() != Ok(*architecture) {
            return Err(PackageError::Processor(path.clone(), *architecture));
        }
        version = version.or(image.version);
    }
    let first = drivers.first().map(|(_, path)| path.clone());
    let version = version.ok_or(PackageError::NoVersion(first.unwrap_or_default()))?;
    let stem = inx.file_stem().unwrap_or_default().to_string_lossy();
    let name = options.name.as_deref().unwrap_or(&stem);
    let product = Product {
        name,
        version,
        inx: &text,
    };

    let mut files = if is_ours { shared_files()? } else { Vec::new() };
    for (architecture, path) in &drivers {
        let setup = product.setup(*architecture, date)?;
        let sources = sources(&setup, &inx, *architecture, path)?;
        let symbols = path.with_extension("pdb");
        let symbols = match (symbols.is_file(), symbols.file_name()) {
            (true, Some(name)) => Some(File::new(name.to_string_lossy(), fs::read(&symbols)?)),
            _ => None,
        };
        files.extend(setup.files(sources, symbols, &signer, date)?);
    }
    files.push(File::new(
        options.certificate_name(name),
        signer.certificate_der().map_err(SignerError::from)?,
    ));
    files.sort_by(|one, other| one.path.cmp(&other.path));
    check(&files, is_ours)?;
    let version = match is_ours {
        true => env!("CARGO_PKG_VERSION").to_owned(),
        false => version.to_string(),
    };
    let made = write(
        &options.out,
        &format!("{name}-{version}"),
        &files,
        name,
        date,
    )?;
    let strict = if is_ours { "--house-rules " } else { "" };
    println!(
        "to see every check: cargo xtask lint {strict}{0}\n{0}:",
        made.display()
    );
    for File { path, bytes } in &files {
        println!("  {:>9}  {path}", bytes.len());
    }
    for ending in ["zip", "iso"] {
        println!("{}.{ending}", made.display());
    }
    Ok(())
}

/// Reads the files that an INF file installs, from the driver file's folder.
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
        files.push(File::new(source, fs::read(path)?));
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

/// Prints the results of the checks. Fails if a file did not pass.
fn check(files: &[File], advice_decides: bool) -> Result<(), PackageError> {
    let today = OffsetDateTime::now_utc().date();
    let mut faulty = Vec::new();
    for report in lint::files(
        files,
        &[],
        Terms {
            today,
            advice_decides,
        },
    ) {
        if report.verdict() == Verdict::Holds {
            let checks = report.checks.iter();
            let not_taken = checks.filter(|check| check.fault().is_some()).count();
            let passed = report.checks.len() - not_taken;
            let advice = match not_taken {
                0 => String::new(),
                count => format!(", {count} house rules broken (advice)"),
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

/// Writes the folder `name` in `out`, and its .zip and .iso, each completely or not at all.
/// Returns the folder.
fn write(
    out: &Path,
    name: &str,
    files: &[File],
    label: &str,
    date: OffsetDateTime,
) -> Result<PathBuf, PackageError> {
    // A rename needs the same file system.
    let unfinished = tempfile::tempdir_in(out)?;
    let new = unfinished.path().join(name);
    for File { path, bytes } in files {
        let path = new.join(path);
        fs::create_dir_all(path.parent().unwrap_or(&new))?;
        fs::write(path, bytes)?;
    }
    let [zip, iso] = ["zip", "iso"].map(|ending| format!("{name}.{ending}"));
    fs::write(
        unfinished.path().join(&zip),
        archive::zip(name, files, date)?,
    )?;
    disc(&new, &unfinished.path().join(&iso), label, date)?;

    // Two runs at the same time must not mix their outputs: the lock covers all three.
    let folder = fs::File::open(out)?;
    folder.lock()?;
    for made in [name, &zip, &iso] {
        let to = out.join(made);
        let old = unfinished.path().join(format!("old-{made}"));
        // A rename replaces a folder only if it is empty.
        match fs::rename(&to, &old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => fs::rename(unfinished.path().join(made), &to),
        }?;
    }
    Ok(out.join(name))
}

/// Makes an ISO image of `folder` with Joliet names, which Windows reads. The same files
/// and date give the same bytes.
fn disc(folder: &Path, file: &Path, label: &str, date: OffsetDateTime) -> Result<(), PackageError> {
    let seconds = date.unix_timestamp().to_string();
    // An ISO 9660 label allows capitals, digits and underscores; Joliet shows 16 characters.
    let label: String = label
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
            .args(["-joliet", "on", "-rockridge", "off"])
            .args(["-compliance", "joliet_long_names"])
            .args(["-volid", &label, "-padding", "0", "-outdev"])
            .arg(file)
            .arg("-map")
            .arg(folder)
            .args(["/", "-alter_date_r", "b", &format!("@{seconds}"), "/", "--"]),
    )
    .map_err(PackageError::Disc)
}

impl Options {
    /// The driver files: those of `--driver-file`, or Ferrostor's, which are built.
    fn drivers(&self) -> Result<Vec<(Architecture, PathBuf)>, PackageError> {
        if self.inx.is_none() {
            let architectures = match self.arch.as_slice() {
                [] => Architecture::value_variants(),
                some => some,
            };
            let build = |it: &Architecture| Ok((*it, build::driver(Driver::Ferrostor, *it)?));
            return architectures.iter().map(build).collect();
        }
        let mut seen = Vec::new();
        for (architecture, _) in &self.driver_file {
            if seen.contains(architecture) {
                return Err(PackageError::Twice(*architecture));
            }
            seen.push(*architecture);
        }
        Ok(self.driver_file.clone())
    }

    /// The file name of the signer's certificate in the package.
    fn certificate_name(&self, name: &str) -> String {
        if self.key.is_none() && self.pkcs12.is_none() {
            format!("{name}-test.cer")
        } else {
            "signer.cer".into()
        }
    }

    /// The user's key, or else the test key.
    fn signer(&self) -> Result<Signer, PackageError> {
        if let (Some(key), Some(certificate)) = (&self.key, &self.certificate) {
            warn_of_others(key);
            return Ok(Signer::from_pem(key, certificate)?);
        }
        if let Some(file) = &self.pkcs12 {
            // Other users could read a password on the command line.
            let password =
                env::var(PASSWORD).map_err(|_| PackageError::NoPassword(file.clone()))?;
            warn_of_others(file);
            return Ok(Signer::from_pkcs12(file, &password)?);
        }
        let folder = signer::test_folder()?;
        println!("signing with the test key in {}", folder.display());
        let signer = Signer::test(&folder)?;
        warn_of_others(&folder.join(signer::TEST_FILE));
        Ok(signer)
    }
}

/// Warns if other users can read or write a key's file.
fn warn_of_others(key: &Path) {
    if let Some(mode) = signer::exposed_to_others(key) {
        eprintln!(
            "warning: {0}: other users can access the signing key (mode {mode:04o}): run chmod 600 {0}",
            key.display()
        );
    }
}

/// Reads the files of [`SHARED`].
fn shared_files() -> Result<Vec<File>, PackageError> {
    let mut files = Vec::new();
    for (from, to) in SHARED {
        let from = workspace::root().join(from);
        if !from.is_dir() {
            files.push(File::new(to, fs::read(from)?));
            continue;
        }
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            files.push(File::new(format!("{to}/{name}"), fs::read(entry.path())?));
        }
    }
    Ok(files)
}

/// Reads the text of an INF file, in any encoding that Windows accepts.
fn read_inx(path: &Path) -> Result<String, PackageError> {
    let text = inf::decode(&fs::read(path)?).map_err(|source| PackageError::Inx {
        path: path.to_owned(),
        source,
    })?;
    Ok(text.1)
}

/// The workspace's version as a four-part driver version.
pub fn version() -> Result<Version, VersionError> {
    format!("{}.0", env!("CARGO_PKG_VERSION")).parse()
}

/// The package's date: `SOURCE_DATE_EPOCH`, else `otherwise`, else the current time.
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

/// The date of the last commit, if `project` is the root of its repository. An unpacked
/// source archive may lie inside another project's repository, whose date is wrong for it.
fn last_commit(project: &Path) -> Option<String> {
    let git = |arguments: &[&str]| {
        tool::output(tool("git").args(arguments).current_dir(project)).inspect_err(|error| {
            eprintln!("warning: {error}: the package gets the current time, not a commit's date");
        })
    };
    let top = git(&["rev-parse", "--show-toplevel"]).ok()?;
    if fs::canonicalize(&top).ok() != fs::canonicalize(project).ok() {
        eprintln!(
            "warning: {top} is the repository of another project: the package gets the current \
             time, not a commit's date"
        );
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
