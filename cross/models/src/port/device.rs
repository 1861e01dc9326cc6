//! The device behind an adapter: its registers, and its access to memory.

use std::{
    ptr,
    sync::{
        Mutex,
        atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering},
    },
};

use testbed_virtio::memory::Memory;

use super::processor;

/// A device behind an adapter's registers.
pub trait Device: Send + Sync {
    /// Its PCI configuration space.
    fn configuration(&self) -> [u8; 256];

    /// The length of its registers in bytes.
    fn length(&self) -> u32;

    /// Reads a register of `width` bytes at `offset`.
    fn read(&self, offset: usize, width: usize) -> u64;

    /// Writes a register of `width` bytes at `offset`.
    fn write(&self, offset: usize, width: usize, value: u64);

    /// Makes progress while a processor stalls.
    fn go_on(&self) {}
}

/// A device whose registers are plain memory.
pub(super) struct Plain([Mutex<u8>; 64]);

impl Plain {
    pub(super) fn new() -> Self {
        Self([const { Mutex::new(0) }; 64])
    }
}

impl Device for Plain {
    fn configuration(&self) -> [u8; 256] {
        [0xA5; 256]
    }

    fn length(&self) -> u32 {
        64
    }

    fn read(&self, offset: usize, width: usize) -> u64 {
        let mut value = [0; 8];
        for (place, byte) in value.iter_mut().zip(&self.0[offset..offset + width]) {
            *place = *byte.lock().expect("no panic");
        }
        u64::from_le_bytes(value)
    }

    fn write(&self, offset: usize, width: usize, value: u64) {
        for (byte, value) in self.0[offset..offset + width]
            .iter()
            .zip(value.to_le_bytes())
        {
            *byte.lock().expect("no panic") = value;
        }
    }
}

/// Memory as a device accesses it: by the physical addresses that the driver gave it. Miri reports
/// an address that it did not get from the driver, or that is no longer valid.
#[derive(Debug)]
pub struct PhysicalMemory;

macro_rules! accesses {
    ($($load:ident $store:ident $atomic:ident $width:ident;)*) => {$(
        fn $load(&self, address: u64) -> $width {
            let place = ptr::with_exposed_provenance_mut(address as usize);
            // SAFETY: Miri reports an invalid address.
            unsafe { $atomic::from_ptr(place) }.load(Ordering::Relaxed)
        }

        fn $store(&self, address: u64, value: $width) {
            let place = ptr::with_exposed_provenance_mut(address as usize);
            // SAFETY: Miri reports an invalid address.
            unsafe { $atomic::from_ptr(place) }.store(value, Ordering::Relaxed);
        }
    )*};
}

impl Memory for PhysicalMemory {
    /// Miri reports an access outside of memory.
    fn contains(&self, _address: u64, _length: u64) -> bool {
        true
    }

    accesses! {
        load8 store8 AtomicU8 u8;
        load16 store16 AtomicU16 u16;
        load32 store32 AtomicU32 u32;
        load64 store64 AtomicU64 u64;
    }
}

/// `crates/storport` calls this under Miri to read a register.
#[unsafe(no_mangle)]
extern "C" fn ferrostor_models_register_read(address: usize, width: usize) -> u64 {
    let (device, offset) = processor::current().register(address);
    device.read(offset, width)
}

/// `crates/storport` calls this under Miri to write a register.
#[unsafe(no_mangle)]
extern "C" fn ferrostor_models_register_write(address: usize, width: usize, value: u64) {
    let (device, offset) = processor::current().register(address);
    device.write(offset, width, value);
}
