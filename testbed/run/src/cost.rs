//! `testbed cost`: counts instructions, calls, memory and register accesses of one I/O, by
//! callback.
//!
//! The machine has one CPU. The device serves requests only when the workload tells it to, and
//! an interrupt waits until the CPU is idle. So the order of callbacks, and each figure, is the
//! same in every run.

mod report;
mod workload;

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use clap::value_parser;

pub use self::report::Cost;
use self::workload::{KINDS, Workload};
use crate::{
    disk::{Disk, discovery::DiskError},
    run::{self, FunctionKind, TemporaryImageError},
};
use testbed_devices::BlkSettings;
use testbed_loader::{Image, ImageError};
use testbed_machine::{
    InterruptKind, Machine, MachineError, MachineSettings,
    memory::MemoryError,
    trap::count::{self, Surroundings},
};
use testbed_storport::{
    self,
    adapter::{Adapter, AdapterSettings, FailedStart, InterruptTime},
};

/// Bytes of the machine's memory, and of the disk.
const MEMORY: u64 = 256 << 20;
const DISK: u64 = 64 << 20;

/// The settings of a count: the options of `testbed cost`.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Driver file: an x64 Storport miniport for the PCI function
    #[arg(value_name = "FILE.sys")]
    pub driver: PathBuf,

    /// PCI function
    #[arg(long, value_enum, default_value = "virtio-blk")]
    pub function: FunctionKind,

    /// Properties of the disk that differ from the default, with QEMU's names
    #[arg(long, value_name = "PROPERTY=VALUE,...", value_parser = run::properties)]
    pub device: Option<Box<BlkSettings>>,

    /// Requests in flight at a time, 1 to 256
    #[arg(long, value_name = "DEPTH,...", value_delimiter = ',', default_values_t = [1, 32, 256],
          value_parser = value_parser!(u32).range(1..=256))]
    pub depth: Vec<u32>,

    /// Print the figures as JSON
    #[arg(long)]
    pub json: bool,
}

/// The cost was not counted.
#[derive(Debug, thiserror::Error)]
pub enum CostError {
    /// The driver file cannot be loaded.
    #[error(transparent)]
    Driver(#[from] ImageError),
    /// The machine cannot be set up.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The adapter did not start.
    #[error("the adapter did not start: {0}")]
    Start(#[from] FailedStart),
    /// There is no usable disk.
    #[error("no usable disk: {0}")]
    Disk(#[from] DiskError),
    /// The temporary image cannot be made.
    #[error(transparent)]
    Image(#[from] TemporaryImageError),
    /// The machine has too little memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// Counts the cost, with a progress bar.
///
/// # Errors
/// See [`CostError`].
pub fn count(settings: &Settings) -> Result<Cost, CostError> {
    let image = Arc::new(Image::load(&settings.driver, &testbed_storport::resolve)?);
    let machine = Machine::new(&MachineSettings {
        cpus: 1,
        memory_bytes: MEMORY,
        interrupts: InterruptKind::Messages,
    })?;
    let disk = match settings.function {
        FunctionKind::VirtioBlk => Some(run::temporary_image(DISK)?.0),
        FunctionKind::Bell => None,
    };
    let (function, disk) =
        run::function(&machine, disk, *settings.device.clone().unwrap_or_default());
    let adapter = Adapter::start(
        &machine,
        &image,
        &function,
        AdapterSettings {
            interrupt_time: InterruptTime::BetweenWork,
            // Counting slows the driver down, so that no time-out may apply.
            tick: Duration::from_secs(3600),
            callback_limit: Duration::from_secs(3600),
            ..AdapterSettings::default()
        },
    )?;
    let unit = Disk::discover(adapter.clone(), machine.memory())?;
    if let Some(disk) = &disk {
        disk.serve_manually();
    }

    let imports: HashMap<usize, String> = image
        .imports()
        .iter()
        .filter_map(|import| {
            let address = testbed_storport::resolve(&import.module, &import.function)?;
            Some((address, import.function.clone()))
        })
        .collect();
    let extensions = adapter.extensions();
    let workload = Workload::new(&machine, &adapter, disk.clone(), unit.facts())?;
    let mut cost = Cost::new(image.name(), &extensions, disk.is_some());
    let progress = run::progress("counting {wide_bar} {percent}%");
    let weight = |depth: u32| u64::from(depth) + 10;
    let all = settings
        .depth
        .iter()
        .map(|depth| weight(*depth))
        .sum::<u64>();
    progress.set_length(all * KINDS.len() as u64);
    for kind in KINDS {
        for &depth in &settings.depth {
            progress.inc(weight(depth));
            let in_flight = depth.min(adapter.queue_depth(unit.facts().address));
            if let Some(why) = workload.refusal(kind) {
                cost.leave_out(kind.name, depth, why);
                continue;
            }
            // The first batch does one-time work, such as growing a table.
            let first = workload.run(kind, in_flight);
            count::begin(Surroundings {
                imports: imports.clone(),
                shared: extensions.uncached.start as u64..extensions.uncached.end as u64,
                name: Some(testbed_storport::name_of_call),
            });
            let second = workload.run(kind, in_flight);
            let tallies = count::end();
            match first.or(second) {
                None => cost.add(kind.name, depth, in_flight, &tallies),
                Some(why) => cost.leave_out(kind.name, depth, why),
            }
        }
    }
    progress.finish_and_clear();
    Ok(cost)
}
