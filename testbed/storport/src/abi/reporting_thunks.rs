//! Thunks that report a call of a kernel function and continue in the function.

use std::arch::naked_asm;

use testbed_machine::{store_arguments_and_call, trap, variadic::VariadicArguments};

use crate::{callbacks, prohibited};

/// The number of thunks, which exceeds the number of prohibited functions in the testbed's
/// kernel.
pub(crate) const COUNT: usize = 64;

macro_rules! thunks {
    ($($number:literal)*) => {
        static THUNKS: [extern "win64" fn(); COUNT] = [$(thunk::<$number>,)*];
    };
}

thunks! {
    0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
    32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61
    62 63
}

/// The address of thunk `number`.
pub(crate) fn address(number: usize) -> Option<usize> {
    THUNKS.get(number).map(|thunk| *thunk as *const () as usize)
}

/// Stores the arguments as a thunk of `variadic_entry` does, and calls [`called`]. Then jumps to
/// the function with the registers and the stack of the original call.
#[unsafe(naked)]
extern "win64" fn thunk<const NUMBER: usize>() {
    naked_asm!(
        store_arguments_and_call!("mov edx, {number}"),
        "mov rcx, [rsp + 8]",
        "mov rdx, [rsp + 16]",
        "mov r8, [rsp + 24]",
        "mov r9, [rsp + 32]",
        "jmp rax",
        number = const NUMBER,
        target = sym called,
    )
}

/// Reports a call of thunk `number`. Returns the address of its function.
extern "win64" fn called(arguments: VariadicArguments, number: usize) -> usize {
    trap::record_call(arguments.address());
    // SAFETY: the thunk passed all arguments of the call.
    let caller = unsafe { arguments.return_address() };
    callbacks::called_from(caller, || prohibited::called(number))
}
