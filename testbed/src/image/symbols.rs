//! The names of a driver's functions, from the linker's map beside the file.

/// The functions and variables of an image, by their place.
#[derive(Debug, Default)]
pub(super) struct Symbols(Vec<(u32, String)>);

impl Symbols {
    /// Reads the text of a `.map` file, as the linkers' `/MAP` writes it; gives
    /// nothing if it was written for another build than `timestamp`.
    pub(super) fn parse(text: &str, timestamp: u32) -> Self {
        let mut base = None;
        let mut symbols = Vec::new();
        for line in text.lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("Timestamp is ") {
                // A reproducible build has no time: lld writes zeros.
                let written = hexadecimal(rest.split(' ').next().unwrap_or(rest));
                if written.is_none_or(|time| time != 0 && time != u64::from(timestamp)) {
                    return Self::default();
                }
            } else if let Some(rest) = line.strip_prefix("Preferred load address is ") {
                base = hexadecimal(rest);
            } else {
                symbols.extend(base.and_then(|base| symbol(line, base)));
            }
        }
        symbols.sort();
        Self(symbols)
    }

    /// The symbol at or before `offset`, and how far before.
    pub(super) fn at(&self, offset: u32) -> Option<(&str, u32)> {
        let after = self.0.partition_point(|(start, _)| *start <= offset);
        let (start, name) = self.0.get(after.checked_sub(1)?)?;
        Some((name, offset - start))
    }
}

/// ` 0001:00000050       name                0000000180001050     object`
fn symbol(line: &str, base: u64) -> Option<(u32, String)> {
    let mut fields = line.split_whitespace();
    let (section, offset) = fields.next()?.split_once(':')?;
    let name = fields.next()?;
    let address = fields.next()?;
    if section.len() != 4 || offset.len() != 8 || address.len() != 16 {
        return None;
    }
    let offset = u32::try_from(hexadecimal(address)?.checked_sub(base)?).ok()?;
    Some((offset, format!("{:#}", rustc_demangle::demangle(name))))
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::Symbols;

    const MAP: &str = "\
 driver

 Timestamp is 6b0420eb (Mon Nov 23 11:18:03 2026)

 Preferred load address is 0000000180000000

 Start         Length     Name                   Class
 0001:00000000 00000061H .text                   CODE

  Address         Publics by Value              Rva+Base               Lib:Object

 0001:00000000       DriverEntry                0000000180001000     driver.o

 entry point at         0001:00000000

 Static symbols

 0001:00000050       _ZN6driver5inner17hb9ba0ae2e1320dcfE 0000000180001050     driver.o
";

    #[test]
    fn an_offset_is_named_by_the_symbol_before_it() {
        let symbols = Symbols::parse(MAP, 0x6b04_20eb);

        assert_eq!(symbols.at(0xfff), None);
        assert_eq!(symbols.at(0x1000), Some(("DriverEntry", 0)));
        assert_eq!(symbols.at(0x104f), Some(("DriverEntry", 0x4f)));
        assert_eq!(symbols.at(0x1053), Some(("driver::inner", 3)));
    }

    #[test]
    fn the_map_of_another_build_names_nothing() {
        assert_eq!(Symbols::parse(MAP, 0x6b04_20ec).at(0x1000), None);
        assert_eq!(Symbols::parse("Timestamp is soon", 0).at(0x1000), None);
    }

    #[test]
    fn the_map_of_a_reproducible_build_is_taken() {
        let map = MAP.replace(
            "6b0420eb (Mon Nov 23 11:18:03 2026)",
            "00000000 (Repro mode)",
        );

        assert_eq!(Symbols::parse(&map, 5).at(0x1000), Some(("DriverEntry", 0)));
    }
}
