//! A request is either stored or completed. The device has the stored request, and its
//! completion ends it.
//! storport-rules.md S1, S8.

#![no_std]

use storport::{DpcLocked, Failure, Srb, StartIo, StartedSrb};

pub fn start_io<'a>(
    cx: &mut StartIo<'_, 'a>,
    slot: &DpcLocked<'a, Option<StartedSrb<'a>>>,
    srb: Srb<'a>,
    fits: bool,
) {
    if fits {
        slot.with(cx, |slot| **slot = Some(srb.started()));
        #[cfg(right)]
        return;
    }
    srb.fail(Failure::Error);
    //~[wrong]^ ERROR: [E0382] use of moved value: `srb`
}
