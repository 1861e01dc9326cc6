//! HwPassiveInitialize may not request a timer: HwTimer could use cells that
//! HwPassiveInitialize has open.
//! storport-rules.md HwTimer, C1.

#![no_std]

use storport::{Dpc, DpcLocked, PassiveInitialize, callback};

pub fn passive_initialize<'a, M: callback::Timer>(
    cx: &mut PassiveInitialize<'_, 'a>,
    #[cfg(wrong)] _: &DpcLocked<'a, u32>,
    #[cfg(right)] queue: &DpcLocked<'a, u32>,
) {
    #[cfg(wrong)]
    let _ = cx.request_timer::<M>(core::num::NonZero::<u32>::MIN);
    //~[wrong]^ ERROR: [E0277] the adapter is not ready in `storport::PassiveInitialize<'_, '_>`
    #[cfg(right)]
    queue.issue(cx);
}

/// Runs when the adapter is ready.
pub fn dpc<M: callback::Timer>(cx: &mut Dpc<'_, '_>) {
    let _ = cx.request_timer::<M>(core::num::NonZero::<u32>::MIN);
}
