//! HwBuildIo does not open what lies under the StartIo lock: several run at once.
//! Rule book 2 (HwBuildIo), 3.1.

#![no_std]

use storport::{BuildIo, StartIoLocked};

pub fn build_io<'a>(cx: &mut BuildIo<'_, 'a>, queue: &StartIoLocked<'a, u32>) {
    #[cfg(wrong)]
    {
        *queue.open(cx) += 1;
        //~[wrong]^ ERROR: [E0277] `BuildIo<'_, 'a>` does not prove that this cell's own lock is held
    }
    #[cfg(right)]
    queue.with(cx, |queue| **queue += 1);
}
