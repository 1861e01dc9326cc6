//! Functions of the kernel's that a physical miniport is not to call:
//! HwStorPortProhibitedDDIs lists 351, in `prohibited_ddis.txt`. An import of
//! one is told when the driver is loaded, each call when it is made.
//!
//! Most are not in the testbed's kernel, and a driver that imports one of those
//! is refused anyway; `testbed imports` marks them all.
#![expect(unsafe_code, reason = "stands between the driver and the kernel")]

use std::{arch::naked_asm, collections::HashSet, sync::OnceLock};

use super::{
    callbacks::{self, Callback},
    port::Port,
    violations::Rule,
};
use testbed_loader::Import;
use testbed_machine::trap;

/// The names that Microsoft's rule lists, one a line.
const LIST: &str = include_str!("prohibited_ddis.txt");

/// Names of the list that are macros, and what they call.
const MACROS: [(&str, &str); 7] = [
    ("IoCallDriver", "IofCallDriver"),
    ("IoCompleteRequest", "IofCompleteRequest"),
    ("KeRaiseIrql", "KfRaiseIrql"),
    ("ObDereferenceObject", "ObfDereferenceObject"),
    ("ObDereferenceObjectWithTag", "ObfDereferenceObjectWithTag"),
    ("ObReferenceObject", "ObfReferenceObject"),
    ("ObReferenceObjectWithTag", "ObfReferenceObjectWithTag"),
];

/// What waits or allocates by the lists of SpNoWait and StorPortStartIo.
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

/// Whether `module` is the kernel's and `function` on the list.
pub(super) fn is_prohibited(module: &str, function: &str) -> bool {
    static NAMES: OnceLock<HashSet<&'static str>> = OnceLock::new();
    let names = NAMES.get_or_init(|| {
        LIST.lines()
            .chain(MACROS.map(|(_, export)| export))
            .collect()
    });
    ["ntoskrnl.exe", "hal.dll"]
        .iter()
        .any(|kernel| module.eq_ignore_ascii_case(kernel))
        && names.contains(function)
}

/// The address of the kernel's export `function`, or of what tells of its call
/// first.
pub(super) fn resolve(module: &str, function: &str) -> Option<usize> {
    let address = testbed_nt::resolve(function)?;
    if is_prohibited(module, function) {
        Some(guard(function, address))
    } else {
        Some(address)
    }
}

/// Functions that can be guarded at a time: more than the testbed's kernel has
/// of the list.
const MOST: usize = 64;

static GUARDED: [OnceLock<(String, usize)>; MOST] = [const { OnceLock::new() }; MOST];

/// The entry that tells of a call and goes on to `address`; `address` itself if
/// all are taken.
fn guard(function: &str, address: usize) -> usize {
    let place = GUARDED.iter().position(|place| {
        let (known, _) = place.get_or_init(|| (function.to_owned(), address));
        known == function
    });
    place.map_or(address, |number| ENTRIES[number] as *const () as usize)
}

macro_rules! entries {
    ($($number:literal)*) => {
        /// An entry for each number.
        static ENTRIES: [extern "win64" fn(); MOST] = [$(entry::<$number>,)*];
    };
}

entries! {
    0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
    32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61
    62 63
}

/// Tells of the call as `variadic_entry` does, and goes on to the function as
/// if it had been called directly.
#[unsafe(naked)]
extern "win64" fn entry<const NUMBER: usize>() {
    naked_asm!(
        "mov [rsp + 8], rcx",
        "mov [rsp + 16], rdx",
        "mov [rsp + 24], r8",
        "mov [rsp + 32], r9",
        "lea rcx, [rsp + 8]",
        "mov edx, {number}",
        "push rbx",
        "push rbp",
        "push rsi",
        "push rdi",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 40",
        "call {tell}",
        "add rsp, 104",
        "mov rcx, [rsp + 8]",
        "mov rdx, [rsp + 16]",
        "mov r8, [rsp + 24]",
        "mov r9, [rsp + 32]",
        "jmp rax",
        number = const NUMBER,
        tell = sym tell,
    )
}

/// Tells of the call of guarded function `number` whose arguments lie at
/// `arguments`; gives its address.
extern "win64" fn tell(arguments: usize, number: usize) -> usize {
    let Some((function, address)) = GUARDED.get(number).and_then(OnceLock::get) else {
        trap::stop_machine(format_args!(
            "a kernel function was called that the testbed did not provide: please report this \
             bug"
        ));
    };
    trap::record_call(arguments);
    let below = (arguments as *const usize).wrapping_sub(1);
    // SAFETY: the entry's own return address lies below its arguments.
    let caller = unsafe { below.read() };
    if let Some(port) = callbacks::current_port() {
        port.violation(
            Rule::DdiProhibited,
            caller,
            format_args!("{function} is a kernel function that physical miniports must not call"),
        );
        if callbacks::current() == Callback::HwStartIo && TAKE_TIME.contains(&function.as_str()) {
            port.violation(
                Rule::StartIoWait,
                caller,
                format_args!("{function} in HwStartIo"),
            );
        }
    }
    *address
}

impl Port {
    /// Tells of what the driver's file imports of the list.
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
        let names: HashSet<_> = LIST.lines().collect();

        assert_eq!(names.len(), 351);
        assert_eq!(LIST.lines().count(), 351);
        for (name, _) in MACROS {
            assert!(names.contains(name), "{name}");
        }
        for name in TAKE_TIME {
            assert!(names.contains(name), "{name}");
        }
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

    #[test]
    fn a_guarded_function_still_does_its_work() {
        let address = resolve("ntoskrnl.exe", "KeRaiseIrqlToDpcLevel").expect("an export");
        assert_ne!(Some(address), testbed_nt::resolve("KeRaiseIrqlToDpcLevel"));
        // SAFETY: the function takes nothing and gives the IRQL before.
        let raise: extern "win64" fn() -> u8 = unsafe { std::mem::transmute(address) };

        let before = testbed_machine::cpu::set_irql(1);
        let old = raise();
        let raised = testbed_machine::cpu::set_irql(before);

        assert_eq!((old, raised), (1, testbed_machine::cpu::irql::DISPATCH));
        assert_eq!(
            resolve("ntoskrnl.exe", "KeRaiseIrqlToDpcLevel"),
            Some(address)
        );
        assert_eq!(
            resolve("ntoskrnl.exe", "memcpy"),
            testbed_nt::resolve("memcpy")
        );
    }
}
