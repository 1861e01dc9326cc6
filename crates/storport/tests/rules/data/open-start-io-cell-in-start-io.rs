//! HwStartIo may open cells of the StartIo lock only if `channels` shows that Storport
//! holds the lock. With concurrent channels Storport does not hold it.
//! storport-rules.md HwStartIo, PERF_CONFIGURATION_DATA, X2.

#![no_std]

#[cfg(right)]
use storport::Channels;
use storport::{StartIo, StartIoLocked};

pub fn start_io<'a>(cx: &mut StartIo<'_, 'a>, queue: &StartIoLocked<'a, u32>) {
    #[cfg(wrong)]
    {
        *queue.open(cx) += 1;
        //~[wrong]^ ERROR: [E0277] `StartIo<'_, 'a>` does not prove that the lock of this cell is held
    }
    #[cfg(right)]
    match cx.channels() {
        Channels::Concurrent(mut cx) => queue.with(&mut cx, |queue| **queue += 1),
        Channels::Serial(mut cx) => *queue.open(&mut cx) += 1,
    }
}
