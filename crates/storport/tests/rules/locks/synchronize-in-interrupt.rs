//! StorPortSynchronizeAccess takes the interrupt lock, so an interrupt routine may not
//! call it.
//! storport-rules.md O8, HwInterrupt.

#![no_std]

use storport::{Interrupt, InterruptLocked};

pub fn interrupt<'a>(cx: &mut Interrupt<'_, 'a>, events: &InterruptLocked<'a, u32>) {
    #[cfg(wrong)]
    events.synchronize(cx, |events| **events += 1);
    //~[wrong]^ ERROR: [E0277] no lock may be taken in `Interrupt<'_, 'a>`
    #[cfg(right)]
    {
        *events.open(cx) += 1;
    }
}
