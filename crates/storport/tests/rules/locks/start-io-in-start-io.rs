//! HwStartIo may take the StartIo lock only if `channels` shows that concurrent channels
//! were granted. Without them Storport holds the lock, and the cell can be opened.
//! storport-rules.md HwStartIo, PERF_CONFIGURATION_DATA, L5, StorPortSpinLock3.

#![no_std]

#[cfg(right)]
use storport::Channels;
use storport::{StartIo, StartIoLocked};

pub fn start_io<'a>(cx: &mut StartIo<'_, 'a>, queue: &StartIoLocked<'a, u32>) {
    #[cfg(wrong)]
    queue.with(cx, |queue| **queue += 1);
    //~[wrong]^ ERROR: [E0277] wrong lock order: at level `StartIoMaybeHeld`, a lock of level `StartIoHeld` may not be taken
    #[cfg(right)]
    match cx.channels() {
        Channels::Concurrent(mut cx) => queue.with(&mut cx, |queue| **queue += 1),
        Channels::Serial(mut cx) => *queue.open(&mut cx) += 1,
    }
}
