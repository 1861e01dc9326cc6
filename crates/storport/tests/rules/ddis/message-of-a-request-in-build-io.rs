//! Only HwStartIo may query the message and the channel of a request.
//! storport-rules.md StorPortGetStartIoPerfParams.

#![no_std]

#[cfg(wrong)]
use storport::BuildIo;
use storport::Srb;
#[cfg(right)]
use storport::StartIo;

#[cfg(wrong)]
pub fn build_io<'a>(cx: &mut BuildIo<'_, 'a>, srb: &Srb<'a>) -> u32 {
    cx.start_io_parameters(srb).map_or(0, |given| given.message)
    //~[wrong]^ ERROR: [E0277] the message and the channel of a request cannot be queried in `BuildIo<'_, '_>`
}

#[cfg(right)]
pub fn start_io<'a>(cx: &mut StartIo<'_, 'a>, srb: &Srb<'a>) -> u32 {
    cx.start_io_parameters(srb).map_or(0, |given| given.message)
}
