//! An interrupt routine may not allocate pool. A DPC may.
//! storport-rules.md I3, StorPortIrql.

#![no_std]

#[cfg(right)]
use storport::Dpc;
#[cfg(wrong)]
use storport::Interrupt;

#[cfg(wrong)]
pub fn interrupt(cx: &mut Interrupt<'_, '_>) {
    let _ = cx.allocate(512, |_| 0_u8);
    //~[wrong]^ ERROR: [E0277] pool memory and work items are not available in `Interrupt<'_, '_>`
}

#[cfg(right)]
pub fn dpc(cx: &mut Dpc<'_, '_>) {
    let _ = cx.allocate(512, |_| 0_u8);
}
