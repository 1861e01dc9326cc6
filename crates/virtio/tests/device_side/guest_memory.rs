//! Memory that driver and device share, between two strips that nobody may
//! touch: the device reaches it by physical addresses, which are not the
//! pointers.

#![expect(unsafe_code, reason = "shared memory is an allocation of raw bytes")]

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use virtio::dma::DmaMemory;

/// Miri sees by itself what goes out of bounds.
const STRIP: usize = if cfg!(miri) { 64 } else { 4096 };
const CANARY: u8 = 0xA5;

/// Where the device finds the memory.
pub const PHYSICAL: u64 = 0x7_0000_0000;

pub struct GuestMemory {
    /// The first strip.
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory belongs to this value, and is reached by atomics alone.
unsafe impl Send for GuestMemory {}
// SAFETY: as for `Send`.
unsafe impl Sync for GuestMemory {}

macro_rules! accesses {
    ($($load:ident $store:ident $word:ty, $atomic:ty;)*) => {$(
        pub fn $load(&self, physical: u64) -> $word {
            let at = self.at(physical, size_of::<$word>());
            // SAFETY: `at` is inside, aligned, and reached by atomics alone.
            let value = unsafe { <$atomic>::from_ptr(at.cast().as_ptr()) }.load(Ordering::Relaxed);
            <$word>::from_le(value)
        }

        pub fn $store(&self, physical: u64, value: $word) {
            let at = self.at(physical, size_of::<$word>());
            // SAFETY: as for the load.
            unsafe { <$atomic>::from_ptr(at.cast().as_ptr()) }.store(value.to_le(), Ordering::Relaxed);
        }
    )*};
}

impl GuestMemory {
    pub fn new(length: usize) -> Self {
        let layout = Self::layout(length);
        // SAFETY: not of size 0.
        let start = NonNull::new(unsafe { alloc(layout) }).expect("memory for a test");
        // What was there before shows if the driver does not clear it.
        // SAFETY: the whole allocation.
        unsafe { start.write_bytes(CANARY, layout.size()) };
        Self { start, length }
    }

    fn layout(length: usize) -> Layout {
        Layout::from_size_align(length + 2 * STRIP, STRIP).expect("a layout")
    }

    /// The memory as the driver has it: once.
    pub fn dma(&self) -> DmaMemory<'_> {
        // SAFETY: inside the allocation, as `length` is between the strips.
        let start = unsafe { self.start.add(STRIP) };
        // SAFETY: valid as long as `self`; the device's accesses are atomics.
        unsafe { DmaMemory::new(start, PHYSICAL, self.length) }.expect("aligned memory")
    }

    accesses! {
        load8 store8 u8, AtomicU8;
        load16 store16 u16, AtomicU16;
        load32 store32 u32, AtomicU32;
        load64 store64 u64, AtomicU64;
    }

    /// Whether nobody wrote outside the memory.
    pub fn strips_are_untouched(&self) -> bool {
        let strip = |from: usize| {
            (from..from + STRIP).all(|at| {
                // SAFETY: inside the allocation, which has two strips more
                // than `length`.
                let at = unsafe { self.start.add(at) };
                // SAFETY: initialised by `new`; nobody else is there.
                unsafe { at.read() == CANARY }
            })
        };
        strip(0) && strip(STRIP + self.length)
    }

    /// The device has an address for nothing else.
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
        // SAFETY: of this layout, by `new`.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.length)) };
    }
}
