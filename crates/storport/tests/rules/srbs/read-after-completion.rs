//! A completed request belongs to Storport, so the driver cannot read it.
//! storport-rules.md S2.

#![no_std]

use storport::Srb;

pub fn end(srb: Srb<'_>) -> u32 {
    #[cfg(right)]
    let bytes = srb.data_length();
    srb.succeed(0);
    #[cfg(wrong)]
    let bytes = srb.data_length();
    //~[wrong]^ ERROR: [E0382] borrow of moved value: `srb`
    bytes
}
