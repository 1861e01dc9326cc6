//! A context cannot be made `'static`, so it cannot be stored in a static.
//! storport-rules.md Callbacks.

#![no_std]

use storport::Dpc;

fn keep<T: 'static>(_kept: &T) {}

pub fn dpc(cx: &mut Dpc<'_, 'static>) {
    #[cfg(wrong)]
    keep(cx);
    //~[wrong]^ ERROR: [E0521] borrowed data escapes outside of function
    #[cfg(right)]
    keep(&cx.number());
}
