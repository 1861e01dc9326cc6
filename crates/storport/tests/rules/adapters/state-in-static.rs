//! The cells of an adapter cannot be stored in a static: the adapter may be removed, and
//! there may be more than one.
//! storport.h, HW_INITIALIZATION_DATA.DeviceExtensionSize.

#![no_std]

use storport::{FindAdapter, InterruptLocked};

/// Stores `state` in a static.
#[cfg(wrong)]
fn keep(_state: InterruptLocked<'static, u32>) {}

/// The adapter's state.
#[cfg(right)]
pub struct Adapter<'a>(pub InterruptLocked<'a, u32>);

#[cfg(wrong)]
pub fn find_adapter(cx: &mut FindAdapter<'_, '_>) {
    keep(cx.interrupt_locked(0));
    //~[wrong]^ ERROR: [E0521] borrowed data escapes outside of function
}

#[cfg(right)]
pub fn find_adapter<'a>(cx: &mut FindAdapter<'_, 'a>) -> Adapter<'a> {
    Adapter(cx.interrupt_locked(0))
}
