//! The version resource: VS_VERSIONINFO with VS_FIXEDFILEINFO (verrsrc.h) and strings.

use crate::block::Block;

/// English (United States), as a language identifier.
pub(crate) const ENGLISH: u16 = 0x0409;

/// Unicode, as a code page of the strings.
const UNICODE: u16 = 1200;

const MAKER: &str = "Ferrostor";

/// A driver's version and names.
pub(crate) struct Version {
    /// Major, minor, patch, build.
    pub(crate) numbers: [u16; 4],
    /// A short description of the driver.
    pub(crate) description: String,
    /// The driver file's name.
    pub(crate) file: String,
}

impl Version {
    /// The resource's bytes.
    pub(crate) fn resource(&self) -> Vec<u8> {
        let [major, minor, patch, build] = self.numbers;
        let version = format!("{major}.{minor}.{patch}.{build}");
        let table = [
            ("CompanyName", MAKER),
            ("FileDescription", &self.description),
            ("FileVersion", &version),
            ("InternalName", &self.file),
            ("LegalCopyright", "Copyright (c) The Ferrostor contributors"),
            ("OriginalFilename", &self.file),
            ("ProductName", MAKER),
            ("ProductVersion", &version),
        ]
        .into_iter()
        .fold(
            Block::parent(&format!("{ENGLISH:04x}{UNICODE:04x}")),
            |table, (key, value)| table.with(Block::string(key, value)),
        );
        let [language, code_page] = [ENGLISH, UNICODE].map(u16::to_le_bytes);
        let translation = Block::binary("Translation", &[language, code_page].concat());
        Block::binary("VS_VERSION_INFO", &self.fixed())
            .with(Block::parent("StringFileInfo").with(table))
            .with(Block::parent("VarFileInfo").with(translation))
            .bytes()
    }

    /// VS_FIXEDFILEINFO.
    fn fixed(&self) -> Vec<u8> {
        const SIGNATURE: u32 = 0xfeef_04bd;
        const STRUCTURE: u32 = 0x0001_0000;
        const FLAGS_MASK: u32 = 0x3f;
        const NT_WINDOWS32: u32 = 0x0004_0004;
        const DRIVER: u32 = 3;
        const SYSTEM_DRIVER: u32 = 7;
        let [major, minor, patch, build] = self.numbers.map(u32::from);
        let [high, low] = [major << 16 | minor, patch << 16 | build];
        [
            SIGNATURE,
            STRUCTURE,
            // The file's version and the product's are the same.
            high,
            low,
            high,
            low,
            FLAGS_MASK,
            // No debug build, no prerelease, not patched.
            0,
            NT_WINDOWS32,
            DRIVER,
            SYSTEM_DRIVER,
            // No date: the file is the same whenever it is built.
            0,
            0,
        ]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use editpe::{VersionInfo, types::VersionU32};

    use super::Version;

    #[test]
    fn another_reader_finds_in_the_resource_what_was_put_there() {
        let version = Version {
            numbers: [1, 23, 456, 0],
            description: "A disk".into(),
            file: "disk.sys".into(),
        };

        let read = VersionInfo::parse(&version.resource()).expect("a sound resource");

        let number = VersionU32 {
            major: 1 << 16 | 23,
            minor: 456 << 16,
        };
        let info = read.info;
        assert_eq!({ info.file_version }, number);
        assert_eq!({ info.product_version }, number);
        // VFT_DRV, VFT2_DRV_SYSTEM.
        assert_eq!(({ info.file_type }, { info.file_subtype }), (3, 7));
        assert_eq!(read.vars.len(), 1);
        assert_eq!((read.vars[0].major, read.vars[0].minor), (0x409, 1200));
        let [table] = read.strings.as_slice() else {
            panic!("one table of strings: {:?}", read.strings);
        };
        assert_eq!(table.key, "040904b0");
        let strings: Vec<(&str, &str)> = table
            .strings
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            strings,
            [
                ("CompanyName", "Ferrostor"),
                ("FileDescription", "A disk"),
                ("FileVersion", "1.23.456.0"),
                ("InternalName", "disk.sys"),
                ("LegalCopyright", "Copyright (c) The Ferrostor contributors"),
                ("OriginalFilename", "disk.sys"),
                ("ProductName", "Ferrostor"),
                ("ProductVersion", "1.23.456.0"),
            ]
        );
    }
}
