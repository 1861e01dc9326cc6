//! Memory shared with the device.

use core::{marker::PhantomData, ptr::NonNull};

use crate::extension::Brand;

/// The uncached extension: zeroed by nobody, physically contiguous, there as
/// long as the adapter (StorPortGetUncachedExtension).
pub struct UncachedExtension<'adapter> {
    first: NonNull<u8>,
    physical: u64,
    length: usize,
    adapter: Brand<'adapter>,
}

impl UncachedExtension<'_> {
    pub(crate) fn new(first: NonNull<u8>, physical: u64, length: usize) -> Self {
        Self {
            first,
            physical,
            length,
            adapter: PhantomData,
        }
    }

    /// Where the driver sees it.
    #[must_use]
    pub fn address(&self) -> NonNull<u8> {
        self.first
    }

    /// Where the device sees it.
    #[must_use]
    pub fn physical_address(&self) -> u64 {
        self.physical
    }

    /// Its length in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }
}
