//! The data of a request cannot be used after the request is completed.
//! storport-rules.md S2.

#![no_std]

use storport::{BuildIo, Srb};

pub fn answer<'a>(cx: &BuildIo<'_, 'a>, mut srb: Srb<'a>) {
    let data = cx.data_in(&mut srb);
    #[cfg(wrong)]
    srb.succeed(1);
    //~[wrong]^ ERROR: [E0505] cannot move out of `srb` because it is borrowed
    if let Ok(mut data) = data {
        data.write(0, &[0]);
    }
    #[cfg(right)]
    srb.succeed(1);
}
