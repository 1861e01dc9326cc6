//! HwMSInterruptRoutine may open cells of the interrupt lock only if Storport holds that
//! lock. If messages have locks of their own, Storport holds the lock of the message. So
//! `open_in` decides at run time.
//! storport-rules.md HwMSInterruptRoutine, InterruptSynchronizationMode, X5.

#![no_std]

use storport::{InterruptLocked, MessageInterrupt};

pub fn message_interrupt<'a>(cx: &mut MessageInterrupt<'_, 'a>, queue: &InterruptLocked<'a, u32>) {
    #[cfg(wrong)]
    {
        *queue.open(cx) += 1;
        //~[wrong]^ ERROR: [E0277] `storport::MessageInterrupt<'_, 'a>` does not prove that the lock of this cell is held
    }
    #[cfg(right)]
    if let Some(queue) = queue.open_in(cx) {
        *queue += 1;
    }
}
