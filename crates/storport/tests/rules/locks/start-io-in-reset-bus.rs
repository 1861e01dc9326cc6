//! HwResetBus may not take the StartIo lock, because Storport holds it. The context opens
//! the cells of that lock.
//! storport-rules.md HwResetBus, StorPortSpinLock.

#![no_std]

use storport::{ResetBus, StartIoLocked};

pub fn reset_bus<'a>(cx: &mut ResetBus<'_, 'a>, queue: &StartIoLocked<'a, u32>) {
    #[cfg(wrong)]
    queue.with(cx, |queue| **queue = 0);
    //~[wrong]^ ERROR: [E0277] wrong lock order: at level `StartIoHeld`, a lock of level `StartIoHeld` may not be taken
    #[cfg(right)]
    {
        *queue.open(cx) = 0;
    }
}
