//! A driver gives a callback no right that it does not have.
//! Rule book 3.1, 3.5, 3.6.

#![no_std]

use storport::{MayStall, ResetBus, StartIo};

#[cfg(wrong)]
impl<'a> MayStall<'a> for StartIo<'_, 'a> {}
//~[wrong]^ ERROR: [E0117] only traits defined in the current crate can be implemented for types defined outside of the crate

/// What the trait is for: one piece of code for several callbacks.
#[cfg(right)]
pub fn settle<'a>(cx: &impl MayStall<'a>) {
    cx.stall(10);
}

pub fn callbacks(_started: &StartIo<'_, '_>, _reset: &ResetBus<'_, '_>) {}
