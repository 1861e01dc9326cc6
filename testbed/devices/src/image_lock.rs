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

use super::disk_image::Access;

/// The first of the bytes that say which permissions are used.
const USED: i64 = 100;
/// The first of the bytes that say which permissions are not shared.
const UNSHARED: i64 = 200;

/// Permissions, by their distance from [`USED`] and [`UNSHARED`].
const CONSISTENT_READ: i64 = 0;
const WRITE: i64 = 1;
const WRITE_UNCHANGED: i64 = 2;
const RESIZE: i64 = 3;

/// Acquires the locks for `access`. Returns `false` if another program's use of the image
/// contradicts it, and `true` if the file system has no such locks.
///
/// # Errors
/// An error of the host.
pub(super) fn take(file: &File, access: Access) -> io::Result<bool> {
    let (used, unshared): (&[i64], &[i64]) = match access {
        Access::ReadWrite => (
            &[CONSISTENT_READ, WRITE, RESIZE],
            &[CONSISTENT_READ, WRITE, WRITE_UNCHANGED, RESIZE],
        ),
        Access::ReadOnly => (&[CONSISTENT_READ], &[WRITE, RESIZE]),
    };
    // Lock before looking. So of two programs that start at the same time, at least one sees
    // the other.
    let tells = used.iter().map(|permission| USED + permission);
    let tells = tells.chain(unshared.iter().map(|permission| UNSHARED + permission));
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
    let contradicts = used.iter().map(|permission| UNSHARED + permission);
    let contradicts = contradicts.chain(unshared.iter().map(|permission| USED + permission));
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
    fn an_image_that_qemu_writes_is_refused_and_one_that_it_reads_is_read_only() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        // A guest's disk, a disk with share-rw=on, a read-only disk.
        let writer = (&[CONSISTENT_READ, WRITE][..], &[WRITE, RESIZE][..]);
        let sharer = (&[CONSISTENT_READ, WRITE][..], &[][..]);
        let reader = (&[CONSISTENT_READ][..], &[WRITE, RESIZE][..]);
        for ((used, unshared), by_access) in [
            (writer, [false, false]),
            (sharer, [false, false]),
            (reader, [false, true]),
        ] {
            let other = other(file.path(), used, unshared);
            for (access, expected) in [Access::ReadWrite, Access::ReadOnly]
                .into_iter()
                .zip(by_access)
            {
                let ours = file.reopen().expect("a file");
                assert_eq!(take(&ours, access).expect("it can be asked"), expected);
            }
            drop(other);
        }
        let ours = file.reopen().expect("a file");
        assert!(take(&ours, Access::ReadWrite).expect("it can be asked"));
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
        take(&ours, Access::ReadWrite).expect("it can be asked");

        // A writer checks whether WRITE is shared, and whether another program writes.
        for byte in [UNSHARED + WRITE, USED + WRITE, UNSHARED + CONSISTENT_READ] {
            assert!(sees(file.path(), byte), "{byte}");
        }

        drop(ours);
        assert!(!sees(file.path(), UNSHARED + WRITE));
    }
}
