//! A small driver file for tests, written byte by byte.

use super::{Image, ImageError};

/// The offset of the code in the image.
pub const TEXT: u32 = 0x1000;
/// The offset of the import addresses: 8 bytes each, with a null after those of each module.
pub const ADDRESSES: u32 = 0x2000;
/// The offset of the load configuration.
pub(crate) const LOAD_CONFIG: u32 = 0x2800;
/// The offset of writable data, which begins with the security cookie.
pub(crate) const DATA: u32 = 0x3000;
/// The offset of a relocated pointer to `DATA`.
pub(crate) const POINTER: u32 = DATA + 8;
/// The offset of the discardable section, which is executable too.
pub(crate) const INIT: u32 = 0x4000;
const RELOCATIONS: u32 = 0x5000;
const END: u32 = 0x6000;

/// The preferred base.
pub(crate) const BASE: u64 = 0x1_4000_0000;
/// The cookie in the file.
pub(crate) const COOKIE: u64 = 0x0000_2b99_2ddf_a232;

/// Offsets of header fields in the file.
pub(crate) mod field {
    pub(crate) const MACHINE: usize = 0x44;
    pub(crate) const CHARACTERISTICS: usize = 0x56;
    pub(crate) const OPTIONAL: usize = 0x58;
    pub(crate) const ENTRY: usize = OPTIONAL + 16;
    pub(crate) const SECTION_ALIGNMENT: usize = OPTIONAL + 32;
    pub(crate) const SIZE_OF_IMAGE: usize = OPTIONAL + 56;
    pub(crate) const SIZE_OF_HEADERS: usize = OPTIONAL + 60;
    pub(crate) const SUBSYSTEM: usize = OPTIONAL + 68;
    pub(crate) const EXCEPTION_DIRECTORY: usize = OPTIONAL + 112 + 3 * 8;
    pub(crate) const RELOCATION_DIRECTORY: usize = OPTIONAL + 112 + 5 * 8;
    pub(crate) const SECTIONS: usize = 0x148;
    /// In the file: the first relocation block.
    #[cfg(test)]
    pub(crate) const RELOCATION_BLOCK: usize = super::raw(super::RELOCATIONS);
}

/// The offset of page `address` of the image in the file.
pub(crate) const fn raw(address: u32) -> usize {
    0x400 + (address - TEXT) as usize
}

/// The contents of the driver.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// The code, at most one page. Its first byte is the entry point.
    pub code: Vec<u8>,
    /// The module and the function of each import.
    pub imports: Vec<(&'static str, &'static str)>,
    /// The start and end of each function in the code, and its UNWIND_INFO of at most 8 bytes.
    pub functions: Vec<(u32, u32, &'static [u8])>,
}

impl Sample {
    /// Builds the file.
    pub fn file(&self) -> Vec<u8> {
        let mut file = vec![0; raw(END)];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"MZ");
        put(0x3c, &0x40_u32.to_le_bytes());
        put(0x40, b"PE\0\0");
        put(field::MACHINE, &0x8664_u16.to_le_bytes());
        put(field::MACHINE + 2, &5_u16.to_le_bytes());
        put(field::MACHINE + 16, &240_u16.to_le_bytes());
        put(field::CHARACTERISTICS, &0x0022_u16.to_le_bytes());
        put(field::OPTIONAL, &0x20b_u16.to_le_bytes());
        put(field::ENTRY, &TEXT.to_le_bytes());
        put(field::OPTIONAL + 24, &BASE.to_le_bytes());
        put(field::SECTION_ALIGNMENT, &0x1000_u32.to_le_bytes());
        put(field::OPTIONAL + 36, &0x200_u32.to_le_bytes());
        put(field::SIZE_OF_IMAGE, &END.to_le_bytes());
        put(field::SIZE_OF_HEADERS, &0x400_u32.to_le_bytes());
        put(field::SUBSYSTEM, &1_u16.to_le_bytes());
        put(field::OPTIONAL + 108, &16_u32.to_le_bytes());
        let mut directory = |index: usize, address: u32, size: u32| {
            put(field::OPTIONAL + 112 + index * 8, &address.to_le_bytes());
            put(field::OPTIONAL + 116 + index * 8, &size.to_le_bytes());
        };
        directory(1, 0x2400, 0x100);
        directory(5, RELOCATIONS, 12);
        directory(10, LOAD_CONFIG, 0x60);
        let sections = [
            (b".text\0\0\0", TEXT, 0x6000_0020_u32),
            (b".rdata\0\0", ADDRESSES, 0x4000_0040),
            (b".data\0\0\0", DATA, 0xc000_0040),
            (b"INIT\0\0\0\0", INIT, 0x6200_0020),
            (b".reloc\0\0", RELOCATIONS, 0x4200_0040),
        ];
        for (index, (name, address, flags)) in sections.into_iter().enumerate() {
            let at = field::SECTIONS + index * 40;
            put(at, name);
            put(at + 8, &0x1000_u32.to_le_bytes());
            put(at + 12, &address.to_le_bytes());
            put(at + 16, &0x1000_u32.to_le_bytes());
            put(at + 20, &(raw(address) as u32).to_le_bytes());
            put(at + 36, &flags.to_le_bytes());
        }
        put(raw(TEXT), &self.code);
        put(raw(INIT), &[0xc3]);
        put(raw(LOAD_CONFIG), &0x60_u32.to_le_bytes());
        put(
            raw(LOAD_CONFIG) + 0x58,
            &(BASE + u64::from(DATA)).to_le_bytes(),
        );
        put(raw(DATA), &COOKIE.to_le_bytes());
        put(raw(POINTER), &(BASE + u64::from(DATA)).to_le_bytes());
        // One block for the page of the load configuration, one for the data.
        for (at, page, entry) in [(0, 0x2000_u32, 0xa858_u16), (12, DATA, 0xa008)] {
            put(raw(RELOCATIONS) + at, &page.to_le_bytes());
            put(raw(RELOCATIONS) + at + 4, &12_u32.to_le_bytes());
            put(raw(RELOCATIONS) + at + 8, &entry.to_le_bytes());
        }
        put(field::RELOCATION_DIRECTORY + 4, &24_u32.to_le_bytes());
        self.put_functions(&mut file);
        self.put_imports(&mut file);
        file
    }

    /// Writes the function table at 2A00h and the UNWIND_INFO from 2B00h on.
    fn put_functions(&self, file: &mut [u8]) {
        const TABLE: u32 = 0x2a00;
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        for (index, (begin, end, description)) in (0..).zip(&self.functions) {
            let information = TABLE + 0x100 + index * 8;
            for (word, value) in (0..).zip([TEXT + begin, TEXT + end, information]) {
                put(raw(TABLE + index * 12 + word * 4), &value.to_le_bytes());
            }
            put(raw(information), description);
        }
        if !self.functions.is_empty() {
            let bytes = self.functions.len() as u32 * 12;
            put(field::EXCEPTION_DIRECTORY, &TABLE.to_le_bytes());
            put(field::EXCEPTION_DIRECTORY + 4, &bytes.to_le_bytes());
        }
    }

    fn put_imports(&self, file: &mut [u8]) {
        let mut put = |at: u32, bytes: &[u8]| {
            file[raw(at)..raw(at) + bytes.len()].copy_from_slice(bytes);
        };
        // Addresses at 0x2000, the offsets of their names at 0x2200, descriptors at 0x2400,
        // names from 0x2500 on.
        let (mut slot, mut descriptor, mut text) = (0_u32, 0x2400_u32, 0x2500_u32);
        for group in self.imports.chunk_by(|a, b| a.0 == b.0) {
            put(descriptor, &(0x2200 + slot).to_le_bytes());
            put(descriptor + 12, &text.to_le_bytes());
            put(descriptor + 16, &(ADDRESSES + slot).to_le_bytes());
            descriptor += 20;
            put(text, group[0].0.as_bytes());
            text += (group[0].0.len() as u32 + 2) & !1;
            for (_, function) in group {
                put(ADDRESSES + slot, &u64::from(text).to_le_bytes());
                put(0x2200 + slot, &u64::from(text).to_le_bytes());
                put(text + 2, function.as_bytes());
                text += (function.len() as u32 + 4) & !1;
                slot += 8;
            }
            slot += 8;
        }
    }

    /// Loads the driver.
    pub fn load(&self, resolve: &dyn Fn(&str, &str) -> Option<usize>) -> Result<Image, ImageError> {
        Image::load_data("sample.sys".as_ref(), &self.file(), resolve)
    }
}
