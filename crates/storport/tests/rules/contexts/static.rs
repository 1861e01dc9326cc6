//! A context does not become `'static`, so no static holds it.
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
