//! A request that was started cannot be completed as BUSY: Storport would start it a
//! second time.
//! storport-rules.md S5.

#![no_std]

use storport::{Srb, StartIo, StartedSrb};

pub fn start_io<'a>(cx: &StartIo<'_, 'a>, srb: Srb<'a>, full: bool) -> Option<StartedSrb<'a>> {
    #[cfg(right)]
    if full {
        cx.busy(1);
        srb.busy();
        return None;
    }
    let started = srb.started();
    #[cfg(wrong)]
    if full {
        cx.busy(1);
        started.busy();
        //~[wrong]^ ERROR: [E0277] this request was started, so the device may be using it
        return None;
    }
    Some(started)
}
