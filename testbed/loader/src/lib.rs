//! Loads driver files on Linux like the loader of the Windows kernel. It parses, maps and
//! relocates a PE file and binds its imports, and it reads the symbols, messages and unwind
//! information for reports. It runs no code and knows no device.
//!
//! - `file`: the checked layout of a file
//! - `control_flow`: instructions that are reachable from a routine
//! - `messages`: the message table
//! - `symbols`: names from a linker map or program database
//! - `unwind`: steps through the driver's stack
//! - [`sample`]: a small driver file for tests
//!
//! ```
//! # #[cfg(target_os = "linux")] {
//! use testbed_loader::sample::Sample;
//!
//! let sample = Sample {
//!     imports: vec![("storport.sys", "StorPortInitialize")],
//!     ..Sample::default()
//! };
//! let image = sample.load(&|_module, _function| Some(0x1000))?;
//! assert_eq!(image.imports()[0].function, "StorPortInitialize");
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![cfg(target_os = "linux")]
#![expect(unsafe_code, reason = "maps the image and protects its pages")]

mod control_flow;
mod file;
mod messages;
pub mod sample;
mod symbols;
mod unwind;

use std::{
    ffi::c_void,
    fs::File,
    io::{self, Read as _},
    num::NonZero,
    path::{Path, PathBuf},
    ptr::NonNull,
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect};
use rand::{TryRng, rngs::SysRng};

pub use self::unwind::Registers;
use self::{
    file::{DriverFile, Protection, Range},
    messages::Messages,
    symbols::Symbols,
    unwind::Unwind,
};

/// Bytes in a page, as on every x64 Windows.
pub const PAGE: usize = 4096;

const READ_WRITE: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// One imported function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The module, as the file spells it: `storport.sys`.
    pub module: String,
    /// The function's name. An import by ordinal is refused.
    pub function: String,
}

/// Why a file cannot be loaded. Each has the file's path.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file cannot be read.
    #[error("{0}: {1}")]
    Read(PathBuf, #[source] io::Error),
    /// The file is malformed. The text names the part and the remedy.
    #[error("{0}: {1}")]
    Malformed(PathBuf, String),
    /// The driver imports functions that the testbed does not have: all of them,
    /// `module!function`, comma-separated.
    #[error("{0}: imports functions that the testbed does not have: {1}")]
    Missing(PathBuf, String),
    /// The host cannot map the image or protect its pages.
    #[error("{0}: the host cannot map it: {1}")]
    Map(PathBuf, #[source] io::Error),
}

/// A loaded driver. It stays mapped until the process ends, because a thread may be executing
/// its code.
#[derive(Debug)]
pub struct Image {
    name: String,
    base: usize,
    bytes: usize,
    entry: u32,
    ranges: Vec<Range>,
    imports: Vec<Import>,
    remarks: Vec<String>,
    symbols: Symbols,
    unwind: Unwind,
    messages: Messages,
}

impl Image {
    /// Reads the imports of the file at `path` without loading it.
    ///
    /// # Errors
    /// `Read` or `Malformed`.
    pub fn imports_of(path: &Path) -> Result<Vec<Import>, ImageError> {
        Ok(parse(path, &read(path)?)?.imports)
    }

    /// Loads the file: maps and protects its sections, relocates it, binds its imports with
    /// `resolve(module, function)`, and sets the security cookie. Messages use the symbols of
    /// a linker map or program database beside the file (`name.map`, `name.pdb`).
    ///
    /// # Errors
    /// Any [`ImageError`]; `Missing` names all missing imports.
    pub fn load(
        path: &Path,
        resolve: &dyn Fn(&str, &str) -> Option<usize>,
    ) -> Result<Self, ImageError> {
        Self::load_data(path, &read(path)?, resolve)
    }

    /// Loads `data`, the contents of the file at `path`.
    fn load_data(
        path: &Path,
        data: &[u8],
        resolve: &dyn Fn(&str, &str) -> Option<usize>,
    ) -> Result<Self, ImageError> {
        let malformed = |why| ImageError::Malformed(path.into(), why);
        let unmapped = |source| ImageError::Map(path.into(), source);
        let mut file = parse(path, data)?;
        file.bind(resolve)
            .map_err(|names| ImageError::Missing(path.into(), names.join(", ")))?;
        let base = place(file.bytes.len(), file.preferred_base).map_err(unmapped)?;
        file.relocate(base as u64).map_err(malformed)?;
        let random = SysRng
            .try_next_u64()
            .map_err(|error| unmapped(io::Error::other(error)))?;
        file.set_cookie(base as u64, random).map_err(malformed)?;
        // SAFETY: `place` mapped that many bytes there, and nothing else knows the address yet.
        unsafe {
            std::ptr::copy_nonoverlapping(file.bytes.as_ptr(), base as *mut u8, file.bytes.len());
        }
        protect(base, file.bytes.len(), ProtFlags::PROT_NONE).map_err(unmapped)?;
        for range in &file.ranges {
            let flags = match range.protection {
                Protection::Read => ProtFlags::PROT_READ,
                Protection::ReadWrite => READ_WRITE,
                Protection::ReadExecute => ProtFlags::PROT_READ.union(ProtFlags::PROT_EXEC),
            };
            protect(base + range.offset, range.bytes, flags).map_err(unmapped)?;
        }
        Ok(Self {
            name: path
                .file_name()
                .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            base,
            bytes: file.bytes.len(),
            entry: file.entry,
            symbols: Symbols::beside(path, file.timestamp, file.guid),
            unwind: file.unwind,
            messages: file.messages,
            ranges: file.ranges,
            imports: file.imports,
            remarks: file.remarks,
        })
    }

    /// The file's name without its folder: `ferrostor.sys`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The imports that were bound.
    #[must_use]
    pub fn imports(&self) -> &[Import] {
        &self.imports
    }

    /// Oddities of the file that did not prevent loading, one sentence each.
    #[must_use]
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// The address of DriverEntry.
    #[must_use]
    pub fn entry(&self) -> usize {
        self.base + self.entry as usize
    }

    /// The addresses of the image.
    #[must_use]
    pub fn addresses(&self) -> std::ops::Range<usize> {
        self.base..self.base + self.bytes
    }

    /// The offset of `address` in the image, if it is in the image.
    #[must_use]
    pub fn offset_of(&self, address: usize) -> Option<u32> {
        let offset = address.checked_sub(self.base)?;
        (offset < self.bytes).then_some(offset as u32)
    }

    /// The symbol at or before `offset`, and the distance from it. `None` without symbols of
    /// this build.
    #[must_use]
    pub fn symbol(&self, offset: u32) -> Option<(&str, u32)> {
        self.symbols.at(offset)
    }

    /// The message for the event `code` in the file's message table, with `inserts` in place of
    /// `%1` and following.
    #[must_use]
    pub fn sentence(&self, code: u32, inserts: &[&str]) -> Option<String> {
        self.messages.sentence(code, inserts)
    }

    /// Changes the registers at `offset` to those of the function's caller. `read` returns the
    /// word at an address of the stack.
    pub fn unwind(
        &self,
        offset: u32,
        registers: &mut Registers,
        read: impl Fn(usize) -> Option<usize>,
    ) -> Option<()> {
        self.unwind.step(offset, registers, read)
    }

    /// The addresses of the instructions that are reachable from the routine at `routine`. No
    /// breakpoint may be set in the code meanwhile.
    pub fn reachable_from(&self, routine: usize) -> Vec<usize> {
        control_flow::reachable_from(routine, |place| {
            let bytes = self.code_from(place)?;
            // SAFETY: that many bytes from there on are in an executable section, which stays
            // mapped. No breakpoint is being set.
            Some(unsafe { std::slice::from_raw_parts(place as *const u8, bytes) })
        })
    }

    /// The number of bytes of code from `address` on, if there is any.
    pub fn code_from(&self, address: usize) -> Option<usize> {
        let offset = address.checked_sub(self.base)?;
        let range = self.ranges.iter().find(|range| {
            range.protection == Protection::ReadExecute
                && (range.offset..range.offset + range.bytes).contains(&offset)
        })?;
        Some(range.offset + range.bytes - offset)
    }
}

fn parse(path: &Path, data: &[u8]) -> Result<DriverFile, ImageError> {
    DriverFile::parse(data).map_err(|why| ImageError::Malformed(path.into(), why))
}

/// Reads at most the size of the largest driver. A disk image or a device that was named by
/// mistake is truncated, and refused later.
fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    let mut data = Vec::new();
    let file = File::open(path).map(|file| file.take(file::LARGEST as u64));
    match file.and_then(|mut file| file.read_to_end(&mut data)) {
        Ok(_) => Ok(data),
        Err(source) => Err(ImageError::Read(path.into(), source)),
    }
}

/// Maps `bytes` of writable memory at any address but `avoid`, so that a driver that is not
/// relocated correctly fails.
fn place(bytes: usize, avoid: u64) -> io::Result<usize> {
    let first = map(bytes)?;
    if first as u64 != avoid {
        return Ok(first);
    }
    // The first mapping still exists, so the second has another address.
    map(bytes)
}

fn map(bytes: usize) -> io::Result<usize> {
    let bytes = NonZero::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: makes a new mapping at an address that the host chooses.
    let mapped = unsafe { mmap_anonymous(None, bytes, READ_WRITE, MapFlags::MAP_PRIVATE) }?;
    Ok(mapped.addr().get())
}

fn protect(address: usize, bytes: usize, flags: ProtFlags) -> io::Result<()> {
    let address = NonNull::new(address as *mut c_void).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: the range is part of the image's own mapping (`DriverFile` checked that), and
    // Rust holds no reference into it.
    Ok(unsafe { mprotect(address, bytes, flags) }?)
}

#[cfg(test)]
mod tests {
    use super::{
        Image, ImageError, Import,
        sample::{self, Sample, field},
    };

    /// mov eax, 7; ret
    const RETURN_7: [u8; 6] = [0xb8, 7, 0, 0, 0, 0xc3];

    fn sample() -> Sample {
        Sample {
            code: RETURN_7.into(),
            imports: vec![
                ("storport.sys", "StorPortInitialize"),
                ("storport.sys", "StorPortNotification"),
                ("ntoskrnl.exe", "memcpy"),
            ],
            ..Sample::default()
        }
    }

    fn any_address(_: &str, _: &str) -> Option<usize> {
        Some(0x1234)
    }

    fn quad(image: &Image, offset: u32) -> u64 {
        let at = (image.base + offset as usize) as *const u64;
        // SAFETY: the tests ask for offsets in readable sections.
        unsafe { at.read_unaligned() }
    }

    fn load(file: &[u8]) -> Result<Image, ImageError> {
        Image::load_data("sample.sys".as_ref(), file, &any_address)
    }

    fn why(file: &[u8]) -> String {
        match load(file) {
            Err(ImageError::Malformed(_, why)) => why,
            other => panic!("not refused as malformed: {other:?}"),
        }
    }

    fn changed(at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut file = sample().file();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    }

    #[test]
    fn code_runs_and_pointers_are_moved_away_from_the_preferred_base() {
        let image = sample().load(&any_address).expect("a good file");

        // SAFETY: the code is RETURN_7, mapped executable.
        let entry: extern "win64" fn() -> u32 = unsafe { std::mem::transmute(image.entry()) };
        assert_eq!(entry(), 7);
        assert_ne!(image.base as u64, sample::BASE);
        assert_eq!(
            quad(&image, sample::POINTER),
            image.base as u64 + u64::from(sample::DATA)
        );
        assert_eq!(image.offset_of(image.entry()), Some(sample::TEXT));
        assert_eq!(image.offset_of(image.base - 1), None);
        assert_eq!(image.offset_of(image.base + image.bytes), None);
        assert_eq!(image.code_from(image.entry() + 0xff0), Some(16));
        assert_eq!(image.code_from(image.base), None);
        assert!(image.remarks().is_empty());
    }

    #[test]
    fn each_import_gets_the_address_of_its_module_and_name() {
        let addresses = |module: &str, function: &str| match (module, function) {
            ("storport.sys", "StorPortInitialize") => Some(1),
            ("storport.sys", "StorPortNotification") => Some(2),
            ("ntoskrnl.exe", "memcpy") => Some(3),
            _ => None,
        };

        let image = sample().load(&addresses).expect("a good file");

        let slots = [0, 8, 24].map(|slot| quad(&image, sample::ADDRESSES + slot));
        assert_eq!(slots, [1, 2, 3]);
        assert_eq!(
            image.imports()[2],
            Import {
                module: "ntoskrnl.exe".into(),
                function: "memcpy".into()
            }
        );
    }

    #[test]
    fn all_missing_imports_are_named_at_once() {
        let error = sample()
            .load(&|_, function| (function == "memcpy").then_some(1))
            .expect_err("two are missing");

        assert!(
            error.to_string().ends_with(
                "imports functions that the testbed does not have: storport.sys!StorPortInitialize, \
                 storport.sys!StorPortNotification"
            ),
            "{error}"
        );
    }

    #[test]
    fn the_security_cookie_is_random_and_has_clear_upper_bits() {
        let cookies = [0, 1].map(|_| {
            let image = sample().load(&any_address).expect("a good file");
            quad(&image, sample::DATA)
        });

        assert_ne!(cookies[0], sample::COOKIE);
        assert_ne!(cookies[0], cookies[1]);
        assert!(
            cookies
                .iter()
                .all(|cookie| cookie >> 48 == 0 && *cookie != 0)
        );
    }

    #[test]
    fn imports_and_symbols_come_from_the_files_at_the_path() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("sample.sys");
        std::fs::write(&file, sample().file()).expect("a file");
        let map = " Timestamp is 00000000 (x)\n Preferred load address is 0000000140000000\n \
                   0001:00000000 DriverEntry 0000000140001000 a.obj\n";
        std::fs::write(file.with_extension("map"), map).expect("a map file");

        let imports = Image::imports_of(&file).expect("a good file");
        let image = Image::load(&file, &any_address).expect("a good file");

        assert_eq!(imports[2].function, "memcpy");
        assert_eq!(imports, image.imports());
        assert_eq!(image.symbol(sample::TEXT + 4), Some(("DriverEntry", 4)));
    }

    #[test]
    fn a_file_that_is_no_x64_driver_is_refused_with_the_reason() {
        let machine = |number: u16| changed(field::MACHINE, &number.to_le_bytes());
        let cases: [(Vec<u8>, &str); 16] = [
            (Vec::new(), "the file is empty"),
            (b"#!/bin/sh\n".into(), "this is not a PE file"),
            (b"MZ".into(), "damaged or no driver"),
            (changed(0x3c, &[0xff; 4]), "no PE signature"),
            (changed(0x40, b"NE"), "no PE signature"),
            (machine(0x14c), "32-bit x86"),
            (machine(0xaa64), "ARM64"),
            (machine(0x200), "machine type 0x0200"),
            (changed(field::OPTIONAL, &[0x0b, 1]), "damaged or no driver"),
            (changed(field::CHARACTERISTICS, &[0x20, 0]), "not linked"),
            (
                changed(field::CHARACTERISTICS, &[0x23, 0]),
                "relocations are stripped",
            ),
            (changed(field::SUBSYSTEM, &[3, 0]), "its subsystem is 3"),
            (
                changed(field::SECTION_ALIGNMENT, &[0x20, 0]),
                "aligned to 32 bytes",
            ),
            (
                changed(field::SIZE_OF_IMAGE, &[0xff; 4]),
                "which no driver has",
            ),
            (
                changed(field::SIZE_OF_HEADERS, &[0xff; 4]),
                "headers reach beyond",
            ),
            (sample().file()[..0x2000].into(), "reaches beyond the file"),
        ];

        for (file, reason) in cases {
            let why = why(&file);
            assert!(why.contains(reason), "{why} should speak of: {reason}");
        }
    }

    #[test]
    fn an_entry_point_outside_executable_sections_is_refused() {
        for entry in [0, sample::DATA, 0x10_0000] {
            let why = why(&changed(field::ENTRY, &entry.to_le_bytes()));
            assert!(why.contains("entry point"), "{why}");
        }
    }

    #[test]
    fn overlapping_and_outlying_sections_are_refused() {
        let address_of_second = field::SECTIONS + 40 + 12;
        for address in [
            0_u32,
            sample::TEXT,
            0x2001,
            sample::DATA,
            0x7000,
            u32::MAX - 0xfff,
        ] {
            let why = why(&changed(address_of_second, &address.to_le_bytes()));
            assert!(why.contains("overlaps another or lies outside"), "{why}");
        }
    }

    #[test]
    fn relocations_of_other_kinds_or_outside_the_image_are_refused() {
        let block = field::RELOCATION_BLOCK;
        let cases: [(usize, &[u8], &str); 5] = [
            (block + 8, &[0x58, 0x38], "type 3"),
            (block, &[0, 0xf0, 0xff, 0xff], "lies outside the image"),
            (block + 4, &[7, 0, 0, 0], "reloc block size"),
            (block + 4, &[0xfc, 0xff, 0xff, 0xff], "reloc block size"),
            (
                field::RELOCATION_DIRECTORY,
                &[0xff; 4],
                "relocations lie outside",
            ),
        ];
        for (at, bytes, reason) in cases {
            let why = why(&changed(at, bytes));
            assert!(why.contains(reason), "{why} should speak of: {reason}");
        }
    }

    #[test]
    fn an_import_by_ordinal_is_refused() {
        let mut by_ordinal = 5_u64.to_le_bytes();
        by_ordinal[7] = 0x80;

        let why = why(&changed(sample::raw(0x2200), &by_ordinal));

        assert!(why.contains("number 5 of storport.sys by ordinal"), "{why}");
    }

    #[test]
    fn a_security_cookie_outside_writable_data_is_refused() {
        let address = sample::BASE + u64::from(sample::TEXT);

        let why = why(&changed(
            sample::raw(sample::LOAD_CONFIG) + 0x58,
            &address.to_le_bytes(),
        ));

        assert!(why.contains("security cookie"), "{why}");
    }

    #[test]
    fn a_writable_executable_section_is_remarked_on() {
        let image = load(&changed(field::SECTIONS + 36 + 3, &[0xe0])).expect("still runs");

        assert!(
            image.remarks()[0].contains(".text"),
            "{:?}",
            image.remarks()
        );
    }

    #[test]
    fn a_missing_file_is_distinguished_from_an_invalid_one() {
        let error = Image::imports_of("/nowhere/driver.sys".as_ref()).expect_err("no such file");

        assert!(matches!(error, ImageError::Read(..)));
    }
}
