//! HwStartIo may not stall the processor.
//! storport-rules.md HwStartIo, SpNoWait, StorPortStartIo.

#![no_std]

#[cfg(right)]
use storport::ResetBus;
#[cfg(wrong)]
use storport::StartIo;

#[cfg(wrong)]
pub fn start_io(cx: &mut StartIo<'_, '_>) {
    let _ = cx.stall(10);
    //~[wrong]^ ERROR: [E0277] waiting is not allowed in `StartIo<'_, '_>`
}

#[cfg(right)]
pub fn reset_bus(cx: &mut ResetBus<'_, '_>) {
    let _ = cx.stall(10);
}
