//! The data of a cell must be `Send`, because different processors access it one after
//! the other.
//! storport-rules.md HwBuildIo.

#![no_std]

use storport::DpcLocked;

/// Checks the requirement on a miniport's state.
fn adapter<T: Sync>(_state: &T) {}

pub fn state<'a>(
    #[cfg(wrong)] state: &DpcLocked<'a, *mut u32>,
    #[cfg(right)] state: &DpcLocked<'a, u32>,
) {
    adapter(state);
    //~[wrong]^ ERROR: [E0277] `*mut u32` cannot be sent between threads safely
}
