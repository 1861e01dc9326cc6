//! The data of a request may only be mapped at DISPATCH_LEVEL or below.
//! storport-rules.md I3, StorPortIrql.

#![no_std]

#[cfg(wrong)]
use storport::Interrupt;
use storport::Srb;
#[cfg(right)]
use storport::StartIo;

#[cfg(wrong)]
pub fn interrupt<'a>(cx: &mut Interrupt<'_, 'a>, srb: &mut Srb<'a>) -> usize {
    cx.data_in(srb).map_or(0, |data| data.length())
    //~[wrong]^ ERROR: [E0277] `Interrupt<'_, '_>` may run above DISPATCH_LEVEL
}

#[cfg(right)]
pub fn start_io<'a>(cx: &mut StartIo<'_, 'a>, srb: &mut Srb<'a>) -> usize {
    cx.data_in(srb).map_or(0, |data| data.length())
}
