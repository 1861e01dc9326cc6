//! Tests of the documentation: its links, the files that it names, and its commands.
//!
//! The info string of a fenced code block has a second word, which GitHub ignores. It says
//! what runs the commands of the block:
//!
//! | Word | Run by |
//! |---|---|
//! | `run` | `cargo xtask test`, in a new folder in the project; every command must succeed |
//! | `qemu`, `libvirt`, `libvirt-disk` | `cargo xtask test`, if QEMU or libvirt's schemas are installed |
//! | `elsewhere` | other steps of `cargo xtask test`, or that command itself |
//! | `by-hand` | nothing: it needs more than a clone, such as KVM, Proxmox or a copy of the WDK |
//! | `windows` | nothing: it needs Windows |

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

/// What runs a block of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Run,
    Qemu,
    Libvirt,
    LibvirtDisk,
    Elsewhere,
    ByHand,
    Windows,
}

impl Use {
    fn of(block: &page::Block) -> Option<Self> {
        match block.info.split_whitespace().nth(1)? {
            "run" => Some(Self::Run),
            "qemu" => Some(Self::Qemu),
            "libvirt" => Some(Self::Libvirt),
            "libvirt-disk" => Some(Self::LibvirtDisk),
            "elsewhere" => Some(Self::Elsewhere),
            "by-hand" => Some(Self::ByHand),
            "windows" => Some(Self::Windows),
            _ => None,
        }
    }
}

impl page::Page {
    /// The blocks with this word.
    fn used_for(&self, way: Use) -> impl Iterator<Item = &page::Block> {
        self.blocks
            .iter()
            .filter(move |block| Use::of(block) == Some(way))
    }
}

/// The documentation's commands failed or could not be run.
#[derive(Debug, thiserror::Error)]
pub enum DocsError {
    /// A page cannot be read, or the folder to run in cannot be made.
    #[error("cannot run the documentation's commands: {0}")]
    File(#[from] io::Error),
    /// A command of a page failed.
    #[error("{at}: {source}")]
    Command {
        /// The page, and the line of the block.
        at: String,
        /// The command's error.
        source: ToolError,
    },
    /// No page has a `run` block.
    #[error("no page has a code block marked `run`")]
    Nothing,
}

/// Runs the `run` blocks of all pages in a temporary folder with its own test key, so that
/// they do not overwrite the user's files.
///
/// # Errors
/// The first block that failed.
pub fn run_commands() -> Result<(), DocsError> {
    let folder = tempfile::tempdir_in(workspace::root())?;
    let mut tried = false;
    for page in page::all()? {
        for block in page.used_for(Use::Run) {
            tried = true;
            let mut shell = tool("sh");
            shell
                .args(["-e", "-c", &block.text])
                .current_dir(folder.path())
                .env_remove("FERROSTOR_SIGNING_DIR")
                .env("XDG_DATA_HOME", folder.path());
            tool::run(&mut shell).map_err(|source| DocsError::Command {
                at: page.at(block.line),
                source,
            })?;
        }
    }
    if tried {
        Ok(())
    } else {
        Err(DocsError::Nothing)
    }
}
