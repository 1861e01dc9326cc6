//! HwStateChange may not take the StartIo lock, because Storport holds it.
//! storport-rules.md HwStateChange, StorPortSpinLock.

#![no_std]

use storport::{StartIoLocked, StateChange};

pub fn state_changed<'a>(cx: &mut StateChange<'_, 'a>, queue: &StartIoLocked<'a, u32>) {
    #[cfg(wrong)]
    queue.with(cx, |queue| **queue = 0);
    //~[wrong]^ ERROR: [E0277] wrong lock order: at level `StartIoHeld`, a lock of level `StartIoHeld` may not be taken
    #[cfg(right)]
    {
        *queue.open(cx) = 0;
    }
}
