//! What a finished driver file must be for Windows to load it, read from the
//! file itself.

use std::{
    collections::BTreeMap,
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use clap::ValueEnum as _;
use object::{
    LittleEndian as LE,
    pe::{
        DllFlags, FileFlags, IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE,
        IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY, IMAGE_DLLCHARACTERISTICS_NX_COMPAT,
        IMAGE_FILE_RELOCS_STRIPPED, IMAGE_SCN_MEM_EXECUTE, IMAGE_SCN_MEM_WRITE,
        IMAGE_SUBSYSTEM_NATIVE, ImageNtHeaders64, Machine, Subsystem,
    },
    read::pe::{ImageNtHeaders, ImageOptionalHeader, Import, PeFile64},
};

use crate::architecture::Architecture;

/// What a driver file says of itself.
#[derive(Clone, Debug)]
pub struct Image {
    bytes: usize,
    machine: Machine,
    subsystem: Subsystem,
    characteristics: FileFlags,
    dll_characteristics: DllFlags,
    entry: u32,
    sections: Vec<Section>,
    /// Functions by module, both sorted.
    imports: BTreeMap<String, Vec<String>>,
}

#[derive(Clone, Debug)]
struct Section {
    name: String,
    writable: bool,
    executable: bool,
    /// Relative to the image's base.
    addresses: Range<u32>,
}

/// One thing that must hold of a driver file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What must hold.
    pub claim: &'static str,
    /// What the file has instead, if it does not hold.
    pub fault: Option<String>,
}

/// Why a file can't be judged.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It can't be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is no 64-bit PE file, or a damaged one.
    #[error("{path}: not a sound 64-bit PE file: {source}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: object::Error,
    },
}

impl Image {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// It can't be read, or is no sound 64-bit PE file.
    pub fn read(path: &Path) -> Result<Self, ImageError> {
        let bytes = fs::read(path).map_err(|source| ImageError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&bytes).map_err(|source| ImageError::Malformed {
            path: path.to_owned(),
            source,
        })
    }

    /// Reads the file whose bytes these are.
    ///
    /// # Errors
    /// It is no sound 64-bit PE file.
    pub fn parse(bytes: &[u8]) -> object::Result<Self> {
        let file = PeFile64::parse(bytes)?;
        let headers = file.nt_headers();
        let optional = headers.optional_header();

        let sections = file
            .section_table()
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
            .collect();

        Ok(Self {
            bytes: bytes.len(),
            machine: headers.file_header().machine.get(LE),
            subsystem: optional.subsystem(),
            characteristics: headers.file_header().characteristics.get(LE),
            dll_characteristics: optional.dll_characteristics(),
            entry: optional.address_of_entry_point(),
            sections,
            imports: imports(&file)?,
        })
    }

    /// The file's length.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The processor that the code is for, if packages are made for it.
    ///
    /// # Errors
    /// The machine number in the header, if they are not.
    pub fn architecture(&self) -> Result<Architecture, u16> {
        Architecture::value_variants()
            .iter()
            .copied()
            .find(|architecture| architecture.machine() == self.machine)
            .ok_or(self.machine.0)
    }

    /// The imported functions by module.
    #[must_use]
    pub fn imports(&self) -> &BTreeMap<String, Vec<String>> {
        &self.imports
    }

    /// Judges the file as a Storport miniport for `architecture`.
    #[must_use]
    pub fn facts(&self, architecture: Architecture) -> Vec<Fact> {
        let flag = |claim, flag| Fact {
            claim,
            fault: (!self.dll_characteristics.contains(flag)).then(|| "the flag is not set".into()),
        };
        vec![
            Fact {
                claim: "the code is for the processor that was asked for",
                fault: (self.machine != architecture.machine())
                    .then(|| format!("machine {:#06x}", self.machine.0)),
            },
            Fact {
                claim: "the subsystem is native",
                fault: (self.subsystem != IMAGE_SUBSYSTEM_NATIVE)
                    .then(|| format!("subsystem {}", self.subsystem.0)),
            },
            Fact {
                claim: "the entry point lies in code",
                fault: (!self.entry_lies_in_code()).then(|| format!("it is {:#x}", self.entry)),
            },
            Fact {
                claim: "no section is both writable and executable",
                fault: listed(
                    self.sections
                        .iter()
                        .filter(|section| section.writable && section.executable)
                        .map(|section| section.name.clone()),
                ),
            },
            // What Windows may page out is named so; a driver of the boot disk
            // would have to be read in by itself.
            Fact {
                claim: "no section is pageable",
                fault: listed(
                    self.sections
                        .iter()
                        .filter(|section| section.name.starts_with("PAGE"))
                        .map(|section| section.name.clone()),
                ),
            },
            flag(
                "memory without code is not executed (/NXCOMPAT)",
                IMAGE_DLLCHARACTERISTICS_NX_COMPAT,
            ),
            flag(
                "the image can be moved (/DYNAMICBASE)",
                IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE,
            ),
            // There need be none: code that holds no absolute address has
            // nothing to relocate.
            Fact {
                claim: "its base relocations were not stripped",
                fault: self
                    .characteristics
                    .contains(IMAGE_FILE_RELOCS_STRIPPED)
                    .then(|| "they were".into()),
            },
            flag(
                "the signature is checked at load (/INTEGRITYCHECK)",
                IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY,
            ),
            Fact {
                claim: "storport.sys is what it imports from",
                fault: (!self.imports.contains_key("storport.sys"))
                    .then(|| "it does not import from it".into()),
            },
            Fact {
                claim: "nothing else is imported",
                fault: listed(
                    self.imports
                        .iter()
                        .filter(|(module, _)| *module != "storport.sys")
                        .flat_map(|(module, functions)| {
                            functions
                                .iter()
                                .map(move |function| format!("{module}!{function}"))
                        }),
                ),
            },
        ]
    }

    fn entry_lies_in_code(&self) -> bool {
        self.sections
            .iter()
            .any(|section| section.executable && section.addresses.contains(&self.entry))
    }
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
        let mut thunks = table.thunks(descriptor.original_first_thunk.get(LE))?;
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

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn listed(items: impl Iterator<Item = String>) -> Option<String> {
    let items: Vec<_> = items.collect();
    (!items.is_empty()).then(|| items.join(", "))
}

#[cfg(test)]
mod tests {
    use object::{
        pe::{
            IMAGE_DIRECTORY_ENTRY_IMPORT, IMAGE_FILE_EXECUTABLE_IMAGE, IMAGE_REL_BASED_DIR64,
            IMAGE_SCN_CNT_CODE, IMAGE_SCN_CNT_INITIALIZED_DATA, IMAGE_SCN_MEM_READ,
            IMAGE_SUBSYSTEM_WINDOWS_CUI, SectionFlags,
        },
        write::pe::{NtHeaders, Writer},
    };

    use super::*;

    /// A driver file to be written.
    struct Sample {
        machine: Machine,
        characteristics: FileFlags,
        subsystem: Subsystem,
        flags: DllFlags,
        entry: u32,
        code_name: [u8; 8],
        code: SectionFlags,
        relocations: bool,
        module: &'static [u8; 12],
    }

    const RVA_OF_CODE: u32 = 0x1000;
    const RVA_OF_IMPORTS: u32 = 0x2000;

    fn sound() -> Sample {
        Sample {
            machine: Architecture::X64.machine(),
            characteristics: IMAGE_FILE_EXECUTABLE_IMAGE,
            subsystem: IMAGE_SUBSYSTEM_NATIVE,
            flags: IMAGE_DLLCHARACTERISTICS_NX_COMPAT
                | IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE
                | IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY,
            entry: RVA_OF_CODE,
            code_name: *b".text\0\0\0",
            code: IMAGE_SCN_CNT_CODE | IMAGE_SCN_MEM_EXECUTE | IMAGE_SCN_MEM_READ,
            relocations: true,
            module: b"storport.sys",
        }
    }

    impl Sample {
        /// The import directory at [`RVA_OF_IMPORTS`]: one module, and from
        /// it StorPortMoveMemory.
        fn imports(&self) -> Vec<u8> {
            let at = |offset: u32| (RVA_OF_IMPORTS + offset).to_le_bytes();
            let mut bytes = Vec::new();
            // One descriptor and the empty one that ends the list (40 bytes),
            // a table of thunks (16), its copy to be bound (16), names.
            for field in [at(40), [0; 4], [0; 4], at(72), at(56)] {
                bytes.extend(field);
            }
            bytes.extend([0; 20]);
            for _ in 0..2 {
                bytes.extend(u64::from(RVA_OF_IMPORTS + 86).to_le_bytes());
                bytes.extend([0; 8]);
            }
            bytes.extend(self.module);
            bytes.extend(b"\0\0\0\0StorPortMoveMemory\0");
            bytes
        }

        fn write(&self) -> Vec<u8> {
            let mut file = Vec::new();
            let mut writer = Writer::new(true, 0x1000, 0x200, &mut file);
            let imports = self.imports();
            writer.reserve_dos_header();
            writer.reserve_nt_headers(16);
            writer.reserve_section_headers(if self.relocations { 3 } else { 2 });
            let code = writer.reserve_section(self.code_name, self.code, 16, 16);
            let data = writer.reserve_section(
                *b".rdata\0\0",
                IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ,
                imports.len().try_into().unwrap(),
                imports.len().try_into().unwrap(),
            );
            assert_eq!(code.virtual_address, RVA_OF_CODE);
            assert_eq!(data.virtual_address, RVA_OF_IMPORTS);
            writer.set_data_directory(IMAGE_DIRECTORY_ENTRY_IMPORT, RVA_OF_IMPORTS, 40);
            if self.relocations {
                writer.add_reloc(RVA_OF_IMPORTS + 56, IMAGE_REL_BASED_DIR64);
                writer.reserve_reloc_section();
            }

            writer.write_empty_dos_header().unwrap();
            writer.write_nt_headers(NtHeaders {
                machine: self.machine,
                time_date_stamp: 0,
                characteristics: self.characteristics,
                major_linker_version: 0,
                minor_linker_version: 0,
                address_of_entry_point: self.entry,
                image_base: 0x1_4000_0000,
                major_operating_system_version: 10,
                minor_operating_system_version: 0,
                major_image_version: 0,
                minor_image_version: 0,
                major_subsystem_version: 10,
                minor_subsystem_version: 0,
                subsystem: self.subsystem,
                dll_characteristics: self.flags,
                size_of_stack_reserve: 0,
                size_of_stack_commit: 0,
                size_of_heap_reserve: 0,
                size_of_heap_commit: 0,
            });
            writer.write_section_headers();
            writer.write_section(code.file_offset, &[0xc3; 16]);
            writer.write_section(data.file_offset, &imports);
            if self.relocations {
                writer.write_reloc_section();
            }
            file
        }

        /// What does not hold of the sample as a driver for x64.
        fn faults(&self) -> Vec<String> {
            let image = Image::parse(&self.write()).unwrap();
            let facts = image.facts(Architecture::X64).into_iter();
            facts
                .filter_map(|fact| Some(format!("{}: {}", fact.claim, fact.fault?)))
                .collect()
        }
    }

    #[test]
    fn a_sound_driver_has_no_fault() {
        assert_eq!(sound().faults(), [""; 0]);
    }

    #[test]
    fn imports_are_read_from_the_file() {
        let image = Image::parse(&sound().write()).unwrap();
        assert_eq!(
            *image.imports(),
            BTreeMap::from([(
                "storport.sys".to_owned(),
                vec!["StorPortMoveMemory".to_owned()]
            )])
        );
    }

    #[test]
    fn each_fault_is_found_and_no_other_with_it() {
        let without = |flag: DllFlags| DllFlags(sound().flags.0 & !flag.0);
        let samples = [
            (
                Sample {
                    machine: Architecture::Arm64.machine(),
                    ..sound()
                },
                "the code is for the processor that was asked for: machine 0xaa64",
            ),
            (
                Sample {
                    subsystem: IMAGE_SUBSYSTEM_WINDOWS_CUI,
                    ..sound()
                },
                "the subsystem is native: subsystem 3",
            ),
            (
                Sample {
                    entry: RVA_OF_IMPORTS,
                    ..sound()
                },
                "the entry point lies in code: it is 0x2000",
            ),
            (
                Sample {
                    code: sound().code | IMAGE_SCN_MEM_WRITE,
                    ..sound()
                },
                "no section is both writable and executable: .text",
            ),
            (
                Sample {
                    code_name: *b"PAGECODE",
                    ..sound()
                },
                "no section is pageable: PAGECODE",
            ),
            (
                Sample {
                    flags: without(IMAGE_DLLCHARACTERISTICS_NX_COMPAT),
                    ..sound()
                },
                "memory without code is not executed (/NXCOMPAT): the flag is not set",
            ),
            (
                Sample {
                    flags: without(IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE),
                    ..sound()
                },
                "the image can be moved (/DYNAMICBASE): the flag is not set",
            ),
            (
                Sample {
                    characteristics: sound().characteristics | IMAGE_FILE_RELOCS_STRIPPED,
                    relocations: false,
                    ..sound()
                },
                "its base relocations were not stripped: they were",
            ),
            (
                Sample {
                    flags: without(IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY),
                    ..sound()
                },
                "the signature is checked at load (/INTEGRITYCHECK): the flag is not set",
            ),
        ];
        for (sample, fault) in samples {
            assert_eq!(sample.faults(), [fault]);
        }
    }

    #[test]
    fn a_driver_that_has_nothing_to_relocate_is_sound() {
        let sample = Sample {
            relocations: false,
            ..sound()
        };
        assert_eq!(sample.faults(), [""; 0]);
    }

    #[test]
    fn an_import_from_elsewhere_is_named() {
        let sample = Sample {
            module: b"ntoskrnl.exe",
            ..sound()
        };
        assert_eq!(
            sample.faults(),
            [
                "storport.sys is what it imports from: it does not import from it",
                "nothing else is imported: ntoskrnl.exe!StorPortMoveMemory",
            ]
        );
    }

    #[test]
    fn a_file_that_is_no_pe_is_refused_by_name() {
        let error = Image::read(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("Cargo.toml")
                .as_path(),
        )
        .unwrap_err()
        .to_string();
        assert!(
            error.contains("Cargo.toml: not a sound 64-bit PE file"),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Image::read(Path::new("/no/such.sys"))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("/no/such.sys: No such file"), "{error}");
    }
}
