//! HwBuildIo passes on what no device has: what it started it keeps.
//! storport-rules.md S4.

#![no_std]

use storport::Srb;

pub fn build_io(srb: Srb<'_>) -> Option<(Srb<'_>, u64)> {
    #[cfg(wrong)]
    let srb = srb.started();
    Some((srb, 0))
    //~[wrong]^ ERROR: [E0308] mismatched types
}
