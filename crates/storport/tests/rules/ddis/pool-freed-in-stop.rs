//! ScsiStopAdapter may not free pool, because it may run at DIRQL. HwBuildIo frees the
//! pool when the adapter is removed.
//! storport-rules.md HwAdapterControl, X1, StorPortIrql.

#![no_std]

#[cfg(right)]
use storport::BuildIo;
use storport::Pool;
#[cfg(wrong)]
use storport::Stop;

#[cfg(wrong)]
pub fn stop<'a>(cx: &mut Stop<'_, 'a>, pool: Pool<'a, u8>) {
    cx.free(pool);
    //~[wrong]^ ERROR: [E0277] pool memory and work items are not available in `Stop<'_, '_>`
}

#[cfg(right)]
pub fn removed_in_build_io<'a>(cx: &mut BuildIo<'_, 'a>, pool: Pool<'a, u8>) {
    cx.free(pool);
}
