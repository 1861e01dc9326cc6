//! A driver cannot make a context prove more than the crate says.
//! storport-rules.md Callbacks.

#![no_std]

use storport::{Dpc, Proves, level::DpcHeld};

#[cfg(wrong)]
impl<'a> Proves<'a, DpcHeld> for Dpc<'_, 'a> {}
//~[wrong]^ ERROR: [E0117] only traits defined in the current crate can be implemented for types defined outside of the crate

/// A use of the trait: code for several callbacks.
#[cfg(right)]
pub fn from_any<'a, C: Proves<'a, DpcHeld>>(_cx: &mut C, _dpc: &Dpc<'_, 'a>) {}
