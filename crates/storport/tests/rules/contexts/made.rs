//! Only the framework makes contexts, when Storport makes a callback.
//! storport-rules.md Callbacks.

#![no_std]

use storport::{Dpc, DpcNumber};

#[cfg(wrong)]
pub fn number() -> DpcNumber {
    let cx = Dpc {};
    //~[wrong]^ ERROR: cannot construct `Dpc<'_, '_>` with struct literal syntax due to private fields
    cx.number()
}

#[cfg(right)]
pub fn argument(cx: &Dpc<'_, '_>) -> DpcNumber {
    cx.number()
}
