//! Only contexts say that Storport holds a lock.
//! storport-rules.md Callbacks.

#![no_std]

use storport::{Proves, level};

/// Calls itself a context.
pub struct Mine;

#[cfg(wrong)]
impl<'a> Proves<'a, level::InterruptHeld> for Mine {}
//~[wrong]^ ERROR: [E0277] `Mine` is neither the context of a callback nor the guard of a lock

/// What the trait is for: one piece of code for several callbacks.
#[cfg(right)]
pub fn from_any<'a, C: Proves<'a, level::InterruptHeld>>(_cx: &mut C, _mine: &Mine) {}
