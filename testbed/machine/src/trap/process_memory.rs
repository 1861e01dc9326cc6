//! Reads and writes memory of this process. Returns an error, instead of a fault, for unmapped
//! memory.

use std::io::{IoSlice, IoSliceMut};

use nix::{
    sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev},
    unistd::Pid,
};

/// Fills `data` from `address` on. `None` if a part cannot be read.
pub fn read(address: usize, data: &mut [u8]) -> Option<()> {
    let len = data.len();
    let remote = [RemoteIoVec { base: address, len }];
    let done = process_vm_readv(Pid::this(), &mut [IoSliceMut::new(data)], &remote);
    (done == Ok(len)).then_some(())
}

/// Writes `data` to `address`. `None` if a part cannot be written. The address must come from
/// the driver's own store instruction, which would have written there itself.
pub(super) fn write(address: usize, data: &[u8]) -> Option<()> {
    let len = data.len();
    let remote = [RemoteIoVec { base: address, len }];
    let done = process_vm_writev(Pid::this(), &[IoSlice::new(data)], &remote);
    (done == Ok(len)).then_some(())
}
