//! Parses a driver file, lays out its sections, relocates it and binds its imports, all in a
//! buffer. It does not trust the file.

use object::{
    LittleEndian as LE, Object as _, ReadRef as _,
    pe::{self, ImageDosHeader, ImageNtHeaders32, ImageNtHeaders64},
    read::pe::{
        ImageNtHeaders as _, Import as Thunk, ImportTable, PeFile64, RelocationBlockIterator,
        SectionTable,
    },
};

use super::{Import, messages::Messages, unwind::Unwind};
use crate::PAGE;

/// The largest accepted image. A larger size is a damaged header.
pub(super) const LARGEST: usize = 256 << 20;

/// The maximum number of imports; ntoskrnl.exe exports fewer functions.
const MOST_IMPORTS: usize = 4096;

/// The compiler's default security cookie. The kernel's loader replaces it. The driver's entry
/// point stops the machine if it was not replaced.
const DEFAULT_COOKIE: u64 = 0x0000_2b99_2ddf_a232;

/// The accesses that a range of the image allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protection {
    Read,
    ReadWrite,
    ReadExecute,
}

/// Pages with one protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) offset: usize,
    pub(super) bytes: usize,
    pub(super) protection: Protection,
}

/// A file, laid out as in memory.
#[derive(Debug)]
pub(super) struct DriverFile {
    /// SizeOfImage bytes.
    pub(super) bytes: Vec<u8>,
    pub(super) preferred_base: u64,
    pub(super) timestamp: u32,
    /// The GUID of the program database, from the debug directory.
    pub(super) guid: Option<[u8; 16]>,
    pub(super) entry: u32,
    pub(super) ranges: Vec<Range>,
    pub(super) imports: Vec<Import>,
    pub(super) unwind: Unwind,
    pub(super) messages: Messages,
    /// Oddities of the file that do not prevent loading.
    pub(super) remarks: Vec<String>,
    /// The offset of each import's address.
    slots: Vec<u32>,
    relocations: Vec<u32>,
    load_config: u32,
}

impl DriverFile {
    /// Lays out the file `data`.
    ///
    /// # Errors
    /// A message that says what is wrong with the file.
    pub(super) fn parse(data: &[u8]) -> Result<Self, String> {
        let file = headers(data)?;
        let headers = file.nt_headers();
        let optional = &headers.optional_header;
        let size = optional.size_of_image.get(LE) as usize;
        if size == 0 || size > LARGEST {
            return Err(format!(
                "its header says {size} bytes of image, which no driver has; build it again"
            ));
        }
        let mut bytes = vec![0; size.next_multiple_of(PAGE)];
        let headers_size = optional.size_of_headers.get(LE) as usize;
        copy(data, 0, &mut bytes, 0, headers_size)
            .ok_or("its headers reach beyond the file; the copy is cut short")?;
        let mut remarks = Vec::new();
        let ranges = lay_out(
            data,
            &file.section_table(),
            headers_size,
            &mut bytes,
            &mut remarks,
        )?;
        let entry = optional.address_of_entry_point.get(LE);
        let executable = |range: &Range| {
            range.protection == Protection::ReadExecute
                && (range.offset..range.offset + range.bytes).contains(&(entry as usize))
        };
        if entry == 0 || !ranges.iter().any(executable) {
            return Err(format!(
                "its entry point {entry:#x} lies in no executable section; link it with \
                 /ENTRY:DriverEntry (or GsDriverEntry)"
            ));
        }
        let directory = |index: usize| {
            let directory = file.data_directories().get(index)?;
            let address = directory.virtual_address.get(LE);
            (address != 0).then_some((address, directory.size.get(LE)))
        };
        let relocations = match directory(pe::IMAGE_DIRECTORY_ENTRY_BASERELOC) {
            Some((address, size)) => relocations(&bytes, address, size)?,
            None => Vec::new(),
        };
        let (imports, slots) = match directory(pe::IMAGE_DIRECTORY_ENTRY_IMPORT) {
            Some((address, _)) => imports(&bytes, address)?,
            None => (Vec::new(), Vec::new()),
        };
        let unwind = match directory(pe::IMAGE_DIRECTORY_ENTRY_EXCEPTION) {
            Some((address, size)) => Unwind::parse(&bytes, address, size),
            None => Unwind::default(),
        };
        let messages = match directory(pe::IMAGE_DIRECTORY_ENTRY_RESOURCE) {
            Some((address, _)) => Messages::parse(&bytes, address),
            None => Messages::default(),
        };
        Ok(Self {
            unwind,
            messages,
            bytes,
            preferred_base: optional.image_base.get(LE),
            guid: file.pdb_info().ok().flatten().map(|view| view.guid()),
            timestamp: headers.file_header.time_date_stamp.get(LE),
            entry,
            ranges,
            imports,
            remarks,
            slots,
            relocations,
            load_config: directory(pe::IMAGE_DIRECTORY_ENTRY_LOAD_CONFIG)
                .map_or(0, |(address, _)| address),
        })
    }

    /// Relocates the image to `base`.
    pub(super) fn relocate(&mut self, base: u64) -> Result<(), String> {
        let distance = base.wrapping_sub(self.preferred_base);
        for &at in &self.relocations {
            let place = field(&mut self.bytes, at).ok_or_else(|| {
                format!("its relocation at {at:#x} lies outside the image; build it again")
            })?;
            *place = u64::from_le_bytes(*place)
                .wrapping_add(distance)
                .to_le_bytes();
        }
        Ok(())
    }

    /// Stores the addresses of the imports.
    ///
    /// # Errors
    /// The imports that `resolve` does not know, as `module!function`.
    pub(super) fn bind(
        &mut self,
        resolve: &dyn Fn(&str, &str) -> Option<usize>,
    ) -> Result<(), Vec<String>> {
        let mut missing = Vec::new();
        for (import, &slot) in self.imports.iter().zip(&self.slots) {
            match resolve(&import.module, &import.function) {
                Some(address) => {
                    if let Some(place) = field(&mut self.bytes, slot) {
                        *place = (address as u64).to_le_bytes();
                    }
                }
                None => missing.push(format!("{}!{}", import.module, import.function)),
            }
        }
        if missing.is_empty() {
            Ok(())
        } else {
            Err(missing)
        }
    }

    /// Replaces the security cookie, if the file has one. `base` is the base of the relocated
    /// image.
    pub(super) fn set_cookie(&mut self, base: u64, random: u64) -> Result<(), String> {
        const SECURITY_COOKIE: u32 = 0x58;
        if self.load_config == 0 {
            return Ok(());
        }
        // The directory begins with its size. In old versions it ends before the cookie.
        let short = "its load configuration lies outside the image; build it again";
        let size = *field::<4>(&mut self.bytes, self.load_config).ok_or(short)?;
        if u32::from_le_bytes(size) < SECURITY_COOKIE + 8 {
            return Ok(());
        }
        let at = self.load_config.checked_add(SECURITY_COOKIE).ok_or(short)?;
        let address = u64::from_le_bytes(*field(&mut self.bytes, at).ok_or(short)?);
        if address == 0 {
            return Ok(());
        }
        let writable = |range: &&Range| range.protection == Protection::ReadWrite;
        let offset = address
            .checked_sub(base)
            .and_then(|offset| u32::try_from(offset).ok())
            .filter(|&offset| {
                self.ranges.iter().filter(writable).any(|range| {
                    (range.offset..range.offset + range.bytes).contains(&(offset as usize))
                })
            });
        let place = offset.and_then(|offset| field(&mut self.bytes, offset)).ok_or(
            "its load configuration names a security cookie outside its writable data; build it \
             again",
        )?;
        // As on Windows, the upper 16 bits are clear, so that a string that overruns a buffer
        // cannot copy the cookie.
        let cookie = random & 0x0000_ffff_ffff_ffff;
        let forbidden = cookie == 0 || cookie == DEFAULT_COOKIE;
        *place = if forbidden { cookie ^ 1 } else { cookie }.to_le_bytes();
        Ok(())
    }
}

/// Parses the headers. Refuses files that are not x64 drivers.
fn headers(data: &[u8]) -> Result<PeFile64<'_>, String> {
    if !data.starts_with(b"MZ") {
        return Err(if data.is_empty() {
            "the file is empty; name a driver's .sys file".into()
        } else {
            "this is not a PE file (no MZ at its start); name a driver's .sys file".into()
        });
    }
    let damaged = |what: &str| format!("{what}; the file is damaged or no driver, build it again");
    let dos = ImageDosHeader::parse(data).map_err(|error| damaged(&error.to_string()))?;
    // Checks the machine first, because 32-bit and 64-bit headers differ after it.
    let machine = data
        .read_at::<ImageNtHeaders32>(dos.nt_headers_offset().into())
        .ok()
        .filter(|headers| headers.signature() == pe::IMAGE_NT_SIGNATURE)
        .map(|headers| headers.file_header.machine.get(LE))
        .ok_or_else(|| damaged("there is no PE signature at the offset in its header"))?;
    if machine != pe::IMAGE_FILE_MACHINE_AMD64 {
        let kind = match machine {
            pe::IMAGE_FILE_MACHINE_I386 => "a 32-bit x86 file".into(),
            pe::IMAGE_FILE_MACHINE_ARM64 => "an ARM64 file".into(),
            other => format!("a file for machine type {:#06x}", other.0),
        };
        return Err(format!(
            "this is {kind}; the testbed runs x64 drivers, build it for x64"
        ));
    }
    let file = PeFile64::parse(data).map_err(|error| damaged(&error.to_string()))?;
    let headers = file.nt_headers();
    let flags = headers.file_header.characteristics.get(LE);
    if flags.0 & pe::IMAGE_FILE_EXECUTABLE_IMAGE.0 == 0 {
        return Err(
            "it is not linked (an object file, or a failed link); name the .sys file".into(),
        );
    }
    if flags.0 & pe::IMAGE_FILE_RELOCS_STRIPPED.0 != 0 {
        return Err(
            "its relocations are stripped, so it cannot be moved as the kernel moves \
                    drivers; link it with /DYNAMICBASE and without /FIXED"
                .into(),
        );
    }
    let optional = &headers.optional_header;
    let subsystem = optional.subsystem.get(LE);
    if subsystem != pe::IMAGE_SUBSYSTEM_NATIVE {
        return Err(format!(
            "its subsystem is {} and not 1 (native): it is a program or a DLL of user mode; link \
             a driver with /SUBSYSTEM:NATIVE",
            subsystem.0
        ));
    }
    let alignment = optional.section_alignment.get(LE);
    if !(alignment as usize).is_multiple_of(PAGE) || alignment == 0 {
        return Err(format!(
            "its sections are aligned to {alignment} bytes, so pages cannot be protected; link \
             it without /ALIGN"
        ));
    }
    Ok(file)
}

/// Copies the sections to their offsets. Returns their protections.
fn lay_out(
    data: &[u8],
    sections: &SectionTable<'_>,
    headers_size: usize,
    bytes: &mut [u8],
    remarks: &mut Vec<String>,
) -> Result<Vec<Range>, String> {
    let mut ranges = vec![Range {
        offset: 0,
        bytes: headers_size.next_multiple_of(PAGE),
        protection: Protection::Read,
    }];
    let mut end = headers_size.next_multiple_of(PAGE);
    for section in sections.iter() {
        let name = String::from_utf8_lossy(section.raw_name()).into_owned();
        let offset = section.virtual_address.get(LE) as usize;
        let raw = section.size_of_raw_data.get(LE) as usize;
        let size = match section.virtual_size.get(LE) as usize {
            0 => raw,
            size => size,
        };
        let next = offset.saturating_add(size).next_multiple_of(PAGE);
        if !offset.is_multiple_of(PAGE) || offset < end || next > bytes.len() {
            return Err(format!(
                "its section {name} ({size} bytes at {offset:#x}) overlaps another or lies \
                 outside the image of {:#x} bytes; build it again",
                bytes.len()
            ));
        }
        let from = section.pointer_to_raw_data.get(LE) as usize;
        copy(data, from, bytes, offset, raw.min(next - offset)).ok_or_else(|| {
            format!(
                "its section {name} ({raw} bytes at {from:#x}) reaches beyond the file of {} \
                 bytes; the copy is cut short",
                data.len()
            )
        })?;
        let flags = section.characteristics.get(LE).0;
        let has = |flag: pe::SectionFlags| flags & flag.0 != 0;
        let protection = match (has(pe::IMAGE_SCN_MEM_EXECUTE), has(pe::IMAGE_SCN_MEM_WRITE)) {
            (true, writable) => {
                if writable {
                    remarks.push(format!(
                        "its section {name} asks to be writable and executable: Windows with \
                         memory integrity refuses that, here it is not writable"
                    ));
                }
                Protection::ReadExecute
            }
            (false, true) => Protection::ReadWrite,
            (false, false) => Protection::Read,
        };
        if next > offset {
            ranges.push(Range {
                offset,
                bytes: next - offset,
                protection,
            });
        }
        end = next;
    }
    Ok(ranges)
}

/// The offsets of all 64-bit addresses in the image.
fn relocations(bytes: &[u8], address: u32, size: u32) -> Result<Vec<u32>, String> {
    let outside = || "its relocations lie outside the image; build it again".to_string();
    let start = address as usize;
    let end = start.checked_add(size as usize).ok_or_else(outside)?;
    let data = bytes.get(start..end).ok_or_else(outside)?;
    let mut found = Vec::new();
    for block in RelocationBlockIterator::new(data) {
        let block = block.map_err(|error| format!("{error}; build it again"))?;
        for relocation in block {
            match relocation.typ {
                pe::IMAGE_REL_BASED_ABSOLUTE => {}
                pe::IMAGE_REL_BASED_DIR64 => found.push(relocation.virtual_address),
                other => {
                    return Err(format!(
                        "its relocation at {:#x} has type {}, which x64 files do not have; build \
                         it again",
                        relocation.virtual_address, other.0
                    ));
                }
            }
        }
    }
    Ok(found)
}

/// The imports, and the offset at which each address is stored.
fn imports(bytes: &[u8], address: u32) -> Result<(Vec<Import>, Vec<u32>), String> {
    let broken = |error: object::read::Error| {
        format!("its import table is broken ({error}); build it again")
    };
    let table = ImportTable::new(bytes, 0, address);
    let mut imports = Vec::new();
    let mut slots = Vec::new();
    for descriptor in table.descriptors().map_err(broken)? {
        let descriptor = descriptor.map_err(broken)?;
        let module = text(table.name(descriptor.name.get(LE)).map_err(broken)?);
        let addresses = descriptor.first_thunk.get(LE);
        let names = match descriptor.original_first_thunk.get(LE) {
            0 => addresses,
            names => names,
        };
        let mut thunks = table.thunks(names).map_err(broken)?;
        let mut slot = addresses;
        while let Some(thunk) = thunks.next::<ImageNtHeaders64>().map_err(broken)? {
            let function = match table.import::<ImageNtHeaders64>(thunk).map_err(broken)? {
                Thunk::Name(_, name) => text(name),
                Thunk::Ordinal(number) => {
                    return Err(format!(
                        "it imports number {number} of {module} by ordinal, and ordinals differ \
                         between versions of Windows; link it with an import library that names \
                         the function"
                    ));
                }
            };
            if slot as usize + 8 > bytes.len() || imports.len() == MOST_IMPORTS {
                return Err("its import table reaches beyond the image; build it again".into());
            }
            imports.push(Import {
                module: module.clone(),
                function,
            });
            slots.push(slot);
            slot += 8;
        }
    }
    Ok((imports, slots))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn field<const N: usize>(bytes: &mut [u8], at: u32) -> Option<&mut [u8; N]> {
    bytes.get_mut(at as usize..)?.first_chunk_mut()
}

fn copy(from: &[u8], at: usize, to: &mut [u8], offset: usize, bytes: usize) -> Option<()> {
    let source = from.get(at..)?.get(..bytes)?;
    to.get_mut(offset..)?
        .get_mut(..bytes)?
        .copy_from_slice(source);
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::DriverFile;
    use crate::sample::Sample;

    fn good() -> Vec<u8> {
        let sample = Sample {
            code: vec![0xc3],
            imports: vec![
                ("storport.sys", "StorPortInitialize"),
                ("ntoskrnl.exe", "memcpy"),
            ],
            ..Sample::default()
        };
        sample.file()
    }

    /// Does everything that loading does, except mapping. Returns whether it succeeds.
    fn loads(data: &[u8]) -> bool {
        let Ok(mut file) = DriverFile::parse(data) else {
            return false;
        };
        for range in &file.ranges {
            assert!(range.offset + range.bytes <= file.bytes.len(), "{range:?}");
        }
        assert!((file.entry as usize) < file.bytes.len());
        file.bind(&|_, _| Some(1)).is_ok()
            && file.relocate(0x7f00_0000_0000).is_ok()
            && file.set_cookie(0x7f00_0000_0000, 99).is_ok()
    }

    #[test]
    fn the_undamaged_file_loads() {
        assert!(loads(&good()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        #[test]
        fn no_damage_to_any_bytes_makes_the_loader_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut data = good();
            for (place, byte) in changes {
                // Prefers the first half, which is headers and tables.
                let place = place.index(data.len() * 2);
                let place = if place < data.len() { place } else { place % 0x300 };
                data[place] = byte;
            }
            loads(&data);
        }

        #[test]
        fn no_damaged_field_makes_the_loader_panic(
            field in 0..0x5100_usize / 4,
            value in prop_oneof![any::<u32>(), Just(u32::MAX), Just(0), Just(0x7fff_ffff), 0..0x6010_u32],
        ) {
            let mut data = good();
            data[field * 4..field * 4 + 4].copy_from_slice(&value.to_le_bytes());
            loads(&data);
        }

        #[test]
        fn a_truncated_file_is_refused(length in 0..good().len()) {
            prop_assert!(!loads(&good()[..length]));
        }

        #[test]
        fn noise_behind_a_signature_never_loads(noise in prop::collection::vec(any::<u8>(), 0..4096)) {
            let data = [b"MZ".as_slice(), &noise].concat();
            prop_assert!(!loads(&data));
        }
    }
}
