//! A threaded DPC is made by a miniport that has and names its routine: nobody
//! else initialises the object, and so the lock in it.
//! Rule book 1.3 L6, 3.2.

#![no_std]

use storport::FindAdapter;

/// A miniport without `callback::ThreadedDpc`.
#[cfg(wrong)]
pub struct Disk;

#[cfg(wrong)]
pub fn find_adapter(cx: &mut FindAdapter<'_, '_>) {
    let _ = cx.threaded_dpc_locked::<Disk, u32>(0);
    //~[wrong]^ ERROR: [E0277] `Disk` does not have this optional callback
}

#[cfg(right)]
pub fn find_adapter<Disk: storport::callback::ThreadedDpc>(cx: &mut FindAdapter<'_, '_>) {
    let _ = cx.threaded_dpc_locked::<Disk, u32>(0);
}
