//! A PCI function for tests. Its BARs are plain memory. It records the width of each access.

use std::sync::{Arc, Mutex};

use crate::pci::{Bar, BarKind, FunctionCounters, Interrupts, PciFunction};

/// Bytes in each BAR.
pub(super) const BYTES: usize = 8192;

/// BAR 0 is in memory space, BAR 1 in I/O space at `port`.
#[derive(Debug)]
pub(super) struct Ram {
    port: u16,
    /// Whether a read of a BAR crashes.
    crashes: bool,
    bytes: Mutex<Vec<u8>>,
    accesses: Mutex<Vec<(char, usize, u64, usize)>>,
}

/// Reads through a null pointer, for tests of crashes.
pub(super) fn crash() {
    // SAFETY: the read is invalid: the test wants the fault.
    unsafe { (8 as *const u32).read_volatile() };
}

impl Ram {
    pub(super) fn new(port: u16, content: &[u8]) -> Arc<Self> {
        Self::make(port, content, false)
    }

    /// A device model with a bug.
    pub(super) fn crashing() -> Arc<Self> {
        Self::make(0, &[], true)
    }

    fn make(port: u16, content: &[u8], crashes: bool) -> Arc<Self> {
        let mut bytes = content.to_vec();
        bytes.resize(BYTES, 0);
        Arc::new(Self {
            port,
            crashes,
            bytes: Mutex::new(bytes),
            accesses: Mutex::default(),
        })
    }

    pub(super) fn content(&self) -> Vec<u8> {
        self.bytes.lock().expect("no panic").clone()
    }

    /// The accesses so far: read or write, BAR, offset, bytes.
    pub(super) fn accesses(&self) -> Vec<(char, usize, u64, usize)> {
        std::mem::take(&mut self.accesses.lock().expect("no panic"))
    }

    fn note(&self, kind: char, bar: usize, offset: u64, bytes: usize) {
        let mut accesses = self.accesses.lock().expect("no panic");
        accesses.push((kind, bar, offset, bytes));
    }
}

impl PciFunction for Ram {
    fn config_read(&self, _offset: u16, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn config_write(&self, _offset: u16, _data: &[u8]) {}

    fn bar(&self, index: usize) -> Option<Bar> {
        let (kind, address) = match index {
            0 => (BarKind::Memory, 0xfe00_0000),
            1 => (BarKind::Io, u64::from(self.port)),
            _ => return None,
        };
        Some(Bar {
            kind,
            address,
            bytes: if index == 0 { BYTES as u64 } else { 16 },
        })
    }

    fn bar_read(&self, index: usize, offset: u64, data: &mut [u8]) {
        if self.crashes {
            crash();
        }
        self.note('r', index, offset, data.len());
        let bytes = self.bytes.lock().expect("no panic");
        data.copy_from_slice(&bytes[offset as usize..offset as usize + data.len()]);
    }

    fn bar_write(&self, index: usize, offset: u64, data: &[u8]) {
        self.note('w', index, offset, data.len());
        let mut bytes = self.bytes.lock().expect("no panic");
        bytes[offset as usize..offset as usize + data.len()].copy_from_slice(data);
    }

    fn msix_vectors(&self) -> u16 {
        0
    }

    fn connect(&self, _interrupts: Arc<dyn Interrupts>) {}

    fn counters(&self) -> FunctionCounters {
        FunctionCounters::default()
    }

    fn driver_errors(&self) -> Vec<String> {
        Vec::new()
    }

    fn power_cycle(&self) {}
    fn stop(&self) {}
}
