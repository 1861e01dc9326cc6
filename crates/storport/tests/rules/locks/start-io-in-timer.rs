//! HwTimer may not take the StartIo lock, because Storport holds it.
//! storport-rules.md HwTimer, X3, StorPortSpinLock.

#![no_std]

use storport::{StartIoLocked, Timer};

pub fn timer<'a>(cx: &mut Timer<'_, 'a>, queue: &StartIoLocked<'a, u32>) {
    #[cfg(wrong)]
    queue.with(cx, |queue| **queue = 0);
    //~[wrong]^ ERROR: [E0277] wrong lock order: at level `StartIoHeld`, a lock of level `StartIoHeld` may not be taken
    #[cfg(right)]
    {
        *queue.open(cx) = 0;
    }
}
