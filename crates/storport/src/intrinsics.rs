//! The memory routines that the compiler calls.
//!
//! Without them the driver would import them from ntoskrnl.exe, but a miniport must import from its
//! port driver only (HLK, Storage Imports Test). These routines must not contain a loop that the
//! compiler recognises: it would replace the loop with a call of the routine itself.
#![expect(unsafe_code, reason = "these are C functions on raw memory")]

use core::arch::asm;

/// C's memcpy.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    // SAFETY: The caller's ranges are valid and do not overlap.
    unsafe { copy_up(to, from, bytes) };
    to
}

/// C's memmove.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    if to.addr().wrapping_sub(from.addr()) >= bytes {
        // SAFETY: The caller's ranges are valid. In ascending order, no byte is overwritten before
        // it is read.
        unsafe { copy_up(to, from, bytes) };
    } else {
        // SAFETY: As above, in descending order.
        unsafe { copy_down(to, from, bytes) };
    }
    to
}

/// C's memset.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, bytes: usize) -> *mut u8 {
    // SAFETY: the caller's range is valid.
    unsafe { fill(to, value as u8, bytes) };
    to
}

/// C's memcmp.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, bytes: usize) -> i32 {
    for index in 0..bytes {
        // SAFETY: The caller's ranges are valid. The compiler does not replace volatile reads with
        // a call.
        let one = unsafe { left.wrapping_add(index).read_volatile() };
        // SAFETY: as above.
        let other = unsafe { right.wrapping_add(index).read_volatile() };
        if one != other {
            return i32::from(one).wrapping_sub(i32::from(other));
        }
    }
    0
}

#[cfg(target_arch = "x86_64")]
unsafe fn copy_up(to: *mut u8, from: *const u8, bytes: usize) {
    // SAFETY: the direction flag is clear at every call (x64 ABI); the rest
    // is the caller's promise.
    unsafe {
        asm!(
            "rep movsb",
            inout("rdi") to => _, inout("rsi") from => _, inout("rcx") bytes => _,
            options(nostack, preserves_flags),
        );
    }
}

#[cfg(target_arch = "x86_64")]
unsafe fn copy_down(to: *mut u8, from: *const u8, bytes: usize) {
    // SAFETY: The direction flag is set for this instruction only, which copies the last bytes
    // first. The caller's ranges are valid. They overlap, so they are not empty.
    unsafe {
        asm!(
            "std",
            "rep movsb",
            "cld",
            inout("rdi") to.wrapping_add(bytes).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(bytes).wrapping_sub(1) => _,
            inout("rcx") bytes => _,
            options(nostack),
        );
    }
}

#[cfg(target_arch = "x86_64")]
unsafe fn fill(to: *mut u8, value: u8, bytes: usize) {
    // SAFETY: as in `copy_up`.
    unsafe {
        asm!(
            "rep stosb",
            inout("rdi") to => _, inout("rcx") bytes => _, in("al") value,
            options(nostack, preserves_flags),
        );
    }
}

#[cfg(target_arch = "aarch64")]
unsafe fn copy_up(to: *mut u8, from: *const u8, bytes: usize) {
    // SAFETY: The caller's ranges are valid. Each 16 bytes are read before they are written, so the
    // ascending order is correct for overlapping ranges too.
    unsafe {
        asm!(
            "subs {n}, {n}, #16",
            "b.lo 3f",
            "2:",
            "ldp {a}, {b}, [{s}], #16",
            "stp {a}, {b}, [{d}], #16",
            "subs {n}, {n}, #16",
            "b.hs 2b",
            "3:",
            "adds {n}, {n}, #16",
            "b.eq 5f",
            "4:",
            "ldrb {a:w}, [{s}], #1",
            "strb {a:w}, [{d}], #1",
            "subs {n}, {n}, #1",
            "b.ne 4b",
            "5:",
            d = inout(reg) to => _, s = inout(reg) from => _, n = inout(reg) bytes => _,
            a = out(reg) _, b = out(reg) _,
            options(nostack),
        );
    }
}

#[cfg(target_arch = "aarch64")]
unsafe fn copy_down(to: *mut u8, from: *const u8, bytes: usize) {
    // SAFETY: As in `copy_up`, in descending order.
    unsafe {
        asm!(
            "subs {n}, {n}, #16",
            "b.lo 3f",
            "2:",
            "ldp {a}, {b}, [{s}, #-16]!",
            "stp {a}, {b}, [{d}, #-16]!",
            "subs {n}, {n}, #16",
            "b.hs 2b",
            "3:",
            "adds {n}, {n}, #16",
            "b.eq 5f",
            "4:",
            "ldrb {a:w}, [{s}, #-1]!",
            "strb {a:w}, [{d}, #-1]!",
            "subs {n}, {n}, #1",
            "b.ne 4b",
            "5:",
            d = inout(reg) to.wrapping_add(bytes) => _,
            s = inout(reg) from.wrapping_add(bytes) => _,
            n = inout(reg) bytes => _,
            a = out(reg) _, b = out(reg) _,
            options(nostack),
        );
    }
}

#[cfg(target_arch = "aarch64")]
unsafe fn fill(to: *mut u8, value: u8, bytes: usize) {
    let eight = u64::from_ne_bytes([value; 8]);
    // SAFETY: the caller's range is valid.
    unsafe {
        asm!(
            "subs {n}, {n}, #16",
            "b.lo 3f",
            "2:",
            "stp {v}, {v}, [{d}], #16",
            "subs {n}, {n}, #16",
            "b.hs 2b",
            "3:",
            "adds {n}, {n}, #16",
            "b.eq 5f",
            "4:",
            "strb {v:w}, [{d}], #1",
            "subs {n}, {n}, #1",
            "b.ne 4b",
            "5:",
            d = inout(reg) to => _, n = inout(reg) bytes => _, v = in(reg) eight,
            options(nostack),
        );
    }
}
