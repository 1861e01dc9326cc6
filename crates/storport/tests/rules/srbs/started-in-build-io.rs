//! HwBuildIo passes only requests to HwStartIo that were not started. It keeps a request
//! that it started.
//! storport-rules.md S4.

#![no_std]

use storport::Srb;

pub fn build_io(srb: Srb<'_>) -> Option<(Srb<'_>, u64)> {
    #[cfg(wrong)]
    let srb = srb.started();
    Some((srb, 0))
    //~[wrong]^ ERROR: [E0308] mismatched types
}
