//! An SRB may only be stored in the state of its own adapter, because the reset of that
//! adapter must complete it.
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
