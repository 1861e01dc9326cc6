//! An SRB waits in its own adapter's state: that one's reset must find it.
//! storport-rules.md S8.

#![no_std]

use storport::{DpcLocked, Srb, StartIo};

pub fn start_io<'a, 'b>(
    cx: &mut StartIo<'_, 'a>,
    waiting: &DpcLocked<'a, Option<Srb<'a>>>,
    #[cfg(wrong)] srb: Srb<'b>,
    #[cfg(right)] srb: Srb<'a>,
    _another: &Srb<'b>,
) {
    waiting.with(cx, |waiting| **waiting = Some(srb));
    //~[wrong]^ ERROR: lifetime may not live long enough
    //~[wrong]| ERROR: lifetime may not live long enough
}
