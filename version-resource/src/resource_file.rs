//! The `.res` file, which linkers take (RESOURCEHEADER in Microsoft's reference of
//! menurc): records, the first of which is empty and tells that the file is of this
//! kind.

use crate::version::ENGLISH;

/// The resource's type and its name, RT_VERSION and VS_VERSION_INFO, in winuser.h
/// and verrsrc.h.
const TYPE: u16 = 16;
const NAME: u16 = 1;

/// MOVEABLE and PURE, as resource compilers say of it; Windows reads neither.
const MEMORY: u16 = 0x30;

/// A file whose one resource is the version `data`.
pub(crate) fn of_version(data: &[u8]) -> Vec<u8> {
    let mut file = record(0, 0, 0, 0, &[]);
    file.extend(record(TYPE, NAME, MEMORY, ENGLISH, data));
    file
}

/// A record whose type and name are numbers.
fn record(kind: u16, name: u16, memory: u16, language: u16, data: &[u8]) -> Vec<u8> {
    const HEADER: u32 = 32;
    let length = u32::try_from(data.len()).expect("a block's length has 16 bits");
    let mut record = Vec::new();
    record.extend(length.to_le_bytes());
    record.extend(HEADER.to_le_bytes());
    for number in [kind, name] {
        // 0xffff: a number follows, not a string.
        record.extend([0xff, 0xff]);
        record.extend(number.to_le_bytes());
    }
    // The data's version.
    record.extend([0; 4]);
    record.extend(memory.to_le_bytes());
    record.extend(language.to_le_bytes());
    // The resource's version and characteristics: for its author's use.
    record.extend([0; 8]);
    record.extend(data);
    record.resize(record.len().next_multiple_of(4), 0);
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_begins_as_linkers_know_it_by() {
        // What link.exe and LLVM compare the file's beginning with.
        let magic = [
            0, 0, 0, 0, 0x20, 0, 0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0,
        ];
        let file = of_version(&[1, 2, 3]);
        assert_eq!(file[..16], magic);
        assert_eq!(file[16..32], [0; 16]);
    }

    #[test]
    fn the_record_says_its_length_and_is_padded() {
        let file = of_version(&[1, 2, 3]);
        assert_eq!(file[32..40], [3, 0, 0, 0, 32, 0, 0, 0]);
        assert_eq!(file[40..48], [0xff, 0xff, 16, 0, 0xff, 0xff, 1, 0]);
        assert_eq!(file[64..], [1, 2, 3, 0]);
    }
}
