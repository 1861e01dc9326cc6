//! The driver may not use the data of a request while the device has the request.
//! storport-rules.md S8.

#![no_std]

use storport::{Srb, StartIo, StartedSrb};

pub fn start_io<'a>(cx: &StartIo<'_, 'a>, mut srb: Srb<'a>) -> StartedSrb<'a> {
    #[cfg(right)]
    if let Ok(mut data) = cx.data_in(&mut srb) {
        data.write(0, &[0]);
    }
    #[cfg_attr(right, expect(unused_mut))]
    let mut started = srb.started();
    #[cfg(wrong)]
    if let Ok(mut data) = cx.data_in(&mut started) {
        //~[wrong]^ ERROR: [E0277] this request was started, so the device may be using it
        data.write(0, &[0]);
    }
    started
}
