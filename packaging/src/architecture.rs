//! The processor architectures that the driver is built for.

use clap::ValueEnum;
use object::pe::{IMAGE_FILE_MACHINE_AMD64, IMAGE_FILE_MACHINE_ARM64, Machine};

/// A processor architecture, as Windows names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Architecture {
    /// AMD64
    X64,
    /// ARM64
    Arm64,
}

impl Architecture {
    /// Rust's name of the target.
    #[must_use]
    pub const fn target(self) -> &'static str {
        match self {
            Self::X64 => "x86_64-pc-windows-msvc",
            Self::Arm64 => "aarch64-pc-windows-msvc",
        }
    }

    /// The environment variable for the target's linker in cargo.
    #[must_use]
    pub const fn linker_variable(self) -> &'static str {
        match self {
            Self::X64 => "CARGO_TARGET_X86_64_PC_WINDOWS_MSVC_LINKER",
            Self::Arm64 => "CARGO_TARGET_AARCH64_PC_WINDOWS_MSVC_LINKER",
        }
    }

    /// Its name in options and folders.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::X64 => "x64",
            Self::Arm64 => "arm64",
        }
    }

    /// Its name in the decorations of an INF file, after `NT`.
    #[must_use]
    pub const fn decoration(self) -> &'static str {
        match self {
            Self::X64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The machine type in the header of a PE file.
    #[must_use]
    pub const fn machine(self) -> Machine {
        match self {
            Self::X64 => IMAGE_FILE_MACHINE_AMD64,
            Self::Arm64 => IMAGE_FILE_MACHINE_ARM64,
        }
    }
}
