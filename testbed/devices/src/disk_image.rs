//! The image file of a disk: raw sectors, locked for one user at a time. The first failure of
//! the host is recorded, so that the driver is not blamed for it.

use std::{
    fs::{File, Metadata, OpenOptions, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use vm_memory::VolatileSlice;

use super::{guest_io::IoVectors, image_lock};

/// Bytes in a sector, the unit of virtio-blk (VIRTIO 1.3 §5.2.4).
pub(super) const SECTOR: u64 = 512;

/// The access of the disk to its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read and write; no other user can have the file open as a disk.
    ReadWrite,
    /// Read only; others can read the file, too.
    ReadOnly,
}

/// A file cannot be used as a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskImageError {
    /// The file does not exist.
    #[error("{path}: no such image file: create one, for example with truncate --size 1G")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The path is a directory, a device, a pipe or a socket.
    #[error("{path}: not a regular file, but {kind}: name a raw disk image")]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The file has no bytes.
    #[error("{path}: the image has 0 bytes: enlarge it to at least one sector of 512 bytes")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file does not end with a whole sector.
    #[error(
        "{path}: {bytes} bytes is not a multiple of 512, so the file is not a raw disk image, or \
         truncated: name another image"
    )]
    PartialSector {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// The file's permissions or its file system do not allow writing.
    #[error("{path}: the image is read-only ({because}): make it writable, or name another image")]
    ReadOnly {
        /// The file.
        path: PathBuf,
        /// The reason.
        because: &'static str,
    },
    /// The image is not a raw one.
    #[error("{path}: a {format} image, not a raw one: convert it with `qemu-img convert -O raw`")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: &'static str,
    },
    /// Another process has the file open as a disk.
    #[error(
        "{path}: the image is in use, locked by a virtual machine or another testbed: stop that, \
         or name another image"
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// A new image would replace a file.
    #[error("{path}: the file exists, and a new image does not replace it: choose another name")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Any other error of the host.
    #[error("{path}: {source}{}", advice(source))]
    Host {
        /// The file.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
}

/// A failure of the host to read or write an open image. The device then reports an I/O error
/// to the driver.
#[derive(Debug, thiserror::Error)]
#[error("{path}: the host cannot {what}: {source}{}", advice(source))]
pub struct HostFailure {
    path: PathBuf,
    /// `write 4096 bytes at 8192`.
    what: String,
    source: io::Error,
}

/// What to do about an error of the host, as the end of a sentence.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull => {
            "; free space on its file system, or use an image that is smaller or elsewhere"
        }
        ErrorKind::QuotaExceeded => "; free space in your quota, or use an image elsewhere",
        ErrorKind::FileTooLarge => {
            "; use a smaller image, or raise the limit on file sizes (ulimit -f)"
        }
        ErrorKind::UnexpectedEof => "; another program has truncated the file",
        _ if error.raw_os_error() == Some(libc::EIO) => {
            "; see the kernel's log (dmesg) for the failing storage"
        }
        _ => "",
    }
}

/// A raw disk image, open and locked.
#[derive(Debug)]
pub struct DiskImage {
    path: PathBuf,
    file: File,
    access: Access,
    bytes: AtomicU64,
    failure: OnceLock<HostFailure>,
}

impl DiskImage {
    /// Opens the raw image at `path` and locks it against other testbeds (`flock`) and QEMU.
    /// The lock is exclusive for `ReadWrite`.
    ///
    /// # Errors
    /// Any [`DiskImageError`] except `Exists`.
    pub fn open(path: &Path, access: Access) -> Result<Self, DiskImageError> {
        let host = |source| host_error(path, source);
        let metadata = std::fs::metadata(path).map_err(host)?;
        // Opening a FIFO would block.
        if let Some(kind) = other_than_a_file(&metadata) {
            return Err(DiskImageError::NotAFile {
                path: path.into(),
                kind,
            });
        }
        if access == Access::ReadWrite && metadata.permissions().readonly() {
            // Root could open it, but its owner has protected it.
            return Err(DiskImageError::ReadOnly {
                path: path.into(),
                because: "no permission bit allows writing",
            });
        }
        let file = OpenOptions::new()
            .read(true)
            .write(access == Access::ReadWrite)
            .open(path)
            .map_err(host)?;
        Self::lock(path, &file, access)?;
        let bytes = file.metadata().map_err(host)?.len();
        if bytes == 0 {
            return Err(DiskImageError::Empty { path: path.into() });
        }
        if let Some(format) = format_of(&file, bytes).map_err(host)? {
            return Err(DiskImageError::Format {
                path: path.into(),
                format,
            });
        }
        if !bytes.is_multiple_of(SECTOR) {
            return Err(DiskImageError::PartialSector {
                path: path.into(),
                bytes,
            });
        }
        Ok(Self {
            path: path.into(),
            file,
            access,
            bytes: bytes.into(),
            failure: OnceLock::new(),
        })
    }

    /// Creates a sparse image of `bytes` zero bytes, and opens it for reading and writing.
    ///
    /// # Errors
    /// `Exists` if the file exists, `Empty` or `PartialSector` if `bytes` is not a disk size,
    /// or an error of the host.
    pub fn create(path: &Path, bytes: u64) -> Result<Self, DiskImageError> {
        if bytes == 0 {
            return Err(DiskImageError::Empty { path: path.into() });
        }
        if !bytes.is_multiple_of(SECTOR) {
            return Err(DiskImageError::PartialSector {
                path: path.into(),
                bytes,
            });
        }
        let host = |source| host_error(path, source);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(host)?;
        Self::lock(path, &file, Access::ReadWrite)?;
        file.set_len(bytes).map_err(host)?;
        Ok(Self {
            path: path.into(),
            file,
            access: Access::ReadWrite,
            bytes: bytes.into(),
            failure: OnceLock::new(),
        })
    }

    fn lock(path: &Path, file: &File, access: Access) -> Result<(), DiskImageError> {
        let locked = match access {
            Access::ReadWrite => file.try_lock(),
            Access::ReadOnly => file.try_lock_shared(),
        };
        locked.map_err(|error| match error {
            TryLockError::WouldBlock => DiskImageError::Locked { path: path.into() },
            TryLockError::Error(source) => host_error(path, source),
        })?;
        match image_lock::take(file, access) {
            Ok(true) => Ok(()),
            Ok(false) => Err(DiskImageError::Locked { path: path.into() }),
            Err(source) => Err(host_error(path, source)),
        }
    }

    /// The first failure of the host to read or write the image for the device.
    #[must_use]
    pub fn host_failure(&self) -> Option<&HostFailure> {
        self.failure.get()
    }

    /// Records the first failure of the host.
    fn keep(&self, result: io::Result<()>, what: impl FnOnce() -> String) -> io::Result<()> {
        if let Err(error) = &result {
            let source = match error.raw_os_error() {
                Some(number) => io::Error::from_raw_os_error(number),
                None => error.kind().into(),
            };
            let _ = self.failure.set(HostFailure {
                path: self.path.clone(),
                what: what(),
                source,
            });
        }
        result
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The access of the disk.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Its length in bytes, a multiple of 512.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Its length in sectors of 512 bytes.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.bytes() / SECTOR
    }

    /// Reads the file directly, to compare it with the driver's reads.
    ///
    /// # Errors
    /// An error of the host; `UnexpectedEof` beyond the end.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }

    /// Writes the file directly, without the device.
    ///
    /// # Errors
    /// An error of the host; `InvalidInput` beyond the end.
    pub fn write_at(&self, offset: u64, from: &[u8]) -> io::Result<()> {
        match offset.checked_add(from.len() as u64) {
            Some(end) if end <= self.bytes() => self.file.write_all_at(from, offset),
            _ => Err(ErrorKind::InvalidInput.into()),
        }
    }

    /// Flushes written data to the storage (`fdatasync`).
    ///
    /// # Errors
    /// An error of the host.
    pub fn flush(&self) -> io::Result<()> {
        self.keep(self.file.sync_data(), || "flush it".to_owned())
    }

    /// Changes the length of the image. A longer image has zeros at its end.
    ///
    /// # Errors
    /// `Empty` or `PartialSector` if `bytes` is not a disk size, or an error of the host.
    pub(super) fn resize(&self, bytes: u64) -> Result<(), DiskImageError> {
        if bytes == 0 {
            return Err(DiskImageError::Empty {
                path: self.path.clone(),
            });
        }
        if !bytes.is_multiple_of(SECTOR) {
            return Err(DiskImageError::PartialSector {
                path: self.path.clone(),
                bytes,
            });
        }
        self.file
            .set_len(bytes)
            .map_err(|source| host_error(&self.path, source))?;
        self.bytes.store(bytes, Ordering::Release);
        Ok(())
    }

    /// Reads into guest memory, starting at byte `offset`.
    ///
    /// # Errors
    /// An error of the host; `UnexpectedEof` if another program has truncated the file.
    pub(super) fn read_to_guest(
        &self,
        vectors: &mut IoVectors,
        offset: u64,
        pieces: &[VolatileSlice<'_>],
    ) -> io::Result<()> {
        let done = vectors.read(&self.file, offset, pieces);
        self.keep(done, || format!("read {} at byte {offset}", length(pieces)))
    }

    /// Writes guest memory to the file, starting at byte `offset`.
    ///
    /// # Errors
    /// An error of the host.
    pub(super) fn write_from_guest(
        &self,
        vectors: &mut IoVectors,
        offset: u64,
        pieces: &[VolatileSlice<'_>],
    ) -> io::Result<()> {
        let done = vectors.write(&self.file, offset, pieces);
        self.keep(done, || {
            format!("write {} at byte {offset}", length(pieces))
        })
    }
}

/// The length of a transfer, as text.
fn length(pieces: &[VolatileSlice<'_>]) -> String {
    let bytes: usize = pieces.iter().map(VolatileSlice::len).sum();
    format!("{bytes} bytes")
}

/// The type of a file that is not a regular one.
fn other_than_a_file(metadata: &Metadata) -> Option<&'static str> {
    if metadata.is_file() {
        None
    } else if metadata.is_dir() {
        Some("a directory")
    } else {
        Some("a device, pipe or socket")
    }
}

/// The format of the image, if it is one of those that are often mistaken for raw.
fn format_of(file: &File, bytes: u64) -> io::Result<Option<&'static str>> {
    const HEADERS: [(&[u8], &str); 5] = [
        (b"QFI\xfb", "qcow2"),
        (b"conectix", "VHD"),
        (b"vhdxfile", "VHDX"),
        (b"KDMV", "VMDK"),
        (b"# Disk DescriptorFile", "VMDK"),
    ];
    let mut start = [0; 32];
    let length = bytes.min(start.len() as u64) as usize;
    file.read_exact_at(&mut start[..length], 0)?;
    let header = HEADERS.iter().find(|(magic, _)| start.starts_with(magic));
    if let Some((_, format)) = header {
        return Ok(Some(format));
    }
    // A fixed VHD has raw sectors and a footer.
    if let Some(footer) = bytes.checked_sub(SECTOR) {
        let mut magic = [0; 8];
        file.read_exact_at(&mut magic, footer)?;
        if magic == *b"conectix" {
            return Ok(Some("VHD"));
        }
    }
    Ok(None)
}

/// Converts an error of the host.
fn host_error(path: &Path, source: io::Error) -> DiskImageError {
    let path = path.into();
    match source.kind() {
        ErrorKind::NotFound => DiskImageError::Missing { path },
        ErrorKind::AlreadyExists => DiskImageError::Exists { path },
        ErrorKind::ReadOnlyFilesystem => DiskImageError::ReadOnly {
            path,
            because: "its file system is",
        },
        _ => DiskImageError::Host { path, source },
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use tempfile::TempDir;

    use super::*;

    /// A folder with a file `disk` that holds `content`.
    fn file(content: &[u8]) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("disk");
        fs::write(&path, content).expect("a file");
        (folder, path)
    }

    /// The error of opening the file at `path` for writing, without the path.
    fn refusal(path: &Path) -> String {
        let message = DiskImage::open(path, Access::ReadWrite)
            .expect_err("a refusal")
            .to_string();
        assert!(!message.contains('\n'), "{message}");
        let prefix = format!("{}: ", path.display());
        message
            .strip_prefix(&prefix)
            .expect("the path comes first")
            .to_owned()
    }

    #[test]
    fn a_fresh_image_is_sparse_and_reads_zeros() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("fresh");

        let image = DiskImage::create(&path, 1 << 40).expect("an image");

        let mut data = [0xee; 512];
        image.read_at((1 << 40) - 512, &mut data).expect("zeros");
        assert_eq!(data, [0; 512]);
        assert_eq!((image.bytes(), image.sectors()), (1 << 40, 1 << 31));
        let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&path).expect("a file"));
        assert!(blocks < 64, "{blocks} blocks are in use");
    }

    #[test]
    fn a_fresh_image_does_not_replace_a_file() {
        let (_folder, path) = file(b"precious");

        let error = DiskImage::create(&path, 512).expect_err("a refusal");

        assert!(matches!(error, DiskImageError::Exists { .. }), "{error}");
        assert_eq!(fs::read(&path).expect("the file"), b"precious");
    }

    #[test]
    fn a_fresh_image_of_no_or_half_a_sector_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("fresh");

        let empty = DiskImage::create(&path, 0).expect_err("a refusal");
        let partial = DiskImage::create(&path, 700).expect_err("a refusal");

        assert!(matches!(empty, DiskImageError::Empty { .. }));
        assert!(matches!(
            partial,
            DiskImageError::PartialSector { bytes: 700, .. }
        ));
        assert!(!path.exists());
    }

    #[test]
    fn written_data_is_read_and_persists() {
        let (_folder, path) = file(&[0; 2048]);
        let image = DiskImage::open(&path, Access::ReadWrite).expect("an image");

        image.write_at(512, b"sector one").expect("written");
        image.flush().expect("flushed");

        let mut data = [0; 10];
        image.read_at(512, &mut data).expect("read");
        assert_eq!(&data, b"sector one");
        assert_eq!(&fs::read(&path).expect("the file")[512..522], b"sector one");
    }

    #[test]
    fn a_write_never_makes_the_image_longer() {
        let (_folder, path) = file(&[0; 512]);
        let image = DiskImage::open(&path, Access::ReadWrite).expect("an image");

        assert!(image.write_at(511, &[1, 2]).is_err());
        assert!(image.write_at(u64::MAX, &[1, 2]).is_err());

        assert_eq!(fs::read(&path).expect("the file"), [0; 512]);
    }

    #[test]
    fn a_missing_file_is_refused() {
        let (folder, _) = file(&[]);

        assert!(refusal(&folder.path().join("none")).starts_with("no such image file: "));
    }

    #[test]
    fn a_directory_is_refused() {
        let (folder, _) = file(&[]);

        assert!(refusal(folder.path()).starts_with("not a regular file, but a directory"));
    }

    #[test]
    fn a_device_is_refused() {
        assert!(refusal(Path::new("/dev/null")).contains("a device, pipe or socket"));
    }

    #[test]
    fn an_image_of_0_bytes_is_refused() {
        let (_folder, path) = file(&[]);

        assert!(refusal(&path).starts_with("the image has 0 bytes"));
    }

    #[test]
    fn an_image_that_ends_in_half_a_sector_is_refused() {
        let (_folder, path) = file(&[0; 1000]);

        assert!(refusal(&path).starts_with("1000 bytes is not a multiple of 512"));
    }

    #[test]
    fn an_image_without_write_permission_is_refused_even_to_root() {
        let (_folder, path) = file(&[0; 512]);
        fs::set_permissions(&path, PermissionsExt::from_mode(0o444)).expect("permissions");

        assert!(refusal(&path).starts_with("the image is read-only (no permission bit"));
    }

    #[test]
    fn an_image_without_write_permission_can_be_a_read_only_disk() {
        let (_folder, path) = file(&[7; 512]);
        fs::set_permissions(&path, PermissionsExt::from_mode(0o444)).expect("permissions");

        let image = DiskImage::open(&path, Access::ReadOnly).expect("an image");

        assert_eq!(image.access(), Access::ReadOnly);
        assert!(image.write_at(0, &[1]).is_err());
    }

    #[test]
    fn a_read_only_file_system_is_named() {
        let error = host_error(Path::new("disk"), io::Error::from_raw_os_error(libc::EROFS));

        let message = error.to_string();
        assert!(
            message.starts_with("disk: the image is read-only (its file system is)"),
            "{message}"
        );
    }

    #[test]
    fn other_formats_than_raw_are_refused_by_name() {
        let mut fixed_vhd = vec![0; 2048];
        fixed_vhd[1536..1544].copy_from_slice(b"conectix");
        let with_header = |header: &[u8]| {
            let mut content = vec![0; 1024];
            content[..header.len()].copy_from_slice(header);
            content
        };
        for (content, format) in [
            (with_header(b"QFI\xfb\0\0\0\x03"), "qcow2"),
            (with_header(b"conectix"), "VHD"),
            (fixed_vhd, "VHD"),
            (with_header(b"vhdxfile"), "VHDX"),
            (with_header(b"KDMV"), "VMDK"),
            // A descriptor file is text of any length.
            (b"# Disk DescriptorFile\nversion=1\n".to_vec(), "VMDK"),
        ] {
            let (_folder, path) = file(&content);
            let message = refusal(&path);
            assert!(
                message.starts_with(&format!("a {format} image, not a raw one")),
                "{message}"
            );
            assert!(message.contains("qemu-img convert -O raw"));
        }
    }

    #[test]
    fn the_first_failure_of_the_host_is_kept_with_advice() {
        let (_folder, path) = file(&[0; 4096]);
        let image = DiskImage::open(&path, Access::ReadWrite).expect("an image");
        assert!(image.host_failure().is_none());

        for (number, what) in [(libc::ENOSPC, "write 512 bytes at byte 0"), (libc::EIO, "")] {
            let error = Err(io::Error::from_raw_os_error(number));
            assert!(image.keep(error, || what.to_owned()).is_err());
        }

        // The first failure is kept.
        let failure = image.host_failure().expect("it is kept").to_string();
        let expected = format!(
            "{}: the host cannot write 512 bytes at byte 0: No space left on device (os error \
             28); free space on its file system, or use an image that is smaller or elsewhere",
            path.display()
        );
        assert_eq!(failure, expected);
    }

    #[test]
    fn each_error_of_the_host_says_what_to_do() {
        for (number, advised) in [
            (libc::ENOSPC, "free space"),
            (libc::EDQUOT, "quota"),
            (libc::EFBIG, "ulimit -f"),
            (libc::EIO, "dmesg"),
        ] {
            let error = host_error(Path::new("disk"), io::Error::from_raw_os_error(number));
            assert!(error.to_string().contains(advised), "{error}");
        }
    }

    #[test]
    fn an_image_in_use_is_refused() {
        let (_folder, path) = file(&[0; 512]);
        let first = DiskImage::open(&path, Access::ReadWrite).expect("an image");

        assert!(refusal(&path).contains("in use"));
        assert!(matches!(
            DiskImage::open(&path, Access::ReadOnly),
            Err(DiskImageError::Locked { .. })
        ));

        drop(first);
        assert!(DiskImage::open(&path, Access::ReadWrite).is_ok());
    }

    #[test]
    fn a_read_only_image_can_be_shared_with_readers_only() {
        let (_folder, path) = file(&[0; 512]);
        let _first = DiskImage::open(&path, Access::ReadOnly).expect("an image");

        assert!(DiskImage::open(&path, Access::ReadOnly).is_ok());
        assert!(refusal(&path).contains("in use"));
    }
}
