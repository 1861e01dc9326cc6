//! Storport's mapped registers and shared memory, for the virtio crate.
#![expect(
    unsafe_code,
    reason = "shared memory passes from one crate to the other"
)]

use storport::{MappedRegisters, RegisterU16, UncachedExtension, UncachedParts};
use virtio::{
    dma::DmaMemory,
    registers::{Doorbell, Registers},
};

/// The mapped registers of one of the device's structures.
#[derive(Clone)]
pub struct Window<'a>(pub MappedRegisters<'a>);

/// The register to which a queue's notifications are written.
#[derive(Clone)]
pub struct NotifyRegister<'a>(RegisterU16<'a>);

impl Doorbell for NotifyRegister<'_> {
    #[inline]
    fn write(&self, value: u16) {
        self.0.write(value);
    }
}

impl<'a> Registers for Window<'a> {
    type Doorbell = NotifyRegister<'a>;

    fn doorbell(&self, offset: usize) -> Option<NotifyRegister<'a>> {
        self.0.register_u16(offset).map(NotifyRegister)
    }

    #[inline]
    fn length(&self) -> usize {
        self.0.length()
    }

    #[inline]
    fn read_u8(&self, offset: usize) -> u8 {
        self.0.read_u8(offset)
    }

    #[inline]
    fn read_u16(&self, offset: usize) -> u16 {
        self.0.read_u16(offset)
    }

    #[inline]
    fn read_u32(&self, offset: usize) -> u32 {
        self.0.read_u32(offset)
    }

    #[inline]
    fn write_u8(&self, offset: usize, value: u8) {
        self.0.write_u8(offset, value);
    }

    #[inline]
    fn write_u16(&self, offset: usize, value: u16) {
        self.0.write_u16(offset, value);
    }

    #[inline]
    fn write_u32(&self, offset: usize, value: u32) {
        self.0.write_u32(offset, value);
    }
}

/// Converts the uncached extension to memory that the device shares.
///
/// # Errors
/// Its address or length is unusable: [`virtio::Error`].
pub fn shared_memory(extension: UncachedExtension<'_>) -> Result<DmaMemory<'_>, virtio::Error> {
    let UncachedParts {
        address,
        physical,
        length,
    } = extension.into_parts();
    // SAFETY: `UncachedExtension`'s invariants: the memory is `length` bytes long, contiguous,
    // and valid as long as the adapter. The consumed value was the only access to it.
    unsafe { DmaMemory::new(address, physical, length) }
}
