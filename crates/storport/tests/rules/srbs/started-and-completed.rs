//! HwStartIo either starts a request or completes it.
//! storport-rules.md S1.

#![no_std]

use storport::{Failure, Srb, StartedSrb};

pub fn start_io<'a>(srb: Srb<'a>, slot: &mut Option<StartedSrb<'a>>) {
    if slot.is_none() {
        *slot = Some(srb.started());
        #[cfg(right)]
        return;
    }
    srb.fail(Failure::Error);
    //~[wrong]^ ERROR: [E0382] use of moved value: `srb`
}
