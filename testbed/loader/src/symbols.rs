//! The names of a driver's functions, from the linker map or the program database beside its
//! file.

use std::{collections::BTreeMap, fs::File, path::Path};

use pdb2::{FallibleIterator as _, PDB, PdbInternalSectionOffset, SymbolData, SymbolTable};

/// The functions and variables of an image, by offset.
#[derive(Debug, Default)]
pub(super) struct Symbols(Vec<(u32, String)>);

impl Symbols {
    /// Reads the symbols of the driver at `path`, from its `.map` if that is of the same build,
    /// otherwise from its `.pdb`. `timestamp` and `guid` identify the build.
    pub(super) fn beside(path: &Path, timestamp: u32, guid: Option<[u8; 16]>) -> Self {
        let map = std::fs::read(path.with_extension("map")).unwrap_or_default();
        let of_map = Self::parse(&String::from_utf8_lossy(&map), timestamp);
        if !of_map.0.is_empty() {
            return of_map;
        }
        guid.and_then(|guid| {
            let pdb = File::open(path.with_extension("pdb")).ok()?;
            // A damaged database is treated like a missing one.
            Self::read(pdb, guid).ok()?
        })
        .unwrap_or_default()
    }

    /// Reads a program database. `None` if its GUID is not `guid`.
    fn read(file: File, guid: [u8; 16]) -> pdb2::Result<Option<Self>> {
        let mut pdb = PDB::open(file)?;
        if pdb.pdb_information()?.guid.to_bytes_le() != guid {
            return Ok(None);
        }
        let addresses = pdb.address_map()?;
        // Keyed by offset. Public symbols come first, so their names win, as in a map.
        let mut names = BTreeMap::new();
        let mut add = |at: PdbInternalSectionOffset, name: &str| {
            if let Some(at) = at.to_rva(&addresses) {
                names
                    .entry(at.0)
                    .or_insert_with(|| format!("{:#}", rustc_demangle::demangle(name)));
            }
        };
        let publics: SymbolTable<'_> = pdb.global_symbols()?;
        let mut publics = publics.iter();
        while let Some(symbol) = publics.next()? {
            if let Ok(SymbolData::Public(public)) = symbol.parse() {
                add(public.offset, &public.name.to_string());
            }
        }
        let information = pdb.debug_information()?;
        let mut modules = information.modules()?;
        while let Some(module) = modules.next()? {
            let Some(contents) = pdb.module_info(&module)? else {
                continue;
            };
            let mut symbols = contents.symbols()?;
            while let Some(symbol) = symbols.next()? {
                if let Ok(SymbolData::Procedure(procedure)) = symbol.parse() {
                    add(procedure.offset, &procedure.name.to_string());
                }
            }
        }
        Ok(Some(Self(names.into_iter().collect())))
    }

    /// Parses the text of a `.map` file, as linkers write it with `/MAP`. Empty if its
    /// timestamp is not `timestamp`.
    pub(super) fn parse(text: &str, timestamp: u32) -> Self {
        let mut base = None;
        let mut symbols = Vec::new();
        for line in text.lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("Timestamp is ") {
                // A reproducible build has no time, so lld writes zeros.
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

    /// The symbol at or before `offset`, and the distance from it.
    pub(super) fn at(&self, offset: u32) -> Option<(&str, u32)> {
        let after = self.0.partition_point(|(start, _)| *start <= offset);
        let (start, name) = self.0.get(after.checked_sub(1)?)?;
        Some((name, offset - start))
    }
}

/// Parses ` 0001:00000050       name                0000000180001050     object`.
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
    fn a_file_that_is_no_program_database_names_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let driver = folder.path().join("driver.sys");
        std::fs::write(driver.with_extension("pdb"), b"no program database").expect("a file");

        let symbols = Symbols::beside(&driver, 5, Some([7; 16]));

        assert_eq!(symbols.at(0x1000), None);
    }

    #[test]
    fn the_map_of_a_reproducible_build_is_accepted() {
        let map = MAP.replace(
            "6b0420eb (Mon Nov 23 11:18:03 2026)",
            "00000000 (Repro mode)",
        );

        assert_eq!(Symbols::parse(&map, 5).at(0x1000), Some(("DriverEntry", 0)));
    }
}
