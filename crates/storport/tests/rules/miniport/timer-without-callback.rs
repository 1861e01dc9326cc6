//! Only a miniport with HwTimer may request a timer.
//! storport-rules.md C1, StorPortTimer.

#![no_std]

use storport::BuildIo;

/// A miniport without `callback::Timer`.
#[cfg(wrong)]
pub struct Disk;

#[cfg(wrong)]
pub fn build_io(cx: &mut BuildIo<'_, '_>) {
    let _ = cx.request_timer::<Disk>(core::num::NonZero::<u32>::MIN);
    //~[wrong]^ ERROR: [E0277] `Disk` does not implement the optional callback that this call needs
}

#[cfg(right)]
pub fn build_io<Disk: storport::callback::Timer>(cx: &mut BuildIo<'_, '_>) {
    let _ = cx.request_timer::<Disk>(core::num::NonZero::<u32>::MIN);
}
