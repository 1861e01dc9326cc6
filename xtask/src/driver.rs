//! The drivers of this project.

use clap::ValueEnum;

/// A driver of this project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    /// Virtio disks
    Ferrostor,
    /// The example driver: a disk in memory
    Ramdisk,
    /// Takes every lock in every callback that may take it
    Locks,
}

impl Driver {
    /// Its package, and its file without an ending.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ferrostor => "ferrostor",
            Self::Ramdisk => "ramdisk",
            Self::Locks => "locks",
        }
    }

    /// The environment variable with its file's path, for tests of the testbed.
    #[must_use]
    pub const fn variable(self) -> &'static str {
        match self {
            Self::Ferrostor => "FERROSTOR_DRIVER",
            Self::Ramdisk => "FERROSTOR_RAMDISK",
            Self::Locks => "FERROSTOR_LOCKS",
        }
    }

    /// The PCI function that it drives, as the testbed calls it.
    #[must_use]
    pub const fn function(self) -> &'static str {
        match self {
            Self::Ferrostor => "virtio-blk",
            Self::Ramdisk | Self::Locks => "bell",
        }
    }

    /// The testbed's options for it: the PCI function that it drives, and that it is
    /// held to this project's own rules.
    #[must_use]
    pub const fn testbed_options(self) -> &'static [&'static str] {
        match self {
            Self::Ferrostor => &["--house-rules"],
            Self::Ramdisk => &["--house-rules", "--function", "bell"],
            // This disk keeps nothing that could be verified.
            Self::Locks => &["--house-rules", "--function", "bell", "--verify-bytes", "0"],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_called_on_the_command_line_as_its_package_is() {
        for driver in Driver::value_variants() {
            assert_eq!(Driver::from_str(driver.name(), false), Ok(*driver));
        }
    }
}
