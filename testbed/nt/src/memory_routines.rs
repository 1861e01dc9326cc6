//! Copying, filling and comparing memory, and asking where it is.

use std::ffi::c_void;

use super::{Export, memory};

pub(super) const EXPORTS: &[Export] = &[
    ("memcpy", memmove as *const ()),
    ("memmove", memmove as *const ()),
    ("memset", memset as *const ()),
    ("memcmp", memcmp as *const ()),
    ("memchr", memchr as *const ()),
    ("memcpy_s", memmove_s as *const ()),
    ("memmove_s", memmove_s as *const ()),
    ("RtlCopyMemory", memmove as *const ()),
    ("RtlMoveMemory", memmove as *const ()),
    ("RtlCopyMemoryNonTemporal", memmove as *const ()),
    ("RtlFillMemory", rtl_fill_memory as *const ()),
    ("RtlZeroMemory", rtl_zero_memory as *const ()),
    ("RtlCompareMemory", rtl_compare_memory as *const ()),
    ("MmGetPhysicalAddress", mm_get_physical_address as *const ()),
    ("MmIsAddressValid", mm_is_address_valid as *const ()),
];

const EINVAL: i32 = 22;
const ERANGE: i32 = 34;

/// `memcpy` too: the kernel's takes overlapping memory.
unsafe extern "win64" fn memmove(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    // SAFETY: the driver's claim.
    unsafe { std::ptr::copy(from, to, bytes) };
    to
}

unsafe extern "win64" fn memset(to: *mut u8, value: i32, bytes: usize) -> *mut u8 {
    // SAFETY: the driver's claim.
    unsafe { to.write_bytes(value as u8, bytes) };
    to
}

unsafe extern "win64" fn memcmp(a: *const c_void, b: *const c_void, bytes: usize) -> i32 {
    // SAFETY: the driver's claim.
    unsafe { libc::memcmp(a, b, bytes) }
}

unsafe extern "win64" fn memchr(of: *const c_void, value: i32, bytes: usize) -> *mut c_void {
    // SAFETY: the driver's claim.
    unsafe { libc::memchr(of, value, bytes) }
}

/// Also `memcpy_s`. What does not fit clears the target and is refused.
unsafe extern "win64" fn memmove_s(to: *mut u8, room: usize, from: *const u8, bytes: usize) -> i32 {
    if bytes == 0 {
        return 0;
    }
    if to.is_null() {
        return EINVAL;
    }
    if from.is_null() || room < bytes {
        // SAFETY: the driver's claim.
        unsafe { to.write_bytes(0, room) };
        return if from.is_null() { EINVAL } else { ERANGE };
    }
    // SAFETY: the driver's claim.
    unsafe { std::ptr::copy(from, to, bytes) };
    0
}

unsafe extern "win64" fn rtl_fill_memory(to: *mut u8, bytes: usize, value: i32) {
    // SAFETY: the driver's claim.
    unsafe { to.write_bytes(value as u8, bytes) };
}

unsafe extern "win64" fn rtl_zero_memory(to: *mut u8, bytes: usize) {
    // SAFETY: the driver's claim.
    unsafe { to.write_bytes(0, bytes) };
}

/// How many bytes are equal, up to the first that are not.
unsafe extern "win64" fn rtl_compare_memory(a: *const u8, b: *const u8, bytes: usize) -> usize {
    let differs = |&at: &usize| {
        // SAFETY: the driver's claim, byte by byte.
        let first = unsafe { a.wrapping_add(at).read() };
        // SAFETY: as above.
        let second = unsafe { b.wrapping_add(at).read() };
        first != second
    };
    (0..bytes).find(differs).unwrap_or(bytes)
}

/// 0 for what has no physical address: the testbed gives one to its memory
/// alone, not to stacks and images.
extern "win64" fn mm_get_physical_address(address: usize) -> u64 {
    memory().physical(address).unwrap_or(0)
}

extern "win64" fn mm_is_address_valid(address: usize) -> u8 {
    u8::from(testbed_machine::trap::is_readable(address))
}

#[cfg(test)]
mod tests {
    use super::{memmove_s, rtl_compare_memory};

    #[test]
    fn the_bounded_copy_clears_what_it_cannot_fill() {
        let mut to = [7; 4];

        // SAFETY: within both arrays.
        let fits = unsafe { memmove_s(to.as_mut_ptr(), 4, [1, 2].as_ptr(), 2) };
        assert_eq!(fits, 0);
        assert_eq!(to, [1, 2, 7, 7]);
        // SAFETY: refused before it reads.
        let too_long = unsafe { memmove_s(to.as_mut_ptr(), 4, [1; 5].as_ptr(), 5) };
        assert_eq!(too_long, 34);
        assert_eq!(to, [0; 4]);
        // SAFETY: refused before it reads.
        let nothing = unsafe { memmove_s(to.as_mut_ptr(), 4, std::ptr::null(), 1) };
        assert_eq!(nothing, 22);
    }

    #[test]
    fn comparing_counts_the_equal_bytes() {
        // SAFETY: within both strings.
        let equal = unsafe { rtl_compare_memory(b"driver".as_ptr(), b"drives".as_ptr(), 6) };

        assert_eq!(equal, 5);
    }
}
