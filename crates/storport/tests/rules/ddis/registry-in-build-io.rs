//! The registry may only be read at PASSIVE_LEVEL.
//! storport-rules.md I1, StorPortIrql.

#![no_std]

#[cfg(wrong)]
use storport::BuildIo;
#[cfg(right)]
use storport::FindAdapter;

#[cfg(wrong)]
pub fn build_io(cx: &mut BuildIo<'_, '_>) {
    let _ = cx.registry_u32(c"QueueDepth");
    //~[wrong]^ ERROR: [E0277] `BuildIo<'_, '_>` does not run at PASSIVE_LEVEL
}

#[cfg(right)]
pub fn find_adapter(cx: &mut FindAdapter<'_, '_>) {
    let _ = cx.registry_u32(c"QueueDepth");
}
