//! What Storport gives, as the virtio crate wants it: registers, shared memory
//! and a request's data.
#![expect(
    unsafe_code,
    reason = "shared memory passes from one crate to the other"
)]

use storport::{MappedRegisters, ScatterGather, UncachedExtension};
use virtio::{
    blk::Segment,
    dma::{DmaError, DmaMemory},
    registers::Registers,
};

/// One of the device's structures, mapped.
#[derive(Clone)]
pub struct Window<'a>(pub MappedRegisters<'a>);

impl Registers for Window<'_> {
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

/// The uncached extension, as memory to share with the device.
///
/// # Errors
/// Addresses that can't be.
pub fn shared_memory<'a>(extension: &UncachedExtension<'a>) -> Result<DmaMemory<'a>, DmaError> {
    let (first, physical) = (extension.address(), extension.physical_address());
    // SAFETY: the extension is that long and contiguous, and there as long as
    // the adapter; discovery alone asks for it, once, and looks into it by
    // this value alone.
    unsafe { DmaMemory::new(first, physical, extension.length()) }
}

/// A request's data, as the device reaches it.
pub fn segments(list: ScatterGather<'_>) -> impl Iterator<Item = Segment> {
    list.map(|(address, length)| Segment { address, length })
}
