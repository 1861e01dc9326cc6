//! Counted strings of the kernel.

exports! {
    "RtlInitString" => rtl_init_ansi_string,
    "RtlInitAnsiString" => rtl_init_ansi_string,
    "RtlInitUnicodeString" => rtl_init_unicode_string,
    "RtlCopyUnicodeString" => rtl_copy_unicode_string,
}

/// ANSI_STRING and UNICODE_STRING (`ntdef.h`): the lengths are in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct CountedString<T> {
    pub(super) length: u16,
    pub(super) maximum_length: u16,
    pub(super) buffer: *const T,
}

/// # Safety
/// `text` must be null or end with a zero. `to` must have room for a string.
unsafe fn initialize<T: Copy + Default + PartialEq>(to: *mut CountedString<T>, text: *const T) {
    let width = size_of::<T>();
    let most = usize::from(u16::MAX) / width - 1;
    let (length, maximum_length) = if text.is_null() {
        (0, 0)
    } else {
        let is_zero = |&index: &usize| {
            // SAFETY: the characters before this one were not zero, so it is
            // there (contract above).
            unsafe { text.wrapping_add(index).read() == T::default() }
        };
        let length = (0..most).find(is_zero).unwrap_or(most);
        ((length * width) as u16, ((length + 1) * width) as u16)
    };
    let string = CountedString {
        length,
        maximum_length,
        buffer: text,
    };
    // SAFETY: as the caller promises.
    unsafe { to.write_unaligned(string) };
}

unsafe extern "win64" fn rtl_init_ansi_string(to: *mut CountedString<u8>, text: *const u8) {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { initialize(to, text) };
}

unsafe extern "win64" fn rtl_init_unicode_string(to: *mut CountedString<u16>, text: *const u16) {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { initialize(to, text) };
}

/// Copies what fits. A null source is an empty string.
unsafe extern "win64" fn rtl_copy_unicode_string(
    to: *mut CountedString<u16>,
    from: *const CountedString<u16>,
) {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    let mut target = unsafe { to.read_unaligned() };
    let text = match from.is_null() {
        true => Vec::new(),
        // SAFETY: as above.
        false => unsafe { units(from) },
    };
    let count = text.len().min(usize::from(target.maximum_length) / 2);
    target.length = count as u16 * 2;
    // SAFETY: as above.
    unsafe { text.as_ptr().copy_to(target.buffer.cast_mut(), count) };
    // SAFETY: as above.
    unsafe { to.write_unaligned(target) };
}

/// The characters of a UNICODE_STRING.
///
/// # Safety
/// `string` must be valid, and its buffer must have the length that it says.
pub(super) unsafe fn units(string: *const CountedString<u16>) -> Vec<u16> {
    // SAFETY: as the caller promises.
    let CountedString { length, buffer, .. } = unsafe { string.read_unaligned() };
    (0..usize::from(length) / 2)
        .map(|index| {
            // SAFETY: within the length, as the caller promises.
            unsafe { buffer.wrapping_add(index).read_unaligned() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counted_string_counts_bytes() {
        let text: Vec<u16> = "disk\0".encode_utf16().collect();
        let mut string = CountedString {
            length: 9,
            maximum_length: 9,
            buffer: std::ptr::null(),
        };

        // SAFETY: a zero-terminated string.
        unsafe { rtl_init_unicode_string(&raw mut string, text.as_ptr()) };
        assert_eq!((string.length, string.maximum_length), (8, 10));
        assert_eq!(string.buffer, text.as_ptr());
        // SAFETY: null is allowed.
        unsafe { rtl_init_unicode_string(&raw mut string, std::ptr::null()) };
        assert_eq!((string.length, string.maximum_length), (0, 0));
    }

    #[test]
    fn a_copy_is_cut_at_the_room_of_its_target() {
        let text: Vec<u16> = "disk".encode_utf16().collect();
        let string = |length, buffer| CountedString {
            length,
            maximum_length: 6,
            buffer,
        };
        let from = string(8, text.as_ptr());
        let mut buffer = [0; 4];
        let mut to = string(0, buffer.as_mut_ptr().cast_const());

        // SAFETY: variables of the test.
        unsafe { rtl_copy_unicode_string(&raw mut to, &raw const from) };

        assert_eq!((to.length, &buffer[..3], buffer[3]), (6, &text[..3], 0));
    }
}
