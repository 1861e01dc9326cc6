//! The version resource: VS_VERSIONINFO with VS_FIXEDFILEINFO (verrsrc.h) and strings, in nested
//! blocks (VS_VERSIONINFO and its children, in Microsoft's reference of menurc).

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
        let strings = [
            ("CompanyName", MAKER),
            ("FileDescription", &self.description),
            ("FileVersion", &version),
            ("InternalName", &self.file),
            ("LegalCopyright", "Copyright (c) The Ferrostor contributors"),
            ("OriginalFilename", &self.file),
            ("ProductName", MAKER),
            ("ProductVersion", &version),
        ];
        let strings = strings.map(|(key, value)| {
            let value = utf_16(value);
            block(key, Kind::Text, value.len() / 2, value, [])
        });
        let table = parent(&format!("{ENGLISH:04x}{UNICODE:04x}"), strings);
        let translation = [ENGLISH, UNICODE].map(u16::to_le_bytes).concat();
        let translation = block(
            "Translation",
            Kind::Binary,
            translation.len(),
            translation,
            [],
        );
        let fixed = self.fixed();
        let children = [
            parent("StringFileInfo", [table]),
            parent("VarFileInfo", [translation]),
        ];
        block(
            "VS_VERSION_INFO",
            Kind::Binary,
            fixed.len(),
            fixed,
            children,
        )
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

/// The kind of a block's value.
#[derive(Clone, Copy)]
enum Kind {
    Binary = 0,
    /// The length of the value is in characters.
    Text = 1,
}

/// A block that has only children.
fn parent(key: &str, children: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    block(key, Kind::Text, 0, Vec::new(), children)
}

/// A block: length, length and kind of its value, key, value, children. Value and children are
/// aligned to four bytes.
fn block(
    key: &str,
    kind: Kind,
    value_length: usize,
    value: Vec<u8>,
    children: impl IntoIterator<Item = Vec<u8>>,
) -> Vec<u8> {
    let mut block = [[0; 2], short(value_length), (kind as u16).to_le_bytes()].concat();
    block.extend(utf_16(key));
    let parts = std::iter::once(value).chain(children);
    for part in parts.filter(|part| !part.is_empty()) {
        block.resize(block.len().next_multiple_of(4), 0);
        block.extend(part);
    }
    let length = short(block.len());
    block.splice(..2, length);
    block
}

/// A length in a block's header. Only a description of 30,000 characters would exceed it.
fn short(length: usize) -> [u8; 2] {
    u16::try_from(length)
        .expect("a version resource has less than 64 KiB")
        .to_le_bytes()
}

/// Zero-terminated UTF-16.
fn utf_16(text: &str) -> Vec<u8> {
    text.encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect()
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
