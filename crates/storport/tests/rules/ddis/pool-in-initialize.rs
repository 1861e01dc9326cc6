//! HwInitialize runs above DISPATCH_LEVEL, so it may not allocate pool.
//! storport-rules.md HwInitialize, I3, StorPortIrql.

#![no_std]

#[cfg(wrong)]
use storport::Initialize;
#[cfg(right)]
use storport::PassiveInitialize;

#[cfg(wrong)]
pub fn initialize(cx: &mut Initialize<'_, '_>) {
    let _ = cx.allocate(512, |_| 0_u8);
    //~[wrong]^ ERROR: [E0277] pool memory and work items are not available in `Initialize<'_, '_>`
}

#[cfg(right)]
pub fn passive_initialize(cx: &mut PassiveInitialize<'_, '_>) {
    let _ = cx.allocate(512, |_| 0_u8);
}
