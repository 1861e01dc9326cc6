//! Decides whether a run may overwrite an image file without --overwrite: only if the file is
//! blank or has only data of earlier runs.
//!
//! In a blank file, every byte is zero. Data of a verify pass has stamps. Data of a workload
//! has none, so a run marks the file when it ends: it sets a modification time whose
//! nanoseconds are a function of its seconds and the file's length. A later write by another
//! program changes the time.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, MetadataExt},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use indicatif::ProgressBar;
use nix::{
    errno::Errno,
    unistd::{Whence, lseek},
};

use crate::stamp::{SECTOR, Stamp, mix};

/// Bytes of one read.
const CHUNK: u64 = 1 << 20;

/// The offset of the first sector with data that no run wrote. `progress` counts bytes.
///
/// # Errors
/// The file cannot be read.
pub fn first_foreign(image: &File, progress: &ProgressBar) -> io::Result<Option<u64>> {
    let bytes = image.metadata()?.len();
    if is_marked(image)? {
        return Ok(None);
    }
    progress.set_length(bytes);
    let mut chunk = vec![0; CHUNK as usize];
    let mut at = 0;
    while let Some(data) = next(image, at, Whence::SeekData)? {
        let end = next(image, data, Whence::SeekHole)?.unwrap_or(bytes);
        // Data can begin within a sector if the host's blocks are smaller.
        at = data - data % SECTOR as u64;
        while at < end.min(bytes) {
            let length = CHUNK.min(bytes - at);
            let part = &mut chunk[..length as usize];
            image.read_exact_at(part, at)?;
            for (index, sector) in (0..).zip(part.chunks(SECTOR)) {
                if !is_known(sector) {
                    return Ok(Some(at + index * SECTOR as u64));
                }
            }
            at += length;
            progress.set_position(at);
        }
    }
    Ok(None)
}

/// Whether a sector is zero or stamped.
fn is_known(sector: &[u8]) -> bool {
    let is_stamp = |sector: &[u8]| {
        sector
            .try_into()
            .is_ok_and(|it| Stamp::found_in(it).is_some())
    };
    sector.iter().all(|byte| *byte == 0) || is_stamp(sector)
}

/// The start of the next data or hole at or after `offset`.
fn next(image: &File, offset: u64, what: Whence) -> io::Result<Option<u64>> {
    let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    match lseek(image, offset, what) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(Errno::ENXIO) => Ok(None),
        // The file system does not report holes, so everything counts as data.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => match what {
            Whence::SeekData if (offset as u64) < image.metadata()?.len() => {
                Ok(Some(offset as u64))
            }
            _ => Ok(None),
        },
        Err(error) => Err(error.into()),
    }
}

/// Marks an image at the end of a run that wrote to it.
///
/// # Errors
/// The time cannot be set, for example because the file belongs to another user.
pub fn mark(image: &File) -> io::Result<()> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let nanoseconds = nanoseconds(now, image.metadata()?.len());
    image.set_modified(UNIX_EPOCH + Duration::new(now, nanoseconds))
}

fn is_marked(image: &File) -> io::Result<bool> {
    let metadata = image.metadata()?;
    let seconds = u64::try_from(metadata.mtime()).unwrap_or(0);
    let nanoseconds = nanoseconds(seconds, metadata.len());
    Ok(metadata.mtime_nsec() == i64::from(nanoseconds))
}

/// The nanoseconds of a mark. They are odd, so that a coarser clock never sets a mark.
fn nanoseconds(seconds: u64, bytes: u64) -> u32 {
    let word = mix(mix(seconds) ^ bytes) % 1_000_000_000;
    // Less than 10^9.
    word as u32 | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blank(bytes: u64) -> File {
        let image = tempfile::tempfile().expect("a file");
        image.set_len(bytes).expect("a sparse file");
        image
    }

    fn write(image: &File, bytes: &[u8], at: u64) {
        image.write_all_at(bytes, at).expect("written");
    }

    fn foreign(image: &File) -> Option<u64> {
        first_foreign(image, &ProgressBar::hidden()).expect("it is read")
    }

    fn stamp(sector: u64) -> [u8; SECTOR] {
        let stamp = Stamp {
            sector,
            generation: 1,
            seed: 7,
        };
        stamp.bytes()
    }

    #[test]
    fn holes_zeros_and_stamps_are_not_foreign() {
        let image = blank(3 << 20);
        assert_eq!(foreign(&image), None);

        write(&image, &vec![0; 1 << 20], 0);
        write(&image, &stamp(3000), 3000 * 512);
        assert_eq!(foreign(&image), None);
        assert_eq!(foreign(&blank(512)), None);
    }

    #[test]
    fn any_other_byte_is_foreign_wherever_it_is() {
        const BYTES: u64 = 5 << 20;
        for at in [0, 3, 511, 512, 4086, 65_600, BYTES / 2 + 77, BYTES - 1] {
            let image = blank(BYTES);
            write(&image, &stamp(1), 512);
            write(&image, &[1], at);
            let found = foreign(&image);
            assert_eq!(found, Some(at - at % 512), "{at}");
        }
    }

    #[test]
    fn a_long_image_of_holes_is_looked_through_at_once() {
        let image = blank(1 << 40);
        write(&image, &[1], (1 << 40) - 1);

        let found = foreign(&image);

        assert_eq!(found, Some((1 << 40) - 512));
    }

    #[test]
    fn a_mark_holds_until_something_is_written() {
        let image = blank(1 << 20);
        write(&image, b"a workload's data", 0);
        assert_eq!(foreign(&image), Some(0));

        mark(&image).expect("it is ours");
        assert_eq!(foreign(&image), None);

        write(&image, b"somebody's data", 4096);
        assert_eq!(foreign(&image), Some(0));
    }

    #[test]
    fn a_mark_is_of_one_time_and_length() {
        let image = blank(1 << 20);
        write(&image, b"a workload's data", 0);
        mark(&image).expect("it is ours");
        let time = image
            .metadata()
            .and_then(|it| it.modified())
            .expect("a time");

        image
            .set_modified(time + Duration::from_secs(1))
            .expect("it is ours");
        assert!(!is_marked(&image).expect("it is there"));
        image.set_len(2 << 20).expect("longer");
        image.set_modified(time).expect("it is ours");
        assert!(!is_marked(&image).expect("it is there"));
    }
}
