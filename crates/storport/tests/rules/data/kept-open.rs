//! Data of an open cell cannot be kept after the callback, when the lock is released.
//! storport-rules.md L4.

#![no_std]

use storport::{Interrupt, InterruptLocked};

#[cfg(wrong)]
pub fn interrupt<'s, 'a>(
    cx: &'s mut Interrupt<'a, 'a>,
    events: &'a InterruptLocked<'a, u32>,
) -> &'a mut u32 {
    events.open(cx)
    //~[wrong]^ ERROR: lifetime may not live long enough
}

#[cfg(right)]
pub fn interrupt<'a>(cx: &mut Interrupt<'_, 'a>, events: &'a InterruptLocked<'a, u32>) -> u32 {
    *events.open(cx)
}
