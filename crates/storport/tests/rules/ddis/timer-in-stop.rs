//! ScsiStopAdapter may not request a timer, which would expire after the stop.
//! storport-rules.md HwAdapterControl, C1.

#![no_std]

#[cfg(wrong)]
use storport::Stop;
#[cfg(right)]
use storport::Timer;
use storport::callback;

#[cfg(wrong)]
pub fn stop<M: callback::Timer>(cx: &mut Stop<'_, '_>) {
    let _ = cx.request_timer::<M>(core::num::NonZero::<u32>::MIN);
    //~[wrong]^ ERROR: [E0277] the adapter is not ready in `Stop<'_, '_>`
}

#[cfg(right)]
pub fn timer<M: callback::Timer>(cx: &mut Timer<'_, '_>) {
    let _ = cx.request_timer::<M>(core::num::NonZero::<u32>::MIN);
}
