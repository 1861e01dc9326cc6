//! Only a miniport with the routine may make threaded DPCs. Otherwise the DPC object and
//! its lock would never be initialised.
//! storport-rules.md L6, C1.

#![no_std]

use storport::FindAdapter;

/// A miniport without `callback::ThreadedDpc`.
#[cfg(wrong)]
pub struct Disk;

#[cfg(wrong)]
pub fn find_adapter(cx: &mut FindAdapter<'_, '_>) {
    let _ = cx.threaded_dpc_locked::<Disk, u32>(0);
    //~[wrong]^ ERROR: [E0277] `Disk` does not implement the optional callback that this call needs
}

#[cfg(right)]
pub fn find_adapter<Disk: storport::callback::ThreadedDpc>(cx: &mut FindAdapter<'_, '_>) {
    let _ = cx.threaded_dpc_locked::<Disk, u32>(0);
}
