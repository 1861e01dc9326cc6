//! Memory that driver and device share. It lies between two strips that must not change. The device
//! uses physical addresses, which differ from the pointers.

#![expect(unsafe_code, reason = "shared memory is an allocation of raw bytes")]

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use virtio::dma::DmaMemory;

/// The length of a strip. Miri reports accesses out of bounds itself.
const STRIP: usize = if cfg!(miri) { 64 } else { 4096 };
const CANARY: u8 = 0xA5;

/// The physical address of the memory.
pub const PHYSICAL: u64 = 0x7_0000_0000;

pub struct GuestMemory {
    /// The address of the first strip.
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: The memory belongs to this value, and all accesses are atomic.
unsafe impl Send for GuestMemory {}
// SAFETY: As for `Send`.
unsafe impl Sync for GuestMemory {}

macro_rules! accesses {
    ($($load:ident $store:ident $word:ty, $atomic:ty;)*) => {$(
        pub fn $load(&self, physical: u64) -> $word {
            let at = self.at(physical, size_of::<$word>());
            // SAFETY: `at` lies inside the memory, is aligned, and all accesses are atomic.
            let value = unsafe { <$atomic>::from_ptr(at.cast().as_ptr()) }.load(Ordering::Relaxed);
            <$word>::from_le(value)
        }

        pub fn $store(&self, physical: u64, value: $word) {
            let at = self.at(physical, size_of::<$word>());
            // SAFETY: As for the load.
            unsafe { <$atomic>::from_ptr(at.cast().as_ptr()) }.store(value.to_le(), Ordering::Relaxed);
        }
    )*};
}

impl GuestMemory {
    pub fn new(length: usize) -> Self {
        let layout = Self::layout(length);
        // SAFETY: The size is not 0.
        let start = NonNull::new(unsafe { alloc(layout) }).expect("memory for a test");
        // A test fails if the driver does not clear these bytes before the device sees them.
        // SAFETY: These are the bytes of the allocation.
        unsafe { start.write_bytes(CANARY, layout.size()) };
        Self { start, length }
    }

    fn layout(length: usize) -> Layout {
        Layout::from_size_align(length + 2 * STRIP, STRIP).expect("a layout")
    }

    /// The memory for the driver. A test calls this once.
    pub fn dma(&self) -> DmaMemory<'_> {
        // SAFETY: The offset lies inside the allocation.
        let start = unsafe { self.start.add(STRIP) };
        // SAFETY: The memory is valid as long as `self`. The accesses of the device are atomic.
        unsafe { DmaMemory::new(start, PHYSICAL, self.length) }.expect("aligned memory")
    }

    accesses! {
        load8 store8 u8, AtomicU8;
        load16 store16 u16, AtomicU16;
        load32 store32 u32, AtomicU32;
        load64 store64 u64, AtomicU64;
    }

    /// Whether the strips still have their first contents.
    pub fn strips_are_untouched(&self) -> bool {
        let strip = |from: usize| {
            (from..from + STRIP).all(|at| {
                // SAFETY: The offset lies inside the allocation, which is two strips
                // longer than `length`.
                let at = unsafe { self.start.add(at) };
                // SAFETY: `new` initialised the byte, and nothing accesses it at the same time.
                unsafe { at.read() == CANARY }
            })
        };
        strip(0) && strip(STRIP + self.length)
    }

    /// The pointer for a physical address. Panics if it lies outside the memory.
    fn at(&self, physical: u64, width: usize) -> NonNull<u8> {
        let offset = physical
            .checked_sub(PHYSICAL)
            .and_then(|offset| usize::try_from(offset).ok())
            .filter(|offset| offset + width <= self.length)
            .unwrap_or_else(|| panic!("{physical:#x} is not in the guest's memory"));
        assert!(offset.is_multiple_of(width), "{physical:#x} is not aligned");
        // SAFETY: `offset` is below `length`.
        unsafe { self.start.add(STRIP + offset) }
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: `new` allocated the memory with this layout.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.length)) };
    }
}
