//! `cargo xtask lint`: whether finished files meet what Windows demands of a driver
//! package.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use packaging::{
    check::{Report, Verdict},
    lint::{self, Terms},
    package::File,
};
use time::OffsetDateTime;

const HELP: &str = "\
.sys, .inf and .cat files are judged; of a folder, all that are in it and below it.
Files are compared with those beside them: a driver with its setup file, a catalog
with all that is installed.

There are two lists: what Windows demands, and what this project advises. Advice
decides nothing, unless --house-rules is given. Each line that does not hold names its
source: an InfVerif error, or a page of Microsoft's documentation.

Of a signature everything is judged that the file itself shows: its form, the digest,
RSA's signature, the certificates that it has, and whether the signer's has expired.
What the file cannot show, and every algorithm that is not known here, is printed as
'not judged'. So Windows can refuse what passes here.

The exit code is 0 if nothing is wrong, 1 if something is, and 3 if nothing is wrong
but something could not be judged, such as a driver for 32 bits.

Examples:
  cargo xtask lint dist/ferrostor-0.1.0
  cargo xtask lint --house-rules dist/ferrostor-0.1.0
  cargo xtask lint OTHER.inf OTHER.sys";

/// The options of `cargo xtask lint`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Options {
    /// Files, and folders of files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Let the advice of this project decide too, as for its own drivers
    #[arg(long)]
    house_rules: bool,
}

/// Why files were not judged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is no file to look at.
    #[error("no .sys, .inf or .cat file was given")]
    Nothing,
}

/// The exit code if nothing is wrong, but something was not judged. Clap's is 2.
const NOT_JUDGED: u8 = 3;

/// Prints what was checked; the exit code tells whether all of it holds.
///
/// # Errors
/// See [`Error`].
pub fn command(options: &Options) -> Result<ExitCode, Error> {
    let mut files = Vec::new();
    let mut unreadable = Vec::new();
    for path in &options.files {
        collect(path, &mut files, &mut unreadable).map_err(|source| Error::Read {
            path: path.clone(),
            source,
        })?;
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    files.dedup_by(|one, other| one.path == other.path);
    let terms = Terms {
        today: OffsetDateTime::now_utc().date(),
        advice_decides: options.house_rules,
    };
    let mut reports = lint::files(&files, &beside(&options.files, &files), terms);
    reports.extend(unreadable.into_iter().map(|(path, error)| Report {
        subject: path.display().to_string(),
        checks: Vec::new(),
        beyond: Vec::new(),
        not_judged: Some(format!("it can't be read: {error}")),
        advice_decides: options.house_rules,
    }));
    for report in &reports {
        print!("{report}");
    }
    match reports.iter().map(Report::verdict).max() {
        None => Err(Error::Nothing),
        Some(Verdict::Holds) => Ok(ExitCode::SUCCESS),
        Some(Verdict::NotJudged) => Ok(NOT_JUDGED.into()),
        Some(Verdict::Wrong) => Ok(ExitCode::FAILURE),
    }
}

/// Reads a file, or a folder's files. What can't be read in a folder does not hide the
/// rest of it.
fn collect(
    path: &Path,
    files: &mut Vec<File>,
    unreadable: &mut Vec<(PathBuf, io::Error)>,
) -> io::Result<()> {
    if !path.is_dir() {
        files.push(File::new(path.display().to_string(), fs::read(path)?));
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if let Err(error) = collect(&path, files, unreadable) {
            unreadable.push((path, error));
        }
    }
    Ok(())
}

/// What lies beside single files: setup files, catalogs, and what these mention. A file
/// that can't be read there is as one that is not there.
fn beside(given: &[PathBuf], files: &[File]) -> Vec<File> {
    let folders: BTreeSet<&Path> = given
        .iter()
        .filter(|path| !path.is_dir())
        .filter_map(|path| path.parent())
        .collect();
    let mut paths = Vec::new();
    for folder in folders {
        list(folder, 2, &mut paths);
    }
    paths.retain(|path| {
        let path = path.display().to_string();
        !files.iter().any(|file| file.path == path)
    });
    let read = |path: &PathBuf| Some(File::new(path.display().to_string(), fs::read(path).ok()?));
    let lower = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_ascii_lowercase());
    let is_list = |path: &&PathBuf| {
        lower(path.extension()).is_some_and(|ending| ending == "inf" || ending == "cat")
    };
    let mut found: Vec<File> = paths.iter().filter(is_list).filter_map(read).collect();
    let all: Vec<File> = files.iter().chain(&found).cloned().collect();
    let mentioned = lint::mentioned(&all);
    let is_mentioned = |path: &&PathBuf| {
        let name = lower(path.file_name()).unwrap_or_default();
        mentioned.contains(&*name.to_string_lossy())
    };
    let others = paths.iter().filter(|path| !is_list(path));
    found.extend(others.filter(is_mentioned).filter_map(read));
    found
}

/// The files of a folder, and of those below it to so many levels.
fn list(folder: &Path, levels: u8, paths: &mut Vec<PathBuf>) {
    // The parent of a bare name is the empty path.
    let named = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    for entry in fs::read_dir(named).into_iter().flatten().flatten() {
        let path = folder.join(entry.file_name());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && levels > 0 => list(&path, levels - 1, paths),
            Ok(kind) if kind.is_file() => paths.push(path),
            _ => {}
        }
    }
}
