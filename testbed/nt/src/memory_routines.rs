//! Copies, fills and compares memory, and returns physical addresses.

use super::memory;

exports! {
    "RtlCopyMemory" => rtl_move_memory,
    "RtlMoveMemory" => rtl_move_memory,
    "RtlFillMemory" => rtl_fill_memory,
    "RtlZeroMemory" => rtl_zero_memory,
    "RtlCompareMemory" => rtl_compare_memory,
    "MmGetPhysicalAddress" => mm_get_physical_address,
    "MmIsAddressValid" => mm_is_address_valid,
}

unsafe extern "win64" fn rtl_move_memory(to: *mut u8, from: *const u8, bytes: usize) {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { std::ptr::copy(from, to, bytes) };
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
    use super::rtl_compare_memory;

    #[test]
    fn comparing_counts_the_equal_bytes() {
        // SAFETY: within both strings.
        let equal = unsafe { rtl_compare_memory(b"driver".as_ptr(), b"drives".as_ptr(), 6) };

        assert_eq!(equal, 5);
    }
}
