//! The functions of a linked file, by its linker map.

use std::{collections::BTreeMap, io, path::Path};

use fs_err as fs;
use object::{LittleEndian as LE, read::pe::PeFile64};

/// A linked file. All addresses are those of its linker map.
pub struct Linked {
    pub functions: Vec<Function>,
    /// The names of functions, and of the slots of imported functions (`__imp_…`).
    pub names: BTreeMap<u64, String>,
}

/// A function, up to the next one.
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
        let functions = symbols.iter().filter_map(|&(address, ref name)| {
            let length = usize::try_from(end(&symbols, address)? - address).ok()?;
            let start = u32::try_from(address.checked_sub(base)?).ok()?;
            let code = sections.pe_data_at(&*bytes, start)?.get(..length)?;
            Some(Function {
                name: name.clone(),
                address,
                code: code.to_vec(),
            })
        });
        Ok(Self {
            functions: functions.collect(),
            names: symbols.iter().cloned().collect(),
        })
    }
}

/// The addresses and names of a linker map, sorted.
fn symbols(map: &str) -> Vec<(u64, String)> {
    let mut symbols: Vec<_> = map
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            // The section and the offset in it. Section 0 is for constants.
            let (section, _) = words.next()?.split_once(':')?;
            let name = words.next().filter(|_| section != "0000")?;
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            Some((address, name.to_owned()))
        })
        .collect();
    symbols.sort();
    symbols
}

/// The address of the symbol after those at `address`.
fn end(symbols: &[(u64, String)], address: u64) -> Option<u64> {
    let mut addresses = symbols.iter().map(|(address, _)| *address);
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
            .map(|(address, name)| (&**name, address & 0xFF, end(&symbols, *address)))
            .collect();
        let second = Some(0x1_8000_1010);
        let expected = [
            ("first", 0, second),
            ("same", 0, second),
            ("second", 0x10, None),
        ];
        assert_eq!(found, expected);
    }
}
