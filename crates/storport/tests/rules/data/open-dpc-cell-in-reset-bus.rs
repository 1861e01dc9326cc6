//! HwResetBus may not open the cell of a DPC lock without taking the lock: DPCs may run
//! at the same time.
//! storport-rules.md HwResetBus, X4.

#![no_std]

use storport::{DpcLocked, ResetBus};

pub fn reset_bus<'a>(cx: &mut ResetBus<'_, 'a>, queue: &DpcLocked<'a, u32>) {
    #[cfg(wrong)]
    {
        *queue.open(cx) += 1;
        //~[wrong]^ ERROR: [E0277] `storport::ResetBus<'_, 'a>` does not prove that the lock of this cell is held
    }
    #[cfg(right)]
    queue.with(cx, |queue| **queue += 1);
}
