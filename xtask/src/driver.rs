//! The drivers of this project, and the driver that a command line names.

use std::{ffi::OsStr, path::PathBuf};

use clap::ValueEnum;

/// A driver of this project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    /// The driver for virtio disks
    Ferrostor,
    /// Example: a RAM disk
    Ramdisk,
    /// Example: acquires every lock in every callback that may acquire it
    Locks,
}

impl Driver {
    /// The name of its package and of its file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ferrostor => "ferrostor",
            Self::Ramdisk => "ramdisk",
            Self::Locks => "locks",
        }
    }

    /// The environment variable that gives its path to the testbed's tests.
    #[must_use]
    pub const fn variable(self) -> &'static str {
        match self {
            Self::Ferrostor => "FERROSTOR_DRIVER",
            Self::Ramdisk => "FERROSTOR_RAMDISK",
            Self::Locks => "FERROSTOR_LOCKS",
        }
    }

    /// The testbed's name of the PCI function that it drives.
    #[must_use]
    pub const fn function(self) -> &'static str {
        match self {
            Self::Ferrostor => "virtio-blk",
            Self::Ramdisk | Self::Locks => "bell",
        }
    }

    /// The testbed's options for it: its PCI function, and house rules as failures.
    #[must_use]
    pub const fn testbed_options(self) -> &'static [&'static str] {
        match self {
            // As in inf/ferrostor.inx.
            Self::Ferrostor => &["--house-rules", "--message-limit", "32"],
            Self::Ramdisk => &["--house-rules", "--function", "bell"],
            // This disk stores no data, so there is nothing to verify.
            Self::Locks => &["--house-rules", "--function", "bell", "--verify-bytes", "0"],
        }
    }
}

/// The driver to run, on the command line: `--driver NAME|FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// One of this project, which is built first.
    Project(Driver),
    /// A driver file.
    File(PathBuf),
}

/// The command line names neither a driver of this project nor a file.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}: no such file; give the path of a .sys file, or a driver of this project: {}",
    .0.display(), Driver::value_variants().iter().map(|it| it.name()).collect::<Vec<_>>().join(", ")
)]
pub struct NoDriver(PathBuf);

impl Chosen {
    pub fn parse(given: &OsStr) -> Result<Self, NoDriver> {
        if let Ok(driver) = Driver::from_str(&given.to_string_lossy(), false) {
            return Ok(Self::Project(driver));
        }
        let file = PathBuf::from(given);
        if file.is_file() {
            Ok(Self::File(file))
        } else {
            Err(NoDriver(file))
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

    /// The testbed grants as many messages as Windows, and the driver has a queue for each but
    /// one.
    #[test]
    fn the_inf_the_testbed_and_the_driver_agree_on_the_number_of_messages() {
        let inf = include_str!("../../inf/ferrostor.inx");
        let limit = inf
            .lines()
            .find_map(|line| line.split_once("MessageNumberLimit, 0x00010001, "))
            .map(|(_, limit)| limit);
        let options = Driver::Ferrostor.testbed_options();
        let option = options.iter().position(|it| *it == "--message-limit");

        assert_eq!(limit, option.map(|at| options[at + 1]));
        let framework = include_str!("../../crates/storport/src/state.rs");
        // One DPC object for each queue, and one more: see `driver::MAX_QUEUES`.
        assert!(framework.contains("pub const MAX_DPCS: u8 = 32;"));
        assert_eq!(limit, Some("32"));
    }
}
