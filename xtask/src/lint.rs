//! `cargo xtask lint`: whether finished files are what Windows demands of a
//! driver's package.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use packaging::{
    lint::{self, LintError},
    package::File,
};
use time::OffsetDateTime;

const HELP: &str = "\
Looked at are .sys, .inf and .cat files; of a folder all that are in it and below
it. A catalog is compared with what lies beside it. The exit code is 0 if nothing
is wrong.

Examples:
  cargo xtask lint dist/ferrostor-0.1.0
  cargo xtask lint OTHER.inf OTHER.sys";

/// The options of `cargo xtask lint`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Options {
    /// Files, and folders of files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
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
    /// A file is not what its ending says.
    #[error(transparent)]
    Lint(#[from] LintError),
    /// There is no file to look at.
    #[error("no .sys, .inf or .cat file was given")]
    Nothing,
}

/// Prints what was checked; the exit code tells whether all of it holds.
///
/// # Errors
/// See [`Error`].
pub fn command(options: &Options) -> Result<ExitCode, Error> {
    let mut files = Vec::new();
    for path in &options.files {
        collect(path, &mut files).map_err(|source| Error::Read {
            path: path.clone(),
            source,
        })?;
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    let reports = lint::files(&files, OffsetDateTime::now_utc().date())?;
    if reports.is_empty() {
        return Err(Error::Nothing);
    }
    for report in &reports {
        print!("{report}");
    }
    Ok(if reports.iter().all(lint::Report::holds) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn collect(path: &Path, files: &mut Vec<File>) -> io::Result<()> {
    if !path.is_dir() {
        files.push(File::new(path.display().to_string(), fs::read(path)?));
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}
