//! HwInitialize may not take a lock: Storport holds the interrupt lock. No other callback
//! of the adapter runs, so the context opens every cell.
//! storport-rules.md HwInitialize.

#![no_std]

use storport::{Initialize, InterruptLocked};

pub fn initialize<'a>(cx: &mut Initialize<'_, 'a>, events: &InterruptLocked<'a, u32>) {
    #[cfg(wrong)]
    events.with(cx, |events| **events = 0);
    //~[wrong]^ ERROR: [E0277] no lock may be taken in `Initialize<'_, 'a>`
    #[cfg(right)]
    {
        *events.open(cx) = 0;
    }
}
