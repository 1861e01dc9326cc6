//! File I/O directly into and out of guest memory. The pieces of a request become the kernel's
//! `iovec`s, without a copy. `vm-memory` reads files at their cursor, which queues would share,
//! and one piece at a time.
#![expect(
    unsafe_code,
    reason = "preadv and pwritev take raw pointers, and guest memory is not a Rust slice"
)]

use std::{fs::File, io, os::fd::AsRawFd};

use vm_memory::VolatileSlice;

/// The maximum number of pieces in one call (`limits.h`: `UIO_MAXIOV`).
const MOST_PIECES: usize = 1024;

/// The direction of a request's data.
#[derive(Clone, Copy, Debug)]
pub(super) enum Direction {
    /// To memory: VIRTIO_BLK_T_IN.
    In,
    /// From memory: VIRTIO_BLK_T_OUT.
    Out,
}

/// The pieces of one transfer. They are kept between transfers for their allocation.
#[derive(Default)]
pub(super) struct IoVectors(Vec<libc::iovec>);

impl IoVectors {
    /// Transfers all of `pieces` from or to `file`, from byte `offset` on.
    ///
    /// # Errors
    /// Errors of the host; `UnexpectedEof` if the file ends too early for a read.
    pub(super) fn transfer(
        &mut self,
        direction: Direction,
        file: &File,
        offset: u64,
        pieces: &[VolatileSlice<'_>],
    ) -> io::Result<()> {
        let file = file.as_raw_fd();
        match direction {
            Direction::In => self.each(offset, pieces, |vectors, count, at| {
                // SAFETY: `each` passes `count` vectors of mapped memory that the host may write.
                // The kernel checks the rest.
                unsafe { libc::preadv(file, vectors, count, at) }
            }),
            Direction::Out => self.each(offset, pieces, |vectors, count, at| {
                // SAFETY: As for reading.
                unsafe { libc::pwritev(file, vectors, count, at) }
            }),
        }
    }

    /// Calls `call(vectors, count, offset)` until all of `pieces` is transferred. The vectors
    /// point into `pieces`, whose borrow keeps the guest's memory mapped until this returns.
    fn each(
        &mut self,
        offset: u64,
        pieces: &[VolatileSlice<'_>],
        mut call: impl FnMut(*const libc::iovec, libc::c_int, libc::off_t) -> isize,
    ) -> io::Result<()> {
        self.0.clear();
        self.0.extend(pieces.iter().map(|piece| libc::iovec {
            iov_base: piece.ptr_guard_mut().as_ptr().cast(),
            iov_len: piece.len(),
        }));
        let mut left = self.0.as_mut_slice();
        let mut at = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        while !left.is_empty() {
            let count = left.len().min(MOST_PIECES);
            // Cannot truncate: `count` is at most 1024.
            let moved = call(left.as_ptr(), count as libc::c_int, at);
            if moved < 0 {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
            if moved == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            at += moved as libc::off_t;
            left = advance(left, moved.unsigned_abs());
        }
        Ok(())
    }
}

/// The vectors that remain after `moved` bytes.
fn advance(vectors: &mut [libc::iovec], mut moved: usize) -> &mut [libc::iovec] {
    let mut whole = 0;
    while let Some(vector) = vectors.get_mut(whole) {
        if moved < vector.iov_len {
            vector.iov_base = vector.iov_base.wrapping_byte_add(moved);
            vector.iov_len -= moved;
            break;
        }
        moved -= vector.iov_len;
        whole += 1;
    }
    &mut vectors[whole..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_transfer_goes_on_where_it_ended() {
        for (moved, expected) in [
            (512 + 100, &[(0x1000 + 100, 924), (0x1000, 512)][..]),
            (512 + 1024, &[(0x1000, 512)]),
            (512 + 1024 + 512, &[]),
        ] {
            let mut pieces = [512, 1024, 512].map(|iov_len| libc::iovec {
                iov_base: std::ptr::without_provenance_mut(0x1000),
                iov_len,
            });

            let left = advance(&mut pieces, moved);

            let left: Vec<_> = left
                .iter()
                .map(|vector| (vector.iov_base.addr(), vector.iov_len))
                .collect();
            assert_eq!(left, expected);
        }
    }
}
