//! Uncached memory is given in HwFindAdapter alone.
//! Rule book 3.5 (StorPortGetUncachedExtension); bug check 0xF1, 0x2002.

#![no_std]

use storport::Context;
#[cfg(right)]
use storport::FindAdapter;
#[cfg(wrong)]
use storport::Initialize;

#[cfg(wrong)]
pub fn initialize(cx: &mut Initialize<'_, '_>) {
    let _ = cx.uncached_extension(4096);
    //~[wrong]^ ERROR: [E0277] only HwFindAdapter may do this, not `Initialize<'_, '_>`
}

#[cfg(right)]
pub fn find_adapter(cx: &mut FindAdapter<'_, '_>) {
    let _ = cx.uncached_extension(4096);
}
