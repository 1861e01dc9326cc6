//! HwStartIo takes the StartIo lock only where it is shown that concurrent
//! channels were granted: without them Storport holds it already. Where they
//! were not, the cell opens.
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
