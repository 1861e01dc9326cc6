//! The port driver of the testbed: what storport.sys exports to a miniport, and what Storport
//! does with a miniport, from DriverEntry to ScsiStopAdapter.
//!
//! It knows no particular driver and no particular device. It checks the rules that a miniport
//! must keep, and reports each violation with the rule's source ([`rules`]). It is not Windows:
//! where Microsoft's documentation is silent, the behaviour is a choice of this project, and a rule
//! about it is a house rule.
//!
//! ```no_run
//! use std::{path::Path, sync::Arc};
//!
//! use testbed_devices::{BlkSettings, DiskImage, VirtioBlk};
//! use testbed_loader::Image;
//! use testbed_machine::{Machine, MachineSettings, pci::PciFunction};
//! use testbed_storport::adapter::{Adapter, AdapterSettings};
//!
//! let machine = Machine::new(&MachineSettings::default())?;
//! let disk = DiskImage::create(Path::new("disk.img"), 64 << 20)?;
//! let memory = machine.memory().guest().clone();
//! let function: Arc<dyn PciFunction> = VirtioBlk::new(disk, memory, BlkSettings::default());
//! let image = Arc::new(Image::load(Path::new("driver.sys"), &testbed_storport::resolve)?);
//!
//! let adapter = Adapter::start(&machine, &image, &function, AdapterSettings::default())?;
//! adapter.stop()?;
//! let report = adapter.report();
//! println!("{} violations", report.violations.len());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | Modules | |
//! |---|---|
//! | `abi` | layouts, shared memory, calls to and from the driver: the only unsafe code |
//! | `adapter`, `port`, `configuration` | an adapter, its state, and what the miniport registers |
//! | `life_cycle`, `restart`, `control_request`, `plug_and_play` | start, stop, sleep, power |
//! | `callbacks` | all calls of the miniport, and the checks when they return |
//! | `request`, `cpu_queue`, `units`, `srb` | requests on their way to the miniport and back |
//! | `interrupts`, `dpcs`, `timers` | the other reasons to call the miniport |
//! | `spin_locks`, `held_locks`, `waits`, `lock_order` | locks, their rules, and deadlocks |
//! | `dump`, `single_request` | the stack that writes a crash dump |
//! | `resets`, `watchdog` | requests and callbacks that do not end |
//! | `injections`, `optional` | rare behaviour that a test asks for |
//! | `exports`, `notifications`, `extended` | the functions that the miniport calls |
//! | `pool`, `registers`, `events`, `performance`, `tracing` | what these functions return or do |
//! | `prohibited` | kernel functions that a miniport must not call |
//! | `violations`, `report`, `statistics` | the rules, their violations, and counters |
//!
//! `storport-rules.md` in comments is `docs/reference/storport-rules.md`, which has these rules
//! with their sources.
#![cfg(target_os = "linux")]

use testbed_machine::lock;

mod abi;
pub mod adapter;
mod callbacks;
mod configuration;
pub mod control_request;
mod cpu_queue;
mod dpcs;
pub mod dump;
mod events;
mod exports;
mod extended;
mod held_locks;
mod injections;
mod interrupts;
mod life_cycle;
mod lock_order;
mod notifications;
mod optional;
mod performance;
mod plug_and_play;
mod pool;
mod port;
mod prohibited;
mod registers;
pub mod report;
pub mod request;
mod resets;
mod restart;
mod single_request;
mod spin_locks;
mod srb;
mod statistics;
#[cfg(test)]
mod tests;
mod timers;
mod tracing;
mod units;
mod violations;
mod waits;
mod watchdog;

/// The module whose functions a Storport miniport imports.
pub const MODULE: &str = "storport.sys";

/// The address of `function` of `module`, Storport or the kernel.
#[must_use]
pub fn resolve(module: &str, function: &str) -> Option<usize> {
    match module.to_ascii_lowercase().as_str() {
        MODULE => exports::resolve(function),
        "ntoskrnl.exe" | "hal.dll" => prohibited::resolve(module, function),
        _ => None,
    }
}

/// The name of a call of the import `function`. The first argument selects the name if the import
/// stands for many functions.
pub fn name_of_call(function: &str, first: u64) -> String {
    let selected = match function {
        "StorPortExtendedFunction" => extended::name(first as u32),
        "StorPortNotification" => notifications::name(first as u32),
        _ => return function.to_owned(),
    };
    selected.unwrap_or_else(|| format!("{function}({:#x})", first as u32))
}

/// Whether a physical miniport must not call `function` of `module` (HwStorPortProhibitedDDIs).
#[must_use]
pub fn is_prohibited(module: &str, function: &str) -> bool {
    prohibited::is_prohibited(module, function)
}

/// The rules that the testbed checks.
pub fn rules() -> impl Iterator<Item = report::RuleRow> {
    violations::Rule::ALL.iter().map(|rule| report::RuleRow {
        name: rule.name(),
        list: rule.list(),
        source: rule.source(),
        summary: rule.summary(),
    })
}
