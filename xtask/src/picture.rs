//! `cargo xtask picture`: draws the pictures in docs/ that come from code and manifests.

use std::{fs, io};

use crate::{
    crates_picture::{self, WorkspaceError},
    life_cycle, workspace,
};

const HELP: &str = "\
The command draws docs/life-cycle.svg, the states of the device, from
xtask/src/life_cycle.rs, and docs/crates.svg, the crates of the workspace, from their
manifests. Tests fail if a file is out of date.

Examples:
  cargo xtask picture";

/// The options of `cargo xtask picture`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Options {}

/// A picture was not drawn.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// The workspace cannot be read.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// A file cannot be written.
    #[error("{file}: {source}")]
    Write {
        /// The file.
        file: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

/// Draws the pictures to their files.
///
/// # Errors
/// See [`PictureError`].
pub fn command(Options {}: &Options) -> Result<(), PictureError> {
    for (file, svg) in [
        (life_cycle::FILE, life_cycle::draw()),
        (crates_picture::FILE, crates_picture::draw()?),
    ] {
        let written = fs::write(workspace::root().join(file), svg);
        written.map_err(|source| PictureError::Write { file, source })?;
        println!("wrote {file}");
    }
    Ok(())
}
