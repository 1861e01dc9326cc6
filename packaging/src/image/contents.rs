//! Parses the contents of a driver file that the checks need. Checks nothing
//! itself.

use std::{collections::BTreeMap, ops::Range};

use editpe::VersionInfo;
use object::{
    LittleEndian as LE,
    pe::{
        self, DebugType, DllFlags, FileFlags, GuardFlags, IMAGE_DIRECTORY_ENTRY_BASERELOC,
        IMAGE_DIRECTORY_ENTRY_DEBUG, IMAGE_DIRECTORY_ENTRY_IAT, IMAGE_DIRECTORY_ENTRY_LOAD_CONFIG,
        IMAGE_DIRECTORY_ENTRY_SECURITY, IMAGE_SCN_MEM_EXECUTE, IMAGE_SCN_MEM_WRITE,
        ImageDebugDirectory, ImageNtHeaders64, Machine, Subsystem,
    },
    pod,
    read::pe::{ImageNtHeaders, ImageOptionalHeader, Import, PeFile64},
};

use crate::{authenticode, checksum};

/// The contents of a driver file.
#[derive(Clone, Debug)]
pub(super) struct Contents {
    pub(super) bytes: usize,
    pub(super) machine: Machine,
    pub(super) subsystem: Subsystem,
    /// The operating system version and the subsystem version.
    pub(super) windows_versions: [(u16, u16); 2],
    pub(super) characteristics: FileFlags,
    pub(super) dll_characteristics: DllFlags,
    pub(super) entry: u32,
    pub(super) section_alignment: u32,
    pub(super) sections: Vec<Section>,
    /// Functions by module, both sorted.
    pub(super) imports: BTreeMap<String, Vec<String>>,
    /// Names, or ordinals of functions without a name.
    pub(super) exports: Vec<String>,
    /// The import address table.
    pub(super) import_addresses: Option<u32>,
    /// The relocated addresses.
    pub(super) relocations: Vec<u32>,
    /// The checksum in the header, and the correct one.
    pub(super) checksums: [u32; 2],
    pub(super) guard: Option<Guard>,
    /// `None` if the file has no version, or an invalid one.
    pub(super) version: Option<VersionInfo>,
    /// The path in the debug directory.
    pub(super) program_database: Option<String>,
    pub(super) debug_types: Vec<DebugType>,
    /// The paths of source files in the file.
    pub(super) source_files: Vec<String>,
    pub(super) signature: Option<Signature>,
}

#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) name: String,
    pub(super) writable: bool,
    pub(super) executable: bool,
    /// Relative to the image's base.
    pub(super) addresses: Range<u32>,
}

/// Control Flow Guard in the load configuration. All addresses are
/// relative to the image's base.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    pub(super) flags: GuardFlags,
    /// The routines that check calls until the kernel replaces them.
    pub(super) checks: Vec<u32>,
    /// The valid call targets, in the order of the table.
    pub(super) functions: Vec<u32>,
}

/// The certificate table and its data directory.
#[derive(Clone, Debug)]
pub(super) struct Signature {
    /// In the file.
    pub(super) range: Range<u64>,
    /// Length, revision and type of each entry.
    pub(super) entries: Vec<(u32, u16, u16)>,
}

impl Contents {
    pub(super) fn parse(bytes: &[u8]) -> object::Result<Self> {
        let file = PeFile64::parse(bytes)?;
        let headers = file.nt_headers();
        let optional = headers.optional_header();
        // Of an optional header, in every PE file.
        const CHECKSUM: usize = 4 + 20 + 64;
        let checksum = file.dos_header().nt_headers_offset() as usize + CHECKSUM;

        Ok(Self {
            bytes: bytes.len(),
            machine: headers.file_header().machine.get(LE),
            subsystem: optional.subsystem(),
            windows_versions: [
                (
                    optional.major_operating_system_version(),
                    optional.minor_operating_system_version(),
                ),
                (
                    optional.major_subsystem_version(),
                    optional.minor_subsystem_version(),
                ),
            ],
            characteristics: headers.file_header().characteristics.get(LE),
            dll_characteristics: optional.dll_characteristics(),
            entry: optional.address_of_entry_point(),
            section_alignment: optional.section_alignment(),
            sections: sections(&file),
            imports: imports(&file)?,
            exports: exports(&file)?,
            import_addresses: file
                .data_directory(IMAGE_DIRECTORY_ENTRY_IAT)
                .map(|directory| directory.virtual_address.get(LE)),
            relocations: relocations(&file)?,
            checksums: [optional.check_sum(), checksum::of_image(bytes, checksum)],
            guard: guard(&file)?,
            version: version(&file),
            program_database: object::Object::pdb_info(&file)?.map(|info| text(info.path())),
            debug_types: debug_types(&file)?,
            source_files: source_files(bytes),
            signature: signature(&file),
        })
    }

    pub(super) fn is_code(&self, address: u32) -> bool {
        self.sections
            .iter()
            .any(|section| section.executable && section.addresses.contains(&address))
    }
}

fn sections(file: &PeFile64<'_>) -> Vec<Section> {
    file.section_table()
        .iter()
        .map(|section| {
            let flags = section.characteristics.get(LE);
            let start = section.virtual_address.get(LE);
            let size = section.virtual_size.get(LE);
            Section {
                name: text(section.raw_name()),
                writable: flags.contains(IMAGE_SCN_MEM_WRITE),
                executable: flags.contains(IMAGE_SCN_MEM_EXECUTE),
                addresses: start..start.saturating_add(size),
            }
        })
        .collect()
}

fn imports(file: &PeFile64<'_>) -> object::Result<BTreeMap<String, Vec<String>>> {
    let mut imports = BTreeMap::<_, Vec<_>>::new();
    let Some(table) = file.import_table()? else {
        return Ok(imports);
    };
    let mut descriptors = table.descriptors()?;
    while let Some(descriptor) = descriptors.next()? {
        let module = text(table.name(descriptor.name.get(LE))?);
        let functions = imports.entry(module).or_default();
        // Linkers that do not bind leave out the first of the two tables.
        let thunks = match descriptor.original_first_thunk.get(LE) {
            0 => descriptor.first_thunk.get(LE),
            thunks => thunks,
        };
        let mut thunks = table.thunks(thunks)?;
        while let Some(thunk) = thunks.next::<ImageNtHeaders64>()? {
            functions.push(match table.import::<ImageNtHeaders64>(thunk)? {
                Import::Ordinal(number) => format!("#{number}"),
                Import::Name(_, name) => text(name),
            });
        }
        functions.sort();
    }
    Ok(imports)
}

fn exports(file: &PeFile64<'_>) -> object::Result<Vec<String>> {
    let Some(table) = file.export_table()? else {
        return Ok(Vec::new());
    };
    let exports = table.exports()?.into_iter();
    Ok(exports
        .map(|export| match export.name {
            Some(name) => text(name),
            None => format!("#{}", export.ordinal),
        })
        .collect())
}

fn relocations(file: &PeFile64<'_>) -> object::Result<Vec<u32>> {
    let mut addresses = Vec::new();
    if file
        .data_directory(IMAGE_DIRECTORY_ENTRY_BASERELOC)
        .is_none()
    {
        return Ok(addresses);
    }
    let sections = file.section_table();
    let blocks = file
        .data_directories()
        .relocation_blocks(file.data(), &sections)?;
    for block in blocks.into_iter().flatten() {
        addresses.extend(
            block?
                .filter(|relocation| relocation.typ != pe::IMAGE_REL_BASED_ABSOLUTE)
                .map(|relocation| relocation.virtual_address),
        );
    }
    Ok(addresses)
}

/// The fields of IMAGE_LOAD_CONFIG_DIRECTORY64 (winnt.h) that are about Control Flow
/// Guard. A directory that ends before them says nothing of it.
fn guard(file: &PeFile64<'_>) -> object::Result<Option<Guard>> {
    const CHECK: usize = 0x70;
    const DISPATCH: usize = 0x78;
    const TABLE: usize = 0x80;
    const COUNT: usize = 0x88;
    const FLAGS: usize = 0x90;
    let Some(directory) = file.data_directory(IMAGE_DIRECTORY_ENTRY_LOAD_CONFIG) else {
        return Ok(None);
    };
    let directory = directory.data(file.data(), &file.section_table())?;
    let quad = |offset: usize| {
        let bytes = directory.get(offset..)?.first_chunk::<8>()?;
        Some(u64::from_le_bytes(*bytes))
    };
    let flags = directory
        .get(FLAGS..)
        .and_then(|rest| rest.first_chunk::<4>());
    let (Some(table), Some(count), Some(flags)) = (quad(TABLE), quad(COUNT), flags) else {
        return Ok(None);
    };
    let flags = u32::from_le_bytes(*flags);

    let base = file.nt_headers().optional_header().image_base();
    let relative = |address: u64| u32::try_from(address.wrapping_sub(base)).unwrap_or(u32::MAX);
    // A check cannot be at an address outside of the file.
    let pointed = |place: u64| {
        at(file, relative(place))
            .and_then(|data| data.first_chunk::<8>())
            .map_or(u32::MAX, |bytes| relative(u64::from_le_bytes(*bytes)))
    };
    let checks = [CHECK, DISPATCH].into_iter().filter_map(quad);
    // Each entry is an address, with additional bytes whose number is in the flags.
    let more = flags & pe::IMAGE_GUARD_CF_FUNCTION_TABLE_SIZE_MASK;
    let entry = 4 + (more >> pe::IMAGE_GUARD_CF_FUNCTION_TABLE_SIZE_SHIFT) as usize;
    let functions = at(file, relative(table))
        .unwrap_or_default()
        .chunks_exact(entry)
        .take(usize::try_from(count).unwrap_or(usize::MAX))
        .filter_map(|entry| Some(u32::from_le_bytes(*entry.first_chunk()?)))
        .collect();
    Ok(Some(Guard {
        flags: GuardFlags(flags),
        checks: checks.filter(|place| *place != 0).map(pointed).collect(),
        functions,
    }))
}

/// The data from an address relative to the image's base on.
fn at<'data>(file: &PeFile64<'data>, address: u32) -> Option<&'data [u8]> {
    file.section_table().pe_data_at(file.data(), address)
}

fn version(file: &PeFile64<'_>) -> Option<VersionInfo> {
    const VERSION: u16 = 16;
    let sections = file.section_table();
    let directories = file.data_directories();
    let directory = directories
        .resource_directory(file.data(), &sections)
        .ok()??;
    let root = directory.root().ok()?;
    let kind = root
        .entries
        .iter()
        .find(|entry| entry.name_or_id().id() == Some(VERSION));
    // Of the names the first, and of its languages: there is one of each.
    let names = kind?.data(directory).ok()?.table()?;
    let languages = names.entries.first()?.data(directory).ok()?.table()?;
    let data = languages.entries.first()?.data(directory).ok()?.data()?;
    let bytes = at(file, data.offset_to_data.get(LE))?;
    VersionInfo::parse(bytes.get(..data.size.get(LE) as usize)?).ok()
}

fn debug_types(file: &PeFile64<'_>) -> object::Result<Vec<DebugType>> {
    let Some(directory) = file.data_directory(IMAGE_DIRECTORY_ENTRY_DEBUG) else {
        return Ok(Vec::new());
    };
    let data = directory.data(file.data(), &file.section_table())?;
    Ok(data
        .chunks_exact(size_of::<ImageDebugDirectory>())
        .filter_map(|entry| pod::from_bytes::<ImageDebugDirectory>(entry).ok())
        .map(|(entry, _)| entry.typ.get(LE))
        .collect())
}

/// The paths of Rust sources in the file, as panic messages have them.
fn source_files(bytes: &[u8]) -> Vec<String> {
    let is_path = |byte: &u8| byte.is_ascii_alphanumeric() || b"/\\:._-+".contains(byte);
    bytes
        .split(|byte| !is_path(byte))
        .filter(|run| run.iter().any(|byte| b"/\\".contains(byte)))
        .filter(|run| run.windows(3).any(|ending| ending == b".rs"))
        .map(text)
        .collect()
}

fn signature(file: &PeFile64<'_>) -> Option<Signature> {
    let directory = file.data_directory(IMAGE_DIRECTORY_ENTRY_SECURITY)?;
    // The only directory whose address is an offset in the file.
    let start = u64::from(directory.virtual_address.get(LE));
    let end = start + u64::from(directory.size.get(LE));
    let mut table = file.data().get(start as usize..).unwrap_or_default();
    table = table.get(..(end - start) as usize).unwrap_or(table);
    let entries = authenticode::entries(table).into_iter();
    Some(Signature {
        range: start..end,
        entries: entries
            .map(|one| (one.length, one.revision, one.kind))
            .collect(),
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
