//! Only the framework makes a context, when Storport calls.
//! Rule book 2.

#![no_std]

use storport::Dpc;

#[cfg(wrong)]
pub fn argument() -> usize {
    let cx = Dpc {};
    //~[wrong]^ ERROR: cannot construct `storport::Dpc<'_, '_>` with struct literal syntax due to private fields
    cx.argument()
}

#[cfg(right)]
pub fn argument(cx: &Dpc<'_, '_>) -> usize {
    cx.argument()
}
