//! ScsiStopAdapter may not issue a DPC, which would run after the stop.
//! storport-rules.md HwAdapterControl, C1.

#![no_std]

use storport::DpcLocked;
#[cfg(right)]
use storport::ResetBus;
#[cfg(wrong)]
use storport::Stop;

#[cfg(wrong)]
pub fn stop<'a>(cx: &mut Stop<'_, 'a>, queue: &DpcLocked<'a, u32>) {
    queue.issue(cx);
    //~[wrong]^ ERROR: [E0277] `Stop<'_, 'a>` may not issue a DPC
}

#[cfg(right)]
pub fn reset_bus<'a>(cx: &mut ResetBus<'_, 'a>, queue: &DpcLocked<'a, u32>) {
    queue.issue(cx);
}
