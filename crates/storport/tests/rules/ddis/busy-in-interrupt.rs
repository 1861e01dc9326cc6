//! StorPortBusy may not be called at DIRQL.
//! storport-rules.md HwInterrupt.

#![no_std]

#[cfg(wrong)]
use storport::Interrupt;
#[cfg(right)]
use storport::StartIo;

#[cfg(wrong)]
pub fn interrupt(cx: &mut Interrupt<'_, '_>) {
    let _ = cx.busy(1);
    //~[wrong]^ ERROR: [E0277] `Interrupt<'_, '_>` may run above DISPATCH_LEVEL
}

#[cfg(right)]
pub fn start_io(cx: &mut StartIo<'_, '_>) {
    let _ = cx.busy(1);
}
