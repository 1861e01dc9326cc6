//! HwInterrupt may not take a lock: Storport holds the interrupt lock. The context opens
//! the cells of that lock.
//! storport-rules.md HwInterrupt, StorPortSpinLock.

#![no_std]

use storport::{Interrupt, InterruptLocked};

pub fn interrupt<'a>(cx: &mut Interrupt<'_, 'a>, events: &InterruptLocked<'a, u32>) {
    #[cfg(wrong)]
    events.with(cx, |events| **events = 0);
    //~[wrong]^ ERROR: [E0277] no lock may be taken in `Interrupt<'_, 'a>`
    #[cfg(right)]
    {
        *events.open(cx) = 0;
    }
}
