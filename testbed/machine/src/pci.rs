//! The interface between a PCI function and the machine.
//!
//! The function answers reads and writes of its configuration space and its BARs. The machine
//! takes its interrupts. The width of an access is the length of the slice: 1, 2, 4 or 8 bytes,
//! little-endian.

use std::sync::Arc;

/// The address space of a base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// Memory space, which the driver maps.
    Memory,
    /// I/O space, which the driver reaches with port instructions.
    Io,
}

/// A base address register, as placed by the firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// The address space.
    pub kind: BarKind,
    /// The bus address.
    pub address: u64,
    /// The length in bytes, a power of two.
    pub bytes: u64,
}

/// Receives a function's interrupts. Calls return at once and may come from any thread of the
/// device.
pub trait Interrupts: Send + Sync {
    /// The function sent MSI-X message `id`.
    fn message(&self, id: u16);
    /// The level of the INTx pin changed.
    fn line(&self, asserted: bool);
}

/// A PCI function: a device model behind its configuration space and BARs.
pub trait PciFunction: Send + Sync {
    /// Reads the 256 bytes of configuration space. Bytes beyond it read as ones.
    fn config_read(&self, offset: u16, data: &mut [u8]);
    /// Writes configuration space. Read-only fields keep their value.
    fn config_write(&self, offset: u16, data: &[u8]);
    /// The base address register `index` (0 to 5). A 64-bit register has the index of its lower
    /// half.
    fn bar(&self, index: usize) -> Option<Bar>;
    /// Reads `data.len()` bytes at `offset` of BAR `index`.
    fn bar_read(&self, index: usize, offset: u64, data: &mut [u8]);
    /// Writes `data.len()` bytes at `offset` of BAR `index`.
    fn bar_write(&self, index: usize, offset: u64, data: &[u8]);
    /// The number of MSI-X vectors. 0 means INTx only.
    fn msix_vectors(&self) -> u16;
    /// Sets the receiver of the interrupts. Called once, before the first access.
    fn connect(&self, interrupts: Arc<dyn Interrupts>);
    /// The counts so far.
    fn counters(&self) -> FunctionCounters;
    /// Loses power and gets it back. All registers have their power-on values and the BARs are
    /// unplaced.
    fn power_cycle(&self);
    /// What the driver did wrong, in sentences without duplicates, in the order of discovery.
    fn driver_errors(&self) -> Vec<String>;
    /// Stops the function's threads. There are no accesses afterwards.
    fn stop(&self);
}

/// What a function counts for the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FunctionCounters {
    /// Available-buffer notifications received.
    pub notifications: u64,
    /// Interrupts sent: messages, or changes of the pin to asserted.
    pub interrupts: u64,
    /// Requests taken from the queues.
    pub requests: u64,
    /// The number of [`PciFunction::driver_errors`].
    pub driver_errors: u64,
}

/// Offsets of the header (PCI 3.0, 6.1), and the status bit for a list of capabilities.
const STATUS: u16 = 0x06;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const CAPABILITIES: u16 = 0x34;
/// The number of capabilities that fill configuration space. More are a loop.
const MOST_CAPABILITIES: usize = 48;

/// Reads 16 bits of configuration space.
pub fn config_u16(function: &dyn PciFunction, offset: u16) -> u16 {
    let mut bytes = [0; 2];
    function.config_read(offset, &mut bytes);
    u16::from_le_bytes(bytes)
}

/// The capabilities of a function, in the order of its list: the id and the offset of each (PCI
/// 3.0, 6.7).
#[must_use]
pub fn capabilities(function: &dyn PciFunction) -> Vec<(u8, u16)> {
    let mut found = Vec::new();
    if config_u16(function, STATUS) & STATUS_CAPABILITIES == 0 {
        return found;
    }
    let mut at = config_u16(function, CAPABILITIES) & 0xfc;
    while at != 0 && found.len() < MOST_CAPABILITIES {
        let [id, next] = config_u16(function, at).to_le_bytes();
        found.push((id, at));
        at = u16::from(next & 0xfc);
    }
    found
}
