//! Only the framework makes the value of a request, when Storport passes it.
//! storport-rules.md S1.

#![no_std]

use storport::Srb;

#[cfg(wrong)]
pub fn end() {
    let srb = Srb {};
    //~[wrong]^ ERROR: cannot construct `Srb<'_, _>` with struct literal syntax due to private fields
    srb.succeed(0);
}

#[cfg(right)]
pub fn end(srb: Srb<'_>) {
    srb.succeed(0);
}
