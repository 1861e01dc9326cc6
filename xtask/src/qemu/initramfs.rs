//! The guest's file system: an archive in the form `newc` that the kernel unpacks into memory
//! (Documentation/driver-api/early-userspace/buffer-format.rst of the Linux kernel).

use std::{io, path::Path};

use fs_err as fs;

/// The mode of a folder, and of a file, each of which may be executed.
const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_755;

/// An archive.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a folder. The one that it is in must be there already.
    pub fn folder(&mut self, path: &str) {
        self.entry(path, FOLDER, &[]);
    }

    /// Adds a file with these contents.
    pub fn file(&mut self, path: &str, contents: &[u8]) {
        self.entry(path, FILE, contents);
    }

    /// Adds a copy of `file`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn copy(&mut self, path: &str, file: &Path) -> io::Result<()> {
        self.file(path, &fs::read(file)?);
        Ok(())
    }

    /// The finished archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.entries += 1;
        let length = |bytes: usize| u32::try_from(bytes).expect("less than 4 GiB");
        // Inode, mode, owner, group, links, time, length, four device numbers, length of the path
        // and its zero, checksum.
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            length(contents.len()),
            0,
            0,
            0,
            0,
            length(path.len() + 1),
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.bytes().chain([0]));
        self.align();
        self.bytes.extend(contents);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_a_header_a_path_and_contents_in_words() {
        let mut archive = Archive::default();
        archive.file("ab", b"xyz");
        let bytes = archive.finish();

        let header = "070701000000010000 81ed0000000000000000000000010000000000000003\
                      0000000000000000000000000000000000000003 00000000";
        let header = header.replace(' ', "");
        assert_eq!(&bytes[..110], header.as_bytes());
        assert_eq!(&bytes[110..120], b"ab\0\0\0\0xyz\0".get(..10).unwrap());
        assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0"));
        assert!(bytes.len().is_multiple_of(4));
    }
}
