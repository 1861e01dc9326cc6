//! HwTimer may not open the cell of a DPC lock without taking the lock: the StartIo lock
//! does not exclude DPCs.
//! storport-rules.md HwTimer.

#![no_std]

use storport::{DpcLocked, Timer};

pub fn timer<'a>(cx: &mut Timer<'_, 'a>, queue: &DpcLocked<'a, u32>) {
    #[cfg(wrong)]
    {
        *queue.open(cx) += 1;
        //~[wrong]^ ERROR: [E0277] `storport::Timer<'_, 'a>` does not prove that the lock of this cell is held
    }
    #[cfg(right)]
    queue.with(cx, |queue| **queue += 1);
}
