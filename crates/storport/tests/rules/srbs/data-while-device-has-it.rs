//! The data of a request that the device has is the device's.
//! Rule book 5.1 S8.

#![no_std]

use storport::{Context, Srb, StartIo, StartedSrb};

pub fn start_io<'a>(cx: &StartIo<'_, 'a>, mut srb: Srb<'a>) -> StartedSrb<'a> {
    #[cfg(right)]
    let data = cx.data(&mut srb);
    #[cfg(right)]
    if let Some([first, ..]) = data {
        *first = 0;
    }
    #[cfg_attr(right, expect(unused_mut))]
    let mut started = srb.started();
    #[cfg(wrong)]
    let data = cx.data(&mut started);
    //~[wrong]^ ERROR: [E0277] the device has this request, or had it
    #[cfg(wrong)]
    if let Some([first, ..]) = data {
        *first = 0;
    }
    started
}
