//! What Windows demands of a driver file, and what this project does.

use std::ops::Range;

use editpe::VersionInfo;
use object::pe::{
    DllFlags, IMAGE_DEBUG_TYPE_REPRO, IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE,
    IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY, IMAGE_DLLCHARACTERISTICS_GUARD_CF,
    IMAGE_DLLCHARACTERISTICS_HIGH_ENTROPY_VA, IMAGE_DLLCHARACTERISTICS_NX_COMPAT,
    IMAGE_FILE_RELOCS_STRIPPED, IMAGE_GUARD_CF_FUNCTION_TABLE_PRESENT, IMAGE_GUARD_CF_INSTRUMENTED,
    IMAGE_SUBSYSTEM_NATIVE,
};

use super::{
    Fact,
    contents::{Contents, Guard, Section, Signature},
};
use crate::architecture::Architecture;

const PAGE: u32 = 0x1000;

/// Every demand, and whether the file meets it. Of what the file lacks as a whole
/// that is said, and nothing of its parts.
pub(super) fn facts(file: &Contents, architecture: Architecture) -> Vec<Fact> {
    let mut facts = loader(file, architecture);
    facts.extend(sections(file));
    facts.extend(calls(file));
    facts.extend(file.guard.iter().flat_map(|guard| guard_facts(file, guard)));
    facts.extend(imports(file));
    facts.extend(origin(file));
    facts.push(fact(
        "it has a version resource",
        (file.version.is_none()).then(|| "none that can be read".into()),
    ));
    facts.extend(file.version.iter().flat_map(version_facts));
    facts.extend(file.signature.as_ref().map(|signature| {
        fact(
            "its signature is whole and ends the file",
            fault_of_signature(signature, file.bytes),
        )
    }));
    facts
}

fn fact(claim: &'static str, fault: Option<String>) -> Fact {
    Fact { claim, fault }
}

/// What the loader reads in the header.
fn loader(file: &Contents, architecture: Architecture) -> Vec<Fact> {
    let [has, should_have] = file.checksums;
    vec![
        fact(
            "the code is for the processor that was asked for",
            (file.machine != architecture.machine())
                .then(|| format!("machine {:#06x}", file.machine.0)),
        ),
        fact(
            "the subsystem is native",
            (file.subsystem != IMAGE_SUBSYSTEM_NATIVE)
                .then(|| format!("subsystem {}", file.subsystem.0)),
        ),
        // The setup files are for Windows 10 and later. Linkers that are not told a
        // version write an older one.
        fact(
            "it is for Windows 10.0: operating system and subsystem version",
            listed(
                ["operating system", "subsystem"]
                    .into_iter()
                    .zip(file.windows_versions)
                    .filter(|(_, version)| *version != (10, 0))
                    .map(|(name, (major, minor))| format!("{name} {major}.{minor}")),
            ),
        ),
        fact(
            "the entry point lies in code",
            (!file.is_code(file.entry)).then(|| format!("it is {:#x}", file.entry)),
        ),
        fact(
            "the checksum in the header is the file's",
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
        fact(
            "its base relocations were not stripped",
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

fn flag(file: &Contents, claim: &'static str, flag: DllFlags) -> Fact {
    let is_set = file.dll_characteristics.contains(flag);
    fact(claim, (!is_set).then(|| "the flag is not set".into()))
}

/// What memory integrity demands (driversecurity/implement-hvci-compatible-code of
/// the driver documentation), and the boot disk.
fn sections(file: &Contents) -> Vec<Fact> {
    let such = |is_wrong: fn(&Section) -> bool| {
        let wrong = file.sections.iter().filter(|section| is_wrong(section));
        listed(wrong.map(|section| section.name.clone()))
    };
    let alignment = file.section_alignment;
    vec![
        fact(
            "no section is both writable and executable",
            such(|section| section.writable && section.executable),
        ),
        fact(
            "sections are aligned to pages",
            (alignment == 0 || !alignment.is_multiple_of(PAGE))
                .then(|| format!("to {alignment:#x}"))
                .or_else(|| such(|section| !section.addresses.start.is_multiple_of(PAGE))),
        ),
        // What Windows may page out is named so; a driver of the boot disk would
        // have to be read in by itself.
        fact(
            "no section is pageable",
            such(|section| section.name.starts_with("PAGE")),
        ),
        fact(
            "the addresses of its imports are not among code",
            file.import_addresses
                .filter(|address| file.is_code(*address))
                .map(|address| format!("they are at {address:#x}")),
        ),
        // Windows before 10 version 1703 does not move such an address.
        fact(
            "no address to be moved lies in two pages",
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
fn calls(file: &Contents) -> [Fact; 2] {
    [
        flag(
            file,
            "calls by pointer are checked (/GUARD:CF)",
            IMAGE_DLLCHARACTERISTICS_GUARD_CF,
        ),
        fact(
            "it has a load configuration",
            file.guard.is_none().then(|| "none with guard flags".into()),
        ),
    ]
}

/// Control Flow Guard: what the load configuration says.
fn guard_facts(file: &Contents, guard: &Guard) -> [Fact; 4] {
    let flags = guard.flags.0;
    let demanded = IMAGE_GUARD_CF_INSTRUMENTED.0 | IMAGE_GUARD_CF_FUNCTION_TABLE_PRESENT.0;
    let not_code = |addresses: &[u32]| {
        let wrong = addresses.iter().filter(|address| !file.is_code(**address));
        listed(wrong.map(|address| format!("{address:#x}")))
    };
    [
        fact(
            "its load configuration says as well that calls are checked",
            (flags & demanded != demanded).then(|| format!("its guard flags are {flags:#x}")),
        ),
        fact("what checks calls lies in code", not_code(&guard.checks)),
        fact(
            "the functions that may be called lie in code",
            not_code(&guard.functions),
        ),
        fact(
            "they are listed in order, as they are searched",
            guard
                .functions
                .windows(2)
                .find(|pair| pair[0] >= pair[1])
                .map(|pair| format!("{:#x} comes after {:#x}", pair[1], pair[0])),
        ),
    ]
}

fn imports(file: &Contents) -> Vec<Fact> {
    vec![
        fact(
            "storport.sys is what it imports from",
            (!file.imports.contains_key("storport.sys"))
                .then(|| "it does not import from it".into()),
        ),
        fact(
            "nothing else is imported",
            listed(
                file.imports
                    .iter()
                    .filter(|(module, _)| *module != "storport.sys")
                    .flat_map(|(module, functions)| {
                        functions
                            .iter()
                            .map(move |function| format!("{module}!{function}"))
                    }),
            ),
        ),
    ]
}

/// What it says of when and where it was built.
fn origin(file: &Contents) -> [Fact; 3] {
    [
        fact(
            "the program database is named without a folder",
            file.program_database
                .clone()
                .filter(|name| name.contains(['/', '\\'])),
        ),
        fact(
            "it is the same whenever it is built (/BREPRO)",
            (!file.debug_types.contains(&IMAGE_DEBUG_TYPE_REPRO))
                .then(|| "its debug directory does not say so".into()),
        ),
        fact(
            "it names no source file, and so no folder of the machine that built it",
            listed(file.source_files.iter().cloned()),
        ),
    ]
}

fn version_facts(version: &VersionInfo) -> [Fact; 2] {
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
        fact(
            "the resource says that it is a system driver",
            (kind != (DRIVER, SYSTEM_DRIVER))
                .then(|| format!("type {}, subtype {}", kind.0, kind.1)),
        ),
        fact(
            "the resource has what Windows shows: maker, description, names, versions",
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
    match signature.header {
        Some((length, REVISION, PKCS_SIGNED_DATA))
            if u64::from(length).next_multiple_of(8) == end - start =>
        {
            None
        }
        Some((length, revision, kind)) => Some(format!(
            "it begins with length {length:#x}, revision {revision:#x}, type {kind}"
        )),
        None => Some("it has no beginning".into()),
    }
}

fn listed(items: impl Iterator<Item = String>) -> Option<String> {
    let items: Vec<_> = items.collect();
    (!items.is_empty()).then(|| items.join(", "))
}
