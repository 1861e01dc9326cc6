//! Writes a driver file for a test. It is sound, except for what the test changes.

use editpe::{ResourceDirectory, VersionInfo, VersionStringTable};
use object::{
    pe::{
        DllFlags, GuardFlags, IMAGE_DEBUG_TYPE_CODEVIEW, IMAGE_DEBUG_TYPE_REPRO,
        IMAGE_DIRECTORY_ENTRY_DEBUG, IMAGE_DIRECTORY_ENTRY_EXPORT, IMAGE_DIRECTORY_ENTRY_IAT,
        IMAGE_DIRECTORY_ENTRY_IMPORT, IMAGE_DIRECTORY_ENTRY_LOAD_CONFIG,
        IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE, IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY,
        IMAGE_DLLCHARACTERISTICS_GUARD_CF, IMAGE_DLLCHARACTERISTICS_HIGH_ENTROPY_VA,
        IMAGE_DLLCHARACTERISTICS_NX_COMPAT, IMAGE_FILE_EXECUTABLE_IMAGE,
        IMAGE_GUARD_CF_FUNCTION_TABLE_PRESENT, IMAGE_GUARD_CF_INSTRUMENTED, IMAGE_REL_BASED_DIR64,
        IMAGE_SCN_CNT_CODE, IMAGE_SCN_CNT_INITIALIZED_DATA, IMAGE_SCN_MEM_EXECUTE,
        IMAGE_SCN_MEM_READ, IMAGE_SUBSYSTEM_NATIVE, SectionFlags,
    },
    write::pe::{NtHeaders, Writer},
};

use super::checks::SHOWN_STRINGS;
use crate::{architecture::Architecture, checksum};

/// The file's parts that a test changes.
pub(crate) struct Sample {
    pub(super) headers: NtHeaders,
    pub(super) section_alignment: u32,
    pub(super) code_name: [u8; 8],
    pub(super) code: SectionFlags,
    pub(super) relocation: Option<u32>,
    pub(super) module: &'static [u8; 12],
    pub(super) import_addresses: u32,
    pub(super) export: Option<&'static [u8; 7]>,
    pub(super) has_load_configuration: bool,
    pub(super) guard_flags: GuardFlags,
    pub(super) check: u64,
    pub(super) functions: [u32; 2],
    pub(super) version: Option<VersionInfo>,
    pub(super) program_database: &'static [u8; 16],
    pub(super) debug_types: [u32; 2],
    /// Part of the data, such as the message of a panic.
    pub(super) text: &'static str,
    pub(super) signature: Option<Vec<u8>>,
}

pub(super) const RVA_OF_CODE: u32 = 0x1000;
pub(super) const RVA_OF_DATA: u32 = 0x2000;
const BASE: u64 = 0x1_4000_0000;

/// Offsets of the parts of the data.
const DESCRIPTORS: u32 = 0;
const NAMES: u32 = 40;
const ADDRESSES: u32 = 56;
const MODULE: u32 = 72;
const FUNCTION: u32 = 86;
const DEBUG: u32 = 0x80;
const CODE_VIEW: u32 = 0xc0;
const LOAD_CONFIG: u32 = 0x100;
const LOAD_CONFIG_LENGTH: u32 = 0xc0;
const CHECK_POINTER: u32 = 0x1c0;
const FUNCTIONS: u32 = 0x1d0;
const TEXT: u32 = 0x1e0;
const EXPORTS: u32 = 0x240;
const EXPORTS_LENGTH: u32 = 64;
const DATA_LENGTH: u32 = EXPORTS + EXPORTS_LENGTH;

pub(crate) fn sound() -> Sample {
    Sample {
        headers: NtHeaders {
            machine: Architecture::X64.machine(),
            time_date_stamp: 0,
            characteristics: IMAGE_FILE_EXECUTABLE_IMAGE,
            major_linker_version: 0,
            minor_linker_version: 0,
            address_of_entry_point: RVA_OF_CODE,
            image_base: BASE,
            major_operating_system_version: 10,
            minor_operating_system_version: 0,
            major_image_version: 0,
            minor_image_version: 0,
            major_subsystem_version: 10,
            minor_subsystem_version: 0,
            subsystem: IMAGE_SUBSYSTEM_NATIVE,
            dll_characteristics: IMAGE_DLLCHARACTERISTICS_NX_COMPAT
                | IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE
                | IMAGE_DLLCHARACTERISTICS_HIGH_ENTROPY_VA
                | IMAGE_DLLCHARACTERISTICS_GUARD_CF
                | IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY,
            size_of_stack_reserve: 0,
            size_of_stack_commit: 0,
            size_of_heap_reserve: 0,
            size_of_heap_commit: 0,
        },
        section_alignment: 0x1000,
        code_name: *b".text\0\0\0",
        code: IMAGE_SCN_CNT_CODE | IMAGE_SCN_MEM_EXECUTE | IMAGE_SCN_MEM_READ,
        relocation: Some(RVA_OF_DATA + CHECK_POINTER),
        module: b"storport.sys",
        import_addresses: RVA_OF_DATA + ADDRESSES,
        export: None,
        has_load_configuration: true,
        guard_flags: IMAGE_GUARD_CF_INSTRUMENTED | IMAGE_GUARD_CF_FUNCTION_TABLE_PRESENT,
        check: BASE + u64::from(RVA_OF_CODE),
        functions: [RVA_OF_CODE, RVA_OF_CODE + 8],
        version: Some(version()),
        program_database: b"the-driver.pdb\0\0",
        debug_types: [IMAGE_DEBUG_TYPE_CODEVIEW.0, IMAGE_DEBUG_TYPE_REPRO.0],
        text: "a text",
        signature: None,
    }
}

/// Version 1.2.3.0 of a driver.
fn version() -> VersionInfo {
    let mut version = VersionInfo::default();
    version.info.file_version.major = 0x0001_0002;
    version.info.file_version.minor = 0x0003_0000;
    version.info.file_type = 3;
    version.info.file_subtype = 7;
    let mut table = VersionStringTable {
        key: "040904b0".into(),
        ..VersionStringTable::default()
    };
    for name in SHOWN_STRINGS {
        table.strings.insert(name.into(), "a text".into());
    }
    version.strings.push(table);
    version
}

/// A certificate table that holds `contents`.
pub(super) fn certificates(length: u32, kind: u16, contents: &[u8]) -> Vec<u8> {
    let mut table = Vec::new();
    table.extend(length.to_le_bytes());
    table.extend(0x0200_u16.to_le_bytes());
    table.extend(kind.to_le_bytes());
    table.extend(contents);
    table
}

impl Sample {
    /// The data at [`RVA_OF_DATA`]: an import of StorPortMoveMemory, a debug
    /// directory, a load configuration.
    fn data(&self, offset_in_file: u32) -> Vec<u8> {
        let mut data = vec![0; DATA_LENGTH as usize];
        let mut put = |at: u32, bytes: &[u8]| {
            data[at as usize..][..bytes.len()].copy_from_slice(bytes);
        };
        let here = |at: u32| RVA_OF_DATA + at;
        let address = |at: u32| (BASE + u64::from(here(at))).to_le_bytes();

        put(DESCRIPTORS, &here(NAMES).to_le_bytes());
        put(DESCRIPTORS + 12, &here(MODULE).to_le_bytes());
        put(DESCRIPTORS + 16, &here(ADDRESSES).to_le_bytes());
        put(NAMES, &here(FUNCTION).to_le_bytes());
        put(ADDRESSES, &here(FUNCTION).to_le_bytes());
        put(MODULE, self.module);
        // After the function's number.
        put(FUNCTION + 2, b"StorPortMoveMemory");

        for (kind, entry) in self.debug_types.iter().zip([DEBUG, DEBUG + 28]) {
            put(entry + 12, &kind.to_le_bytes());
            put(entry + 16, &48_u32.to_le_bytes());
            put(entry + 20, &here(CODE_VIEW).to_le_bytes());
            put(entry + 24, &(offset_in_file + CODE_VIEW).to_le_bytes());
        }
        put(CODE_VIEW, b"RSDS");
        put(CODE_VIEW + 24, self.program_database);

        put(LOAD_CONFIG, &LOAD_CONFIG_LENGTH.to_le_bytes());
        put(LOAD_CONFIG + 0x70, &address(CHECK_POINTER));
        put(LOAD_CONFIG + 0x80, &address(FUNCTIONS));
        put(LOAD_CONFIG + 0x88, &2_u64.to_le_bytes());
        put(LOAD_CONFIG + 0x90, &self.guard_flags.0.to_le_bytes());
        put(CHECK_POINTER, &self.check.to_le_bytes());
        put(FUNCTIONS, &self.functions[0].to_le_bytes());
        put(FUNCTIONS + 4, &self.functions[1].to_le_bytes());
        put(TEXT, self.text.as_bytes());

        // IMAGE_EXPORT_DIRECTORY, then one address, one name's address, one ordinal.
        let [addresses, names, ordinals, name] = [40, 44, 48, 52].map(|at| EXPORTS + at);
        if let Some(export) = self.export {
            put(EXPORTS + 16, &1_u32.to_le_bytes());
            put(EXPORTS + 20, &1_u32.to_le_bytes());
            put(EXPORTS + 24, &1_u32.to_le_bytes());
            put(EXPORTS + 28, &here(addresses).to_le_bytes());
            put(EXPORTS + 32, &here(names).to_le_bytes());
            put(EXPORTS + 36, &here(ordinals).to_le_bytes());
            put(addresses, &RVA_OF_CODE.to_le_bytes());
            put(names, &here(name).to_le_bytes());
            put(name, export);
        }
        data
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        let mut file = Vec::new();
        let mut writer = Writer::new(true, 0x1000, 0x200, &mut file);
        writer.reserve_dos_header();
        writer.reserve_nt_headers(16);
        let sections = 2 + u16::from(self.version.is_some()) + u16::from(self.relocation.is_some());
        writer.reserve_section_headers(sections);
        let code = writer.reserve_section(self.code_name, self.code, 16, 16);
        let data = writer.reserve_section(
            *b".rdata\0\0",
            IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ,
            DATA_LENGTH,
            DATA_LENGTH,
        );
        assert_eq!(code.virtual_address, RVA_OF_CODE);
        assert_eq!(data.virtual_address, RVA_OF_DATA);
        for (index, address, length) in [
            (IMAGE_DIRECTORY_ENTRY_IMPORT, RVA_OF_DATA + DESCRIPTORS, 40),
            (IMAGE_DIRECTORY_ENTRY_IAT, self.import_addresses, 16),
            (IMAGE_DIRECTORY_ENTRY_DEBUG, RVA_OF_DATA + DEBUG, 56),
        ] {
            writer.set_data_directory(index, address, length);
        }
        if self.has_load_configuration {
            let address = RVA_OF_DATA + LOAD_CONFIG;
            writer.set_data_directory(
                IMAGE_DIRECTORY_ENTRY_LOAD_CONFIG,
                address,
                LOAD_CONFIG_LENGTH,
            );
        }
        if self.export.is_some() {
            let address = RVA_OF_DATA + EXPORTS;
            writer.set_data_directory(IMAGE_DIRECTORY_ENTRY_EXPORT, address, EXPORTS_LENGTH);
        }
        // The resource's place is known before its contents, which name it.
        let resources = self.version.as_ref().map(|version| {
            let place = RVA_OF_DATA + 0x1000;
            let mut directory = ResourceDirectory::default();
            directory.set_version_info(version).unwrap();
            let contents = directory.build(place);
            let section = writer.reserve_rsrc_section(contents.len().try_into().unwrap());
            assert_eq!(section.virtual_address, place);
            (section, contents)
        });
        if let Some(address) = self.relocation {
            writer.add_reloc(address, IMAGE_REL_BASED_DIR64);
            writer.reserve_reloc_section();
        }
        if let Some(signature) = &self.signature {
            writer.reserve_certificate_table(signature.len().try_into().unwrap());
        }

        writer.write_empty_dos_header().unwrap();
        writer.write_nt_headers(self.headers.clone());
        writer.write_section_headers();
        writer.write_section(code.file_offset, &[0xc3; 16]);
        writer.write_section(data.file_offset, &self.data(data.file_offset));
        if let Some((section, contents)) = resources {
            writer.write_section(section.file_offset, &contents);
        }
        if self.relocation.is_some() {
            writer.write_reloc_section();
        }
        if let Some(signature) = &self.signature {
            writer.write_certificate_table(signature);
        }
        // The writer has set the alignment to which it aligned.
        let field = optional_header(&file) + 32;
        file[field..][..4].copy_from_slice(&self.section_alignment.to_le_bytes());
        set_checksum(&mut file, 0);
        file
    }

    /// Clears a flag in the header.
    pub(super) fn unset(&mut self, flag: DllFlags) {
        self.headers.dll_characteristics.0 &= !flag.0;
    }
}

/// Writes the checksum of the file as it is, plus `error`. Returns the right one.
pub(super) fn set_checksum(file: &mut [u8], error: u32) -> u32 {
    let field = optional_header(file) + 64;
    let sum = checksum::of_image(file, field);
    file[field..][..4].copy_from_slice(&(sum + error).to_le_bytes());
    sum
}

/// The offset of the optional header.
fn optional_header(file: &[u8]) -> usize {
    u32::from_le_bytes(file[0x3c..0x40].try_into().unwrap()) as usize + 24
}
