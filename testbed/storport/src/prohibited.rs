//! Kernel functions that a physical miniport must not call: the 351 names that
//! HwStorPortProhibitedDDIs lists, in `prohibited_ddis.txt`. An import is reported when the
//! driver is loaded, and each call when it is made.
//!
//! The testbed's kernel lacks most of them, and does not load drivers that import those.
//! `testbed imports` marks all.

use std::{collections::HashSet, sync::OnceLock};

use super::{
    abi::reporting_thunks,
    callbacks::{self, Callback},
    port::Port,
    violations::Rule,
};
use testbed_loader::Import;
use testbed_machine::trap;

/// The names in Microsoft's rule, one per line, after a comment.
const LIST: &str = include_str!("prohibited_ddis.txt");

fn list() -> impl Iterator<Item = &'static str> {
    LIST.lines().filter(|line| !line.starts_with('#'))
}

/// Names in the list that are macros, and the functions that these call.
const MACROS: [(&str, &str); 7] = [
    ("IoCallDriver", "IofCallDriver"),
    ("IoCompleteRequest", "IofCompleteRequest"),
    ("KeRaiseIrql", "KfRaiseIrql"),
    ("ObDereferenceObject", "ObfDereferenceObject"),
    ("ObDereferenceObjectWithTag", "ObfDereferenceObjectWithTag"),
    ("ObReferenceObject", "ObfReferenceObject"),
    ("ObReferenceObjectWithTag", "ObfReferenceObjectWithTag"),
];

/// The functions that wait or allocate, from the lists of SpNoWait and StorPortStartIo.
const TAKE_TIME: [&str; 18] = [
    "ExAcquireSharedWaitForExclusive",
    "ExAllocatePool",
    "ExAllocatePoolWithQuota",
    "ExAllocatePoolWithQuotaTag",
    "ExAllocatePoolWithTag",
    "ExAllocatePoolWithTagPriority",
    "ExWaitForRundownProtectionRelease",
    "IoAllocateController",
    "IoAllocateIrp",
    "IoWMIAllocateInstanceIds",
    "KeWaitForMultipleObjects",
    "KeWaitForMutexObject",
    "KeWaitForSingleObject",
    "MmAllocateNonCachedMemory",
    "MmAllocatePagesForMdl",
    "ZwAllocateLocallyUniqueId",
    "ZwAllocateVirtualMemory",
    "ZwWaitForSingleObject",
];

/// Whether `module` is the kernel and `function` is in the list.
pub(super) fn is_prohibited(module: &str, function: &str) -> bool {
    static NAMES: OnceLock<HashSet<&'static str>> = OnceLock::new();
    let names = NAMES.get_or_init(|| list().chain(MACROS.map(|(_, export)| export)).collect());
    ["ntoskrnl.exe", "hal.dll"]
        .iter()
        .any(|kernel| module.eq_ignore_ascii_case(kernel))
        && names.contains(function)
}

/// The address of the kernel's export `function`. A prohibited function gets a thunk, which
/// reports its calls.
pub(super) fn resolve(module: &str, function: &str) -> Option<usize> {
    let address = testbed_nt::resolve(function)?;
    if is_prohibited(module, function) {
        Some(thunk(function, address))
    } else {
        Some(address)
    }
}

/// The functions that have thunks: names and addresses.
static REPORTED: [OnceLock<(String, usize)>; reporting_thunks::COUNT] =
    [const { OnceLock::new() }; reporting_thunks::COUNT];

/// The address of a thunk for `function` at `address`, or `address` if no thunk is free.
fn thunk(function: &str, address: usize) -> usize {
    let number = REPORTED.iter().position(|reported| {
        let (name, _) = reported.get_or_init(|| (function.to_owned(), address));
        name == function
    });
    number
        .and_then(reporting_thunks::address)
        .unwrap_or(address)
}

/// Reports a call of thunk `number`. Returns the address of its function.
pub(super) fn called(number: usize) -> usize {
    let Some((function, address)) = REPORTED.get(number).and_then(OnceLock::get) else {
        trap::stop_machine(format_args!(
            "the driver called a thunk without a function: please report this bug"
        ));
    };
    if let Some(port) = callbacks::current_port() {
        port.violation(
            Rule::DdiProhibited,
            format_args!("{function} is a kernel function that physical miniports must not call"),
        );
        if callbacks::current() == Callback::HwStartIo && TAKE_TIME.contains(&function.as_str()) {
            port.violation(Rule::StartIoWait, format_args!("{function} in HwStartIo"));
        }
    }
    *address
}

impl Port {
    /// Reports the prohibited functions that the driver's file imports.
    pub(super) fn check_imports(&self, imports: &[Import]) {
        let names: Vec<_> = imports
            .iter()
            .filter(|import| is_prohibited(&import.module, &import.function))
            .map(|import| import.function.as_str())
            .collect();
        if !names.is_empty() {
            self.violation_of(
                Callback::None,
                Rule::DdiProhibited,
                format_args!("the driver's file imports {}", names.join(", ")),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_the_rules_351_names_each_once() {
        let names: HashSet<_> = list().collect();

        assert_eq!(names.len(), 351);
        assert_eq!(list().count(), 351);
        for (name, _) in MACROS {
            assert!(names.contains(name), "{name}");
        }
        for name in TAKE_TIME {
            assert!(names.contains(name), "{name}");
        }
    }

    /// A driver that imports another name of the list is not loaded.
    #[test]
    fn the_kernel_has_these_functions_of_the_list() {
        let exist: Vec<_> = list()
            .chain(MACROS.map(|(_, export)| export))
            .filter(|name| testbed_nt::resolve(name).is_some())
            .collect();

        assert_eq!(
            exist,
            [
                "ExAllocatePool",
                "ExAllocatePoolWithTag",
                "ExRaiseStatus",
                "KeAcquireInStackQueuedSpinLock",
                "KeAcquireSpinLockAtDpcLevel",
                "KeAcquireSpinLockRaiseToDpc",
                "KeDelayExecutionThread",
                "KeGetCurrentIrql",
                "KeInitializeSpinLock",
                "KeLowerIrql",
                "KeQueryActiveProcessors",
                "KeRaiseIrql",
                "KeRaiseIrqlToDpcLevel",
                "KeReleaseInStackQueuedSpinLock",
                "KeReleaseSpinLock",
                "KeReleaseSpinLockFromDpcLevel",
                "MmGetSystemRoutineAddress",
                "KfRaiseIrql",
            ]
        );
    }

    #[test]
    fn only_the_kernels_functions_are_prohibited() {
        assert!(is_prohibited("ntoskrnl.exe", "KeAcquireSpinLockRaiseToDpc"));
        assert!(is_prohibited("NTOSKRNL.EXE", "KfRaiseIrql"));
        assert!(is_prohibited("hal.dll", "KeRaiseIrqlToDpcLevel"));
        assert!(!is_prohibited("storport.sys", "KeWaitForSingleObject"));
        assert!(!is_prohibited("ntoskrnl.exe", "memcpy"));
        assert!(!is_prohibited("ntoskrnl.exe", "KeBugCheckEx"));
    }

    /// A test in `tests/wrong_callbacks.rs` calls prohibited functions.
    #[test]
    fn only_a_prohibited_function_has_a_thunk() {
        let thunk = resolve("ntoskrnl.exe", "KeRaiseIrqlToDpcLevel");

        assert!(thunk.is_some());
        assert_ne!(thunk, testbed_nt::resolve("KeRaiseIrqlToDpcLevel"));
        assert_eq!(resolve("ntoskrnl.exe", "KeRaiseIrqlToDpcLevel"), thunk);
        assert_eq!(
            resolve("ntoskrnl.exe", "memcpy"),
            testbed_nt::resolve("memcpy")
        );
    }
}
