//! The checks of a driver file: requirements of Windows, and house rules of this project.

use editpe::VersionInfo;
use object::{
    LittleEndian as LE,
    pe::{
        self, DllFlags, IMAGE_DEBUG_TYPE_REPRO, IMAGE_DIRECTORY_ENTRY_BASERELOC,
        IMAGE_DIRECTORY_ENTRY_DEBUG, IMAGE_DIRECTORY_ENTRY_IAT, IMAGE_DIRECTORY_ENTRY_LOAD_CONFIG,
        IMAGE_DIRECTORY_ENTRY_SECURITY, IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE,
        IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY, IMAGE_DLLCHARACTERISTICS_GUARD_CF,
        IMAGE_DLLCHARACTERISTICS_HIGH_ENTROPY_VA, IMAGE_DLLCHARACTERISTICS_NX_COMPAT,
        IMAGE_FILE_RELOCS_STRIPPED, IMAGE_GUARD_CF_FUNCTION_TABLE_PRESENT,
        IMAGE_GUARD_CF_INSTRUMENTED, IMAGE_SCN_MEM_EXECUTE, IMAGE_SCN_MEM_WRITE,
        IMAGE_SUBSYSTEM_NATIVE, ImageDebugDirectory, ImageNtHeaders64, ImageSectionHeader,
    },
    pod,
    read::pe::{ImageOptionalHeader, Import, PeFile64},
};

use ::authenticode::{WIN_CERT_REVISION_2_0, WIN_CERT_TYPE_PKCS_SIGNED_DATA};

use super::Imports;
use crate::{authenticode, check::Check, checksum};

const PAGE: u32 = 0x1000;

const PE_FORMAT: &str = "PE Format";
const MEMORY_INTEGRITY: &str = "Implement HVCI-compatible code, for memory integrity";
const HARDENING: &str = "hardening that Windows does not demand of drivers";
const BOOT_DISK: &str = "drivers of the boot disk";
const REPRODUCIBLE: &str = "the same sources make the same file on every machine";
const VERSION: &str = "File Properties shows it, and tools compare it";

/// All checks of the file, except that of the architecture. If a structure is missing, its parts
/// are not checked.
///
/// # Errors
/// A structure is malformed.
pub(super) fn checks(
    file: &PeFile64<'_>,
    imports: &Imports,
    version: Option<&VersionInfo>,
) -> object::Result<Vec<Check>> {
    let mut checks = header(file);
    checks.extend(sections(file)?);
    checks.extend(calls(file)?);
    checks.extend(imports_and_exports(file, imports)?);
    checks.extend(origin(file)?);
    checks.push(Check::advice(
        "the file has a version resource",
        VERSION,
        (version.is_none()).then(|| "it has none that can be parsed".into()),
    ));
    checks.extend(version.into_iter().flat_map(version_checks));
    checks.extend(signature(file));
    Ok(checks)
}

/// The header, as the loader reads it.
fn header(file: &PeFile64<'_>) -> Vec<Check> {
    // The offset in the NT headers of every PE file.
    const CHECKSUM: usize = 4 + 20 + 64;
    let headers = file.nt_headers();
    let optional = &headers.optional_header;
    let (subsystem, entry) = (optional.subsystem(), optional.address_of_entry_point());
    let field = file.dos_header().nt_headers_offset() as usize + CHECKSUM;
    let (has, should_have) = (optional.check_sum(), checksum::of_image(file.data(), field));
    let versions = [
        (
            "operating system",
            optional.major_operating_system_version(),
            optional.minor_operating_system_version(),
        ),
        (
            "subsystem",
            optional.major_subsystem_version(),
            optional.minor_subsystem_version(),
        ),
    ];
    let relocations_are_stripped = headers
        .file_header
        .characteristics
        .get(LE)
        .contains(IMAGE_FILE_RELOCS_STRIPPED);
    vec![
        Check::requirement(
            "the subsystem is native",
            PE_FORMAT,
            (subsystem != IMAGE_SUBSYSTEM_NATIVE).then(|| format!("subsystem {}", subsystem.0)),
        ),
        // The INF files are for Windows 10 and later. The default version of linkers is
        // older.
        Check::advice(
            "the operating system and subsystem version are 10.0 (Windows 10)",
            "the linker's default is an older version",
            listed(
                versions
                    .into_iter()
                    .filter(|(_, major, minor)| (*major, *minor) != (10, 0))
                    .map(|(name, major, minor)| format!("{name} {major}.{minor}")),
            ),
        ),
        Check::requirement(
            "the entry point is in a code section",
            PE_FORMAT,
            (!is_code(file, entry)).then(|| format!("it is {entry:#x}")),
        ),
        Check::requirement(
            "the checksum in the header is correct",
            PE_FORMAT,
            (has != should_have).then(|| format!("it is {has:#x}, not {should_have:#x}")),
        ),
        flag(
            file,
            "memory without code is not executable (/NXCOMPAT)",
            IMAGE_DLLCHARACTERISTICS_NX_COMPAT,
        ),
        flag(
            file,
            "the image can be relocated (/DYNAMICBASE)",
            IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE,
        ),
        flag(
            file,
            "the image can be relocated to any 64-bit address (/HIGHENTROPYVA)",
            IMAGE_DLLCHARACTERISTICS_HIGH_ENTROPY_VA,
        ),
        // There can be none: code without absolute addresses needs no
        // relocation.
        Check::requirement(
            "the base relocations are not stripped",
            PE_FORMAT,
            relocations_are_stripped.then(|| "they are".into()),
        ),
        flag(
            file,
            "the signature is checked at load (/INTEGRITYCHECK)",
            IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY,
        ),
    ]
}

fn flag(file: &PeFile64<'_>, claim: &'static str, flag: DllFlags) -> Check {
    let flags = file.nt_headers().optional_header.dll_characteristics();
    let fault = (!flags.contains(flag)).then(|| "the flag is not set".into());
    Check::advice(claim, HARDENING, fault)
}

/// The requirements of memory integrity (driversecurity/implement-hvci-compatible-code of
/// the driver documentation), and the boot disk.
fn sections(file: &PeFile64<'_>) -> object::Result<Vec<Check>> {
    let such = |is_wrong: fn(&ImageSectionHeader) -> bool| {
        let sections = file.section_table().iter();
        let wrong = sections.filter(|section| is_wrong(section));
        listed(wrong.map(|section| text(section.raw_name())))
    };
    let alignment = file.nt_headers().optional_header.section_alignment();
    let relocations = relocations(file)?.into_iter();
    Ok(vec![
        Check::requirement(
            "no section is both writable and executable",
            MEMORY_INTEGRITY,
            such(|section| {
                let flags = section.characteristics.get(LE);
                flags.contains(IMAGE_SCN_MEM_WRITE) && flags.contains(IMAGE_SCN_MEM_EXECUTE)
            }),
        ),
        Check::requirement(
            "the sections are aligned to pages",
            MEMORY_INTEGRITY,
            (alignment == 0 || !alignment.is_multiple_of(PAGE))
                .then(|| format!("to {alignment:#x}"))
                .or_else(|| such(|section| !section.virtual_address.get(LE).is_multiple_of(PAGE))),
        ),
        // Pageable sections have such names. A driver of the boot disk could not page itself
        // in.
        Check::advice(
            "no section is pageable",
            BOOT_DISK,
            such(|section| section.raw_name().starts_with(b"PAGE")),
        ),
        Check::requirement(
            "the import address table is not in a code section",
            MEMORY_INTEGRITY,
            file.data_directory(IMAGE_DIRECTORY_ENTRY_IAT)
                .map(|directory| directory.virtual_address.get(LE))
                .filter(|address| is_code(file, *address))
                .map(|address| format!("it is at {address:#x}")),
        ),
        Check::advice(
            "no relocation crosses a page boundary",
            "Windows 10 before version 1703 does not apply such a relocation",
            listed(
                relocations
                    .filter(|address| address % PAGE > PAGE - 8)
                    .map(|address| format!("{address:#x}")),
            ),
        ),
    ])
}

/// The relocated addresses.
fn relocations(file: &PeFile64<'_>) -> object::Result<Vec<u32>> {
    let sections = file.section_table();
    let blocks = match file.data_directory(IMAGE_DIRECTORY_ENTRY_BASERELOC) {
        Some(_) => {
            let directories = file.data_directories();
            directories.relocation_blocks(file.data(), &sections)?
        }
        None => None,
    };
    let mut addresses = Vec::new();
    for block in blocks.into_iter().flatten() {
        addresses.extend(
            block?
                .filter(|relocation| relocation.typ != pe::IMAGE_REL_BASED_ABSOLUTE)
                .map(|relocation| relocation.virtual_address),
        );
    }
    Ok(addresses)
}

/// Control Flow Guard: the header, and the fields of IMAGE_LOAD_CONFIG_DIRECTORY64 (winnt.h)
/// that are about it. A directory that ends before them counts as missing.
fn calls(file: &PeFile64<'_>) -> object::Result<Vec<Check>> {
    const CHECK: usize = 0x70;
    const DISPATCH: usize = 0x78;
    const TABLE: usize = 0x80;
    const COUNT: usize = 0x88;
    const FLAGS: usize = 0x90;
    let directory = match file.data_directory(IMAGE_DIRECTORY_ENTRY_LOAD_CONFIG) {
        Some(directory) => directory.data(file.data(), &file.section_table())?,
        None => &[],
    };
    let quad = |offset: usize| {
        let bytes = directory.get(offset..)?.first_chunk::<8>()?;
        Some(u64::from_le_bytes(*bytes))
    };
    let flags = directory.get(FLAGS..).and_then(|rest| rest.first_chunk());
    let flags = flags.map(|flags| u32::from_le_bytes(*flags));
    let guard = quad(TABLE).zip(quad(COUNT)).zip(flags);
    let mut checks = vec![
        flag(
            file,
            "indirect calls are checked (/GUARD:CF)",
            IMAGE_DLLCHARACTERISTICS_GUARD_CF,
        ),
        Check::advice(
            "the file has a load configuration",
            HARDENING,
            (guard.is_none()).then(|| "it has none with guard flags".into()),
        ),
    ];
    let Some(((table, count), flags)) = guard else {
        return Ok(checks);
    };

    // Relative to the image's base, as all addresses below.
    let base = file.nt_headers().optional_header.image_base();
    let relative = |address: u64| u32::try_from(address.wrapping_sub(base)).unwrap_or(u32::MAX);
    // A check cannot be at an address outside of the file.
    let pointed = |place: u64| {
        at(file, relative(place))
            .and_then(|data| data.first_chunk::<8>())
            .map_or(u32::MAX, |bytes| relative(u64::from_le_bytes(*bytes)))
    };
    // The routines that check calls until the kernel replaces them.
    let routines = [CHECK, DISPATCH].into_iter().filter_map(quad);
    let routines: Vec<u32> = routines.filter(|place| *place != 0).map(pointed).collect();
    // Each entry is an address, with additional bytes whose number is in the flags.
    let more = flags & pe::IMAGE_GUARD_CF_FUNCTION_TABLE_SIZE_MASK;
    let entry = 4 + (more >> pe::IMAGE_GUARD_CF_FUNCTION_TABLE_SIZE_SHIFT) as usize;
    let targets: Vec<u32> = at(file, relative(table))
        .unwrap_or_default()
        .chunks_exact(entry)
        .take(usize::try_from(count).unwrap_or(usize::MAX))
        .filter_map(|entry| Some(u32::from_le_bytes(*entry.first_chunk()?)))
        .collect();
    let demanded = IMAGE_GUARD_CF_INSTRUMENTED.0 | IMAGE_GUARD_CF_FUNCTION_TABLE_PRESENT.0;
    let not_code = |addresses: &[u32]| {
        let wrong = addresses.iter().filter(|address| !is_code(file, **address));
        listed(wrong.map(|address| format!("{address:#x}")))
    };
    checks.extend([
        Check::advice(
            "the guard flags of the load configuration enable the checks of calls",
            HARDENING,
            (flags & demanded != demanded).then(|| format!("they are {flags:#x}")),
        ),
        Check::requirement(
            "the routines that check calls are in code sections",
            PE_FORMAT,
            not_code(&routines),
        ),
        Check::requirement(
            "the valid call targets are in code sections",
            PE_FORMAT,
            not_code(&targets),
        ),
        Check::requirement(
            "the valid call targets are listed in ascending order",
            PE_FORMAT,
            targets
                .windows(2)
                .find(|pair| pair[0] >= pair[1])
                .map(|pair| format!("{:#x} follows {:#x}", pair[1], pair[0])),
        ),
    ]);
    Ok(checks)
}

/// The imports.
///
/// # Errors
/// The import table is malformed.
pub(super) fn imports(file: &PeFile64<'_>) -> object::Result<Imports> {
    let mut imports = Imports::new();
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

fn imports_and_exports(file: &PeFile64<'_>, imports: &Imports) -> object::Result<[Check; 3]> {
    let exports = match file.export_table()? {
        Some(table) => table.exports()?,
        None => Vec::new(),
    };
    let exports = exports.into_iter().map(|export| match export.name {
        Some(name) => text(name),
        None => format!("#{}", export.ordinal),
    });
    let is_storport = |module: &str| module.eq_ignore_ascii_case("storport.sys");
    Ok([
        Check::advice(
            "the driver imports from storport.sys",
            "every Storport miniport does",
            (!imports.keys().any(|module| is_storport(module))).then(|| "it does not".into()),
        ),
        Check::advice(
            "the driver imports from no other module",
            "no other interface can break the driver, and the driver has no path to a panic",
            listed(
                imports
                    .iter()
                    .filter(|(module, _)| !is_storport(module))
                    .flat_map(|(module, functions)| {
                        functions
                            .iter()
                            .map(move |function| format!("{module}!{function}"))
                    }),
            ),
        ),
        Check::advice(
            "the driver exports nothing",
            "each exported function is a valid target of indirect calls",
            listed(exports),
        ),
    ])
}

/// Data about the time and place of the build.
fn origin(file: &PeFile64<'_>) -> object::Result<[Check; 3]> {
    let database = object::Object::pdb_info(file)?.map(|info| text(info.path()));
    let directory = match file.data_directory(IMAGE_DIRECTORY_ENTRY_DEBUG) {
        Some(directory) => directory.data(file.data(), &file.section_table())?,
        None => &[],
    };
    let is_reproducible = directory
        .chunks_exact(size_of::<ImageDebugDirectory>())
        .filter_map(|entry| pod::from_bytes::<ImageDebugDirectory>(entry).ok())
        .any(|(entry, _)| entry.typ.get(LE) == IMAGE_DEBUG_TYPE_REPRO);
    Ok([
        Check::advice(
            "the path of the program database has no folder",
            REPRODUCIBLE,
            database.filter(|name| name.contains(['/', '\\'])),
        ),
        Check::advice(
            "the build is reproducible (/BREPRO)",
            REPRODUCIBLE,
            (!is_reproducible).then(|| "the debug directory has no entry for that".into()),
        ),
        Check::advice(
            "the file contains no source path, which would name a folder of the build machine",
            REPRODUCIBLE,
            listed(source_files(file.data())),
        ),
    ])
}

/// The paths of Rust sources in the file, as panic messages have them.
fn source_files(bytes: &[u8]) -> impl Iterator<Item = String> {
    let is_path = |byte: &u8| byte.is_ascii_alphanumeric() || b"/\\:._-+".contains(byte);
    bytes
        .split(move |byte| !is_path(byte))
        .filter(|run| run.iter().any(|byte| b"/\\".contains(byte)))
        .filter(|run| run.windows(3).any(|ending| ending == b".rs"))
        .map(text)
}

/// The version resource, if the file has one that can be parsed.
pub(super) fn version(file: &PeFile64<'_>) -> Option<VersionInfo> {
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
    // The first name and its first language: there is one of each.
    let names = kind?.data(directory).ok()?.table()?;
    let languages = names.entries.first()?.data(directory).ok()?.table()?;
    let data = languages.entries.first()?.data(directory).ok()?.data()?;
    let bytes = at(file, data.offset_to_data.get(LE))?;
    VersionInfo::parse(bytes.get(..data.size.get(LE) as usize)?).ok()
}

/// The strings of a version resource that File Properties shows.
pub(super) const SHOWN_STRINGS: [&str; 8] = [
    "CompanyName",
    "FileDescription",
    "FileVersion",
    "InternalName",
    "LegalCopyright",
    "OriginalFilename",
    "ProductName",
    "ProductVersion",
];

fn version_checks(version: &VersionInfo) -> [Check; 2] {
    const DRIVER: u32 = 3;
    const SYSTEM_DRIVER: u32 = 7;
    let kind = (version.info.file_type, version.info.file_subtype);
    let has = |name: &str| {
        let mut tables = version.strings.iter();
        tables.any(|table| table.strings.get(name).is_some_and(|text| !text.is_empty()))
    };
    [
        Check::advice(
            "the version resource has the file type driver",
            VERSION,
            (kind != (DRIVER, SYSTEM_DRIVER))
                .then(|| format!("type {}, subtype {}", kind.0, kind.1)),
        ),
        Check::advice(
            "the version resource has maker, description, names and versions",
            VERSION,
            listed(
                SHOWN_STRINGS
                    .into_iter()
                    .filter(|name| !has(name))
                    .map(|name| format!("no {name}")),
            ),
        ),
    ]
}

/// The check of the certificate table, if there is one.
fn signature(file: &PeFile64<'_>) -> Option<Check> {
    let directory = file.data_directory(IMAGE_DIRECTORY_ENTRY_SECURITY)?;
    // The only directory whose address is an offset in the file.
    let start = u64::from(directory.virtual_address.get(LE));
    let end = start + u64::from(directory.size.get(LE));
    let table = file.data().get(start as usize..).unwrap_or_default();
    let table = table.get(..(end - start) as usize).unwrap_or(table);
    let entries = authenticode::entries(table);
    let lengths: u64 = entries
        .iter()
        .map(|entry| u64::from(entry.length).next_multiple_of(8))
        .sum();
    let wrong = entries.iter().find(|entry| {
        (entry.revision, entry.kind) != (WIN_CERT_REVISION_2_0, WIN_CERT_TYPE_PKCS_SIGNED_DATA)
    });
    let bytes = file.data().len();
    let fault = if !start.is_multiple_of(8) || end != bytes as u64 {
        Some(format!(
            "the certificate table is {start:#x}..{end:#x} of {bytes:#x} bytes"
        ))
    } else if let Some(entry) = wrong {
        Some(format!(
            "it has an entry of length {:#x}, revision {:#x}, type {}",
            entry.length, entry.revision, entry.kind
        ))
    } else {
        (lengths != end - start).then(|| {
            format!(
                "the entries have {lengths:#x} bytes, the table has {:#x}",
                end - start
            )
        })
    };
    Some(Check::requirement(
        "the signature is complete and ends the file",
        "PE Format, The Attribute Certificate Table",
        fault,
    ))
}

/// The data from an address relative to the image's base on.
fn at<'data>(file: &PeFile64<'data>, address: u32) -> Option<&'data [u8]> {
    file.section_table().pe_data_at(file.data(), address)
}

/// Whether an address is in a code section.
fn is_code(file: &PeFile64<'_>, address: u32) -> bool {
    file.section_table().iter().any(|section| {
        let start = section.virtual_address.get(LE);
        let size = section.virtual_size.get(LE);
        let is_code = section
            .characteristics
            .get(LE)
            .contains(IMAGE_SCN_MEM_EXECUTE);
        is_code && (start..start.saturating_add(size)).contains(&address)
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn listed(items: impl Iterator<Item = String>) -> Option<String> {
    let items: Vec<_> = items.collect();
    (!items.is_empty()).then(|| items.join(", "))
}
