//! Device registers as one mapped window: what the transport needs of a BAR,
//! so that a Windows mapping, a trap in a test bed or a model in a test can
//! stand behind it.

/// One mapped window of device registers, little-endian.
///
/// Whoever implements it makes one access of exactly the named width for each
/// call (VIRTIO 1.3, 4.1.3.1), ordered after the memory writes before it, and
/// never reaches outside the window: such a read gives all ones, such a write
/// is dropped. All ones is also what PCI gives for a device that is gone, so
/// callers have one case to handle.
pub trait Registers {
    /// Bytes that are mapped.
    fn length(&self) -> usize;

    /// Reads the byte at `offset`.
    fn read_u8(&self, offset: usize) -> u8;

    /// Reads the 16 bits at `offset`, a multiple of 2.
    fn read_u16(&self, offset: usize) -> u16;

    /// Reads the 32 bits at `offset`, a multiple of 4.
    fn read_u32(&self, offset: usize) -> u32;

    /// Writes the byte at `offset`.
    fn write_u8(&self, offset: usize, value: u8);

    /// Writes the 16 bits at `offset`, a multiple of 2.
    fn write_u16(&self, offset: usize, value: u16);

    /// Writes the 32 bits at `offset`, a multiple of 4.
    fn write_u32(&self, offset: usize, value: u32);
}

impl<R: Registers + ?Sized> Registers for &R {
    #[inline]
    fn length(&self) -> usize {
        (**self).length()
    }

    #[inline]
    fn read_u8(&self, offset: usize) -> u8 {
        (**self).read_u8(offset)
    }

    #[inline]
    fn read_u16(&self, offset: usize) -> u16 {
        (**self).read_u16(offset)
    }

    #[inline]
    fn read_u32(&self, offset: usize) -> u32 {
        (**self).read_u32(offset)
    }

    #[inline]
    fn write_u8(&self, offset: usize, value: u8) {
        (**self).write_u8(offset, value);
    }

    #[inline]
    fn write_u16(&self, offset: usize, value: u16) {
        (**self).write_u16(offset, value);
    }

    #[inline]
    fn write_u32(&self, offset: usize, value: u32) {
        (**self).write_u32(offset, value);
    }
}
