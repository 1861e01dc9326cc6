//! A driver cannot give another right to the context of a callback.
//! storport-rules.md Callbacks, Routines, IRQL.

#![no_std]

#[cfg(wrong)]
use storport::{MayStall, StartIo};

#[cfg(wrong)]
impl MayStall for StartIo<'_, '_> {}
//~[wrong]^ ERROR: [E0117] only traits defined in the current crate can be implemented for types defined outside of the crate

#[cfg(right)]
pub fn reset_bus(cx: &storport::ResetBus<'_, '_>) {
    cx.stall(10);
}
