//! HwAdapterControl(ScsiRestartAdapter) takes no lock: whether Storport holds the
//! interrupt lock is not known. Nothing else of the adapter runs, so every cell
//! opens with the context.
//! Rule book 3.3, 8 row 1.

#![no_std]

use storport::{InterruptLocked, Restart};

pub fn restart<'a>(cx: &mut Restart<'_, 'a>, events: &InterruptLocked<'a, u32>) {
    #[cfg(wrong)]
    events.with(cx, |events| **events = 0);
    //~[wrong]^ ERROR: [E0277] the trait bound `Restart<'_, 'a>: Scope<'_>` is not satisfied
    #[cfg(right)]
    {
        *events.open(cx) = 0;
    }
}
