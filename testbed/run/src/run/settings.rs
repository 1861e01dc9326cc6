//! The settings of a run, which are the options of `testbed run`.

use std::{path::PathBuf, str::FromStr};

use clap::{
    ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
    value_parser,
};

use crate::size::Size;
use testbed_devices::{BlkSettings, DeviceId, PropertyError};
use testbed_machine::InterruptKind;
use testbed_storport::adapter::{Checks, SrbShape};

/// The settings of a run: the options of `testbed run`.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Driver file: an x64 Storport miniport for the PCI function
    #[arg(long, value_name = "FILE.sys")]
    pub driver: PathBuf,

    /// PCI function: virtio-blk, bell (a device that only interrupts), or vfio:ADDRESS, a
    /// function of this host, such as vfio:0000:01:00.0, which is bound to vfio-pci. THE
    /// CONTENTS OF ITS DISK ARE OVERWRITTEN
    #[arg(long, value_name = "FUNCTION", default_value = "virtio-blk")]
    pub function: FunctionKind,

    /// Raw disk image. ITS CONTENTS ARE OVERWRITTEN. The testbed refuses an image
    /// with data that no earlier run wrote [default: a temporary image]
    #[arg(long, value_name = "IMAGE")]
    pub disk: Option<PathBuf>,

    /// Overwrite the image even if it contains other data. Needed for the disk of
    /// vfio:ADDRESS, which is not examined
    #[arg(long)]
    pub overwrite: bool,

    /// Size of the temporary image, in bytes or with K, M, G or T
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "256M",
        conflicts_with = "disk"
    )]
    pub size: Size,

    /// Number of virtual CPUs, 1 to 64
    #[arg(long, value_name = "COUNT", default_value = "4", value_parser = value_parser!(u32).range(1..=64))]
    pub cpus: u32,

    /// Memory of the machine
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    pub memory: Size,

    /// Interrupt type of the device
    #[arg(long, default_value = "msix", value_parser = interrupts())]
    pub interrupts: InterruptKind,

    /// Maximum number of messages that are granted to the device: MessageNumberLimit of
    /// the INF file
    #[arg(long, value_name = "COUNT", default_value = "2048", value_parser = value_parser!(u16).range(1..))]
    pub message_limit: u16,

    /// Type of the SRBs
    #[arg(long, default_value = "storage", value_parser = srb())]
    pub srb: SrbShape,

    /// Properties of the disk that differ from the default, with QEMU's names
    #[arg(long, value_name = "PROPERTY=VALUE,...", value_parser = properties)]
    pub device: Option<Box<BlkSettings>>,

    /// PCI device id of the disk
    #[arg(long, default_value = "modern", value_parser = device_id())]
    pub device_id: DeviceId,

    /// Enable all checks, such as for accesses to completed requests. Run one
    /// thread at a time, in virtual time, in an order that the seed determines.
    /// This is slow. With vfio:ADDRESS, threads run in any order: the device has
    /// a time of its own
    #[arg(long)]
    pub verify: bool,

    /// Treat broken house rules as failures, not as advice ('testbed rules' lists them)
    #[arg(long)]
    pub house_rules: bool,

    /// How much to write and read back before the workload; 0 for nothing
    /// [default: 64M, or the whole disk if it is smaller]
    #[arg(long, value_name = "SIZE")]
    pub verify_bytes: Option<Size>,

    /// Seed of the data and, with --verify, of the order of threads. With --verify,
    /// the same seed gives the same run [default: from the clock; the run prints it]
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,

    /// Stop after the verify pass
    #[arg(long, conflicts_with = "workload")]
    pub no_workload: bool,

    /// Count failed transfers, without failing the run: for a disk that reports
    /// errors on purpose
    #[arg(long)]
    pub keep_going: bool,

    /// Power the adapter down and up this many times between the verify pass and the
    /// workload, and read the verified data again each time
    #[arg(long, value_name = "TIMES", default_value = "0")]
    pub restart: u32,

    /// Crash the machine under load after the workload; a second copy of the driver
    /// writes a crash dump
    #[arg(long)]
    pub dump: bool,

    /// Run this many seeds, starting at --seed. Each runs in its own process, as many
    /// at a time as the host has processors. Stop at the first failure. Needs --verify
    #[arg(long, value_name = "COUNT", requires = "verify", value_parser = value_parser!(u32).range(1..))]
    pub seeds: Option<u32>,

    /// Check the options without loading the driver
    #[arg(long, hide = true)]
    pub check: bool,

    /// Options of the workload, such as -b8K -r -o32 -w30 -d10 -L
    #[arg(last = true, value_name = "WORKLOAD OPTIONS")]
    pub workload: Vec<String>,
}

impl Settings {
    /// The set of enabled checks.
    #[must_use]
    pub fn checks(&self) -> Checks {
        if self.verify {
            Checks::All
        } else {
            Checks::Cheap
        }
    }

    /// Whether the seed determines the order of threads.
    #[must_use]
    pub fn is_scheduled(&self) -> bool {
        self.verify && matches!(self.function, FunctionKind::Embedded(_))
    }
}

/// The PCI function of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FunctionKind {
    /// A device model of the testbed.
    Embedded(Embedded),
    /// A function of the host, by its address, such as `0000:01:00.0`.
    Vfio(String),
}

/// The text names no PCI function.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "give virtio-blk, bell, or vfio: with a PCI address of the host, such as vfio:0000:01:00.0"
)]
pub struct NoFunction;

impl FromStr for FunctionKind {
    type Err = NoFunction;

    fn from_str(text: &str) -> Result<Self, NoFunction> {
        if let Some(address) = text.strip_prefix("vfio:") {
            let digits = |text: &str| text.chars().all(|it| it.is_ascii_hexdigit() || it == ':');
            let parts = address.split_once('.');
            let is_address = parts.is_some_and(|(device, function)| {
                device.contains(':') && digits(device) && function.len() == 1 && digits(function)
            });
            return is_address
                .then(|| Self::Vfio(address.to_owned()))
                .ok_or(NoFunction);
        }
        let embedded = Embedded::from_str(text, false).map_err(|_| NoFunction)?;
        Ok(Self::Embedded(embedded))
    }
}

/// A PCI function that the testbed models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Embedded {
    /// Virtio disk
    VirtioBlk,
    /// Device that only interrupts, for a driver with its own RAM disk: PCI 1234:BE11,
    /// see testbed/devices/src/bell.rs
    Bell,
}

pub(crate) fn properties(list: &str) -> Result<Box<BlkSettings>, PropertyError> {
    list.parse().map(Box::new)
}

/// A parser of two names, each with its help.
fn one_of<T: Copy + Send + Sync + 'static>(
    names: [(&'static str, &'static str, T); 2],
) -> impl TypedValueParser<Value = T> {
    let values = names.map(|(name, help, _)| PossibleValue::new(name).help(help));
    let [(first, _, one), (.., other)] = names;
    PossibleValuesParser::new(values).map(move |name| if name == first { one } else { other })
}

fn interrupts() -> impl TypedValueParser<Value = InterruptKind> {
    one_of([
        (
            "msix",
            "Message-signaled interrupts",
            InterruptKind::Messages,
        ),
        ("intx", "Line-based interrupts", InterruptKind::Line),
    ])
}

fn srb() -> impl TypedValueParser<Value = SrbShape> {
    let windows = "STORAGE_REQUEST_BLOCK, which Windows uses";
    one_of([
        ("scsi", "SCSI_REQUEST_BLOCK", SrbShape::Scsi),
        ("storage", windows, SrbShape::Storage),
    ])
}

fn device_id() -> impl TypedValueParser<Value = DeviceId> {
    one_of([
        ("modern", "1AF4:1042", DeviceId::Modern),
        ("transitional", "1AF4:1001", DeviceId::Transitional),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_a_model_or_an_address_of_the_host() {
        let parse = |text: &str| text.parse::<FunctionKind>();

        assert_eq!(parse("bell"), Ok(FunctionKind::Embedded(Embedded::Bell)));
        let address = "0000:01:00.0".to_owned();
        assert_eq!(parse("vfio:0000:01:00.0"), Ok(FunctionKind::Vfio(address)));
        for wrong in [
            "",
            "disk",
            "vfio",
            "vfio:",
            "vfio:eth0",
            "vfio:../0.0",
            "vfio:..",
            "vfio:1.0",
        ] {
            assert_eq!(parse(wrong), Err(NoFunction), "{wrong}");
        }
    }
}
