//! Memory of this process, read and written without a fault: what is not
//! mapped is an answer, not a crash.

/// Fills `data` from `address` on; nothing if part of it can't be read.
pub fn read(address: usize, data: &mut [u8]) -> Option<()> {
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
