//! Reads and writes memory of this process without faults: unmapped memory is reported to the
//! caller.

/// Fills `data` from `address` on. `None` if a part cannot be read.
pub fn read(address: usize, data: &mut [u8]) -> Option<()> {
    let local = libc::iovec {
        iov_base: data.as_mut_ptr().cast(),
        iov_len: data.len(),
    };
    let remote = libc::iovec {
        iov_base: address as *mut libc::c_void,
        iov_len: data.len(),
    };
    // SAFETY: has no precondition.
    let process = unsafe { libc::getpid() };
    // SAFETY: the kernel writes at most `data`, and returns an error for memory that it cannot
    // read.
    let done =
        unsafe { libc::process_vm_readv(process, &raw const local, 1, &raw const remote, 1, 0) };
    (usize::try_from(done) == Ok(data.len())).then_some(())
}

/// Writes `data` to `address`. `None` if a part cannot be written. The caller must own that
/// memory.
pub(super) fn write(address: usize, data: &[u8]) -> Option<()> {
    let local = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    let remote = libc::iovec {
        iov_base: address as *mut libc::c_void,
        iov_len: data.len(),
    };
    // SAFETY: has no precondition.
    let process = unsafe { libc::getpid() };
    // SAFETY: the kernel only reads `data`. The address comes from the driver's
    // own store instruction, which would have written there itself.
    let done =
        unsafe { libc::process_vm_writev(process, &raw const local, 1, &raw const remote, 1, 0) };
    (usize::try_from(done) == Ok(data.len())).then_some(())
}
