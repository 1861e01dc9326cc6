//! The documentation as far as it can be wrong by itself: its links, the files
//! that it names, and the commands that it gives.
//!
//! A fenced block of commands says in its info string, behind the language
//! (where GitHub does not look), who tries it:
//!
//! | word | tried by |
//! |---|---|
//! | `run` | `cargo xtask test`: all run, in a new folder of the project, and must succeed |
//! | `qemu`, `libvirt`, `libvirt-disk` | `cargo xtask test`, where QEMU or libvirt's schemas are there |
//! | `elsewhere` | other steps of `cargo xtask test`, or that command itself |
//! | `by-hand` | nobody: needs more than a clone, such as KVM, Proxmox or a copy of the WDK |
//! | `windows` | nobody: needs Windows |

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

/// Who tries a block of commands.
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
    /// The blocks that are tried in this way.
    fn used_for(&self, way: Use) -> impl Iterator<Item = &page::Block> {
        self.blocks
            .iter()
            .filter(move |block| Use::of(block) == Some(way))
    }
}

/// Why the documentation's commands were not found good.
#[derive(Debug, thiserror::Error)]
pub enum DocsError {
    /// A page can't be read, or no folder be made.
    #[error("the documentation can't be tried: {0}")]
    File(#[from] io::Error),
    /// A command of a page ended badly.
    #[error("{at}: {source}")]
    Command {
        /// The page, and the line of the block.
        at: String,
        /// The command's end.
        source: ToolError,
    },
    /// There was nothing to try.
    #[error("no page has a command to run")]
    Nothing,
}

/// Runs the commands of the pages that can run here, with a test key of their
/// own: what they make does not take the place of what the user has made.
///
/// # Errors
/// The first that ended badly, by its page and line.
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
