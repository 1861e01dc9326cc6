//! A guard is only made when a lock is taken.
//! storport-rules.md L2, StorPortSpinLock4.

#![no_std]

use storport::{Held, InterruptLocked, level::DpcHeld};

#[cfg(wrong)]
pub fn on_top<'a>(events: &InterruptLocked<'a, u32>) {
    let mut held: Held<'a, DpcHeld> = Held {};
    //~[wrong]^ ERROR: cannot construct `Held<'_, _>` with struct literal syntax due to private fields
    events.with(&mut held, |events| **events += 1);
}

#[cfg(right)]
pub fn on_top<'a>(events: &InterruptLocked<'a, u32>, held: &mut Held<'a, DpcHeld>) {
    events.with(held, |events| **events += 1);
}
