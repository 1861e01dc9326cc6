//! Cells can only be made in HwFindAdapter, before another callback can use them.
//! storport-rules.md L6, C1.

#![no_std]

use storport::DpcLocked;
#[cfg(right)]
use storport::FindAdapter;
#[cfg(wrong)]
use storport::Initialize;

#[cfg(wrong)]
pub fn initialize<'a>(cx: &mut Initialize<'_, 'a>) -> Option<DpcLocked<'a, u32>> {
    cx.dpc_locked(0)
    //~[wrong]^ ERROR: [E0277] this may only be called in HwFindAdapter, not in `Initialize<'_, '_>`
}

#[cfg(right)]
pub fn find_adapter<'a>(cx: &mut FindAdapter<'_, 'a>) -> Option<DpcLocked<'a, u32>> {
    cx.dpc_locked(0)
}
