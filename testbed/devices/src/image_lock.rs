//! Locks an image file like QEMU: an open file description has read locks on single bytes.
//! For each permission, one byte says that the permission is used, and another that it is not
//! shared. A program that opens the image looks for bytes that contradict its own use (QEMU:
//! `block/file-posix.c`).

use std::{fs::File, io};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
};

/// The first of the bytes that say which permissions are used.
const USED: i64 = 100;
/// The first of the bytes that say which permissions are not shared.
const UNSHARED: i64 = 200;

/// Permissions, by their distance from [`USED`] and [`UNSHARED`].
const CONSISTENT_READ: i64 = 0;
const WRITE: i64 = 1;
const WRITE_UNCHANGED: i64 = 2;
const RESIZE: i64 = 3;

/// The permissions that a disk uses, and those that it does not share.
const OURS: [i64; 3] = [CONSISTENT_READ, WRITE, RESIZE];
const NOT_SHARED: [i64; 4] = [CONSISTENT_READ, WRITE, WRITE_UNCHANGED, RESIZE];

/// Acquires the locks of a disk that is read and written. Returns `false` if another program's use
/// of the image contradicts it, and `true` if the file system has no such locks.
///
/// # Errors
/// An error of the host.
pub(super) fn take(file: &File) -> io::Result<bool> {
    // Lock before looking. So of two programs that start at the same time, at least one sees
    // the other.
    let tells = OURS.map(|permission| USED + permission).into_iter();
    let tells = tells.chain(NOT_SHARED.map(|permission| UNSHARED + permission));
    for byte in tells {
        match fcntl(file, FcntlArg::F_OFD_SETLK(&lock(libc::F_RDLCK, byte))) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => return Ok(false),
            Err(Errno::EINVAL | Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                return Ok(true);
            }
            Err(error) => return Err(error.into()),
        }
    }
    let contradicts = OURS.map(|permission| UNSHARED + permission).into_iter();
    let contradicts = contradicts.chain(NOT_SHARED.map(|permission| USED + permission));
    for byte in contradicts {
        let mut found = lock(libc::F_WRLCK, byte);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
        if i32::from(found.l_type) != libc::F_UNLCK {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A lock on one byte.
fn lock(kind: libc::c_int, byte: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;
    use crate::disk_image::DiskImage;

    /// Opens the file once more and locks these bytes, as another program does.
    fn other(path: &std::path::Path, used: &[i64], unshared: &[i64]) -> File {
        let file = OpenOptions::new().read(true).open(path).expect("a file");
        let used = used.iter().map(|permission| USED + permission);
        let bytes = used.chain(unshared.iter().map(|permission| UNSHARED + permission));
        for byte in bytes {
            fcntl(&file, FcntlArg::F_OFD_SETLK(&lock(libc::F_RDLCK, byte))).expect("locked");
        }
        file
    }

    #[test]
    fn an_image_that_qemu_uses_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(512).expect("a sector");
        // A guest's disk, a disk with share-rw=on, a read-only disk.
        let writer = (&[CONSISTENT_READ, WRITE][..], &[WRITE, RESIZE][..]);
        let sharer = (&[CONSISTENT_READ, WRITE][..], &[][..]);
        let reader = (&[CONSISTENT_READ][..], &[WRITE, RESIZE][..]);
        for (used, unshared) in [writer, sharer, reader] {
            let _other = other(file.path(), used, unshared);
            let error = DiskImage::open(file.path()).expect_err("a refusal");
            assert!(error.to_string().contains("in use"), "{error}");
        }
        DiskImage::open(file.path()).expect("nobody uses it");
    }

    #[test]
    fn other_programs_see_the_locks() {
        let sees = |path: &std::path::Path, byte| {
            let file = File::open(path).expect("a file");
            let mut found = lock(libc::F_WRLCK, byte);
            fcntl(&file, FcntlArg::F_OFD_GETLK(&mut found)).expect("it can be asked");
            i32::from(found.l_type) == libc::F_RDLCK
        };
        let file = tempfile::NamedTempFile::new().expect("a file");
        let ours = file.reopen().expect("a file");
        take(&ours).expect("it can be asked");

        // A writer checks whether WRITE is shared, and whether another program writes.
        for byte in [UNSHARED + WRITE, USED + WRITE, UNSHARED + CONSISTENT_READ] {
            assert!(sees(file.path(), byte), "{byte}");
        }

        drop(ours);
        assert!(!sees(file.path(), UNSHARED + WRITE));
    }
}
