//! Calls that stop the machine: bug checks, and fatal routines of the compiler's runtime. Calls
//! of a debugger, which is never attached.

use std::{
    arch::naked_asm,
    ffi::{CStr, c_char},
    fmt,
};

use testbed_machine::{
    trap::{Place, current_callback, driver_image, read_memory, stop_machine},
    variadic::VariadicArguments,
    variadic_entry,
};

exports! {
    "KeBugCheck" => ke_bug_check_entry,
    "KeBugCheckEx" => ke_bug_check_ex_entry,
    "__C_specific_handler" => c_specific_handler,
    "__chkstk" => chkstk,
    "_purecall" => purecall,
    "ExRaiseStatus" => ex_raise_status,
    "DbgPrint" => print_nothing,
    "DbgPrintEx" => print_nothing,
    "vDbgPrintEx" => print_nothing,
    "vDbgPrintExWithPrefix" => print_nothing,
    "DbgBreakPoint" => dbg_break_point,
    "RtlAssert" => rtl_assert,
}

/// "RPNC", the bug check of `wdk-panic`. Its parameters are the file name, its length, the line
/// and the column.
const RUST_PANIC: u32 = 0x5250_4e43;

/// The longest file name that is printed.
const LONGEST_NAME: usize = 512;

// Reads the five arguments as variadic ones, to find the return address.
variadic_entry!(fn ke_bug_check_entry => ke_bug_check);
variadic_entry!(fn ke_bug_check_ex_entry => ke_bug_check_ex);

extern "win64" fn ke_bug_check(mut arguments: VariadicArguments) -> usize {
    // SAFETY: no argument was taken yet.
    let caller = unsafe { arguments.return_address() };
    // SAFETY: the code is the one argument.
    let code = unsafe { arguments.u32() };
    stop(code, [0; 4], caller)
}

extern "win64" fn ke_bug_check_ex(mut arguments: VariadicArguments) -> usize {
    // SAFETY: no argument was taken yet.
    let caller = unsafe { arguments.return_address() };
    // SAFETY: the code is the first argument.
    let code = unsafe { arguments.u32() };
    let parameters = std::array::from_fn(|_| {
        // SAFETY: four parameters follow.
        unsafe { arguments.u64() }
    });
    stop(code, parameters, caller)
}

fn stop(code: u32, parameters: [u64; 4], caller: usize) -> ! {
    let bug_check = BugCheck { code, parameters };
    stop_machine(format_args!(
        "{} stopped the machine: {bug_check}\n  in {}, called before {}",
        driver_image().map_or("the driver", |image| image.name()),
        current_callback().unwrap_or("no callback"),
        Place(caller)
    ))
}

struct BugCheck {
    code: u32,
    parameters: [u64; 4],
}

impl fmt::Display for BugCheck {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second, third, fourth] = self.parameters;
        if self.code == RUST_PANIC {
            let mut name = [0; LONGEST_NAME];
            let name = &mut name[..(second as usize).min(LONGEST_NAME)];
            let readable = first != 0 && read_memory(first as usize, name).is_some();
            let name = std::str::from_utf8(name).ok().filter(|_| readable);
            return write!(
                formatter,
                "it panicked at {}:{third}:{fourth} (bug check RPNC of wdk-panic)",
                name.unwrap_or("an unknown place")
            );
        }
        write!(
            formatter,
            "bug check {:#010x} with parameters {first:#x}, {second:#x}, {third:#x}, {fourth:#x}",
            self.code
        )
    }
}

/// The compiler's handler for `__try`. The testbed raises no exceptions.
extern "win64" fn c_specific_handler() {
    stop_machine(format_args!(
        "the driver's exception handler was called: the testbed has no structured exceptions"
    ))
}

extern "win64" fn purecall() {
    stop_machine(format_args!("the driver called a pure virtual function"))
}

extern "win64" fn ex_raise_status(status: u32) {
    stop_machine(format_args!(
        "the driver raised an exception with status {status:#010x}: the testbed has no \
         structured exceptions"
    ))
}

/// Returns STATUS_SUCCESS.
extern "win64" fn print_nothing() -> u32 {
    0
}

extern "win64" fn dbg_break_point() {
    stop_machine(format_args!(
        "the driver called DbgBreakPoint, and no debugger is attached"
    ))
}

unsafe extern "win64" fn rtl_assert(
    assertion: *const c_char,
    file: *const c_char,
    line: u32,
    message: *const c_char,
) {
    let text = |text: *const c_char| match text.is_null() {
        true => "".into(),
        // SAFETY: trusts the driver's arguments, as the kernel does.
        false => unsafe { CStr::from_ptr(text) }.to_string_lossy(),
    };
    stop_machine(format_args!(
        "the driver's assertion failed: {} ({}, line {line}) {}",
        text(assertion),
        text(file),
        text(message)
    ))
}

/// The compiler calls this before a function allocates more than a page of stack. It touches
/// each page of the RAX bytes below the caller's stack pointer, from the top. It changes only
/// R10 and R11.
#[unsafe(naked)]
extern "win64" fn chkstk() {
    naked_asm!(
        // The caller's stack pointer, above the return address.
        "lea r10, [rsp + 8]",
        "mov r11, rax",
        "2:",
        "cmp r11, 4096",
        "jb 3f",
        "sub r10, 4096",
        "test byte ptr [r10], 0",
        "sub r11, 4096",
        "jmp 2b",
        "3:",
        "sub r10, r11",
        "test byte ptr [r10], 0",
        "ret",
    )
}

#[cfg(test)]
mod tests {
    use super::{BugCheck, RUST_PANIC};

    #[test]
    fn a_rust_panic_is_reported_with_its_location() {
        let name = "src/adapter.rs";
        let bug_check = BugCheck {
            code: RUST_PANIC,
            parameters: [name.as_ptr() as u64, name.len() as u64, 12, 5],
        };

        assert_eq!(
            bug_check.to_string(),
            "it panicked at src/adapter.rs:12:5 (bug check RPNC of wdk-panic)"
        );
    }

    #[test]
    fn a_rust_panic_without_a_valid_location_is_reported_too() {
        for (pointer, length) in [(0, 0), (8, 10), (8, u64::MAX)] {
            let bug_check = BugCheck {
                code: RUST_PANIC,
                parameters: [pointer, length, 0, 0],
            };
            assert!(bug_check.to_string().contains("an unknown place:0:0"));
        }
    }

    #[test]
    fn the_stack_probe_keeps_the_registers() {
        for bytes in [0_u64, 100, 4096, 5000, 100_000] {
            let (after, first): (u64, u64);
            // SAFETY: the probe reads the stack below; it changes R10 and R11.
            unsafe {
                std::arch::asm!(
                    "call {probe}",
                    probe = sym super::chkstk,
                    inout("rax") bytes => after,
                    inout("rcx") 0x1234_u64 => first,
                    out("r10") _,
                    out("r11") _,
                );
            }
            assert_eq!((after, first), (bytes, 0x1234));
        }
    }
}
