//! A context proves only that a lock of its own adapter is held. It cannot open a cell of
//! another adapter.
//! storport-rules.md Callbacks.

#![no_std]

use storport::{Interrupt, InterruptLocked};

pub fn interrupt<'a, 'b>(
    cx: &mut Interrupt<'_, 'a>,
    #[cfg(wrong)] events: &InterruptLocked<'b, u32>,
    #[cfg(right)] events: &InterruptLocked<'a, u32>,
    _another: &InterruptLocked<'b, u32>,
) {
    *events.open(cx) += 1;
    //~[wrong]^ ERROR: lifetime may not live long enough
    //~[wrong]| ERROR: lifetime may not live long enough
}
