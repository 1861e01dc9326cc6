//! Device registers as one mapped window: what the transport needs of a BAR,
//! so that a Windows mapping, a trap in a test bed or a model in a test can
//! stand behind it.

/// One mapped window of device registers, little-endian.
///
/// Each call makes one access of exactly the named width (VIRTIO 1.3 §4.1.3.1).
/// An access outside the window does not happen: a read returns all ones, a
/// write is dropped. All ones is also what PCI returns for a removed device, so
/// callers have one case to handle.
///
/// # Ordering
///
/// The implementation holds the barriers, as the device and other processors
/// see them:
///
/// - A write happens after all memory accesses before it in program order. The
///   transport writes `queue_enable`, `DRIVER_OK` and notifications only after
///   the rings in memory, and the device must find those.
/// - A read happens before all memory accesses after it in program order. A
///   status of 0 tells that the device has stopped writing to memory, so what
///   the driver writes there next must not overtake the read.
/// - Register accesses happen in program order.
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
