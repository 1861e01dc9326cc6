//! HwInitialize takes no lock: Storport holds the interrupt lock, and nothing else
//! of the adapter runs. Every cell opens with the context.
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
