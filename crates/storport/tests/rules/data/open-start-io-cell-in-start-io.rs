//! HwStartIo does not open what lies under the StartIo lock: with concurrent
//! channels Storport does not hold it. What HwStartIo shares lies under a DPC lock.
//! Rule book 2 (HwStartIo), 4.3, 8 row 2.

#![no_std]

#[cfg(right)]
use storport::DpcLocked;
use storport::StartIo;
#[cfg(wrong)]
use storport::StartIoLocked;

#[cfg(wrong)]
pub fn start_io<'a>(cx: &mut StartIo<'_, 'a>, queue: &StartIoLocked<'a, u32>) {
    *queue.open(cx) += 1;
    //~[wrong]^ ERROR: [E0277] the trait bound `storport::StartIo<'_, 'a>: Proves<'_, storport::level::StartIo>` is not satisfied
}

#[cfg(right)]
pub fn start_io<'a>(cx: &mut StartIo<'_, 'a>, queue: &DpcLocked<'a, u32>) {
    queue.with(cx, |queue| **queue += 1);
}
