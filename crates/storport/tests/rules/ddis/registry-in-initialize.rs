//! HwInitialize runs above PASSIVE_LEVEL, so it may not read the registry.
//! storport-rules.md HwInitialize, IRQL, StorPortIrql.

#![no_std]

#[cfg(wrong)]
use storport::Initialize;
#[cfg(right)]
use storport::Work;

#[cfg(wrong)]
pub fn initialize(cx: &mut Initialize<'_, '_>) {
    let _ = cx.registry_u32(c"QueueDepth");
    //~[wrong]^ ERROR: [E0277] `Initialize<'_, '_>` does not run at PASSIVE_LEVEL
}

#[cfg(right)]
pub fn work(cx: &mut Work<'_, '_>) {
    let _ = cx.registry_u32(c"QueueDepth");
}
