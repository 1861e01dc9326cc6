//! HwMSInterruptRoutine may not take a lock: Storport holds the lock of the message or
//! the interrupt lock. `open_in` opens the cells of that lock.
//! storport-rules.md HwMSInterruptRoutine, X5.

#![no_std]

use storport::{InterruptLocked, MessageInterrupt};

pub fn message_interrupt<'a>(cx: &mut MessageInterrupt<'_, 'a>, events: &InterruptLocked<'a, u32>) {
    #[cfg(wrong)]
    events.with(cx, |events| **events = 0);
    //~[wrong]^ ERROR: [E0277] no lock may be taken in `storport::MessageInterrupt<'_, 'a>`
    #[cfg(right)]
    {
        if let Some(events) = events.open_in(cx) {
            *events = 0;
        }
    }
}
