//! ScsiStopAdapter may not queue a work item, which would run after the stop.
//! storport-rules.md HwAdapterControl.

#![no_std]

#[cfg(wrong)]
use storport::Stop;
#[cfg(right)]
use storport::SurpriseRemoval;
use storport::callback;

#[cfg(wrong)]
pub fn stop<M: callback::Work>(cx: &mut Stop<'_, '_>) {
    let _ = cx.queue_work::<M>(0);
    //~[wrong]^ ERROR: [E0277] pool memory and work items are not available in `Stop<'_, '_>`
    //~[wrong]| ERROR: [E0277] the adapter is not ready in `Stop<'_, '_>`
}

#[cfg(right)]
pub fn surprise_removal<M: callback::Work>(cx: &mut SurpriseRemoval<'_, '_>) {
    let _ = cx.queue_work::<M>(0);
}
