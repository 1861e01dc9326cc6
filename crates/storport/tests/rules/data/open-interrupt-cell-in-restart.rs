//! A restart may not open cells of the interrupt lock: an interrupt routine may run at
//! the same time.
//! storport-rules.md HwAdapterControl, X1.

#![no_std]

#[cfg(right)]
use storport::DpcLocked;
#[cfg(wrong)]
use storport::InterruptLocked;
use storport::Restart;

#[cfg(wrong)]
pub fn restart<'a>(cx: &mut Restart<'_, 'a>, events: &InterruptLocked<'a, u32>) {
    *events.open(cx) = 0;
    //~[wrong]^ ERROR: [E0277] `Restart<'_, 'a>` does not prove that the lock of this cell is held
}

#[cfg(right)]
pub fn restart<'a>(cx: &mut Restart<'_, 'a>, queue: &DpcLocked<'a, u32>) {
    *queue.open(cx) = 0;
}
