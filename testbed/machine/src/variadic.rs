//! Variadic functions of the Microsoft x64 ABI: a thunk that stores all arguments in one array,
//! and the reader of that array.
//!
//! A caller passes the first four arguments in RCX, RDX, R8 and R9. It passes a variadic
//! floating-point argument in the integer register too. The other arguments are on the stack,
//! above 32 bytes of home space for the callee. With the four registers stored in the home
//! space, all arguments are an array of 8-byte slots. A `va_list` is a pointer into it.
#![expect(unsafe_code, reason = "reads what the driver passed, by the ABI")]

/// The remaining arguments of a variadic call: a `va_list`.
#[repr(transparent)]
#[derive(Clone, Debug)]
pub struct VariadicArguments(*const u64);

impl VariadicArguments {
    /// Arguments in an array of slots.
    #[must_use]
    pub fn from_slots(slots: *const u64) -> Self {
        Self(slots)
    }

    /// The return address of the call, which is below the home space.
    ///
    /// # Safety
    /// These must be all arguments of a call through [`variadic_entry`], none taken.
    ///
    /// [`variadic_entry`]: crate::variadic_entry
    #[must_use]
    pub unsafe fn return_address(&self) -> usize {
        let below = self.0.wrapping_sub(1);
        // SAFETY: the call's frame lives (contract above).
        unsafe { below.read() as usize }
    }

    /// The address of the next argument.
    #[must_use]
    pub fn address(&self) -> usize {
        self.0.addr()
    }

    /// Takes the next argument as the 8 bytes of its slot.
    ///
    /// # Safety
    /// The caller must have passed that many arguments. Its frame, or the `va_list`, must still
    /// exist.
    pub unsafe fn u64(&mut self) -> u64 {
        // SAFETY: the slot is one of the arguments passed (contract above).
        let value = unsafe { self.0.read() };
        self.0 = self.0.wrapping_add(1);
        value
    }

    /// Takes the next argument as a ULONG, an enum, or a shorter type that C promotes. Drops
    /// the upper half of the slot, which is undefined.
    ///
    /// # Safety
    /// As for [`Self::u64`].
    pub unsafe fn u32(&mut self) -> u32 {
        // SAFETY: as the caller promises.
        unsafe { self.u64() as u32 }
    }
}

/// Defines the variadic function `$name`. It passes its arguments to `$target`, an `extern
/// "win64" fn(VariadicArguments) -> usize`, and returns the result in RAX. Below the return
/// address it saves the callee-saved registers, so that the driver's stack can be walked from
/// there. Take its address as `$name as *const () as usize`.
///
/// The calling module needs `#![expect(unsafe_code, reason = "...")]`.
#[macro_export]
macro_rules! variadic_entry {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident => $target:path) => {
        $(#[$attribute])*
        #[unsafe(naked)]
        $visibility extern "win64" fn $name() -> usize {
            const _: extern "win64" fn($crate::variadic::VariadicArguments) -> usize =
                $target;
            ::core::arch::naked_asm!(
                $crate::store_arguments_and_call!(""),
                "ret",
                target = sym $target,
            )
        }
    };
}

/// The instructions that store the arguments, save the callee-saved registers and call
/// `{target}` with the [`VariadicArguments`], after the instruction `$set`, which can set RDX.
#[doc(hidden)]
#[macro_export]
macro_rules! store_arguments_and_call {
    ($set:literal) => {
        // 40 bytes: home space for the callee, and alignment of RSP to 16 at the call. The
        // callee preserves the pushed registers.
        concat!(
            "mov [rsp + 8], rcx; mov [rsp + 16], rdx; mov [rsp + 24], r8; mov [rsp + 32], r9;",
            "lea rcx, [rsp + 8];",
            $set,
            "; push rbx; push rbp; push rsi; push rdi; push r12; push r13; push r14; push r15;",
            "sub rsp, 40; call {target}; add rsp, 104",
        )
    };
}

#[cfg(test)]
mod tests {
    use super::VariadicArguments;

    extern "win64" fn digits(mut arguments: VariadicArguments) -> usize {
        // SAFETY: the test passes the count and then that many arguments.
        let count = unsafe { arguments.u32() };
        (0..count).fold(0, |sum, _| {
            // SAFETY: as above.
            let digit = unsafe { arguments.u64() };
            sum * 10 + digit as usize
        })
    }

    variadic_entry!(fn digits_entry => digits);

    #[test]
    fn register_and_stack_arguments_arrive_in_order() {
        type Six = extern "win64" fn(u32, u64, u64, u64, u64, u64, u64) -> usize;
        // SAFETY: the entry takes any number of integer arguments.
        let call =
            unsafe { std::mem::transmute::<extern "win64" fn() -> usize, Six>(digits_entry) };

        assert_eq!(call(6, 1, 2, 3, 4, 5, 6), 123_456);
    }

    #[test]
    fn the_upper_half_of_a_slot_is_no_part_of_a_short_argument() {
        let mut arguments = VariadicArguments::from_slots(&0xffff_ffff_0000_0007);

        // SAFETY: one slot, one argument.
        assert_eq!(unsafe { arguments.u32() }, 7);
    }
}
