//! Parses a finished driver file, and checks whether Windows can load it.

mod checks;
#[cfg(test)]
pub(crate) mod sample;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use clap::ValueEnum as _;
use object::{
    LittleEndian,
    pe::{IMAGE_DIRECTORY_ENTRY_SECURITY, Machine},
    read::pe::PeFile64,
};

/// Names of functions by module, both sorted.
pub type Imports = BTreeMap<String, Vec<String>>;
use crate::{architecture::Architecture, check::Check, inf::Version};

/// A driver file.
#[derive(Clone, Debug)]
pub struct Image {
    /// The file's length.
    pub bytes: usize,
    machine: Machine,
    /// The imported functions by module.
    pub imports: Imports,
    /// Whether the file has a signature, valid or not.
    pub is_signed: bool,
    /// The file's version, if it has one.
    pub version: Option<Version>,
    /// All checks except that of the architecture.
    checks: Vec<Check>,
}

/// A file cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
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
        Self::parse(&fs_err::read(path)?).map_err(|source| ImageError::Malformed {
            path: path.to_owned(),
            source,
        })
    }

    /// Parses the bytes of a file.
    ///
    /// # Errors
    /// It is not a valid 64-bit PE file.
    pub fn parse(bytes: &[u8]) -> object::Result<Self> {
        let file = PeFile64::parse(bytes)?;
        let imports = checks::imports(&file)?;
        let version = checks::version(&file);
        Ok(Self {
            bytes: bytes.len(),
            machine: file.nt_headers().file_header.machine.get(LittleEndian),
            is_signed: file
                .data_directory(IMAGE_DIRECTORY_ENTRY_SECURITY)
                .is_some(),
            checks: checks::checks(&file, &imports, version.as_ref())?,
            imports,
            version: version.map(|version| {
                let version = version.info.file_version;
                let halves = |number: u32| [(number >> 16) as u16, number as u16];
                let [[major, minor], [patch, build]] = [version.major, version.minor].map(halves);
                Version([major, minor, patch, build])
            }),
        })
    }

    /// The architecture of the code.
    ///
    /// # Errors
    /// The machine type in the header, if it is not a supported architecture.
    pub fn architecture(&self) -> Result<Architecture, u16> {
        Architecture::value_variants()
            .iter()
            .copied()
            .find(|architecture| architecture.machine() == self.machine)
            .ok_or(self.machine.0)
    }

    /// Checks the file as a Storport miniport for `architecture`.
    #[must_use]
    pub fn checks(&self, architecture: Architecture) -> Vec<Check> {
        let is_other = self.machine != architecture.machine();
        let own = Check::requirement(
            "the code is for the requested processor architecture",
            "PE Format",
            is_other.then(|| format!("machine {:#06x}", self.machine.0)),
        );
        std::iter::once(own)
            .chain(self.checks.iter().cloned())
            .collect()
    }

    /// Checks that the file's version is `version`, that of the INF file.
    #[must_use]
    pub fn check_of_version(&self, version: Version) -> Check {
        Check::advice(
            "the version matches the INF file",
            "Device Manager shows one, File Properties the other",
            match self.version {
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
        GuardFlags, IMAGE_DEBUG_TYPE_CODEVIEW, IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE,
        IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY, IMAGE_DLLCHARACTERISTICS_GUARD_CF,
        IMAGE_DLLCHARACTERISTICS_HIGH_ENTROPY_VA, IMAGE_DLLCHARACTERISTICS_NX_COMPAT,
        IMAGE_FILE_RELOCS_STRIPPED, IMAGE_SCN_MEM_WRITE, IMAGE_SUBSYSTEM_WINDOWS_CUI,
    };

    use super::{
        sample::{RVA_OF_CODE, RVA_OF_DATA, Sample, certificates, set_checksum, sound},
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
    fn each_fault_is_found_and_no_other_with_it() {
        type Change = fn(&mut Sample);
        let samples: [(Change, &str); 29] = [
            (
                |s| s.headers.machine = Architecture::Arm64.machine(),
                "the code is for the requested processor architecture: machine 0xaa64",
            ),
            (
                |s| s.headers.subsystem = IMAGE_SUBSYSTEM_WINDOWS_CUI,
                "the subsystem is native: subsystem 3",
            ),
            (
                |s| s.headers.major_operating_system_version = 6,
                "the operating system and subsystem version are 10.0 (Windows 10): \
                 operating system 6.0",
            ),
            (
                |s| s.headers.minor_subsystem_version = 1,
                "the operating system and subsystem version are 10.0 (Windows 10): \
                 subsystem 10.1",
            ),
            (
                |s| s.headers.address_of_entry_point = RVA_OF_DATA,
                "the entry point is in a code section: it is 0x2000",
            ),
            (
                |s| s.unset(IMAGE_DLLCHARACTERISTICS_NX_COMPAT),
                "memory without code is not executable (/NXCOMPAT): the flag is not set",
            ),
            (
                |s| s.unset(IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE),
                "the image can be relocated (/DYNAMICBASE): the flag is not set",
            ),
            (
                |s| s.unset(IMAGE_DLLCHARACTERISTICS_HIGH_ENTROPY_VA),
                "the image can be relocated to any 64-bit address (/HIGHENTROPYVA): the flag is not set",
            ),
            (
                |s| {
                    s.headers.characteristics |= IMAGE_FILE_RELOCS_STRIPPED;
                    s.relocation = None;
                },
                "the base relocations are not stripped: they are",
            ),
            (
                |s| s.unset(IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY),
                "the signature is checked at load (/INTEGRITYCHECK): the flag is not set",
            ),
            (
                |s| s.code |= IMAGE_SCN_MEM_WRITE,
                "no section is both writable and executable: .text",
            ),
            (
                |s| s.section_alignment = 0x200,
                "the sections are aligned to pages: to 0x200",
            ),
            (
                |s| s.code_name = *b"PAGECODE",
                "no section is pageable: PAGECODE",
            ),
            (
                |s| s.import_addresses = RVA_OF_CODE,
                "the import address table is not in a code section: it is at 0x1000",
            ),
            (
                |s| s.relocation = Some(RVA_OF_DATA + 0xffc),
                "no relocation crosses a page boundary: 0x2ffc",
            ),
            (
                |s| s.unset(IMAGE_DLLCHARACTERISTICS_GUARD_CF),
                "indirect calls are checked (/GUARD:CF): the flag is not set",
            ),
            (
                |s| s.has_load_configuration = false,
                "the file has a load configuration: it has none with guard flags",
            ),
            (
                |s| s.guard_flags = GuardFlags(0),
                "the guard flags of the load configuration enable the checks of calls: they are 0x0",
            ),
            (
                |s| s.check = 0,
                "the routines that check calls are in code sections: 0xffffffff",
            ),
            (
                |s| s.functions = [RVA_OF_CODE, RVA_OF_DATA],
                "the valid call targets are in code sections: 0x2000",
            ),
            (
                |s| s.functions = [RVA_OF_CODE + 8, RVA_OF_CODE],
                "the valid call targets are listed in ascending order: 0x1000 follows 0x1008",
            ),
            (
                |s| s.version = None,
                "the file has a version resource: it has none that can be parsed",
            ),
            (
                |s| s.version.as_mut().unwrap().info.file_type = 1,
                "the version resource has the file type driver: type 1, subtype 7",
            ),
            (
                |s| {
                    let strings = &mut s.version.as_mut().unwrap().strings[0].strings;
                    strings.swap_remove("CompanyName");
                    strings.swap_remove("FileVersion");
                },
                "the version resource has maker, description, names and versions: \
                 no CompanyName, no FileVersion",
            ),
            (
                |s| s.program_database = b"/home/me/drv.pdb",
                "the path of the program database has no folder: /home/me/drv.pdb",
            ),
            (
                |s| s.debug_types = [IMAGE_DEBUG_TYPE_CODEVIEW.0; 2],
                "the build is reproducible (/BREPRO): the debug directory has no \
                 entry for that",
            ),
            (
                |s| s.text = "panicked at /home/me/src/lib.rs:7",
                "the file contains no source path, which would name a folder of the build machine: \
                 /home/me/src/lib.rs:7",
            ),
            (
                |s| s.export = Some(b"memcpy\0"),
                "the driver exports nothing: memcpy",
            ),
            (
                |s| s.signature = Some(certificates(16, 1, &[0; 8])),
                "the signature is complete and ends the file: it has an entry of \
                 length 0x10, revision 0x200, type 1",
            ),
        ];
        for (change, fault) in samples {
            let mut sample = sound();
            change(&mut sample);
            assert_eq!(faults(&sample.write()), [fault]);
        }
    }

    #[test]
    fn a_driver_that_is_built_in_another_way_breaks_no_requirement_of_windows() {
        let mut sample = sound();
        sample.headers.major_subsystem_version = 6;
        for flag in [
            IMAGE_DLLCHARACTERISTICS_NX_COMPAT,
            IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE,
            IMAGE_DLLCHARACTERISTICS_HIGH_ENTROPY_VA,
            IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY,
            IMAGE_DLLCHARACTERISTICS_GUARD_CF,
        ] {
            sample.unset(flag);
        }
        sample.has_load_configuration = false;
        sample.code_name = *b"PAGECODE";
        sample.relocation = Some(RVA_OF_DATA + 0xffc);
        sample.version = None;
        sample.program_database = b"/home/me/drv.pdb";
        sample.debug_types = [IMAGE_DEBUG_TYPE_CODEVIEW.0; 2];
        sample.text = "panicked at /home/me/src/lib.rs:7";
        sample.module = b"ntoskrnl.exe";
        sample.export = Some(b"memcpy\0");

        let image = Image::parse(&sample.write()).unwrap();
        let mut checks = image.checks(Architecture::X64);

        checks.retain(|check| check.fault().is_some());
        assert_eq!(checks.len(), 16, "{checks:?}");
        checks.retain(|check| !check.is_advice());
        assert!(checks.is_empty(), "{checks:?}");
    }

    #[test]
    fn another_checksum_is_a_fault() {
        let mut file = sound().write();
        let sum = set_checksum(&mut file, 1);
        assert_eq!(
            faults(&file),
            [format!(
                "the checksum in the header is correct: it is {:#x}, not {sum:#x}",
                sum + 1
            )]
        );
    }

    #[test]
    fn a_signature_that_something_follows_is_a_fault() {
        let mut file = signed();
        assert!(Image::parse(&file).unwrap().is_signed);
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

    /// A sound driver with a certificate table.
    fn signed() -> Vec<u8> {
        let mut sample = sound();
        sample.signature = Some(certificates(16, 2, &[0; 8]));
        sample.write()
    }

    #[test]
    fn a_file_of_another_version_is_distinguished_from_the_expected_one() {
        let image = Image::parse(&sound().write()).unwrap();
        let fault = |patch| image.check_of_version(Version([1, 2, patch, 0])).fault();
        assert_eq!(fault(3), None);
        assert_eq!(fault(4).unwrap(), "it is 1.2.3.0 and not 1.2.4.0");
    }

    #[test]
    fn a_driver_that_has_nothing_to_relocate_is_sound() {
        let mut sample = sound();
        sample.relocation = None;
        assert_eq!(faults(&sample.write()), [""; 0]);
    }

    #[test]
    fn an_import_from_elsewhere_is_named() {
        let mut sample = sound();
        sample.module = b"ntoskrnl.exe";
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
        let file = signed();
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
    fn a_file_that_is_missing_or_no_pe_is_named() {
        let error = |path: &str| Image::read(Path::new(path)).unwrap_err().to_string();
        let text = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let said = error(text);
        assert!(
            said.starts_with(&format!("{text}: not a valid 64-bit PE file")),
            "{said}"
        );
        let said = error("/no/such.sys");
        assert!(said.contains("`/no/such.sys`: No such file"), "{said}");
    }
}
