//! Copies, fills and compares memory, and returns physical addresses.

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

/// Also `memcpy`, as the kernel's allows overlapping memory.
unsafe extern "win64" fn memmove(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { std::ptr::copy(from, to, bytes) };
    to
}

unsafe extern "win64" fn memset(to: *mut u8, value: i32, bytes: usize) -> *mut u8 {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { to.write_bytes(value as u8, bytes) };
    to
}

unsafe extern "win64" fn memcmp(a: *const c_void, b: *const c_void, bytes: usize) -> i32 {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { libc::memcmp(a, b, bytes) }
}

unsafe extern "win64" fn memchr(of: *const c_void, value: i32, bytes: usize) -> *mut c_void {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { libc::memchr(of, value, bytes) }
}

/// Also `memcpy_s`. If the source does not fit, clears the target and returns an error.
unsafe extern "win64" fn memmove_s(to: *mut u8, room: usize, from: *const u8, bytes: usize) -> i32 {
    if bytes == 0 {
        return 0;
    }
    if to.is_null() {
        return EINVAL;
    }
    if from.is_null() || room < bytes {
        // SAFETY: trusts the driver's arguments, as the kernel does.
        unsafe { to.write_bytes(0, room) };
        return if from.is_null() { EINVAL } else { ERANGE };
    }
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { std::ptr::copy(from, to, bytes) };
    0
}

unsafe extern "win64" fn rtl_fill_memory(to: *mut u8, bytes: usize, value: i32) {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { to.write_bytes(value as u8, bytes) };
}

unsafe extern "win64" fn rtl_zero_memory(to: *mut u8, bytes: usize) {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { to.write_bytes(0, bytes) };
}

/// The number of equal bytes before the first difference.
unsafe extern "win64" fn rtl_compare_memory(a: *const u8, b: *const u8, bytes: usize) -> usize {
    let differs = |&at: &usize| {
        // SAFETY: trusts the driver's arguments, as the kernel does.
        let first = unsafe { a.wrapping_add(at).read() };
        // SAFETY: as above.
        let second = unsafe { b.wrapping_add(at).read() };
        first != second
    };
    (0..bytes).find(differs).unwrap_or(bytes)
}

/// 0 for memory without a physical address: only the machine's memory has one, not stacks and
/// images.
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
