//! Only HwFindAdapter may take the uncached extension.
//! storport-rules.md StorPortGetUncachedExtension, 0xF1/0x2002.

#![no_std]

use storport::Configured;
#[cfg(right)]
use storport::FindAdapter;
#[cfg(wrong)]
use storport::Initialize;

#[cfg(wrong)]
pub fn initialize<'a>(cx: &mut Initialize<'_, 'a>, configured: &Configured<'a>) {
    let _ = cx.uncached_extension(configured, 4096);
    //~[wrong]^ ERROR: [E0277] this may only be called in HwFindAdapter, not in `Initialize<'_, '_>`
}

#[cfg(right)]
pub fn find_adapter<'a>(cx: &mut FindAdapter<'_, 'a>, configured: &Configured<'a>) {
    let _ = cx.uncached_extension(configured, 4096);
}
