//! Only HwFindAdapter may map registers, because their addresses come from its
//! ConfigInfo.
//! storport-rules.md StorPortGetDeviceBase, 0xF1/0x2003.

#![no_std]

#[cfg(right)]
use storport::FindAdapter;
#[cfg(wrong)]
use storport::Initialize;

#[cfg(wrong)]
pub fn initialize(cx: &mut Initialize<'_, '_>) {
    let _ = cx.map(0xFEBF_0000);
    //~[wrong]^ ERROR: [E0277] this may only be called in HwFindAdapter, not in `Initialize<'_, '_>`
}

#[cfg(right)]
pub fn find_adapter(cx: &mut FindAdapter<'_, '_>) {
    let _ = cx.map(0xFEBF_0000);
}
