//! HwStartIo does not take the StartIo lock: without concurrent channels
//! Storport holds it already.
//! Rule book 2 (HwStartIo), 1.3 L5; DDI compliance rule StorPortSpinLock3.

#![no_std]

#[cfg(right)]
use storport::DpcLocked;
use storport::StartIo;
#[cfg(wrong)]
use storport::StartIoLocked;

#[cfg(wrong)]
pub fn start_io<'a>(cx: &mut StartIo<'_, 'a>, queue: &StartIoLocked<'a, u32>) {
    queue.with(cx, |queue| **queue += 1);
    //~[wrong]^ ERROR: [E0277] a lock of level `storport::level::StartIo` can't be taken while `MaybeStartIo` may be held
}

#[cfg(right)]
pub fn start_io<'a>(cx: &mut StartIo<'_, 'a>, queue: &DpcLocked<'a, u32>) {
    queue.with(cx, |queue| **queue += 1);
}
