//! HwStartIo may not allocate pool. HwBuildIo, which runs before it, may.
//! storport-rules.md HwStartIo, X8, SpNoWait.

#![no_std]

#[cfg(right)]
use storport::BuildIo;
#[cfg(wrong)]
use storport::StartIo;

#[cfg(wrong)]
pub fn start_io(cx: &mut StartIo<'_, '_>) {
    let _ = cx.allocate(512, |_| 0_u8);
    //~[wrong]^ ERROR: [E0277] pool memory and work items are not available in `StartIo<'_, '_>`
}

#[cfg(right)]
pub fn build_io(cx: &mut BuildIo<'_, '_>) {
    let _ = cx.allocate(512, |_| 0_u8);
}
