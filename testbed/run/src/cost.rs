//! `testbed cost`: counts instructions, calls, memory and register accesses of one I/O, by
//! callback.
//!
//! One CPU works at a time. The device serves requests only when the workload tells it to, and
//! an interrupt waits until its CPU is idle. So the order of callbacks, and each figure, is the
//! same in every run.

mod report;
mod workload;

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use clap::value_parser;

pub use self::report::Cost;
use self::{
    report::{DriverMemory, Region},
    workload::{KINDS, Workload},
};
use crate::{
    disk::{Disk, discovery::DiskError},
    run::{self, Embedded, TemporaryImageError},
};
use testbed_devices::{BlkSettings, PropertyError};
use testbed_loader::{Image, ImageError};
use testbed_machine::{
    InterruptKind, Machine, MachineError, MachineSettings, cpu,
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
    pub function: Embedded,

    /// Properties of the disk that differ from the default, with QEMU's names
    #[arg(long, value_name = "PROPERTY=VALUE,...", value_parser = properties)]
    pub device: Option<String>,

    /// Requests in flight at a time, 1 to 256
    #[arg(long, value_name = "DEPTH,...", value_delimiter = ',', default_values_t = [1, 32, 256],
          value_parser = value_parser!(u32).range(1..=256))]
    pub depth: Vec<u32>,

    /// CPUs of the machine, 1 to 64. Each has a queue of the disk, unless --device has num-queues
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = value_parser!(u32).range(1..=64))]
    pub cpus: u32,

    /// Print the figures as JSON
    #[arg(long)]
    pub json: bool,
}

/// Checks properties, and returns their text: `num-queues` is added to it later.
fn properties(text: &str) -> Result<String, PropertyError> {
    run::properties(text).map(|_| text.to_owned())
}

impl Settings {
    /// The disk, with a queue for each CPU. A later property replaces an earlier one.
    fn disk(&self) -> Result<BlkSettings, PropertyError> {
        let queues = format!("num-queues={}", self.cpus);
        let all = [Some(queues.as_str()), self.device.as_deref()];
        let all: Vec<_> = all.into_iter().flatten().collect();
        all.join(",").parse()
    }
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
    /// The disk cannot have these properties.
    #[error(transparent)]
    Properties(#[from] PropertyError),
}

/// Counts the cost, with a progress bar.
///
/// # Errors
/// See [`CostError`].
pub fn count(settings: &Settings) -> Result<Cost, CostError> {
    let image = Arc::new(Image::load(&settings.driver, &testbed_storport::resolve)?);
    let machine = Machine::new(&MachineSettings {
        cpus: settings.cpus,
        memory_bytes: MEMORY,
        interrupts: InterruptKind::Messages,
    })?;
    cpu::work_one_at_a_time();
    let disk = match settings.function {
        Embedded::VirtioBlk => Some(run::temporary_image(DISK)?.0),
        Embedded::Bell => None,
    };
    let (function, disk) = run::function(&machine, disk, settings.disk()?);
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
    let workload = Workload::new(&machine, &adapter, disk.clone(), unit.facts())?;
    let memory = DriverMemory {
        image: image.addresses(),
        extensions: adapter.extensions(),
    };
    let queues = disk.as_ref().map_or(0, |disk| disk.live_queues());
    let mut cost = Cost::new(image.name(), memory.clone(), queues);
    // More requests of one CPU would go to the queues of other CPUs.
    let most = adapter.queue_depth(unit.facts().address) / (queues as u32).max(1);
    let progress = run::progress("counting {wide_bar} {percent}%");
    let weight = |depth: u32| u64::from(depth) + 10;
    let all = settings.depth.iter().map(|depth| weight(*depth));
    progress.set_length(all.sum::<u64>() * KINDS.len() as u64 * u64::from(settings.cpus));
    for kind in KINDS {
        for &depth in &settings.depth {
            if let Some(why) = workload.refusal(kind) {
                cost.leave_out(kind.name, depth, why);
                continue;
            }
            let in_flight = depth.min(most);
            for cpu in 0..settings.cpus {
                progress.inc(weight(depth));
                // The first batch does one-time work, such as growing a table.
                let first = workload.run(kind, in_flight, cpu);
                count::begin(Surroundings {
                    imports: imports.clone(),
                    shared: memory.addresses(Region::Uncached),
                    recorded: Region::ALL.map(|region| memory.addresses(region)).into(),
                    name: Some(testbed_storport::name_of_call),
                });
                let second = workload.run(kind, in_flight, cpu);
                let tallies = count::end();
                if let Some(why) = first.or(second) {
                    cost.leave_out(kind.name, depth, why);
                    break;
                }
                cost.add(kind.name, depth, cpu, in_flight, &tallies);
            }
        }
    }
    progress.finish_and_clear();
    Ok(cost)
}
