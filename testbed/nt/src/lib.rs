//! What a driver imports of ntoskrnl.exe and hal.dll, as far as storage
//! miniports use it.
//!
//! Functions are named after their exports. They trust their arguments as the
//! kernel does: a bad pointer crashes, and is told as the driver's crash.
#![cfg(target_os = "linux")]
#![expect(unsafe_code, reason = "is called by the driver, with its pointers")]

mod bugcheck;
#[cfg(test)]
mod ending_tests;
mod format;
mod lists;
mod memory_routines;
mod pool;
pub mod print;
mod processor;
mod spin_lock;
mod strings;
pub(crate) mod time;
mod version;

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

pub use self::{
    pool::{PoolUse, pool_in_use},
    print::show_debug_output,
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
        lists::EXPORTS,
        memory_routines::EXPORTS,
        pool::EXPORTS,
        print::EXPORTS,
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

/// The machine's memory. A driver that needs it before there is any is run
/// wrongly by the testbed.
fn memory() -> &'static Arc<Memory> {
    match memory::attached() {
        Some(memory) => memory,
        None => stop_machine(format_args!(
            "the driver used memory of the kernel before the testbed attached any: this is an \
             error of the testbed"
        )),
    }
}

/// Notes a call above the IRQL that `function` is documented for.
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
    fn functions_that_storage_drivers_import_exist() {
        for name in [
            "memcpy",
            "memset",
            "memcmp",
            "memmove",
            "strlen",
            "_vsnprintf",
            "DbgPrint",
            "DbgPrintEx",
            "vDbgPrintEx",
            "MmGetPhysicalAddress",
            "KeBugCheckEx",
            "ExAllocatePool2",
            "ExFreePool",
            "ExFreePoolWithTag",
            "KeNumberProcessors",
            "KeQueryActiveProcessorCountEx",
            "KeGetCurrentIrql",
            "KfRaiseIrql",
            "KeLowerIrql",
            "RtlInitUnicodeString",
            "__C_specific_handler",
            "__chkstk",
        ] {
            assert!(resolve(name).is_some(), "{name}");
        }
        assert_eq!(resolve("NtCreateFile"), None);
    }
}
