//! The `.res` file, an input of the linker (RESOURCEHEADER in Microsoft's reference of
//! menurc): records, of which the first is empty and identifies the format.

use crate::version::ENGLISH;

/// RT_VERSION of winuser.h.
pub(crate) const VERSION: u16 = 16;
/// RT_MESSAGETABLE of winuser.h.
pub(crate) const MESSAGE_TABLE: u16 = 11;

/// MOVEABLE and PURE, as resource compilers write it; Windows does not read it.
const MEMORY: u16 = 0x30;

/// A file with these resources: type and data. Their name is 1, which is VS_VERSION_INFO of
/// verrsrc.h, and what the message compiler gives.
pub(crate) fn of(resources: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut file = record(0, 0, 0, 0, &[]);
    for (kind, data) in resources {
        file.extend(record(*kind, 1, MEMORY, ENGLISH, data));
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
    fn each_record_has_its_length_and_is_padded() {
        let file = of(&[(VERSION, vec![1, 2, 3]), (MESSAGE_TABLE, vec![4])]);
        // What link.exe and LLVM compare the file's beginning with.
        assert_eq!(file[..8], [0, 0, 0, 0, 32, 0, 0, 0]);
        assert_eq!(file[8..16], [0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0]);
        assert_eq!(file[16..32], [0; 16]);

        assert_eq!(file[32..40], [3, 0, 0, 0, 32, 0, 0, 0]);
        assert_eq!(file[40..48], [0xff, 0xff, 16, 0, 0xff, 0xff, 1, 0]);
        assert_eq!(file[64..68], [1, 2, 3, 0]);
        assert_eq!(file[68..76], [1, 0, 0, 0, 32, 0, 0, 0]);
        assert_eq!(file[76..84], [0xff, 0xff, 11, 0, 0xff, 0xff, 1, 0]);
        assert_eq!(file[100..], [4, 0, 0, 0]);
    }
}
