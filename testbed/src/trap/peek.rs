//! Memory of this process, read and written without a fault: what is not
//! mapped is an answer, not a crash.

/// Fills `data` from `address` on; nothing if part of it can't be read.
pub(crate) fn read(address: usize, data: &mut [u8]) -> Option<()> {
    let local = libc::iovec {
        iov_base: data.as_mut_ptr().cast(),
        iov_len: data.len(),
    };
    let remote = libc::iovec {
        iov_base: address as *mut libc::c_void,
        iov_len: data.len(),
    };
    // SAFETY: asks for the number of this process.
    let process = unsafe { libc::getpid() };
    // SAFETY: the kernel writes no more than `data` holds, and answers an error
    // for whatever it can't read at `address`.
    let done =
        unsafe { libc::process_vm_readv(process, &raw const local, 1, &raw const remote, 1, 0) };
    (usize::try_from(done) == Ok(data.len())).then_some(())
}

/// Writes `data` to `address`; nothing if part of it can't be written. The
/// caller answers for what is there.
pub(super) fn write(address: usize, data: &[u8]) -> Option<()> {
    let local = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    let remote = libc::iovec {
        iov_base: address as *mut libc::c_void,
        iov_len: data.len(),
    };
    // SAFETY: asks for the number of this process.
    let process = unsafe { libc::getpid() };
    // SAFETY: the kernel only reads `data`. The address comes from the driver's
    // own store instruction, which would have written there itself.
    let done =
        unsafe { libc::process_vm_writev(process, &raw const local, 1, &raw const remote, 1, 0) };
    (usize::try_from(done) == Ok(data.len())).then_some(())
}

/// The 8-byte words from `address` on, as far as they can be read.
pub(super) fn words<const N: usize>(address: usize) -> ([u64; N], usize) {
    let mut words = [0; N];
    let page = crate::memory::PAGE;
    let mut count = 0;
    // Page by page: the last one may be there in part only.
    while count < N {
        let at = address + count * 8;
        let length = ((page - at % page) / 8).clamp(1, N - count);
        let mut bytes = [0; 4096];
        let Some(part) = bytes.get_mut(..length * 8) else {
            break;
        };
        if read(at, part).is_none() {
            break;
        }
        for (word, bytes) in words[count..].iter_mut().zip(part.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        count += length;
    }
    (words, count)
}
