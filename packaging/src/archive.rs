//! Makes the `.zip` of a package. The same package gives the same bytes.

use std::io::{Cursor, Write as _};

use time::{OffsetDateTime, PrimitiveDateTime, UtcOffset};
use zip::{CompressionMethod, DateTime, ZipWriter, result::ZipError, write::SimpleFileOptions};

use crate::package::File;

/// The archive cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The date is outside of the zip format's range, 1980 to 2107.
    #[error("a .zip cannot store the date {0}: set SOURCE_DATE_EPOCH to a date from 1980 to 2107")]
    Time(OffsetDateTime),
    /// A file cannot be added.
    #[error("cannot add {path} to the .zip: {source}")]
    File {
        /// The file's path in the package.
        path: String,
        /// The error of the zip library.
        source: ZipError,
    },
}

/// Packs `files` into the folder `root`, each with the date `time`.
///
/// # Errors
/// See [`ArchiveError`].
pub fn zip(root: &str, files: &[File], time: OffsetDateTime) -> Result<Vec<u8>, ArchiveError> {
    // The format has no time zone.
    let utc = time.to_offset(UtcOffset::UTC);
    let dated = DateTime::try_from(PrimitiveDateTime::new(utc.date(), utc.time()))
        .map_err(|_| ArchiveError::Time(time))?;
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .last_modified_time(dated)
        .unix_permissions(0o644);
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for File { path, bytes } in files {
        archive
            .start_file(format!("{root}/{path}"), options)
            .and_then(|()| Ok(archive.write_all(bytes)?))
            .map_err(|source| ArchiveError::File {
                path: path.clone(),
                source,
            })?;
    }
    archive
        .finish()
        .map(Cursor::into_inner)
        .map_err(|source| ArchiveError::File {
            path: root.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use time::macros::datetime;

    use super::*;

    fn files() -> Vec<File> {
        vec![
            File::new("README.txt", "read me"),
            File::new("x64/ferrostor.sys", vec![0; 10_000]),
        ]
    }

    #[test]
    fn every_file_comes_out_as_it_went_in() {
        let bytes = zip(
            "ferrostor-1.0.0",
            &files(),
            datetime!(2026-01-02 03:04:06 UTC),
        )
        .unwrap();

        let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
        for File { path, bytes } in files() {
            let mut file = archive.by_name(&format!("ferrostor-1.0.0/{path}")).unwrap();
            assert_eq!(
                file.last_modified(),
                Some(DateTime::from_date_and_time(2026, 1, 2, 3, 4, 6).unwrap())
            );
            let mut out = Vec::new();
            file.read_to_end(&mut out).unwrap();
            assert_eq!(out, bytes);
        }
        assert_eq!(archive.len(), 2);
    }

    #[test]
    fn a_time_before_1980_is_refused() {
        let error = zip("f", &files(), OffsetDateTime::UNIX_EPOCH).unwrap_err();
        assert!(matches!(error, ArchiveError::Time(_)), "{error}");
    }
}
