//! A DPC may not stall the processor. It requests a timer instead.
//! storport-rules.md L7.

#![no_std]

#[cfg(wrong)]
use storport::Dpc;
#[cfg(right)]
use storport::Initialize;

#[cfg(wrong)]
pub fn dpc(cx: &mut Dpc<'_, '_>) {
    let _ = cx.stall(10);
    //~[wrong]^ ERROR: [E0277] waiting is not allowed in `Dpc<'_, '_>`
}

#[cfg(right)]
pub fn initialize(cx: &mut Initialize<'_, '_>) {
    let _ = cx.stall(10);
}
