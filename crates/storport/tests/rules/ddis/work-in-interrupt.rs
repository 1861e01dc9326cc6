//! A work item may only be queued at DISPATCH_LEVEL or below: not in an interrupt
//! routine, but in its DPC.
//! storport-rules.md I3.

#![no_std]

#[cfg(right)]
use storport::Dpc;
#[cfg(wrong)]
use storport::Interrupt;
use storport::callback;

#[cfg(wrong)]
pub fn interrupt<M: callback::Work>(cx: &mut Interrupt<'_, '_>) {
    let _ = cx.queue_work::<M>(0);
    //~[wrong]^ ERROR: [E0277] pool memory and work items are not available in `Interrupt<'_, '_>`
}

#[cfg(right)]
pub fn dpc<M: callback::Work>(cx: &mut Dpc<'_, '_>) {
    let _ = cx.queue_work::<M>(0);
}
