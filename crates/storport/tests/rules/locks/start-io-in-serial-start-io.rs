//! Without concurrent channels HwStartIo may not take the StartIo lock, because Storport
//! holds it.
//! storport-rules.md HwStartIo, StorPortSpinLock3.

#![no_std]

use storport::{Serial, StartIoLocked};

pub fn start_io<'a>(mut cx: Serial<'_, 'a>, queue: &StartIoLocked<'a, u32>) {
    #[cfg(wrong)]
    queue.with(&mut cx, |queue| **queue += 1);
    //~[wrong]^ ERROR: [E0277] wrong lock order: at level `StartIoHeld`, a lock of level `StartIoHeld` may not be taken
    #[cfg(right)]
    {
        *queue.open(&mut cx) += 1;
    }
}
