//! A request can be completed only once. The second completion is bug check 0xF1, 0x2004
//! under Storport's verifier, and corrupts Storport's lists without it.
//! storport-rules.md S1.

#![no_std]

use storport::{Failure, Srb};

pub fn end(srb: Srb<'_>, failed: bool) {
    if failed {
        srb.fail(Failure::Error);
        #[cfg(right)]
        return;
    }
    srb.succeed(0);
    //~[wrong]^ ERROR: [E0382] use of moved value: `srb`
}
