//! The CDB of a request cannot be used after the request is completed.
//! storport-rules.md S2.

#![no_std]

use storport::Srb;

pub fn operation(srb: Srb<'_>) -> Option<u8> {
    #[cfg(wrong)]
    let operation = srb.cdb().first();
    #[cfg(right)]
    let operation = srb.cdb().first().copied();
    srb.succeed(0);
    //~[wrong]^ ERROR: [E0505] cannot move out of `srb` because it is borrowed
    #[cfg(wrong)]
    let operation = operation.copied();
    operation
}
