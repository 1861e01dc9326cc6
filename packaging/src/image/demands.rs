//! The checks of a driver file: requirements of Windows, and house rules of this project.

use std::ops::Range;

use editpe::VersionInfo;
use object::pe::{
    DllFlags, IMAGE_DEBUG_TYPE_REPRO, IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE,
    IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY, IMAGE_DLLCHARACTERISTICS_GUARD_CF,
    IMAGE_DLLCHARACTERISTICS_HIGH_ENTROPY_VA, IMAGE_DLLCHARACTERISTICS_NX_COMPAT,
    IMAGE_FILE_RELOCS_STRIPPED, IMAGE_GUARD_CF_FUNCTION_TABLE_PRESENT, IMAGE_GUARD_CF_INSTRUMENTED,
    IMAGE_SUBSYSTEM_NATIVE,
};

use super::contents::{Contents, Guard, Section, Signature};
use crate::{architecture::Architecture, check::Check};

const PAGE: u32 = 0x1000;

const PE_FORMAT: &str = "PE Format";
const MEMORY_INTEGRITY: &str = "Implement HVCI-compatible code, for memory integrity";
const HARDENING: &str = "hardening that Windows does not demand of drivers";
const BOOT_DISK: &str = "drivers of the boot disk";
const REPRODUCIBLE: &str = "the same sources make the same file on every machine";
const VERSION: &str = "File Properties shows it, and tools compare it";

/// All checks of the file. If a structure is missing, its parts are not
/// checked.
pub(super) fn checks(file: &Contents, architecture: Architecture) -> Vec<Check> {
    let mut checks = loader(file, architecture);
    checks.extend(sections(file));
    checks.extend(calls(file));
    checks.extend(
        file.guard
            .iter()
            .flat_map(|guard| guard_checks(file, guard)),
    );
    checks.extend(imports_and_exports(file));
    checks.extend(origin(file));
    checks.push(Check::advice(
        "the file has a version resource",
        VERSION,
        (file.version.is_none()).then(|| "it has none that can be parsed".into()),
    ));
    checks.extend(file.version.iter().flat_map(version_checks));
    checks.extend(file.signature.as_ref().map(|signature| {
        Check::demand(
            "the signature is complete and ends the file",
            "PE Format, The Attribute Certificate Table",
            fault_of_signature(signature, file.bytes),
        )
    }));
    checks
}

/// The header, as the loader reads it.
fn loader(file: &Contents, architecture: Architecture) -> Vec<Check> {
    let [has, should_have] = file.checksums;
    vec![
        Check::demand(
            "the code is for the requested processor architecture",
            PE_FORMAT,
            (file.machine != architecture.machine())
                .then(|| format!("machine {:#06x}", file.machine.0)),
        ),
        Check::demand(
            "the subsystem is native",
            PE_FORMAT,
            (file.subsystem != IMAGE_SUBSYSTEM_NATIVE)
                .then(|| format!("subsystem {}", file.subsystem.0)),
        ),
        // The INF files are for Windows 10 and later. The default version of linkers is
        // older.
        Check::advice(
            "the operating system and subsystem version are 10.0 (Windows 10)",
            "the linker's default is an older version",
            listed(
                ["operating system", "subsystem"]
                    .into_iter()
                    .zip(file.windows_versions)
                    .filter(|(_, version)| *version != (10, 0))
                    .map(|(name, (major, minor))| format!("{name} {major}.{minor}")),
            ),
        ),
        Check::demand(
            "the entry point is in a code section",
            PE_FORMAT,
            (!file.is_code(file.entry)).then(|| format!("it is {:#x}", file.entry)),
        ),
        Check::demand(
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
        Check::demand(
            "the base relocations are not stripped",
            PE_FORMAT,
            file.characteristics
                .contains(IMAGE_FILE_RELOCS_STRIPPED)
                .then(|| "they are".into()),
        ),
        flag(
            file,
            "the signature is checked at load (/INTEGRITYCHECK)",
            IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY,
        ),
    ]
}

fn flag(file: &Contents, claim: &'static str, flag: DllFlags) -> Check {
    let is_set = file.dll_characteristics.contains(flag);
    let fault = (!is_set).then(|| "the flag is not set".into());
    Check::advice(claim, HARDENING, fault)
}

/// The requirements of memory integrity (driversecurity/implement-hvci-compatible-code of
/// the driver documentation), and the boot disk.
fn sections(file: &Contents) -> Vec<Check> {
    let such = |is_wrong: fn(&Section) -> bool| {
        let wrong = file.sections.iter().filter(|section| is_wrong(section));
        listed(wrong.map(|section| section.name.clone()))
    };
    let alignment = file.section_alignment;
    vec![
        Check::demand(
            "no section is both writable and executable",
            MEMORY_INTEGRITY,
            such(|section| section.writable && section.executable),
        ),
        Check::demand(
            "the sections are aligned to pages",
            MEMORY_INTEGRITY,
            (alignment == 0 || !alignment.is_multiple_of(PAGE))
                .then(|| format!("to {alignment:#x}"))
                .or_else(|| such(|section| !section.addresses.start.is_multiple_of(PAGE))),
        ),
        // Pageable sections have such names. A driver of the boot disk could not page itself
        // in.
        Check::advice(
            "no section is pageable",
            BOOT_DISK,
            such(|section| section.name.starts_with("PAGE")),
        ),
        Check::demand(
            "the import address table is not in a code section",
            MEMORY_INTEGRITY,
            file.import_addresses
                .filter(|address| file.is_code(*address))
                .map(|address| format!("it is at {address:#x}")),
        ),
        Check::advice(
            "no relocation crosses a page boundary",
            "Windows 10 before version 1703 does not apply such a relocation",
            listed(
                file.relocations
                    .iter()
                    .filter(|address| **address % PAGE > PAGE - 8)
                    .map(|address| format!("{address:#x}")),
            ),
        ),
    ]
}

/// Control Flow Guard in the header, and whether there is a load configuration.
fn calls(file: &Contents) -> [Check; 2] {
    [
        flag(
            file,
            "indirect calls are checked (/GUARD:CF)",
            IMAGE_DLLCHARACTERISTICS_GUARD_CF,
        ),
        Check::advice(
            "the file has a load configuration",
            HARDENING,
            file.guard
                .is_none()
                .then(|| "it has none with guard flags".into()),
        ),
    ]
}

/// Control Flow Guard in the load configuration.
fn guard_checks(file: &Contents, guard: &Guard) -> [Check; 4] {
    let flags = guard.flags.0;
    let demanded = IMAGE_GUARD_CF_INSTRUMENTED.0 | IMAGE_GUARD_CF_FUNCTION_TABLE_PRESENT.0;
    let not_code = |addresses: &[u32]| {
        let wrong = addresses.iter().filter(|address| !file.is_code(**address));
        listed(wrong.map(|address| format!("{address:#x}")))
    };
    [
        Check::advice(
            "the guard flags of the load configuration enable the checks of calls",
            HARDENING,
            (flags & demanded != demanded).then(|| format!("they are {flags:#x}")),
        ),
        Check::demand(
            "the routines that check calls are in code sections",
            PE_FORMAT,
            not_code(&guard.checks),
        ),
        Check::demand(
            "the valid call targets are in code sections",
            PE_FORMAT,
            not_code(&guard.functions),
        ),
        Check::demand(
            "the valid call targets are listed in ascending order",
            PE_FORMAT,
            guard
                .functions
                .windows(2)
                .find(|pair| pair[0] >= pair[1])
                .map(|pair| format!("{:#x} follows {:#x}", pair[1], pair[0])),
        ),
    ]
}

fn imports_and_exports(file: &Contents) -> Vec<Check> {
    let is_storport = |module: &str| module.eq_ignore_ascii_case("storport.sys");
    vec![
        Check::advice(
            "the driver imports from storport.sys",
            "every Storport miniport does",
            (!file.imports.keys().any(|module| is_storport(module))).then(|| "it does not".into()),
        ),
        Check::advice(
            "the driver imports from no other module",
            "no other interface can break the driver, and the driver has no path to a panic",
            listed(
                file.imports
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
            listed(file.exports.iter().cloned()),
        ),
    ]
}

/// Data about the time and place of the build.
fn origin(file: &Contents) -> [Check; 3] {
    [
        Check::advice(
            "the path of the program database has no folder",
            REPRODUCIBLE,
            file.program_database
                .clone()
                .filter(|name| name.contains(['/', '\\'])),
        ),
        Check::advice(
            "the build is reproducible (/BREPRO)",
            REPRODUCIBLE,
            (!file.debug_types.contains(&IMAGE_DEBUG_TYPE_REPRO))
                .then(|| "the debug directory has no entry for that".into()),
        ),
        Check::advice(
            "the file contains no source path, which would name a folder of the build machine",
            REPRODUCIBLE,
            listed(file.source_files.iter().cloned()),
        ),
    ]
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

/// The fault of the certificate table in a file of `bytes` bytes.
fn fault_of_signature(signature: &Signature, bytes: usize) -> Option<String> {
    const REVISION: u16 = 0x0200;
    const PKCS_SIGNED_DATA: u16 = 2;
    let Range { start, end } = signature.range;
    if !start.is_multiple_of(8) || end != bytes as u64 {
        return Some(format!(
            "the certificate table is {start:#x}..{end:#x} of {bytes:#x} bytes"
        ));
    }
    let mut lengths = 0;
    for (length, revision, kind) in &signature.entries {
        lengths += u64::from(*length).next_multiple_of(8);
        if (*revision, *kind) != (REVISION, PKCS_SIGNED_DATA) {
            return Some(format!(
                "it has an entry of length {length:#x}, revision {revision:#x}, type {kind}"
            ));
        }
    }
    (lengths != end - start).then(|| {
        format!(
            "the entries have {lengths:#x} bytes, the table has {:#x}",
            end - start
        )
    })
}

fn listed(items: impl Iterator<Item = String>) -> Option<String> {
    let items: Vec<_> = items.collect();
    (!items.is_empty()).then(|| items.join(", "))
}
