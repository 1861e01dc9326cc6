//! The scatter/gather list of a request cannot be used after the request is completed.
//! storport-rules.md S2, S11.

#![no_std]

use storport::{BuildIo, Srb};

pub fn pieces<'a>(cx: &BuildIo<'_, 'a>, srb: Srb<'a>) -> usize {
    let list = cx.scatter_gather(&srb);
    #[cfg(wrong)]
    srb.succeed(0);
    //~[wrong]^ ERROR: [E0505] cannot move out of `srb` because it is borrowed
    let pieces = list.map_or(0, |list| list.elements().len());
    #[cfg(right)]
    srb.succeed(0);
    pieces
}
