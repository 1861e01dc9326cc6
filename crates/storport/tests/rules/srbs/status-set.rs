//! Only completing a request sets its status.
//! storport-rules.md S3.

#![no_std]

use storport::Srb;

pub fn end(srb: Srb<'_>) {
    #[cfg(wrong)]
    srb.finish(0);
    //~[wrong]^ ERROR: [E0624] method `finish` is private
    #[cfg(right)]
    srb.succeed(0);
}
