//! The documentation as far as it can be wrong by itself: its links, the files
//! that it names, and the commands that it gives.
//!
//! A fenced block of commands says in its info string, behind the language
//! (where GitHub does not look), who tries it:
//!
//! | word | tried by |
//! |---|---|
//! | `run` | `cargo xtask test`: each runs in the project's root and must succeed |
//! | `qemu`, `libvirt`, `libvirt-disk` | `cargo xtask test`, where QEMU or libvirt's schemas are there |
//! | `elsewhere` | other steps of `cargo xtask test`, or that command itself |
//! | `by-hand` | nobody: needs more than a clone, such as KVM, Proxmox or a copy of the WDK |
//! | `windows` | nobody: needs Windows |

mod page;
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
