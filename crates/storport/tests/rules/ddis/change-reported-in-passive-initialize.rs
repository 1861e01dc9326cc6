//! HwPassiveInitialize may not report a state change: HwStateChange could use cells that
//! HwPassiveInitialize has open.
//! storport-rules.md HwStateChange, C1.

#![no_std]

use storport::{Address, Changed, Dpc, DpcLocked, PassiveInitialize, callback};

const BUS: Changed = Changed::Bus(Address {
    path: 0,
    target: 0,
    lun: 0,
});

pub fn passive_initialize<'a, M: callback::StateChange>(
    cx: &mut PassiveInitialize<'_, 'a>,
    #[cfg(wrong)] _: &DpcLocked<'a, u32>,
    #[cfg(right)] queue: &DpcLocked<'a, u32>,
) {
    #[cfg(wrong)]
    let _ = cx.report_change::<M>(BUS);
    //~[wrong]^ ERROR: [E0277] the adapter is not ready in `storport::PassiveInitialize<'_, '_>`
    #[cfg(right)]
    queue.issue(cx);
}

/// Runs when the adapter is ready.
pub fn dpc<M: callback::StateChange>(cx: &mut Dpc<'_, '_>) {
    let _ = cx.report_change::<M>(BUS);
}
