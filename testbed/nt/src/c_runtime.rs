//! Functions of the C runtime that the kernel exports. The host's C runtime does the work.

use std::ffi::{CStr, c_char, c_int, c_void};

use testbed_machine::variadic::VariadicArguments;

/// Defines exports that call the host's function.
macro_rules! host_functions {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty = $function:path;)*) => {
        exports! {
            $(stringify!($name) => $name,)*
            "_vsnprintf" => vsnprintf,
        }

        $(unsafe extern "win64" fn $name($($argument: $type),*) -> $result {
            // SAFETY: trusts the driver's arguments, as the kernel does.
            unsafe { $function($($argument),*) }
        })*
    };
}

// memcpy of the kernel allows overlapping memory.
host_functions! {
    memcpy(to: *mut c_void, from: *const c_void, bytes: usize) -> *mut c_void = libc::memmove;
    memmove(to: *mut c_void, from: *const c_void, bytes: usize) -> *mut c_void = libc::memmove;
    memset(to: *mut c_void, value: c_int, bytes: usize) -> *mut c_void = libc::memset;
    memcmp(a: *const c_void, b: *const c_void, bytes: usize) -> c_int = libc::memcmp;
    memchr(of: *const c_void, value: c_int, bytes: usize) -> *mut c_void = libc::memchr;
    strlen(text: *const c_char) -> usize = libc::strlen;
    strnlen(text: *const c_char, most: usize) -> usize = libc::strnlen;
    strcmp(a: *const c_char, b: *const c_char) -> c_int = libc::strcmp;
    strncmp(a: *const c_char, b: *const c_char, most: usize) -> c_int = libc::strncmp;
    _stricmp(a: *const c_char, b: *const c_char) -> c_int = libc::strcasecmp;
    _strnicmp(a: *const c_char, b: *const c_char, most: usize) -> c_int = libc::strncasecmp;
    strcpy(to: *mut c_char, text: *const c_char) -> *mut c_char = libc::strcpy;
    strncpy(to: *mut c_char, text: *const c_char, most: usize) -> *mut c_char = libc::strncpy;
    strcat(to: *mut c_char, text: *const c_char) -> *mut c_char = libc::strcat;
    strchr(text: *const c_char, wanted: c_int) -> *mut c_char = libc::strchr;
    strrchr(text: *const c_char, wanted: c_int) -> *mut c_char = libc::strrchr;
    strstr(text: *const c_char, wanted: *const c_char) -> *mut c_char = libc::strstr;
    tolower(character: c_int) -> c_int = libc::tolower;
    toupper(character: c_int) -> c_int = libc::toupper;
}

/// The `va_list` of the System V ABI.
#[repr(C)]
struct HostArguments {
    general_offset: u32,
    vector_offset: u32,
    stack: usize,
    registers: usize,
}

unsafe extern "C" {
    fn vasprintf(
        text: &mut *mut c_char,
        format: *const c_char,
        arguments: &mut HostArguments,
    ) -> c_int;
}

/// Writes the characters that fit into `room`, and a zero if there is room for it. Returns the
/// number of characters, or -1 if they do not fit.
unsafe extern "win64" fn vsnprintf(
    to: *mut c_char,
    room: usize,
    format: *const c_char,
    arguments: VariadicArguments,
) -> c_int {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    let format = host_format(unsafe { CStr::from_ptr(format) }.to_bytes());
    // The offsets say that no argument is in a register. The others are in slots of 8 bytes in
    // both ABIs.
    let mut list = HostArguments {
        general_offset: 48,
        vector_offset: 176,
        stack: arguments.address(),
        registers: 0,
    };
    let mut text = std::ptr::null_mut();
    // SAFETY: the arguments have the types that the driver's format names.
    let length = unsafe { vasprintf(&mut text, format.as_ptr().cast(), &mut list) };
    let Ok(bytes) = usize::try_from(length) else {
        return -1;
    };
    // SAFETY: within `room`, and within the text and its zero.
    unsafe { to.copy_from_nonoverlapping(text, room.min(bytes + 1)) };
    // SAFETY: allocated by `vasprintf`.
    unsafe { libc::free(text.cast()) };
    if bytes <= room { length } else { -1 }
}

/// The format for the host, with a zero. Microsoft's C runtime has other size prefixes, a long
/// of 32 bits, and conversions of wide and counted strings, whose address is printed instead.
fn host_format(format: &[u8]) -> Vec<u8> {
    let mut host = Vec::new();
    let mut rest = format;
    while let Some((&byte, after)) = rest.split_first() {
        host.push(byte);
        rest = after;
        if byte != b'%' {
            continue;
        }
        let layout = rest
            .iter()
            .take_while(|byte| b"-+ #0123456789.*".contains(byte))
            .count();
        host.extend(&rest[..layout]);
        rest = &rest[layout..];
        let sizes = [
            ("I64", "ll"),
            ("I32", ""),
            ("I", "z"),
            ("ll", "ll"),
            ("l", ""),
        ];
        let size = sizes
            .into_iter()
            .find_map(|(size, host)| Some((rest.strip_prefix(size.as_bytes())?, host)));
        let wide = rest.starts_with(b"w") || rest.starts_with(b"ls");
        let size_removed = size.map_or(rest, |(after, _)| after);
        let letter = size_removed.strip_prefix(b"w").unwrap_or(size_removed);
        match letter.split_first() {
            Some((letter, after)) if wide || matches!(letter, b'S' | b'Z') => {
                host.push(b'p');
                rest = after;
            }
            _ => {
                host.extend(size.map_or("", |(_, host)| host).as_bytes());
                rest = size_removed;
            }
        }
    }
    host.push(0);
    host
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `_vsnprintf` returns, and a buffer of 32 characters of which it may use `room`.
    fn printed(room: usize, format: &CStr, arguments: &[u64]) -> (c_int, String) {
        let mut to = [b'#'; 32];
        let slots = VariadicArguments::from_slots(arguments.as_ptr());
        // SAFETY: the tests pass what the format names, and at most the buffer's room.
        let length = unsafe { vsnprintf(to.as_mut_ptr().cast(), room, format.as_ptr(), slots) };
        let text = String::from_utf8_lossy(&to)
            .trim_end_matches('#')
            .to_owned();
        (length, text)
    }

    #[test]
    fn a_text_is_cut_at_the_room_and_has_a_zero_if_there_is_room_for_it() {
        for (room, length, text) in [
            (8, 5, "12-34\0"),
            (5, 5, "12-34"),
            (4, -1, "12-3"),
            (0, -1, ""),
        ] {
            assert_eq!(
                printed(room, c"%u-%u", &[12, 34]),
                (length, text.to_owned())
            );
        }
    }

    #[test]
    fn the_conversions_are_those_of_the_kernel() {
        const ONES: u64 = u64::MAX;
        let text = c"disk".as_ptr() as u64;
        for (format, arguments, expected) in [
            (c"%d %lu %I32d", &[ONES, ONES, ONES][..], "-1 4294967295 -1"),
            (
                c"%I64d %llx %Ix",
                &[ONES, ONES, 254],
                "-1 ffffffffffffffff fe",
            ),
            (
                c"[%-5d] [%05I64u] [%*d]",
                &[42, 42, 3, 7],
                "[42   ] [00042] [  7]",
            ),
            (c"%hd %c %%", &[ONES, 0x41], "-1 A %"),
            (c"%s %.2hs [%6s]", &[text, text, text], "disk di [  disk]"),
            (c"%S %ws %wZ %s", &[16, 17, 18, text], "0x10 0x11 0x12 disk"),
            (c"%.1f %d", &[1.5_f64.to_bits(), 7], "1.5 7"),
        ] {
            let (length, printed) = printed(32, format, arguments);
            assert_eq!(printed, format!("{expected}\0"), "{format:?}");
            assert_eq!(length as usize, expected.len(), "{format:?}");
        }
    }
}
