//! The exports of ntoskrnl.exe and hal.dll that storage miniports import, on the testbed's
//! machine. It is not a Windows kernel: it has no processes, files, registry or Plug and Play.
//!
//! Functions are named after their exports. They trust the driver's arguments, as the kernel
//! does: with a bad pointer they crash, and the crash is reported as the driver's.
//!
//! - `bugcheck`, `version`: bug checks and the debugger, the version of Windows
//! - `pool`, `memory_routines`, `strings`, `c_runtime`: memory and strings
//! - `spin_lock`, `processor`, `time`: locks, processors and IRQL, time
//!
//! ```
//! # #[cfg(target_os = "linux")] {
//! assert!(testbed_nt::resolve("ExAllocatePool2").is_some());
//! assert!(testbed_nt::resolve("NtCreateFile").is_none());
//! # }
//! ```
#![cfg(target_os = "linux")]
#![expect(unsafe_code, reason = "is called by the driver, with its pointers")]

/// Defines the exports of a module: each name, and the function behind it.
macro_rules! exports {
    ($($name:expr => $function:path,)*) => {
        pub(super) const EXPORTS: &[super::Export] = &[$(($name, $function as *const ())),*];
    };
}

mod bugcheck;
mod c_runtime;
#[cfg(test)]
mod ending_tests;
mod memory_routines;
mod pool;
mod processor;
mod spin_lock;
mod strings;
mod time;
mod version;

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use testbed_machine::{
    cpu,
    memory::{self, Memory},
    trap::{current_callback, record_driver_error, stop_machine},
};

/// An export: its name and its address.
type Export = (&'static str, *const ());

/// The address of the ntoskrnl.exe or hal.dll export `function`.
#[must_use]
pub fn resolve(function: &str) -> Option<usize> {
    static ADDRESSES: OnceLock<HashMap<&'static str, usize>> = OnceLock::new();
    let addresses = ADDRESSES.get_or_init(|| {
        exports()
            .map(|(name, address)| (name, address as usize))
            .collect()
    });
    if function == processor::COUNT_VARIABLE {
        return Some(processor::count_variable());
    }
    addresses.get(function).copied()
}

fn exports() -> impl Iterator<Item = Export> {
    [
        bugcheck::EXPORTS,
        c_runtime::EXPORTS,
        memory_routines::EXPORTS,
        pool::EXPORTS,
        processor::EXPORTS,
        spin_lock::EXPORTS,
        strings::EXPORTS,
        time::EXPORTS,
        version::EXPORTS,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// The machine's memory. Stops the machine if there is none yet, which is an error of the
/// testbed.
fn memory() -> &'static Arc<Memory> {
    match memory::attached() {
        Some(memory) => memory,
        None => stop_machine(format_args!(
            "the driver used memory of the kernel before the testbed attached any: this is an \
             error of the testbed"
        )),
    }
}

/// Records a call above the highest IRQL at which `function` may be called.
fn require_irql(function: &str, highest: u8) {
    let level = cpu::current_irql();
    if level > highest {
        record_driver_error(format!(
            "{function} was called at IRQL {level} in {}, and may be called up to {highest}",
            current_callback().unwrap_or("no callback")
        ));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{exports, resolve};

    #[test]
    fn every_export_has_one_name_and_one_address() {
        let names: Vec<_> = exports().map(|(name, _)| name).collect();

        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        for name in names {
            assert!(resolve(name).is_some_and(|address| address != 0), "{name}");
        }
    }

    #[test]
    fn functions_that_drivers_import_exist() {
        let linked = [
            include_str!("../../../cross/def/ntoskrnl.def"),
            include_str!("../../../cross/def/hal.def"),
        ];
        let linked = linked.map(|text| text.lines().filter_map(|line| line.strip_prefix("    ")));
        let of_viostor = [
            "strlen",
            "_vsnprintf",
            "KeNumberProcessors",
            "KeQueryMaximumProcessorCountEx",
        ];
        for name in linked.into_iter().flatten().chain(of_viostor) {
            assert!(resolve(name).is_some(), "{name}");
        }
        assert_eq!(resolve("NtCreateFile"), None);
    }
}
