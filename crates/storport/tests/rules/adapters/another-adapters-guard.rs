//! A guard proves that a lock of its own adapter is held. It cannot be used to take a
//! lock of another adapter.
//! storport-rules.md Order.

#![no_std]

use storport::{Held, InterruptLocked, level};

pub fn on_top<'a, 'b>(
    held: &mut Held<'a, level::DpcHeld>,
    #[cfg(wrong)] events: &InterruptLocked<'b, u32>,
    #[cfg(right)] events: &InterruptLocked<'a, u32>,
    _another: &InterruptLocked<'b, u32>,
) {
    events.with(held, |events| **events += 1);
    //~[wrong]^ ERROR: lifetime may not live long enough
    //~[wrong]| ERROR: lifetime may not live long enough
}
