//! The number of processors may only be queried at DISPATCH_LEVEL or below.
//! storport-rules.md I3, StorPortIrql.

#![no_std]

#[cfg(right)]
use storport::Dpc;
#[cfg(wrong)]
use storport::Interrupt;

#[cfg(wrong)]
pub fn interrupt(cx: &mut Interrupt<'_, '_>) {
    let _ = cx.processors();
    //~[wrong]^ ERROR: [E0277] `Interrupt<'_, '_>` may run above DISPATCH_LEVEL
}

#[cfg(right)]
pub fn dpc(cx: &mut Dpc<'_, '_>) {
    let _ = cx.processors();
}
