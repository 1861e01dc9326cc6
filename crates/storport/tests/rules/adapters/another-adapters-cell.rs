//! A lock is taken with a context of its own adapter: what that context says
//! of IRQL and locks, it says of no other adapter.
//! storport-rules.md Callbacks.

#![no_std]

use storport::{Dpc, DpcLocked};

pub fn dpc<'a, 'b>(
    cx: &mut Dpc<'_, 'a>,
    #[cfg(wrong)] served: &DpcLocked<'b, u32>,
    #[cfg(right)] served: &DpcLocked<'a, u32>,
    _another: &DpcLocked<'b, u32>,
) {
    served.with(cx, |served| **served += 1);
    //~[wrong]^ ERROR: lifetime may not live long enough
    //~[wrong]| ERROR: lifetime may not live long enough
}
