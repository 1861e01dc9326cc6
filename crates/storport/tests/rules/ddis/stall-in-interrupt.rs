//! An interrupt routine may not stall the processor.
//! storport-rules.md L7, HwInterrupt.

#![no_std]

#[cfg(wrong)]
use storport::Interrupt;
#[cfg(right)]
use storport::Work;

#[cfg(wrong)]
pub fn interrupt(cx: &mut Interrupt<'_, '_>) {
    let _ = cx.stall(10);
    //~[wrong]^ ERROR: [E0277] waiting is not allowed in `Interrupt<'_, '_>`
}

#[cfg(right)]
pub fn work(cx: &mut Work<'_, '_>) {
    let _ = cx.stall(10);
}
