//! `cargo xtask lint`: checks driver files, INF files and catalogs against the requirements
//! of Windows.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use fs_err as fs;
use packaging::{
    check::{Report, Verdict},
    lint::{self, Terms},
    package::File,
};
use time::OffsetDateTime;

const HELP: &str = "\
The command checks .sys, .inf and .cat files. In a folder, it checks all such files,
also those in subfolders. It compares files in the same folder: a driver with its INF
file, and a catalog with every installed file.

There are two kinds of checks: requirements of Windows, and house rules of this project.
A broken house rule is advice, unless --house-rules is given. Each failed check names its
source: an InfVerif error, or a page of Microsoft's documentation.

For a signature, the command checks what the file itself contains: the structure, the
digest, the RSA signature, the certificates, and whether the signer's certificate has
expired. It prints 'not judged' for what the file cannot show, such as trust in the root
certificate, and for unsupported algorithms. So Windows can reject a file that passes.

Exit codes: 0 all checks passed; 1 a check failed; 2 wrong options; 3 no check failed,
but something was not judged, such as a 32-bit driver.

Examples:
  cargo xtask lint dist/ferrostor-0.1.0
  cargo xtask lint --house-rules dist/ferrostor-0.1.0
  cargo xtask lint OTHER.inf OTHER.sys";

/// The options of `cargo xtask lint`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Options {
    /// Files or folders to check
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Treat broken house rules as failures, not as advice
    #[arg(long)]
    house_rules: bool,
}

/// An error that prevents any check.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("no .sys, .inf or .cat file found: name such a file, or a folder that contains one")]
    Nothing,
}

/// The exit code if no check failed, but something was not judged. Clap uses 2.
const NOT_JUDGED: u8 = 3;

/// Prints the checks and returns the exit code that `--help` describes.
pub fn command(options: &Options) -> Result<ExitCode, Error> {
    let mut files = Vec::new();
    let mut unreadable = Vec::new();
    for path in &options.files {
        collect(path, &mut files, &mut unreadable)?;
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
        not_judged: Some(error.to_string()),
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

/// Reads a file, or all files of a folder. An unreadable file in a folder is recorded in
/// `unreadable`, and the others are still read.
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

/// Reads the INF files and catalogs beside single files, and the files that these name.
/// Unreadable files are skipped.
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

/// Lists the files of a folder and of `levels` levels of folders below it.
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
