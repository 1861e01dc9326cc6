//! What a PCI function and the machine it sits in know of each other.
//!
//! The function answers reads and writes of its configuration space and of its
//! base address registers; the machine takes its interrupts. Widths are the
//! lengths of the slices: 1, 2, 4 or 8 bytes, little-endian.

use std::sync::Arc;

/// Where a base address register decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// Memory space: the driver maps it and loads and stores.
    Memory,
    /// I/O space: the driver uses port instructions.
    Io,
}

/// One base address register, as the firmware placed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// The space it decodes.
    pub kind: BarKind,
    /// Its bus address.
    pub address: u64,
    /// Its length in bytes, a power of two.
    pub bytes: u64,
}

/// Takes a function's interrupts. Calls return at once and may come from any
/// thread of the device.
pub trait Interrupts: Send + Sync {
    /// MSI-X message `id` was sent.
    fn message(&self, id: u16);
    /// The level of the INTx pin changed.
    fn line(&self, asserted: bool);
}

/// A PCI function: a device model behind its configuration space and BARs.
pub trait PciFunction: Send + Sync {
    /// Reads configuration space, 256 bytes; beyond it reads give ones.
    fn config_read(&self, offset: u16, data: &mut [u8]);
    /// Writes configuration space; read-only fields keep their value.
    fn config_write(&self, offset: u16, data: &[u8]);
    /// The base address register `index` (0 to 5); a 64-bit one counts under
    /// its lower half.
    fn bar(&self, index: usize) -> Option<Bar>;
    /// Reads `data.len()` bytes at `offset` of BAR `index`.
    fn bar_read(&self, index: usize, offset: u64, data: &mut [u8]);
    /// Writes `data.len()` bytes at `offset` of BAR `index`.
    fn bar_write(&self, index: usize, offset: u64, data: &[u8]);
    /// How many MSI-X vectors it has; 0 means INTx only.
    fn msix_vectors(&self) -> u16;
    /// Names the receiver of the interrupts; called once, before the first
    /// access.
    fn connect(&self, interrupts: Arc<dyn Interrupts>);
    /// What it has counted so far.
    fn counters(&self) -> FunctionCounters;
    /// Loses its power and gets it back: all it knew is gone, its registers are
    /// as after power-on, and no base address register is placed.
    fn power_cycle(&self);
    /// What the driver did wrong so far, in words: each thing once, in the order
    /// in which it was found.
    fn driver_errors(&self) -> Vec<String>;
    /// Stops its threads; nothing is read or written through it any more.
    fn stop(&self);
}

/// What a function counts for the report at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FunctionCounters {
    /// Available-buffer notifications received.
    pub notifications: u64,
    /// Interrupts sent: messages, or changes of the pin to asserted.
    pub interrupts: u64,
    /// Requests taken from the rings.
    pub requests: u64,
    /// What the function found wrong in what the driver did, each once.
    pub driver_errors: u64,
}
