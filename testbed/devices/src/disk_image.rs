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

use super::{
    guest_io::{Direction, IoVectors},
    image_lock,
};

/// Bytes in a sector, the unit of virtio-blk (VIRTIO 1.3 §5.2.4).
pub(super) const SECTOR: u64 = 512;

/// A file cannot be used as a disk.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct DiskImageError {
    path: PathBuf,
    problem: Problem,
}

/// Why a file cannot be used as a disk, and what to do.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("no such image file: create one, for example with truncate --size 1G")]
    Missing,
    /// The path is a directory, a device, a pipe or a socket.
    #[error("not a regular file, but {0}: name a raw disk image")]
    NotAFile(&'static str),
    #[error("the image has 0 bytes: enlarge it to at least one sector of 512 bytes")]
    Empty,
    /// The length of a file that does not end with a whole sector.
    #[error(
        "{0} bytes is not a multiple of 512, so the file is not a raw disk image, or truncated: \
         name another image"
    )]
    PartialSector(u64),
    /// The file's permissions or its file system do not allow writing.
    #[error("the image is read-only ({0}): make it writable, or name another image")]
    ReadOnly(&'static str),
    #[error("a {0} image, not a raw one: convert it with `qemu-img convert -O raw`")]
    Format(&'static str),
    #[error(
        "the image is in use, locked by a virtual machine or another testbed: stop that, or name \
         another image"
    )]
    Locked,
    #[error("the file exists, and a new image does not replace it: choose another name")]
    Exists,
    /// Any other error of the host.
    #[error("{error}{}", advice(error))]
    Host { error: io::Error },
}

impl DiskImageError {
    /// An error of the host with the file at `path`.
    #[must_use]
    pub fn host(path: &Path, error: io::Error) -> Self {
        Problem::from(error).of(path)
    }
}

impl Problem {
    fn of(self, path: &Path) -> DiskImageError {
        DiskImageError {
            path: path.into(),
            problem: self,
        }
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Self::Missing,
            ErrorKind::AlreadyExists => Self::Exists,
            ErrorKind::ReadOnlyFilesystem => Self::ReadOnly("its file system is"),
            _ => Self::Host { error },
        }
    }
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
    bytes: AtomicU64,
    failure: OnceLock<HostFailure>,
}

impl DiskImage {
    /// Opens the raw image at `path` and locks it against other testbeds (`flock`) and QEMU.
    ///
    /// # Errors
    /// If the file is missing, in use, not writable, or no raw image, or an error of the host.
    pub fn open(path: &Path) -> Result<Self, DiskImageError> {
        let open = || {
            let metadata = std::fs::metadata(path)?;
            // Opening a FIFO would block.
            if let Some(kind) = other_than_a_file(&metadata) {
                return Err(Problem::NotAFile(kind));
            }
            if metadata.permissions().readonly() {
                // Root could open it, but its owner has protected it.
                return Err(Problem::ReadOnly("no permission bit allows writing"));
            }
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            lock(&file)?;
            let bytes = file.metadata()?.len();
            if bytes > 0
                && let Some(format) = format_of(&file, bytes)?
            {
                return Err(Problem::Format(format));
            }
            check_length(bytes)?;
            Ok(Self::new(path, file, bytes))
        };
        open().map_err(|problem| problem.of(path))
    }

    /// Creates a sparse image of `bytes` zero bytes, and opens it for reading and writing.
    ///
    /// # Errors
    /// If the file exists, or `bytes` is not a disk size, or an error of the host.
    pub fn create(path: &Path, bytes: u64) -> Result<Self, DiskImageError> {
        let create = || {
            check_length(bytes)?;
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(path)?;
            lock(&file)?;
            file.set_len(bytes)?;
            Ok(Self::new(path, file, bytes))
        };
        create().map_err(|problem: Problem| problem.of(path))
    }

    fn new(path: &Path, file: File, bytes: u64) -> Self {
        Self {
            path: path.into(),
            file,
            bytes: bytes.into(),
            failure: OnceLock::new(),
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
    /// If `bytes` is not a disk size, or an error of the host.
    pub(super) fn resize(&self, bytes: u64) -> Result<(), DiskImageError> {
        check_length(bytes)
            .and_then(|()| Ok(self.file.set_len(bytes)?))
            .map_err(|problem| problem.of(&self.path))?;
        self.bytes.store(bytes, Ordering::Release);
        Ok(())
    }

    /// Transfers data between guest memory and the file, from byte `offset` on.
    ///
    /// # Errors
    /// An error of the host; `UnexpectedEof` if another program has truncated the file.
    pub(super) fn transfer(
        &self,
        direction: Direction,
        vectors: &mut IoVectors,
        offset: u64,
        pieces: &[VolatileSlice<'_>],
    ) -> io::Result<()> {
        let done = vectors.transfer(direction, &self.file, offset, pieces);
        self.keep(done, || {
            let verb = match direction {
                Direction::In => "read",
                Direction::Out => "write",
            };
            let bytes: usize = pieces.iter().map(VolatileSlice::len).sum();
            format!("{verb} {bytes} bytes at byte {offset}")
        })
    }
}

fn check_length(bytes: u64) -> Result<(), Problem> {
    match bytes {
        0 => Err(Problem::Empty),
        _ if !bytes.is_multiple_of(SECTOR) => Err(Problem::PartialSector(bytes)),
        _ => Ok(()),
    }
}

fn lock(file: &File) -> Result<(), Problem> {
    let locked = match file.try_lock() {
        Ok(()) => image_lock::take(file)?,
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(error)) => return Err(error.into()),
    };
    if locked { Ok(()) } else { Err(Problem::Locked) }
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
        let message = DiskImage::open(path).expect_err("a refusal").to_string();
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

        assert!(matches!(error.problem, Problem::Exists), "{error}");
        assert_eq!(fs::read(&path).expect("the file"), b"precious");
    }

    #[test]
    fn a_fresh_image_of_no_or_half_a_sector_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("fresh");

        let empty = DiskImage::create(&path, 0).expect_err("a refusal");
        let partial = DiskImage::create(&path, 700).expect_err("a refusal");

        assert!(matches!(empty.problem, Problem::Empty));
        assert!(matches!(partial.problem, Problem::PartialSector(700)));
        assert!(!path.exists());
    }

    #[test]
    fn other_files_than_images_are_refused() {
        let (folder, empty) = file(&[]);
        let (_folder, partial) = file(&[0; 1000]);
        // It is refused even to root.
        let (_folder, protected) = file(&[0; 512]);
        fs::set_permissions(&protected, PermissionsExt::from_mode(0o444)).expect("permissions");
        for (path, says) in [
            (&*folder.path().join("none"), "no such image file: "),
            (folder.path(), "not a regular file, but a directory"),
            (
                Path::new("/dev/null"),
                "not a regular file, but a device, pipe",
            ),
            (&empty, "the image has 0 bytes"),
            (&partial, "1000 bytes is not a multiple of 512"),
            (
                &protected,
                "the image is read-only (no permission bit allows",
            ),
        ] {
            let message = refusal(path);
            assert!(message.starts_with(says), "{message}");
        }
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
        let image = DiskImage::open(&path).expect("an image");
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
            (libc::EROFS, "the image is read-only (its file system is)"),
        ] {
            let error = Problem::from(io::Error::from_raw_os_error(number));
            assert!(error.to_string().contains(advised), "{error}");
        }
    }

    #[test]
    fn an_image_in_use_is_refused() {
        let (_folder, path) = file(&[0; 512]);
        let first = DiskImage::open(&path).expect("an image");

        assert!(refusal(&path).contains("in use"));

        drop(first);
        assert!(DiskImage::open(&path).is_ok());
    }
}
