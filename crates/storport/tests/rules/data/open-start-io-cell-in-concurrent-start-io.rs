//! With concurrent channels HwStartIo may not open cells of the StartIo lock without
//! taking the lock: Storport does not hold it, and other processors may run HwStartIo.
//! storport-rules.md HwStartIo, PERF_CONFIGURATION_DATA, X2.

#![no_std]

use storport::{Concurrent, StartIoLocked};

pub fn start_io<'a>(mut cx: Concurrent<'_, 'a>, queue: &StartIoLocked<'a, u32>) {
    #[cfg(wrong)]
    {
        *queue.open(&mut cx) += 1;
        //~[wrong]^ ERROR: [E0277] `storport::Concurrent<'_, 'a>` does not prove that the lock of this cell is held
    }
    #[cfg(right)]
    queue.with(&mut cx, |queue| **queue += 1);
}
