//! Only a miniport with HwStateChange may report state changes.
//! storport-rules.md HwStateChange.

#![no_std]

use storport::{Address, BuildIo, Changed};

const CHANGED: Changed = Changed::Bus(Address {
    path: 0,
    target: 0,
    lun: 0,
});

/// A miniport without `callback::StateChange`.
#[cfg(wrong)]
pub struct Disk;

#[cfg(wrong)]
pub fn build_io(cx: &mut BuildIo<'_, '_>) {
    let _ = cx.report_change::<Disk>(CHANGED);
    //~[wrong]^ ERROR: [E0277] `Disk` does not implement the optional callback that this call needs
}

#[cfg(right)]
pub fn build_io<Disk: storport::callback::StateChange>(cx: &mut BuildIo<'_, '_>) {
    let _ = cx.report_change::<Disk>(CHANGED);
}
