//! Memory that driver and device share. The device uses physical addresses.

#![expect(unsafe_code, reason = "shared memory is an allocation of raw bytes")]

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// The length of a strip. Miri reports accesses out of bounds itself.
const STRIP: usize = if cfg!(miri) { 64 } else { 4096 };
const CANARY: u8 = 0xA5;

/// The physical address of the memory.
pub const PHYSICAL: u64 = 0x7_0000_0000;

/// The device's accesses to memory by physical address: little-endian, each of the width in bits
/// that its name has.
#[expect(missing_docs, reason = "the trait's comment describes all of them")]
pub trait Memory {
    /// Whether `length` bytes from `physical` on are memory. Only these may be accessed.
    fn contains(&self, physical: u64, length: u64) -> bool;
    fn load8(&self, physical: u64) -> u8;
    fn load16(&self, physical: u64) -> u16;
    fn load32(&self, physical: u64) -> u32;
    fn load64(&self, physical: u64) -> u64;
    fn store8(&self, physical: u64, value: u8);
    fn store16(&self, physical: u64, value: u16);
    fn store32(&self, physical: u64, value: u32);
    fn store64(&self, physical: u64, value: u64);
}

/// An allocation between two strips that must not change. Its physical addresses differ from the
/// pointers.
#[derive(Debug)]
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
        fn $load(&self, physical: u64) -> $word {
            let at = self.at(physical, size_of::<$word>());
            // SAFETY: `at` lies inside the memory, is aligned, and all accesses are atomic.
            let value = unsafe { <$atomic>::from_ptr(at.cast().as_ptr()) }.load(Ordering::Relaxed);
            <$word>::from_le(value)
        }

        fn $store(&self, physical: u64, value: $word) {
            let at = self.at(physical, size_of::<$word>());
            // SAFETY: As for the load.
            unsafe { <$atomic>::from_ptr(at.cast().as_ptr()) }.store(value.to_le(), Ordering::Relaxed);
        }
    )*};
}

impl GuestMemory {
    /// Allocates `length` bytes, whose contents are not zero.
    #[must_use]
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

    /// The pointer to the memory at [`PHYSICAL`], for the driver.
    #[must_use]
    pub fn start(&self) -> NonNull<u8> {
        // SAFETY: The offset lies inside the allocation.
        unsafe { self.start.add(STRIP) }
    }

    /// The length in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Whether the strips still have their first contents.
    #[must_use]
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

impl Memory for GuestMemory {
    fn contains(&self, physical: u64, length: u64) -> bool {
        let end = physical.checked_add(length);
        physical >= PHYSICAL && end.is_some_and(|end| end <= PHYSICAL + self.length as u64)
    }

    accesses! {
        load8 store8 u8, AtomicU8;
        load16 store16 u16, AtomicU16;
        load32 store32 u32, AtomicU32;
        load64 store64 u64, AtomicU64;
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: `new` allocated the memory with this layout.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.length)) };
    }
}
