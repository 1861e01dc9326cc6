//! A request is one value that cannot be copied, so it is completed at most once.
//! storport-rules.md S1.

#![no_std]

use storport::Srb;

pub fn end(srb: &Srb<'_>) -> u32 {
    #[cfg(wrong)]
    (*srb).succeed(0);
    //~[wrong]^ ERROR: [E0507] cannot move out of `*srb` which is behind a shared reference
    srb.data_length()
}
