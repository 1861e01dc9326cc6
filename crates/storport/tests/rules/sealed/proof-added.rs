//! A driver adds no proof to a context that has none.
//! storport-rules.md Callbacks.

#![no_std]

use storport::{Dpc, Proves, level::DpcHeld};

#[cfg(wrong)]
impl<'a> Proves<'a, DpcHeld> for Dpc<'_, 'a> {}
//~[wrong]^ ERROR: [E0117] only traits defined in the current crate can be implemented for types defined outside of the crate

/// What the trait is for: one piece of code for several callbacks.
#[cfg(right)]
pub fn from_any<'a, C: Proves<'a, DpcHeld>>(_cx: &mut C, _dpc: &Dpc<'_, 'a>) {}
