//! Strings of the C runtime, and counted strings of the kernel.

use super::Export;

pub(super) const EXPORTS: &[Export] = &[
    ("strlen", strlen as *const ()),
    ("strnlen", strnlen as *const ()),
    ("strcmp", strcmp as *const ()),
    ("strncmp", strncmp as *const ()),
    ("_stricmp", stricmp as *const ()),
    ("_strnicmp", strnicmp as *const ()),
    ("strcpy", strcpy as *const ()),
    ("strncpy", strncpy as *const ()),
    ("strcat", strcat as *const ()),
    ("strchr", strchr as *const ()),
    ("strrchr", strrchr as *const ()),
    ("strstr", strstr as *const ()),
    ("tolower", tolower as *const ()),
    ("toupper", toupper as *const ()),
    ("wcslen", wcslen as *const ()),
    ("wcsnlen", wcsnlen as *const ()),
    ("wcscmp", wcscmp as *const ()),
    ("wcsncmp", wcsncmp as *const ()),
    ("_wcsicmp", wcsicmp as *const ()),
    ("_wcsnicmp", wcsnicmp as *const ()),
    ("wcscpy", wcscpy as *const ()),
    ("wcsncpy", wcsncpy as *const ()),
    ("wcscat", wcscat as *const ()),
    ("wcschr", wcschr as *const ()),
    ("RtlInitString", rtl_init_ansi_string as *const ()),
    ("RtlInitAnsiString", rtl_init_ansi_string as *const ()),
    ("RtlInitUnicodeString", rtl_init_unicode_string as *const ()),
    (
        "RtlEqualUnicodeString",
        rtl_equal_unicode_string as *const (),
    ),
];

/// ANSI_STRING and UNICODE_STRING (`ntdef.h`): the lengths are in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct CountedString<T> {
    pub(super) length: u16,
    pub(super) maximum_length: u16,
    pub(super) buffer: *const T,
}

/// A character of a C string.
pub(super) trait Character: Copy + Default + Into<u32> + PartialEq {
    /// The result of `tolower` in the C locale.
    fn lower(self) -> u32 {
        let code = self.into();
        match code {
            0x41..=0x5a => code + 0x20,
            _ => code,
        }
    }
}

impl Character for u8 {}
impl Character for u16 {}

/// The characters at `text` before the zero, at most `most`.
///
/// # Safety
/// There must be a zero, or that many characters.
pub(super) unsafe fn characters<T: Character>(
    text: *const T,
    most: usize,
) -> impl Iterator<Item = T> {
    (0..most)
        .map(move |index| {
            // SAFETY: the characters before this one were not zero, so it is
            // there (contract above).
            unsafe { text.wrapping_add(index).read() }
        })
        .take_while(|&character| character != T::default())
}

/// # Safety
/// As for `characters`, for both strings.
unsafe fn compare<T: Character>(a: *const T, b: *const T, most: usize, key: fn(T) -> u32) -> i32 {
    // SAFETY: as the caller promises.
    let first = unsafe { characters(a, most) };
    // SAFETY: as the caller promises.
    let second = unsafe { characters(b, most) };
    first.map(key).cmp(second.map(key)) as i32
}

/// Copies `text` and its zero to `to`.
///
/// # Safety
/// `text` must have a zero, and `to` room for all.
unsafe fn copy<T: Character>(to: *mut T, text: *const T) {
    // SAFETY: as the caller promises. The zero is copied too.
    let length = unsafe { characters(text, usize::MAX) }.count();
    // SAFETY: as the caller promises.
    unsafe { std::ptr::copy(text, to, length + 1) };
}

/// Copies at most `most` characters and fills the rest with zeros. A longer text gets no zero.
///
/// # Safety
/// As for `characters`, and `to` must have room for `most`.
unsafe fn copy_padded<T: Character>(to: *mut T, text: *const T, most: usize) {
    // SAFETY: as the caller promises.
    let length = unsafe { characters(text, most) }.count();
    // SAFETY: as the caller promises.
    unsafe { std::ptr::copy(text, to, length) };
    for index in length..most {
        // SAFETY: within `most`.
        unsafe { to.wrapping_add(index).write(T::default()) };
    }
}

/// The address of the first `wanted`, which may be the zero.
///
/// # Safety
/// `text` must have a zero.
unsafe fn find<T: Character>(text: *const T, wanted: T) -> *const T {
    // SAFETY: as the caller promises.
    let length = unsafe { characters(text, usize::MAX) }.count();
    let found = (0..=length).find(|&index| {
        // SAFETY: up to the zero.
        unsafe { text.wrapping_add(index).read() == wanted }
    });
    found.map_or(std::ptr::null(), |index| text.wrapping_add(index))
}

/// # Safety
/// As for `characters`.
unsafe fn length<T: Character>(text: *const T, most: usize) -> usize {
    // SAFETY: as the caller promises.
    unsafe { characters(text, most) }.count()
}

/// Defines exports that pass their arguments to a generic function above.
macro_rules! exports {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty = $call:expr;)*) => {$(
        unsafe extern "win64" fn $name($($argument: $type),*) -> $result {
            // SAFETY: trusts the driver's arguments, as the kernel does.
            unsafe { $call }
        }
    )*};
}

exports! {
    strlen(text: *const u8) -> usize = length(text, usize::MAX);
    wcslen(text: *const u16) -> usize = length(text, usize::MAX);
    strnlen(text: *const u8, most: usize) -> usize = length(text, most);
    wcsnlen(text: *const u16, most: usize) -> usize = length(text, most);
    strcmp(a: *const u8, b: *const u8) -> i32 = compare(a, b, usize::MAX, u8::into);
    wcscmp(a: *const u16, b: *const u16) -> i32 = compare(a, b, usize::MAX, u16::into);
    strncmp(a: *const u8, b: *const u8, most: usize) -> i32 = compare(a, b, most, u8::into);
    wcsncmp(a: *const u16, b: *const u16, most: usize) -> i32 = compare(a, b, most, u16::into);
    stricmp(a: *const u8, b: *const u8) -> i32 = compare(a, b, usize::MAX, u8::lower);
    wcsicmp(a: *const u16, b: *const u16) -> i32 = compare(a, b, usize::MAX, u16::lower);
    strnicmp(a: *const u8, b: *const u8, most: usize) -> i32 = compare(a, b, most, u8::lower);
    wcsnicmp(a: *const u16, b: *const u16, most: usize) -> i32 = compare(a, b, most, u16::lower);
    strchr(text: *const u8, wanted: i32) -> *const u8 = find(text, wanted as u8);
    wcschr(text: *const u16, wanted: u16) -> *const u16 = find(text, wanted);
    strstr(text: *const i8, wanted: *const i8) -> *const i8 = libc::strstr(text, wanted);
    strrchr(text: *const i8, wanted: i32) -> *const i8 = libc::strrchr(text, wanted);
}

extern "win64" fn tolower(character: i32) -> i32 {
    u8::try_from(character).map_or(character, |byte| byte.lower() as i32)
}

extern "win64" fn toupper(character: i32) -> i32 {
    u8::try_from(character).map_or(character, |byte| i32::from(byte.to_ascii_uppercase()))
}

unsafe extern "win64" fn strcpy(to: *mut u8, text: *const u8) -> *mut u8 {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { copy(to, text) };
    to
}

unsafe extern "win64" fn wcscpy(to: *mut u16, text: *const u16) -> *mut u16 {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { copy(to, text) };
    to
}

unsafe extern "win64" fn strncpy(to: *mut u8, text: *const u8, most: usize) -> *mut u8 {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { copy_padded(to, text, most) };
    to
}

unsafe extern "win64" fn wcsncpy(to: *mut u16, text: *const u16, most: usize) -> *mut u16 {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { copy_padded(to, text, most) };
    to
}

unsafe extern "win64" fn strcat(to: *mut u8, text: *const u8) -> *mut u8 {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    let end = unsafe { length(to, usize::MAX) };
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { copy(to.wrapping_add(end), text) };
    to
}

unsafe extern "win64" fn wcscat(to: *mut u16, text: *const u16) -> *mut u16 {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    let end = unsafe { length(to, usize::MAX) };
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { copy(to.wrapping_add(end), text) };
    to
}

/// # Safety
/// As for `characters`, unless `text` is null. `to` must have room for a string.
unsafe fn counted<T: Character>(to: *mut CountedString<T>, text: *const T) {
    let width = size_of::<T>();
    let most = usize::from(u16::MAX) / width - 1;
    let (length, maximum_length) = if text.is_null() {
        (0, 0)
    } else {
        // SAFETY: as the caller promises.
        let length = unsafe { length(text, most) };
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
    unsafe { counted(to, text) };
}

unsafe extern "win64" fn rtl_init_unicode_string(to: *mut CountedString<u16>, text: *const u16) {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { counted(to, text) };
}

unsafe extern "win64" fn rtl_equal_unicode_string(
    a: *const CountedString<u16>,
    b: *const CountedString<u16>,
    ignore_case: u8,
) -> u8 {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    let first = unsafe { units(a) };
    // SAFETY: trusts the driver's arguments, as the kernel does.
    let second = unsafe { units(b) };
    let key = match ignore_case {
        0 => u16::into,
        _ => u16::lower,
    };
    u8::from(
        first.len() == second.len() && first.into_iter().map(key).eq(second.into_iter().map(key)),
    )
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

    fn wide(text: &str) -> Vec<u16> {
        text.encode_utf16().chain([0]).collect()
    }

    #[test]
    fn comparisons_order_as_in_c() {
        let compare = |a: &std::ffi::CStr, b: &std::ffi::CStr, most| {
            let (a, b) = (a.as_ptr().cast(), b.as_ptr().cast());
            // SAFETY: C strings.
            let exact = unsafe { strncmp(a, b, most) };
            // SAFETY: C strings.
            let folded = unsafe { strnicmp(a, b, most) };
            (exact.signum(), folded.signum())
        };

        assert_eq!(compare(c"abc", c"abc", 9), (0, 0));
        assert_eq!(compare(c"abc", c"aBc", 9), (1, 0));
        assert_eq!(compare(c"ab", c"abc", 9), (-1, -1));
        assert_eq!(compare(c"abx", c"aby", 2), (0, 0));
        assert_eq!(compare(c"\xff", c"a", 9), (1, 1));
    }

    #[test]
    fn copies_pad_and_append() {
        let mut to = [b'#'; 8];
        // SAFETY: room for all.
        unsafe { strncpy(to.as_mut_ptr(), c"ab".as_ptr().cast(), 5) };
        assert_eq!(&to, b"ab\0\0\0###");
        // SAFETY: room for all.
        unsafe { strcat(to.as_mut_ptr(), c"cde".as_ptr().cast()) };
        assert_eq!(&to, b"abcde\0##");
        // SAFETY: room for all.
        unsafe { strncpy(to.as_mut_ptr(), c"xyz".as_ptr().cast(), 2) };
        assert_eq!(&to, b"xycde\0##");
    }

    #[test]
    fn a_character_is_found_and_so_is_the_zero() {
        let text = wide("a,b");
        // SAFETY: a zero-terminated string.
        let found = unsafe { wcschr(text.as_ptr(), u16::from(b',')) };
        assert_eq!(found, text[1..].as_ptr());
        // SAFETY: as above.
        let zero = unsafe { wcschr(text.as_ptr(), 0) };
        assert_eq!(zero, text[3..].as_ptr());
        // SAFETY: as above.
        assert!(unsafe { wcschr(text.as_ptr(), u16::from(b'x')) }.is_null());
    }

    #[test]
    fn a_counted_string_counts_bytes() {
        let text = wide("disk");
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
    fn counted_strings_are_equal_by_content() {
        let (lower, upper) = (wide("disk"), wide("DISK"));
        let string = |text: &[u16]| CountedString {
            length: 8,
            maximum_length: 8,
            buffer: text.as_ptr(),
        };
        let (lower, upper) = (string(&lower), string(&upper));

        // SAFETY: both are counted strings.
        let exact = unsafe { rtl_equal_unicode_string(&raw const lower, &raw const upper, 0) };
        assert_eq!(exact, 0);
        // SAFETY: both are counted strings.
        let folded = unsafe { rtl_equal_unicode_string(&raw const lower, &raw const upper, 1) };
        assert_eq!(folded, 1);
    }
}
