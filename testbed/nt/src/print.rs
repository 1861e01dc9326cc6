//! Debug output, and printf into a buffer.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{
    Export,
    format::{Width, format},
    strings::{Character, characters},
};
use testbed_machine::{
    trap::{driver_image, stop_machine},
    variadic::VariadicArguments,
    variadic_entry,
};

pub(super) const EXPORTS: &[Export] = &[
    ("DbgPrint", dbg_print_entry as *const ()),
    ("DbgPrintEx", dbg_print_ex_entry as *const ()),
    ("vDbgPrintEx", v_dbg_print_ex as *const ()),
    (
        "vDbgPrintExWithPrefix",
        v_dbg_print_ex_with_prefix as *const (),
    ),
    ("DbgBreakPoint", dbg_break_point as *const ()),
    ("RtlAssert", rtl_assert as *const ()),
    ("sprintf", sprintf_entry as *const ()),
    ("vsprintf", vsprintf as *const ()),
    ("_snprintf", snprintf_entry as *const ()),
    ("_vsnprintf", vsnprintf as *const ()),
    ("sprintf_s", sprintf_s_entry as *const ()),
    ("vsprintf_s", vsprintf_s as *const ()),
    ("_snwprintf", snwprintf_entry as *const ()),
    ("_vsnwprintf", vsnwprintf as *const ()),
    ("swprintf_s", swprintf_s_entry as *const ()),
    ("vswprintf_s", vswprintf_s as *const ()),
];

static SHOWN: AtomicBool = AtomicBool::new(false);

/// Shows what the driver prints for a debugger (DbgPrint, StorPortDebugPrint) on standard
/// error, each line after the driver's name.
pub fn show_debug_output() {
    SHOWN.store(true, Ordering::Relaxed);
}

/// Formats and prints like `DbgPrint`, if the output is shown.
///
/// # Safety
/// `text` must be a C string, and the arguments must have the types that it names.
pub unsafe fn debug_print(prefix: &[u16], text: *const u8, arguments: VariadicArguments) {
    if !SHOWN.load(Ordering::Relaxed) {
        return;
    }
    let mut output = prefix.to_vec();
    // SAFETY: as the caller promises.
    output.extend(unsafe { formatted(text, arguments, Width::Narrow) });
    let driver = driver_image().map_or("driver", |image| image.name());
    for line in String::from_utf16_lossy(&output).lines() {
        eprintln!("{driver}: {line}");
    }
}

/// # Safety
/// `text` must be a C string, and the arguments must have the types that it names.
unsafe fn formatted<T: Character + Into<u16>>(
    text: *const T,
    arguments: VariadicArguments,
    width: Width,
) -> Vec<u16> {
    // SAFETY: as the caller promises.
    let text: Vec<u16> = unsafe { characters(text, usize::MAX) }
        .map(T::into)
        .collect();
    // SAFETY: as the caller promises.
    unsafe { format(&text, arguments, width) }
}

/// STATUS_SUCCESS.
const SUCCESS: usize = 0;

variadic_entry!(fn dbg_print_entry => dbg_print);

extern "win64" fn dbg_print(mut arguments: VariadicArguments) -> usize {
    // SAFETY: the first argument is the format.
    let text = unsafe { arguments.pointer() };
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { debug_print(&[], text, arguments) };
    SUCCESS
}

variadic_entry!(fn dbg_print_ex_entry => dbg_print_ex);

extern "win64" fn dbg_print_ex(mut arguments: VariadicArguments) -> usize {
    // SAFETY: component and level come before the format.
    unsafe { arguments.u32() };
    // SAFETY: as above.
    unsafe { arguments.u32() };
    dbg_print(arguments)
}

unsafe extern "win64" fn v_dbg_print_ex(
    _component: u32,
    _level: u32,
    text: *const u8,
    arguments: VariadicArguments,
) -> u32 {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { debug_print(&[], text, arguments) };
    SUCCESS as u32
}

unsafe extern "win64" fn v_dbg_print_ex_with_prefix(
    prefix: *const u8,
    _component: u32,
    _level: u32,
    text: *const u8,
    arguments: VariadicArguments,
) -> u32 {
    // SAFETY: trusts the driver's arguments, as the kernel does.
    let prefix: Vec<u16> = unsafe { characters(prefix, usize::MAX) }
        .map(u16::from)
        .collect();
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { debug_print(&prefix, text, arguments) };
    SUCCESS as u32
}

extern "win64" fn dbg_break_point() {
    stop_machine(format_args!(
        "the driver called DbgBreakPoint, and no debugger is attached"
    ))
}

unsafe extern "win64" fn rtl_assert(
    assertion: *const u8,
    file: *const u8,
    line: u32,
    message: *const u8,
) {
    let text = |text: *const u8| {
        if text.is_null() {
            return String::new();
        }
        // SAFETY: trusts the driver's arguments, as the kernel does.
        let bytes: Vec<u8> = unsafe { characters(text, 1024) }.collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    stop_machine(format_args!(
        "the driver's assertion failed: {} ({}, line {line}) {}",
        text(assertion),
        text(file),
        text(message)
    ))
}

/// Writes the characters that fit into `room`, and a zero if there is room for it. Returns the
/// number of characters, or -1 if they do not fit.
///
/// # Safety
/// `to` must have room for `room` characters.
unsafe fn put<T>(to: *mut T, room: usize, text: &[u16], convert: fn(u16) -> T) -> i32 {
    for (index, &unit) in text.iter().chain([&0]).take(room).enumerate() {
        // SAFETY: within `room`.
        unsafe { to.wrapping_add(index).write(convert(unit)) };
    }
    if text.len() <= room {
        text.len() as i32
    } else {
        -1
    }
}

/// Writes the text and a zero. If they do not fit, writes an empty string and returns -1.
///
/// # Safety
/// `to` must have room for `room` characters.
unsafe fn put_whole<T>(to: *mut T, room: usize, text: &[u16], convert: fn(u16) -> T) -> i32 {
    let fits = text.len() < room;
    // SAFETY: as the caller promises.
    unsafe { put(to, room, if fits { text } else { &[] }, convert) };
    if fits { text.len() as i32 } else { -1 }
}

fn byte(unit: u16) -> u8 {
    unit as u8
}

fn unit(unit: u16) -> u16 {
    unit
}

/// Defines `v...printf` and the variadic function that calls it. All take a buffer and a
/// format. Most take the size of the buffer in characters.
macro_rules! prints {
    ($($entry:ident, $variadic:ident, $name:ident: $type:ty, $width:expr, $put:expr, $convert:expr;)*) => {$(
        unsafe extern "win64" fn $name(
            to: *mut $type,
            room: usize,
            text: *const $type,
            arguments: VariadicArguments,
        ) -> i32 {
            // SAFETY: trusts the driver's arguments, as the kernel does.
            let text = unsafe { formatted(text, arguments, $width) };
            // SAFETY: trusts the driver's arguments, as the kernel does.
            unsafe { $put(to, room, &text, $convert) }
        }

        extern "win64" fn $variadic(mut arguments: VariadicArguments) -> usize {
            // SAFETY: the buffer is the first argument.
            let to = unsafe { arguments.pointer() };
            // SAFETY: the size is the second.
            let room = unsafe { arguments.u64() } as usize;
            // SAFETY: the format is the third.
            let text = unsafe { arguments.pointer::<$type>() };
            // SAFETY: trusts the driver's arguments, as the kernel does.
            unsafe { $name(to, room, text, arguments) as usize }
        }

        variadic_entry!(fn $entry => $variadic);
    )*};
}

prints! {
    snprintf_entry, snprintf, vsnprintf: u8, Width::Narrow, put, byte;
    sprintf_s_entry, sprintf_s, vsprintf_s: u8, Width::Narrow, put_whole, byte;
    snwprintf_entry, snwprintf, vsnwprintf: u16, Width::Wide, put, unit;
    swprintf_s_entry, swprintf_s, vswprintf_s: u16, Width::Wide, put_whole, unit;
}

unsafe extern "win64" fn vsprintf(
    to: *mut u8,
    text: *const u8,
    arguments: VariadicArguments,
) -> i32 {
    // SAFETY: trusts the driver's arguments, as the kernel does. They have no size.
    unsafe { vsnprintf(to, usize::MAX, text, arguments) }
}

variadic_entry!(fn sprintf_entry => sprintf);

extern "win64" fn sprintf(mut arguments: VariadicArguments) -> usize {
    // SAFETY: the buffer is the first argument.
    let to = unsafe { arguments.pointer() };
    // SAFETY: the format is the second.
    let text = unsafe { arguments.pointer::<u8>() };
    // SAFETY: trusts the driver's arguments, as the kernel does.
    unsafe { vsprintf(to, text, arguments) as usize }
}

#[cfg(test)]
mod tests {
    use super::{snprintf_entry, snwprintf_entry, sprintf_entry, sprintf_s_entry};

    type Bounded<T> = extern "win64" fn(*mut T, usize, *const T, u64, u64) -> i32;

    fn bounded<T>(entry: extern "win64" fn() -> usize) -> Bounded<T> {
        // SAFETY: the entry takes a buffer, its size, a format and arguments.
        unsafe { std::mem::transmute(entry) }
    }

    #[test]
    fn a_bounded_print_ends_with_a_zero_only_if_it_fits() {
        let print = bounded::<u8>(snprintf_entry);
        let format = c"%u-%u".as_ptr().cast();
        let run = |room| {
            let mut to = [b'#'; 8];
            (print(to.as_mut_ptr(), room, format, 12, 34), to)
        };

        assert_eq!(run(8), (5, *b"12-34\0##"));
        assert_eq!(run(5), (5, *b"12-34###"));
        assert_eq!(run(4), (-1, *b"12-3####"));
        assert_eq!(run(0), (-1, *b"########"));
    }

    #[test]
    fn a_safe_print_leaves_nothing_if_it_does_not_fit() {
        let print = bounded::<u8>(sprintf_s_entry);
        let format = c"%u-%u".as_ptr().cast();
        let mut to = [b'#'; 8];

        assert_eq!(print(to.as_mut_ptr(), 5, format, 12, 34), -1);
        assert_eq!(&to, b"\0#######");
        assert_eq!(print(to.as_mut_ptr(), 6, format, 12, 34), 5);
        assert_eq!(&to, b"12-34\0##");
    }

    #[test]
    fn a_wide_print_takes_and_gives_wide_characters() {
        let print = bounded::<u16>(snwprintf_entry);
        let format: Vec<u16> = "%u:%s".encode_utf16().chain([0]).collect();
        let name: Vec<u16> = "ö".encode_utf16().chain([0]).collect();
        let mut to = [9; 5];

        assert_eq!(
            print(to.as_mut_ptr(), 5, format.as_ptr(), 1, name.as_ptr() as u64),
            3
        );
        assert_eq!(to, [0x31, 0x3a, 0xf6, 0, 9]);
    }

    #[test]
    fn an_unbounded_print_writes_all() {
        // SAFETY: the entry takes a buffer, a format and arguments.
        let print: extern "win64" fn(*mut u8, *const i8, u64) -> i32 =
            unsafe { std::mem::transmute(sprintf_entry as extern "win64" fn() -> usize) };
        let mut to = [b'#'; 4];

        assert_eq!(print(to.as_mut_ptr(), c"%c!".as_ptr(), 0x41), 2);
        assert_eq!(&to, b"A!\0#");
    }
}
