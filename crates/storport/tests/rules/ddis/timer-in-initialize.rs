//! HwInitialize may not request a timer, because HwTimer could use cells that
//! HwInitialize has open. HwInitialize issues a DPC instead. The DPC runs when the
//! adapter is ready, and requests the timer.
//! storport-rules.md HwTimer, C1.

#![no_std]

use storport::{Dpc, DpcLocked, Initialize, callback};

pub fn initialize<'a, M: callback::Timer>(
    cx: &mut Initialize<'_, 'a>,
    #[cfg(wrong)] _: &DpcLocked<'a, u32>,
    #[cfg(right)] queue: &DpcLocked<'a, u32>,
) {
    #[cfg(wrong)]
    let _ = cx.request_timer::<M>(core::num::NonZero::<u32>::MIN);
    //~[wrong]^ ERROR: [E0277] the adapter is not ready in `Initialize<'_, '_>`
    #[cfg(right)]
    queue.issue(cx);
}

/// Runs when the adapter is ready.
pub fn dpc<M: callback::Timer>(cx: &mut Dpc<'_, '_>) {
    let _ = cx.request_timer::<M>(core::num::NonZero::<u32>::MIN);
}
