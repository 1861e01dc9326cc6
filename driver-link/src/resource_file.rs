//! The `.res` file, an input of the linker (RESOURCEHEADER in Microsoft's reference of
//! menurc): records, of which the first is empty and identifies the format.

use crate::version::ENGLISH;

/// A resource of a driver file: its type, its name 1, its data.
pub(crate) struct Resource {
    kind: u16,
    data: Vec<u8>,
}

impl Resource {
    /// RT_VERSION of winuser.h, by the name VS_VERSION_INFO of verrsrc.h.
    pub(crate) fn version(data: Vec<u8>) -> Self {
        Self { kind: 16, data }
    }

    /// RT_MESSAGETABLE of winuser.h, by the name that the message compiler gives.
    pub(crate) fn message_table(data: Vec<u8>) -> Self {
        Self { kind: 11, data }
    }
}

/// MOVEABLE and PURE, as resource compilers write it; Windows does not read it.
const MEMORY: u16 = 0x30;

/// A file with these resources.
pub(crate) fn of(resources: &[Resource]) -> Vec<u8> {
    let mut file = record(0, 0, 0, 0, &[]);
    for resource in resources {
        file.extend(record(resource.kind, 1, MEMORY, ENGLISH, &resource.data));
    }
    file
}

/// A record whose type and name are numbers.
fn record(kind: u16, name: u16, memory: u16, language: u16, data: &[u8]) -> Vec<u8> {
    const HEADER: u32 = 32;
    let length = u32::try_from(data.len()).expect("a resource has less than 4 GiB");
    let mut record = Vec::new();
    record.extend(length.to_le_bytes());
    record.extend(HEADER.to_le_bytes());
    for number in [kind, name] {
        // 0xffff: a number follows, not a string.
        record.extend([0xff, 0xff]);
        record.extend(number.to_le_bytes());
    }
    // The version of the data.
    record.extend([0; 4]);
    record.extend(memory.to_le_bytes());
    record.extend(language.to_le_bytes());
    // Version and characteristics of the resource, for its author's use.
    record.extend([0; 8]);
    record.extend(data);
    record.resize(record.len().next_multiple_of(4), 0);
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_begins_with_the_record_that_linkers_look_for() {
        // What link.exe and LLVM compare the file's beginning with.
        let magic = [
            0, 0, 0, 0, 0x20, 0, 0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0,
        ];
        let file = of(&[Resource::version(vec![1, 2, 3])]);
        assert_eq!(file[..16], magic);
        assert_eq!(file[16..32], [0; 16]);
    }

    #[test]
    fn each_record_has_its_length_and_is_padded() {
        let file = of(&[
            Resource::version(vec![1, 2, 3]),
            Resource::message_table(vec![4]),
        ]);
        assert_eq!(file[32..40], [3, 0, 0, 0, 32, 0, 0, 0]);
        assert_eq!(file[40..48], [0xff, 0xff, 16, 0, 0xff, 0xff, 1, 0]);
        assert_eq!(file[64..68], [1, 2, 3, 0]);
        assert_eq!(file[68..76], [1, 0, 0, 0, 32, 0, 0, 0]);
        assert_eq!(file[76..84], [0xff, 0xff, 11, 0, 0xff, 0xff, 1, 0]);
        assert_eq!(file[100..], [4, 0, 0, 0]);
    }
}
