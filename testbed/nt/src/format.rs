//! printf with the conversions of the kernel's C runtime (`%I64x`, `%wZ`, `%S`).

use testbed_machine::variadic::VariadicArguments;

use super::strings::{CountedString, characters, units};

/// The width of the characters of the format and of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    /// `char`.
    Narrow,
    /// `wchar_t`, 2 bytes.
    Wide,
}

/// The maximum width of a conversion, so that a wrong argument for `*` does not use up all
/// memory.
const WIDEST: usize = 4096;

/// The parts of a conversion before its letter.
#[derive(Clone, Copy, Debug, Default)]
struct Conversion {
    left: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
    size: Size,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Size {
    #[default]
    None,
    Byte,
    Short,
    Long,
    LongLong,
    Wide,
}

/// Formats `arguments` by `format`. The units of the result have `width`. A narrow result keeps
/// the lowest byte of each.
///
/// # Safety
/// The arguments must have the types that the format names.
pub(super) unsafe fn format(
    format: &[u16],
    mut arguments: VariadicArguments,
    width: Width,
) -> Vec<u16> {
    let mut output = Vec::new();
    let mut rest = format.iter().copied().peekable();
    while let Some(unit) = rest.next() {
        if unit != u16::from(b'%') {
            output.push(unit);
            continue;
        }
        // SAFETY: as the caller promises.
        let conversion = unsafe { conversion(&mut rest, &mut arguments) };
        let Some(letter) = rest.next() else {
            break;
        };
        // SAFETY: as the caller promises.
        let text = unsafe { convert(conversion, letter as u8, &mut arguments, width) };
        pad(conversion, text, &mut output);
    }
    output
}

/// Reads flags, width, precision and size.
///
/// # Safety
/// As for `format`.
unsafe fn conversion(
    rest: &mut std::iter::Peekable<impl Iterator<Item = u16> + Clone>,
    arguments: &mut VariadicArguments,
) -> Conversion {
    let mut conversion = Conversion::default();
    while let Some(unit) = rest.peek() {
        match *unit as u8 {
            b'-' => conversion.left = true,
            b'+' => conversion.plus = true,
            b' ' => conversion.space = true,
            b'#' => conversion.alternate = true,
            b'0' => conversion.zero = true,
            _ => break,
        }
        rest.next();
    }
    // SAFETY: as the caller promises.
    let width = unsafe { number(rest, arguments) }.unwrap_or(0);
    conversion.left |= width < 0;
    conversion.width = (width.unsigned_abs() as usize).min(WIDEST);
    if rest.next_if_eq(&u16::from(b'.')).is_some() {
        // SAFETY: as the caller promises.
        let precision = unsafe { number(rest, arguments) }.unwrap_or(0);
        conversion.precision = usize::try_from(precision).ok().map(|most| most.min(WIDEST));
    }
    conversion.size = size(rest);
    conversion
}

/// Reads a number, or the argument for `*`.
///
/// # Safety
/// As for `format`.
unsafe fn number(
    rest: &mut std::iter::Peekable<impl Iterator<Item = u16>>,
    arguments: &mut VariadicArguments,
) -> Option<i32> {
    if rest.next_if_eq(&u16::from(b'*')).is_some() {
        // SAFETY: as the caller promises.
        return Some(unsafe { arguments.u32() } as i32);
    }
    let mut number = None;
    while let Some(digit) = rest.next_if(|unit| (0x30..0x3a).contains(unit)) {
        let digit = i32::from(digit) - 0x30;
        number = Some(
            number
                .unwrap_or(0_i32)
                .saturating_mul(10)
                .saturating_add(digit),
        );
    }
    number
}

fn size(rest: &mut std::iter::Peekable<impl Iterator<Item = u16> + Clone>) -> Size {
    let mut after = |text: &str| {
        let mut ahead = rest.clone();
        let found = text.bytes().all(|byte| ahead.next() == Some(byte.into()));
        if found {
            *rest = ahead;
        }
        found
    };
    match () {
        () if after("I64") || after("ll") || after("I") && !after("32") => Size::LongLong,
        () if after("hh") => Size::Byte,
        () if after("h") => Size::Short,
        () if after("l") => Size::Long,
        () if after("w") => Size::Wide,
        () if after("j") || after("z") || after("t") => Size::LongLong,
        () => Size::None,
    }
}

/// The text of one conversion: a sign or prefix, and the rest.
struct Text {
    prefix: &'static str,
    body: Vec<u16>,
    /// Whether zeros may pad between the two.
    numeric: bool,
}

/// # Safety
/// As for `format`.
unsafe fn convert(
    conversion: Conversion,
    letter: u8,
    arguments: &mut VariadicArguments,
    width: Width,
) -> Text {
    let text = |body: Vec<u16>| Text {
        prefix: "",
        body,
        numeric: false,
    };
    match letter {
        b'd' | b'i' => {
            // SAFETY: as the caller promises.
            let value = unsafe { arguments.u64() };
            let value = match conversion.size {
                Size::LongLong => value as i64,
                Size::Byte => i64::from(value as i8),
                Size::Short => i64::from(value as i16),
                _ => i64::from(value as i32),
            };
            let prefix = match () {
                () if value < 0 => "-",
                () if conversion.plus => "+",
                () if conversion.space => " ",
                () => "",
            };
            integer(conversion, prefix, value.unsigned_abs().to_string())
        }
        b'u' | b'x' | b'X' | b'o' => {
            // SAFETY: as the caller promises.
            let value = unsafe { arguments.u64() };
            let value = match conversion.size {
                Size::LongLong => value,
                Size::Byte => value & 0xff,
                Size::Short => value & 0xffff,
                _ => value & 0xffff_ffff,
            };
            let (prefix, digits) = match letter {
                b'u' => ("", value.to_string()),
                b'o' => ("0", format!("{value:o}")),
                b'x' => ("0x", format!("{value:x}")),
                _ => ("0X", format!("{value:X}")),
            };
            let shown = conversion.alternate && value != 0;
            integer(conversion, if shown { prefix } else { "" }, digits)
        }
        b'p' => {
            // SAFETY: as the caller promises.
            let value = unsafe { arguments.u64() };
            text(narrow(&format!("{value:016X}")))
        }
        b'c' | b'C' => {
            // SAFETY: as the caller promises.
            let unit = unsafe { arguments.u64() } as u16;
            text(vec![if is_wide(conversion, letter == b'C', width) {
                unit
            } else {
                unit & 0xff
            }])
        }
        b's' | b'S' => {
            let most = conversion.precision.unwrap_or(usize::MAX);
            let wide = is_wide(conversion, letter == b'S', width);
            // SAFETY: as the caller promises.
            text(unsafe { string(arguments, wide, most) })
        }
        b'Z' => {
            // SAFETY: as the caller promises.
            text(unsafe {
                counted(
                    arguments,
                    conversion.size == Size::Wide || conversion.size == Size::Long,
                )
            })
        }
        b'%' => text(narrow("%")),
        b'e' | b'E' | b'f' | b'g' | b'G' | b'a' | b'A' => {
            // Drivers print no floating point, but the argument must be skipped. SAFETY: as the
            // caller promises.
            unsafe { arguments.u64() };
            text(narrow("(floating point)"))
        }
        other => text(vec![other.into()]),
    }
}

/// Whether `%s` or `%c` prints wide characters: `l` and `w` mean yes, `h` means no. Without
/// them a capital letter means the other width than the format's.
fn is_wide(conversion: Conversion, capital: bool, width: Width) -> bool {
    match conversion.size {
        Size::Long | Size::Wide => true,
        Size::Short => false,
        _ => capital != (width == Width::Wide),
    }
}

/// # Safety
/// The next argument must be a pointer to a string, or null.
unsafe fn string(arguments: &mut VariadicArguments, wide: bool, most: usize) -> Vec<u16> {
    if wide {
        // SAFETY: as the caller promises.
        let text = unsafe { arguments.pointer::<u16>() };
        if !text.is_null() {
            // SAFETY: as the caller promises.
            return unsafe { characters(text.cast_const(), most) }.collect();
        }
    } else {
        // SAFETY: as the caller promises.
        let text = unsafe { arguments.pointer::<u8>() };
        if !text.is_null() {
            // SAFETY: as the caller promises.
            return unsafe { characters(text.cast_const(), most) }
                .map(u16::from)
                .collect();
        }
    }
    narrow("(null)")
}

/// # Safety
/// The next argument must be a pointer to a counted string, or null.
unsafe fn counted(arguments: &mut VariadicArguments, wide: bool) -> Vec<u16> {
    // SAFETY: as the caller promises.
    let string = unsafe { arguments.pointer::<CountedString<u16>>() };
    if string.is_null() {
        return narrow("(null)");
    }
    if wide {
        // SAFETY: as the caller promises.
        return unsafe { units(string) };
    }
    // SAFETY: as the caller promises. Both kinds have the same layout.
    let CountedString { length, buffer, .. } =
        unsafe { string.cast::<CountedString<u8>>().read_unaligned() };
    (0..usize::from(length))
        .map(|index| {
            // SAFETY: within the length, as the caller promises.
            unsafe { buffer.wrapping_add(index).read() }.into()
        })
        .collect()
}

fn integer(conversion: Conversion, prefix: &'static str, digits: String) -> Text {
    let least = conversion.precision.unwrap_or(1);
    let digits = if digits == "0" { String::new() } else { digits };
    let zeros = "0".repeat(least.saturating_sub(digits.len()));
    Text {
        prefix,
        body: narrow(&(zeros + &digits)),
        // As in C, a precision disables the zero flag.
        numeric: conversion.precision.is_none(),
    }
}

fn pad(conversion: Conversion, text: Text, output: &mut Vec<u16>) {
    let length = text.prefix.len() + text.body.len();
    let room = conversion.width.saturating_sub(length);
    let zeros = conversion.zero && !conversion.left && text.numeric;
    let fill = |byte: u8, count| std::iter::repeat_n(u16::from(byte), count);
    if !zeros && !conversion.left {
        output.extend(fill(b' ', room));
    }
    output.extend(narrow(text.prefix));
    if zeros {
        output.extend(fill(b'0', room));
    }
    output.extend(text.body);
    if conversion.left {
        output.extend(fill(b' ', room));
    }
}

fn narrow(text: &str) -> Vec<u16> {
    text.bytes().map(u16::from).collect()
}

#[cfg(test)]
mod tests {
    use super::{CountedString, Width, format, narrow};
    use testbed_machine::variadic::VariadicArguments;

    fn formatted(text: &str, arguments: &[u64]) -> String {
        formatted_as(Width::Narrow, text, arguments)
    }

    fn formatted_as(width: Width, text: &str, arguments: &[u64]) -> String {
        let slots = VariadicArguments::from_slots(arguments.as_ptr());
        // SAFETY: the tests pass what the format names.
        let units = unsafe { format(&narrow(text), slots, width) };
        String::from_utf16_lossy(&units)
    }

    #[test]
    fn integers_are_cut_to_their_size() {
        const ONES: u64 = u64::MAX;
        assert_eq!(formatted("%d %i", &[ONES << 32 | 7, 0xffff_ffff]), "7 -1");
        assert_eq!(formatted("%u %lu", &[ONES, ONES]), "4294967295 4294967295");
        assert_eq!(formatted("%x %X %o", &[0xabc, 0xabc, 8]), "abc ABC 10");
        assert_eq!(
            formatted("%I64d %lld %I64u", &[ONES, ONES, ONES]),
            "-1 -1 18446744073709551615"
        );
        assert_eq!(
            formatted("%llx %I64X %Ix", &[ONES, 255, 254]),
            "ffffffffffffffff FF fe"
        );
        assert_eq!(
            formatted("%I32d %hd %hhu", &[ONES, ONES, ONES]),
            "-1 -1 255"
        );
        assert_eq!(formatted("%zu %I32u", &[5, 6]), "5 6");
    }

    #[test]
    fn width_precision_and_flags_lay_out_numbers() {
        assert_eq!(
            formatted("[%5d] [%-5d] [%05d]", &[42, 42, 42]),
            "[   42] [42   ] [00042]"
        );
        assert_eq!(
            formatted("[%+d] [% d] [%+d]", &[1, 1, u64::MAX]),
            "[+1] [ 1] [-1]"
        );
        assert_eq!(
            formatted("[%#x] [%#010x] [%#x]", &[10, 10, 0]),
            "[0xa] [0x0000000a] [0]"
        );
        assert_eq!(
            formatted("[%.3d] [%8.3d] [%.0d]", &[7, 7, 0]),
            "[007] [     007] []"
        );
        assert_eq!(
            formatted("[%*d] [%-*d] [%*d]", &[4, 1, 4, 1, -4_i32 as u32 as u64, 1]),
            "[   1] [1   ] [1   ]"
        );
        assert_eq!(formatted("%08.3d|", &[7]), "     007|");
        assert_eq!(formatted("%p", &[0xabcd]), "000000000000ABCD");
    }

    #[test]
    fn strings_come_in_both_widths() {
        let narrow = c"disk".as_ptr() as u64;
        let wide: Vec<u16> = "Größe".encode_utf16().chain([0]).collect();
        let wide = wide.as_ptr() as u64;

        assert_eq!(
            formatted("%s %hs [%6s] [%-6s]", &[narrow; 4]),
            "disk disk [  disk] [disk  ]"
        );
        assert_eq!(formatted("%S %ws %ls", &[wide; 3]), "Größe Größe Größe");
        assert_eq!(formatted("%.2s %.*s", &[narrow, 3, narrow]), "di dis");
        assert_eq!(formatted("%s %ws", &[0, 0]), "(null) (null)");
        assert_eq!(
            formatted_as(Width::Wide, "%s %S %hs", &[wide, narrow, narrow]),
            "Größe disk disk"
        );
        assert_eq!(formatted("%c%c %wc", &[0x41, 0xff42, 0xf6]), "AB ö");
    }

    #[test]
    fn counted_strings_end_where_they_say() {
        let narrow = CountedString {
            length: 3,
            maximum_length: 9,
            buffer: b"disk".as_ptr(),
        };
        let units: Vec<u16> = "disk".encode_utf16().collect();
        let wide = CountedString {
            length: 6,
            maximum_length: 8,
            buffer: units.as_ptr(),
        };

        let arguments = [&raw const narrow as u64, &raw const wide as u64, 0];

        assert_eq!(formatted("%Z %wZ %wZ", &arguments), "dis dis (null)");
    }

    #[test]
    fn unknown_conversions_are_copied() {
        assert_eq!(formatted("100%% of %y", &[]), "100% of y");
        assert_eq!(formatted("ends in %", &[]), "ends in ");
        assert_eq!(formatted("%f then %d", &[0, 3]), "(floating point) then 3");
        assert_eq!(formatted("%99999999d", &[1]).len(), 4096);
    }
}
