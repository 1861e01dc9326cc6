//! A lock may only be taken with a context of its own adapter. The context of another
//! adapter says nothing about this adapter's locks.
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
