//! Only a miniport with HwWorkItem may queue work items.
//! storport-rules.md HwAdapterControl.

#![no_std]

use storport::BuildIo;

/// A miniport without `callback::Work`.
#[cfg(wrong)]
pub struct Disk;

#[cfg(wrong)]
pub fn build_io(cx: &mut BuildIo<'_, '_>) {
    let _ = cx.queue_work::<Disk>(0);
    //~[wrong]^ ERROR: [E0277] `Disk` does not implement the optional callback that this call needs
}

#[cfg(right)]
pub fn build_io<Disk: storport::callback::Work>(cx: &mut BuildIo<'_, '_>) {
    let _ = cx.queue_work::<Disk>(0);
}
