//! A lock hands its data from processor to processor, so the data must be able
//! to go: what belongs to one processor does not lie in it.
//! storport-rules.md HwBuildIo.

#![no_std]

use storport::DpcLocked;

/// What a miniport's state must be.
fn adapter<T: Sync>(_state: &T) {}

pub fn state<'a>(
    #[cfg(wrong)] state: &DpcLocked<'a, *mut u32>,
    #[cfg(right)] state: &DpcLocked<'a, u32>,
) {
    adapter(state);
    //~[wrong]^ ERROR: [E0277] `*mut u32` cannot be sent between threads safely
}
