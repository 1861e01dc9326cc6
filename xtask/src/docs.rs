//! Tests of the documentation: its links, the files that it names, and its commands.
//!
//! The info string of a fenced code block can have a second word, which GitHub ignores. It says
//! which step of `cargo xtask test` runs the block:
//!
//! | Word | Run by |
//! |---|---|
//! | `run` | the step doc-commands, in a new folder in the project; every command must succeed |
//! | `qemu`, `libvirt`, `libvirt-disk` | the step doc-machines, if QEMU or libvirt's schemas are installed |
//! | `windows` | nothing: it needs Windows |
//!
//! A block without a second word is not run either. Another word fails the unit tests.

use std::io;

pub use machine::machines;

use crate::{
    tool::{self, ToolError, tool},
    workspace,
};

#[cfg(test)]
mod citations;
mod machine;
mod page;
#[cfg(test)]
mod tests;

/// The documentation's commands failed or could not be run.
#[derive(Debug, thiserror::Error)]
pub enum DocsError {
    #[error("cannot run the documentation's commands: {0}")]
    File(#[from] io::Error),
    /// A command failed. The first field is the page, and the line of the block.
    #[error("{0}: {1}")]
    Command(String, ToolError),
    #[error("no page has a code block marked `run`")]
    Nothing,
}

/// Runs the `run` blocks of all pages in a temporary folder with its own test key, so that
/// they do not overwrite the user's files. Stops at the first block that fails.
pub fn run_commands() -> Result<(), DocsError> {
    let folder = tempfile::tempdir_in(workspace::root())?;
    let mut tried = false;
    for page in page::all()? {
        for block in page.blocks.iter().filter(|block| block.word() == "run") {
            tried = true;
            let mut shell = tool("sh");
            shell
                .args(["-e", "-c", &block.text])
                .current_dir(folder.path())
                .env_remove("FERROSTOR_SIGNING_DIR")
                .env("XDG_DATA_HOME", folder.path());
            tool::run(&mut shell)
                .map_err(|error| DocsError::Command(page.at(block.line), error))?;
        }
    }
    if tried {
        Ok(())
    } else {
        Err(DocsError::Nothing)
    }
}
