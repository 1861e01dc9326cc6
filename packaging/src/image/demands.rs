//! What Windows demands of a driver file, and what this project advises.

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

/// Each check of the file. If something is missing as a whole, its parts are not
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
        "it has a version resource",
        VERSION,
        (file.version.is_none()).then(|| "none that can be read".into()),
    ));
    checks.extend(file.version.iter().flat_map(version_checks));
    checks.extend(file.signature.as_ref().map(|signature| {
        Check::demand(
            "its signature is whole and ends the file",
            "PE Format, The Attribute Certificate Table",
            fault_of_signature(signature, file.bytes),
        )
    }));
    checks
}

/// What the loader reads in the header.
fn loader(file: &Contents, architecture: Architecture) -> Vec<Check> {
    let [has, should_have] = file.checksums;
    vec![
        Check::demand(
            "the code is for the processor that was asked for",
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
        // The setup files are for Windows 10 and later. Linkers that are not told a
        // version write an older one.
        Check::advice(
            "it is for Windows 10.0: operating system and subsystem version",
            "the linker writes an older version unless it is told",
            listed(
                ["operating system", "subsystem"]
                    .into_iter()
                    .zip(file.windows_versions)
                    .filter(|(_, version)| *version != (10, 0))
                    .map(|(name, (major, minor))| format!("{name} {major}.{minor}")),
            ),
        ),
        Check::demand(
            "the entry point lies in code",
            PE_FORMAT,
            (!file.is_code(file.entry)).then(|| format!("it is {:#x}", file.entry)),
        ),
        Check::demand(
            "the checksum in the header is the file's",
            PE_FORMAT,
            (has != should_have).then(|| format!("it is {has:#x} and not {should_have:#x}")),
        ),
        flag(
            file,
            "memory without code is not executed (/NXCOMPAT)",
            IMAGE_DLLCHARACTERISTICS_NX_COMPAT,
        ),
        flag(
            file,
            "the image can be moved (/DYNAMICBASE)",
            IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE,
        ),
        flag(
            file,
            "it can be moved to anywhere in 64 bits (/HIGHENTROPYVA)",
            IMAGE_DLLCHARACTERISTICS_HIGH_ENTROPY_VA,
        ),
        // There need be none: code that holds no absolute address has nothing to
        // relocate.
        Check::demand(
            "its base relocations were not stripped",
            PE_FORMAT,
            file.characteristics
                .contains(IMAGE_FILE_RELOCS_STRIPPED)
                .then(|| "they were".into()),
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

/// What memory integrity demands (driversecurity/implement-hvci-compatible-code of
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
            "sections are aligned to pages",
            MEMORY_INTEGRITY,
            (alignment == 0 || !alignment.is_multiple_of(PAGE))
                .then(|| format!("to {alignment:#x}"))
                .or_else(|| such(|section| !section.addresses.start.is_multiple_of(PAGE))),
        ),
        // What Windows may page out is named so; a driver of the boot disk would
        // have to be read in by itself.
        Check::advice(
            "no section is pageable",
            BOOT_DISK,
            such(|section| section.name.starts_with("PAGE")),
        ),
        Check::demand(
            "the addresses of its imports are not among code",
            MEMORY_INTEGRITY,
            file.import_addresses
                .filter(|address| file.is_code(*address))
                .map(|address| format!("they are at {address:#x}")),
        ),
        // Windows before 10 version 1703 does not move such an address.
        Check::advice(
            "no address to be moved lies in two pages",
            "Windows 10 before version 1703 does not move such an address",
            listed(
                file.relocations
                    .iter()
                    .filter(|address| **address % PAGE > PAGE - 8)
                    .map(|address| format!("{address:#x}")),
            ),
        ),
    ]
}

/// Control Flow Guard: in the header, and that there is more of it.
fn calls(file: &Contents) -> [Check; 2] {
    [
        flag(
            file,
            "calls by pointer are checked (/GUARD:CF)",
            IMAGE_DLLCHARACTERISTICS_GUARD_CF,
        ),
        Check::advice(
            "it has a load configuration",
            HARDENING,
            file.guard.is_none().then(|| "none with guard flags".into()),
        ),
    ]
}

/// Control Flow Guard: what the load configuration says.
fn guard_checks(file: &Contents, guard: &Guard) -> [Check; 4] {
    let flags = guard.flags.0;
    let demanded = IMAGE_GUARD_CF_INSTRUMENTED.0 | IMAGE_GUARD_CF_FUNCTION_TABLE_PRESENT.0;
    let not_code = |addresses: &[u32]| {
        let wrong = addresses.iter().filter(|address| !file.is_code(**address));
        listed(wrong.map(|address| format!("{address:#x}")))
    };
    [
        Check::advice(
            "its load configuration says as well that calls are checked",
            HARDENING,
            (flags & demanded != demanded).then(|| format!("its guard flags are {flags:#x}")),
        ),
        Check::demand(
            "what checks calls lies in code",
            PE_FORMAT,
            not_code(&guard.checks),
        ),
        Check::demand(
            "the functions that may be called lie in code",
            PE_FORMAT,
            not_code(&guard.functions),
        ),
        Check::demand(
            "they are listed in order, as they are searched",
            PE_FORMAT,
            guard
                .functions
                .windows(2)
                .find(|pair| pair[0] >= pair[1])
                .map(|pair| format!("{:#x} comes after {:#x}", pair[1], pair[0])),
        ),
    ]
}

fn imports_and_exports(file: &Contents) -> Vec<Check> {
    let is_storport = |module: &str| module.eq_ignore_ascii_case("storport.sys");
    vec![
        Check::advice(
            "it imports from storport.sys",
            "every Storport miniport does",
            (!file.imports.keys().any(|module| is_storport(module)))
                .then(|| "it does not import from it".into()),
        ),
        Check::advice(
            "nothing else is imported",
            "no other driver's interface can break it, and it has no path to a panic",
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
            "it exports nothing",
            "each exported function is one that a call by pointer may reach",
            listed(file.exports.iter().cloned()),
        ),
    ]
}

/// What it says of when and where it was built.
fn origin(file: &Contents) -> [Check; 3] {
    [
        Check::advice(
            "the program database is named without a folder",
            REPRODUCIBLE,
            file.program_database
                .clone()
                .filter(|name| name.contains(['/', '\\'])),
        ),
        Check::advice(
            "it is the same whenever it is built (/BREPRO)",
            REPRODUCIBLE,
            (!file.debug_types.contains(&IMAGE_DEBUG_TYPE_REPRO))
                .then(|| "its debug directory does not say so".into()),
        ),
        Check::advice(
            "it names no source file, and so no folder of the machine that built it",
            REPRODUCIBLE,
            listed(file.source_files.iter().cloned()),
        ),
    ]
}

fn version_checks(version: &VersionInfo) -> [Check; 2] {
    const DRIVER: u32 = 3;
    const SYSTEM_DRIVER: u32 = 7;
    const SHOWN: [&str; 8] = [
        "CompanyName",
        "FileDescription",
        "FileVersion",
        "InternalName",
        "LegalCopyright",
        "OriginalFilename",
        "ProductName",
        "ProductVersion",
    ];
    let kind = (version.info.file_type, version.info.file_subtype);
    let has = |name: &str| {
        let mut tables = version.strings.iter();
        tables.any(|table| table.strings.get(name).is_some_and(|text| !text.is_empty()))
    };
    [
        Check::advice(
            "the resource says that it is a system driver",
            VERSION,
            (kind != (DRIVER, SYSTEM_DRIVER))
                .then(|| format!("type {}, subtype {}", kind.0, kind.1)),
        ),
        Check::advice(
            "the resource has what Windows shows: maker, description, names, versions",
            VERSION,
            listed(
                SHOWN
                    .into_iter()
                    .filter(|name| !has(name))
                    .map(|name| format!("no {name}")),
            ),
        ),
    ]
}

/// What is wrong with the certificate table of a file of so many bytes.
fn fault_of_signature(signature: &Signature, bytes: usize) -> Option<String> {
    const REVISION: u16 = 0x0200;
    const PKCS_SIGNED_DATA: u16 = 2;
    let Range { start, end } = signature.range;
    if !start.is_multiple_of(8) || end != bytes as u64 {
        return Some(format!("it is {start:#x}..{end:#x} of {bytes:#x} bytes"));
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
            "its entries have {lengths:#x} bytes, the table has {:#x}",
            end - start
        )
    })
}

fn listed(items: impl Iterator<Item = String>) -> Option<String> {
    let items: Vec<_> = items.collect();
    (!items.is_empty()).then(|| items.join(", "))
}
