//! Memory shared with the device.
#![expect(unsafe_code, reason = "the memory is Storport's")]

use core::{marker::PhantomData, ptr::NonNull};

use crate::extension::Brand;

/// The uncached extension (StorPortGetUncachedExtension): physically contiguous,
/// not zeroed, there as long as the adapter.
///
/// # Invariants
///
/// `length` bytes at `first` are the adapter's for `'adapter`, and this value is
/// the only way to them: an adapter has one, and it is given out once.
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
    /// Where the driver sees it.
    pub address: NonNull<u8>,
    /// Where the device sees it.
    pub physical: u64,
    /// Its length in bytes.
    pub length: usize,
}

impl UncachedExtension<'_> {
    /// # Safety
    /// The invariants hold for the new value.
    pub(crate) unsafe fn new(first: NonNull<u8>, physical: u64, length: usize) -> Self {
        Self {
            first,
            physical,
            length,
            adapter: PhantomData,
        }
    }

    /// Gives the memory up to the caller, who alone knows its address from now
    /// on. It lives as long as the adapter.
    #[must_use]
    pub fn into_parts(self) -> UncachedParts {
        UncachedParts {
            address: self.first,
            physical: self.physical,
            length: self.length,
        }
    }
}
