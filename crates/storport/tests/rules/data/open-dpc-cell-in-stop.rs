//! ScsiStopAdapter may not open cells: DPCs and timers may still run.
//! storport-rules.md HwAdapterControl, X1.

#![no_std]

use storport::DpcLocked;
#[cfg(right)]
use storport::Restart;
#[cfg(wrong)]
use storport::Stop;

#[cfg(wrong)]
pub fn stop<'a>(cx: &mut Stop<'_, 'a>, queue: &DpcLocked<'a, u32>) {
    *queue.open(cx) = 0;
    //~[wrong]^ ERROR: [E0277] `Stop<'_, 'a>` does not prove that the lock of this cell is held
}

#[cfg(right)]
pub fn restart<'a>(cx: &mut Restart<'_, 'a>, queue: &DpcLocked<'a, u32>) {
    *queue.open(cx) = 0;
}
