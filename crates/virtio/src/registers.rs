//! Device registers as one mapped window: the accesses that the transport needs. A
//! mapping of Windows, a trap in the testbed or a model in a test can implement them.

/// One mapped window of device registers, little-endian.
///
/// Each call makes one access of exactly the named width (VIRTIO 1.3 §4.1.3.1).
/// An access outside the window does not reach the device: a read returns all ones, and a
/// write is dropped. PCI returns all ones for a removed device too, so callers have one
/// case to handle.
///
/// # Ordering
///
/// The implementation contains the barriers. As the device and other processors see it:
///
/// - A write happens after all memory accesses before it in program order. The
///   transport writes the rings in memory first, then `queue_enable`, `DRIVER_OK` and
///   notifications, and the device must then find the rings.
/// - A read happens before all memory accesses after it in program order. A status of 0
///   means that the device has stopped writing to memory, so the driver's next writes to
///   that memory must not overtake the read.
/// - Register accesses happen in program order.
pub trait Registers {
    /// See [`Self::doorbell`].
    type Doorbell: Doorbell;

    /// The 16-bit register at `offset`, to which notifications are written. Returns `None` if it is
    /// not inside the window, or `offset` is not a multiple of 2.
    fn doorbell(&self, offset: usize) -> Option<Self::Doorbell>;

    /// The number of bytes that are mapped.
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

/// A 16-bit register whose place in its window was checked, so that a notification needs no check.
pub trait Doorbell {
    /// Writes the register, as [`Registers::write_u16`] does.
    fn write(&self, value: u16);
}
