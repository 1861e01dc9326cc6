//! Parses a finished driver file, and checks whether Windows can load it.

mod contents;
mod demands;
#[cfg(test)]
mod sample;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use clap::ValueEnum as _;

use self::contents::Contents;
use crate::{architecture::Architecture, check::Check, inf::Version};

/// A driver file.
#[derive(Clone, Debug)]
pub struct Image {
    contents: Contents,
}

/// A file cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// It is not a valid 64-bit PE file.
    #[error("{path}: not a valid 64-bit PE file: {source}")]
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
    /// The file cannot be read, or is not a valid 64-bit PE file.
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

    /// Parses the bytes of a file.
    ///
    /// # Errors
    /// It is not a valid 64-bit PE file.
    pub fn parse(bytes: &[u8]) -> object::Result<Self> {
        Ok(Self {
            contents: Contents::parse(bytes)?,
        })
    }

    /// The file's length.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.contents.bytes
    }

    /// The architecture of the code.
    ///
    /// # Errors
    /// The machine type in the header, if it is not a supported architecture.
    pub fn architecture(&self) -> Result<Architecture, u16> {
        let machine = self.contents.machine;
        Architecture::value_variants()
            .iter()
            .copied()
            .find(|architecture| architecture.machine() == machine)
            .ok_or(machine.0)
    }

    /// The imported functions by module.
    #[must_use]
    pub fn imports(&self) -> &BTreeMap<String, Vec<String>> {
        &self.contents.imports
    }

    /// Whether the file has a signature, valid or not.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.contents.signature.is_some()
    }

    /// The file's version, if it has one.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        let version = self.contents.version.as_ref()?.info.file_version;
        let halves = |number: u32| [(number >> 16) as u16, number as u16];
        let [[major, minor], [patch, build]] = [version.major, version.minor].map(halves);
        Some(Version([major, minor, patch, build]))
    }

    /// Checks the file as a Storport miniport for `architecture`.
    #[must_use]
    pub fn checks(&self, architecture: Architecture) -> Vec<Check> {
        demands::checks(&self.contents, architecture)
    }

    /// Checks that the file's version is `version`, that of the INF file.
    #[must_use]
    pub fn check_of_version(&self, version: Version) -> Check {
        Check::advice(
            "the version matches the INF file",
            "Device Manager shows one, File Properties the other",
            match self.version() {
                Some(own) if own == version => None,
                Some(own) => Some(format!("it is {own} and not {version}")),
                None => Some("it has none".into()),
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use object::pe::{
        DllFlags, GuardFlags, IMAGE_DEBUG_TYPE_CODEVIEW, IMAGE_DIRECTORY_ENTRY_LOAD_CONFIG,
        IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE, IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY,
        IMAGE_DLLCHARACTERISTICS_GUARD_CF, IMAGE_DLLCHARACTERISTICS_HIGH_ENTROPY_VA,
        IMAGE_DLLCHARACTERISTICS_NX_COMPAT, IMAGE_FILE_RELOCS_STRIPPED, IMAGE_SCN_MEM_WRITE,
        IMAGE_SUBSYSTEM_WINDOWS_CUI,
    };

    use super::{
        sample::{
            RVA_OF_CODE, RVA_OF_DATA, Sample, certificates, forget_directory, set_checksum, sound,
            version,
        },
        *,
    };

    /// The faults of a file as a driver for x64.
    fn faults(file: &[u8]) -> Vec<String> {
        let image = Image::parse(file).unwrap();
        let checks = image.checks(Architecture::X64).into_iter();
        checks
            .filter_map(|check| Some(format!("{}: {}", check.claim, check.fault()?)))
            .collect()
    }

    #[test]
    fn a_sound_driver_has_no_fault() {
        assert_eq!(faults(&sound().write()), [""; 0]);
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
        let mut of_a_program = version();
        of_a_program.info.file_type = 1;
        let mut nameless = version();
        nameless.strings[0].strings.swap_remove("CompanyName");
        nameless.strings[0].strings.swap_remove("FileVersion");
        let samples = [
            (
                Sample {
                    machine: Architecture::Arm64.machine(),
                    ..sound()
                },
                "the code is for the requested processor architecture: machine 0xaa64",
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
                    operating_system_version: (6, 0),
                    ..sound()
                },
                "the operating system and subsystem version are 10.0 (Windows 10): \
                 operating system 6.0",
            ),
            (
                Sample {
                    subsystem_version: (10, 1),
                    ..sound()
                },
                "the operating system and subsystem version are 10.0 (Windows 10): \
                 subsystem 10.1",
            ),
            (
                Sample {
                    entry: RVA_OF_DATA,
                    ..sound()
                },
                "the entry point is in a code section: it is 0x2000",
            ),
            (
                Sample {
                    flags: without(IMAGE_DLLCHARACTERISTICS_NX_COMPAT),
                    ..sound()
                },
                "memory without code is not executable (/NXCOMPAT): the flag is not set",
            ),
            (
                Sample {
                    flags: without(IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE),
                    ..sound()
                },
                "the image can be relocated (/DYNAMICBASE): the flag is not set",
            ),
            (
                Sample {
                    flags: without(IMAGE_DLLCHARACTERISTICS_HIGH_ENTROPY_VA),
                    ..sound()
                },
                "the image can be relocated to any 64-bit address (/HIGHENTROPYVA): the flag is not set",
            ),
            (
                Sample {
                    characteristics: sound().characteristics | IMAGE_FILE_RELOCS_STRIPPED,
                    relocation: None,
                    ..sound()
                },
                "the base relocations are not stripped: they are",
            ),
            (
                Sample {
                    flags: without(IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY),
                    ..sound()
                },
                "the signature is checked at load (/INTEGRITYCHECK): the flag is not set",
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
                    section_alignment: 0x200,
                    ..sound()
                },
                "the sections are aligned to pages: to 0x200",
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
                    import_addresses: RVA_OF_CODE,
                    ..sound()
                },
                "the import address table is not in a code section: it is at 0x1000",
            ),
            (
                Sample {
                    relocation: Some(RVA_OF_DATA + 0xffc),
                    ..sound()
                },
                "no relocation crosses a page boundary: 0x2ffc",
            ),
            (
                Sample {
                    flags: without(IMAGE_DLLCHARACTERISTICS_GUARD_CF),
                    ..sound()
                },
                "indirect calls are checked (/GUARD:CF): the flag is not set",
            ),
            (
                Sample {
                    guard_flags: GuardFlags(0),
                    ..sound()
                },
                "the guard flags of the load configuration enable the checks of calls: they are 0x0",
            ),
            (
                Sample {
                    check: 0,
                    ..sound()
                },
                "the routines that check calls are in code sections: 0xffffffff",
            ),
            (
                Sample {
                    functions: [RVA_OF_CODE, RVA_OF_DATA],
                    ..sound()
                },
                "the valid call targets are in code sections: 0x2000",
            ),
            (
                Sample {
                    functions: [RVA_OF_CODE + 8, RVA_OF_CODE],
                    ..sound()
                },
                "the valid call targets are listed in ascending order: 0x1000 follows 0x1008",
            ),
            (
                Sample {
                    version: None,
                    ..sound()
                },
                "the file has a version resource: it has none that can be parsed",
            ),
            (
                Sample {
                    version: Some(of_a_program),
                    ..sound()
                },
                "the version resource has the file type driver: type 1, subtype 7",
            ),
            (
                Sample {
                    version: Some(nameless),
                    ..sound()
                },
                "the version resource has maker, description, names and versions: \
                 no CompanyName, no FileVersion",
            ),
            (
                Sample {
                    program_database: b"/home/me/drv.pdb",
                    ..sound()
                },
                "the path of the program database has no folder: /home/me/drv.pdb",
            ),
            (
                Sample {
                    debug_types: [IMAGE_DEBUG_TYPE_CODEVIEW.0; 2],
                    ..sound()
                },
                "the build is reproducible (/BREPRO): the debug directory has no \
                 entry for that",
            ),
            (
                Sample {
                    text: "panicked at /home/me/src/lib.rs:7",
                    ..sound()
                },
                "the file contains no source path, which would name a folder of the build machine: \
                 /home/me/src/lib.rs:7",
            ),
            (
                Sample {
                    export: Some(b"memcpy\0"),
                    ..sound()
                },
                "the driver exports nothing: memcpy",
            ),
            (
                Sample {
                    checksum_error: 1,
                    ..sound()
                },
                &checksum_off_by_one(),
            ),
            (
                Sample {
                    signature: Some(certificates(16, 1, &[0; 8])),
                    ..sound()
                },
                "the signature is complete and ends the file: it has an entry of \
                 length 0x10, revision 0x200, type 1",
            ),
        ];
        for (sample, fault) in samples {
            assert_eq!(faults(&sample.write()), [fault]);
        }
    }

    /// The fault of a sound file whose checksum is one more.
    fn checksum_off_by_one() -> String {
        let sum = Image::parse(&sound().write()).unwrap().contents.checksums[1];
        format!(
            "the checksum in the header is correct: it is {:#x}, not {sum:#x}",
            sum + 1
        )
    }

    #[test]
    fn without_a_load_configuration_only_that_is_a_fault() {
        let mut file = sound().write();
        forget_directory(&mut file, IMAGE_DIRECTORY_ENTRY_LOAD_CONFIG);
        assert_eq!(
            faults(&file),
            ["the file has a load configuration: it has none with guard flags"]
        );
    }

    #[test]
    fn a_signature_that_something_follows_is_a_fault() {
        let signed = Sample {
            signature: Some(certificates(16, 2, &[0; 8])),
            ..sound()
        };
        let mut file = signed.write();
        assert!(Image::parse(&file).unwrap().is_signed());
        assert_eq!(faults(&file), [""; 0]);

        let length = file.len();
        file.extend([0; 8]);
        set_checksum(&mut file, 0);

        assert_eq!(
            faults(&file),
            [format!(
                "the signature is complete and ends the file: the certificate table is {:#x}..{length:#x} \
                 of {:#x} bytes",
                length - 16,
                length + 8
            )]
        );
    }

    #[test]
    fn a_file_of_another_version_is_distinguished_from_the_expected_one() {
        let image = Image::parse(&sound().write()).unwrap();
        assert_eq!(image.check_of_version(Version([1, 2, 3, 0])).fault(), None);
        assert_eq!(
            image
                .check_of_version(Version([1, 2, 4, 0]))
                .fault()
                .unwrap(),
            "it is 1.2.3.0 and not 1.2.4.0"
        );
    }

    #[test]
    fn a_driver_that_has_nothing_to_relocate_is_sound() {
        let sample = Sample {
            relocation: None,
            ..sound()
        };
        assert_eq!(faults(&sample.write()), [""; 0]);
    }

    #[test]
    fn an_import_from_elsewhere_is_named() {
        let sample = Sample {
            module: b"ntoskrnl.exe",
            ..sound()
        };
        assert_eq!(
            faults(&sample.write()),
            [
                "the driver imports from storport.sys: it does not",
                "the driver imports from no other module: ntoskrnl.exe!StorPortMoveMemory",
            ]
        );
    }

    #[test]
    fn a_file_with_any_byte_changed_is_judged_or_refused() {
        let signed = Sample {
            signature: Some(certificates(16, 2, &[0; 8])),
            ..sound()
        };
        let file = signed.write();
        let mut refused = 0;
        for at in 0..file.len() {
            for byte in [0, 0xff] {
                let mut damaged = file.clone();
                damaged[at] = byte;
                match Image::parse(&damaged) {
                    Ok(image) => drop(image.checks(Architecture::X64)),
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(refused > 0);
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
            error.contains("Cargo.toml: not a valid 64-bit PE file"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Image::read(Path::new("/no/such.sys"))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("/no/such.sys: No such file"), "{error}");
    }
}
