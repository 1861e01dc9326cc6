//! Parses the linker map of a linked file: its functions and their addresses.

use std::{collections::BTreeMap, io, path::Path};

use fs_err as fs;
use object::{LittleEndian as LE, SectionIndex, pe::IMAGE_SCN_CNT_CODE, read::pe::PeFile64};

/// A linked file. All addresses are those of its linker map.
pub struct Linked {
    pub functions: Vec<Function>,
    /// The names of functions, and of the slots of imported functions (`__imp_…`).
    pub names: BTreeMap<u64, String>,
}

/// A function, up to the next one or to the end of its section.
pub struct Function {
    pub name: String,
    pub address: u64,
    pub code: Vec<u8>,
}

/// A linked file or its map cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LinkedError {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("not a 64-bit PE file: {0}")]
    Image(#[from] object::Error),
    #[error("the file has no code for {0}, which its linker map names")]
    NoCode(String),
}

impl Linked {
    /// Reads the file at `path` and the `.map` beside it.
    pub fn read(path: &Path) -> Result<Self, LinkedError> {
        let bytes = fs::read(path)?;
        let map = fs::read(path.with_extension("map"))?;
        let file = PeFile64::parse(&*bytes)?;
        let base = file.nt_headers().optional_header.image_base.get(LE);
        let sections = file.section_table();
        let symbols = symbols(&String::from_utf8_lossy(&map));
        let mut functions = Vec::new();
        for &(address, ref name, section) in &symbols {
            let section = sections.section(SectionIndex(section))?;
            if !section.characteristics.get(LE).contains(IMAGE_SCN_CNT_CODE) {
                continue;
            }
            let start = address.checked_sub(base).map(u32::try_from);
            let code = start
                .and_then(|start| section.pe_data_at(&*bytes, start.ok()?))
                .ok_or_else(|| LinkedError::NoCode(name.clone()))?;
            let length = end(&symbols, address).map(|end| usize::try_from(end - address));
            let own = length.and_then(|length| code.get(..length.ok()?));
            functions.push(Function {
                name: name.clone(),
                address,
                code: own.unwrap_or(code).to_vec(),
            });
        }
        let names = symbols
            .into_iter()
            .map(|(address, name, _)| (address, name));
        Ok(Self {
            functions,
            names: names.collect(),
        })
    }
}

/// The addresses, names and section numbers of a linker map, sorted.
fn symbols(map: &str) -> Vec<(u64, String, usize)> {
    let mut symbols: Vec<_> = map
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            // The section and the offset in it. Section 0 is for constants.
            let (section, _) = words.next()?.split_once(':')?;
            let section = usize::from_str_radix(section, 16)
                .ok()
                .filter(|it| *it != 0)?;
            let name = words.next()?;
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            Some((address, name.to_owned(), section))
        })
        .collect();
    symbols.sort();
    symbols
}

/// The address of the symbol after those at `address`.
fn end(symbols: &[(u64, String, usize)], address: u64) -> Option<u64> {
    let mut addresses = symbols.iter().map(|(address, ..)| *address);
    addresses.find(|other| *other > address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_ends_where_the_next_begins() {
        let map = " 0000:00000000  constant 0000000000000000 <absolute>\n \
                   0001:00000010  second 0000000180001010 f\n \
                   0001:00000000 00000010H .text CODE\n \
                   0001:00000000  first 0000000180001000 f\n \
                   0001:00000000  same 0000000180001000 f\n";
        let symbols = symbols(map);
        let found: Vec<_> = symbols
            .iter()
            .map(|(address, name, _)| (&**name, address & 0xFF, end(&symbols, *address)))
            .collect();
        let second = Some(0x1_8000_1010);
        let expected = [
            ("first", 0, second),
            ("same", 0, second),
            ("second", 0x10, None),
        ];
        assert_eq!(found, expected);
    }

    /// A PE file for x64 with a code section of 16 bytes at 0x1000 and a data section.
    fn file() -> Vec<u8> {
        let mut file = vec![0; 0x210];
        let mut put = |at: usize, bytes: &[u8]| file[at..][..bytes.len()].copy_from_slice(bytes);
        put(0, b"MZ");
        put(0x3C, &[0x40]);
        put(0x40, b"PE\0\0\x64\x86\x02");
        // The optional header's size, its magic number, and the image base.
        put(0x54, &[112]);
        put(0x58, &[0x0B, 0x02]);
        put(0x70, &0x1_8000_0000_u64.to_le_bytes());
        for (header, address, kind) in [(0xC8, 0x1000_u32, 0x20_u8), (0xF0, 0x2000, 0x40)] {
            // Sizes, addresses in memory and in the file, and flags.
            put(header + 8, &[16]);
            put(header + 12, &address.to_le_bytes());
            put(header + 16, &[16]);
            put(header + 20, &0x200_u32.to_le_bytes());
            put(header + 36, &[kind]);
        }
        file
    }

    #[test]
    fn each_symbol_of_a_code_section_has_code() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sys");
        let lengths = |file: &[u8], last: &str| {
            let map = format!(
                " 0001:00000000  first 0000000180001000 f\n 0001:00000004  last {last} f\n \
                 0002:00000000  data 0000000180002000 f\n 0002:00001000  far 0000000180003000 f\n"
            );
            fs::write(&path, file).unwrap();
            fs::write(path.with_extension("map"), map).unwrap();
            let functions = Linked::read(&path)
                .map_err(|error| error.to_string())?
                .functions;
            let lengths = functions.into_iter().map(|it| (it.name, it.code.len()));
            Ok::<Vec<_>, String>(lengths.collect())
        };

        let whole = lengths(&file(), "0000000180001004");
        let expected = vec![("first".to_owned(), 4), ("last".to_owned(), 12)];
        assert_eq!(whole, Ok(expected));
        let none = |name| {
            Err(format!(
                "the file has no code for {name}, which its linker map names"
            ))
        };
        assert_eq!(lengths(&file(), "0000000180001010"), none("last"));
        assert_eq!(lengths(&file()[..0x208], "0000000180001004"), none("first"));
    }
}
