//! Memory shared with the device.
#![expect(unsafe_code, reason = "the memory is Storport's")]

use core::{marker::PhantomData, ptr::NonNull};

use crate::extension::Brand;

/// The uncached extension (StorPortGetUncachedExtension): physically contiguous memory, not zeroed,
/// which exists as long as the adapter.
///
/// # Invariants
///
/// `length` bytes at `first` belong to the adapter for `'adapter`. This value is the only access to
/// them, because an adapter has one uncached extension, which can be taken once.
#[must_use]
pub struct UncachedExtension<'adapter> {
    first: NonNull<u8>,
    physical: u64,
    length: usize,
    adapter: Brand<'adapter>,
}

/// The parts of an [`UncachedExtension`].
#[derive(Clone, Copy, Debug)]
pub struct UncachedParts {
    /// The virtual address, for the driver.
    pub address: NonNull<u8>,
    /// The physical address, for the device.
    pub physical: u64,
    /// The length in bytes.
    pub length: usize,
}

impl UncachedExtension<'_> {
    /// # Safety
    /// `UncachedExtension`'s invariants hold for the new value.
    pub(crate) unsafe fn new(first: NonNull<u8>, physical: u64, length: usize) -> Self {
        Self {
            first,
            physical,
            length,
            adapter: PhantomData,
        }
    }

    /// Returns the memory's addresses and length. From now on only the caller accesses the memory,
    /// which exists as long as the adapter.
    #[must_use]
    pub fn into_parts(self) -> UncachedParts {
        UncachedParts {
            address: self.first,
            physical: self.physical,
            length: self.length,
        }
    }
}
