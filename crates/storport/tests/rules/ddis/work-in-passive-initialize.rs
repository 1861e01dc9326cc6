//! HwPassiveInitialize may not queue a work item: HwWorkItem could use cells that
//! HwPassiveInitialize has open.
//! storport-rules.md HwWorkItem, HwAdapterControl.

#![no_std]

use storport::{Dpc, DpcLocked, PassiveInitialize, callback};

pub fn passive_initialize<'a, M: callback::Work>(
    cx: &mut PassiveInitialize<'_, 'a>,
    #[cfg(wrong)] _: &DpcLocked<'a, u32>,
    #[cfg(right)] queue: &DpcLocked<'a, u32>,
) {
    #[cfg(wrong)]
    let _ = cx.queue_work::<M>(0);
    //~[wrong]^ ERROR: [E0277] the adapter is not ready in `storport::PassiveInitialize<'_, '_>`
    #[cfg(right)]
    queue.issue(cx);
}

/// Runs when the adapter is ready.
pub fn dpc<M: callback::Work>(cx: &mut Dpc<'_, '_>) {
    let _ = cx.queue_work::<M>(0);
}
