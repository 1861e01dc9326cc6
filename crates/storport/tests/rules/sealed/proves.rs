//! Only contexts prove that a lock is held. A driver's own type cannot.
//! storport-rules.md Callbacks.

#![no_std]

use storport::{Proves, level};

/// A type of the driver that claims to be a context.
pub struct Mine;

#[cfg(wrong)]
impl<'a> Proves<'a, level::InterruptHeld> for Mine {}
//~[wrong]^ ERROR: [E0277] `Mine` is neither the context of a callback nor the guard of a lock

/// A use of the trait: code for several callbacks.
#[cfg(right)]
pub fn from_any<'a, C: Proves<'a, level::InterruptHeld>>(_cx: &mut C, _mine: &Mine) {}
