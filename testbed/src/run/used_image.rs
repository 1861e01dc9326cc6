//! Whether an image file looks like a disk that somebody uses.

use std::{fs::File, io, os::unix::fs::FileExt};

/// A signature: where it is in the file, its bytes, whose it is.
const SIGNATURES: [(u64, &[u8], &str); 12] = [
    (510, b"\x55\xAA", "a boot record or partition table"),
    (512, b"EFI PART", "a GUID partition table"),
    (4096, b"EFI PART", "a GUID partition table"),
    (3, b"NTFS    ", "an NTFS file system"),
    (3, b"EXFAT   ", "an exFAT file system"),
    (1080, b"\x53\xEF", "an ext2, ext3 or ext4 file system"),
    (0, b"XFSB", "an XFS file system"),
    (65600, b"_BHRfS_M", "a Btrfs file system"),
    (32769, b"CD001", "an ISO 9660 file system"),
    (0, b"LUKS\xBA\xBE", "an encrypted LUKS volume"),
    (512, b"LABELONE", "an LVM volume"),
    (4086, b"SWAPSPACE2", "a Linux swap area"),
];

/// What the image looks like, if it looks like anything.
///
/// # Errors
/// The file's.
pub fn looks_like(image: &File) -> io::Result<Option<&'static str>> {
    let bytes = image.metadata()?.len();
    for (at, signature, whose) in SIGNATURES {
        let mut found = vec![0; signature.len()];
        if at + signature.len() as u64 <= bytes {
            image.read_exact_at(&mut found, at)?;
            if found == signature {
                return Ok(Some(whose));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_image_and_a_short_one_look_unused() {
        for bytes in [512, 1 << 20] {
            let image = tempfile::tempfile().expect("a file");
            image.set_len(bytes).expect("a sparse file");
            assert_eq!(looks_like(&image).expect("it is read"), None);
        }
    }

    #[test]
    fn every_signature_is_seen_where_it_belongs() {
        for (at, signature, whose) in SIGNATURES {
            let image = tempfile::tempfile().expect("a file");
            image.set_len(1 << 20).expect("a sparse file");
            image.write_all_at(signature, at).expect("it is written");
            assert_eq!(looks_like(&image).expect("it is read"), Some(whose));
        }
    }
}
