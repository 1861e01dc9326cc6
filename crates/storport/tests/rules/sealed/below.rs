//! The crate defines the order of locks. A driver cannot add to it.
//! storport-rules.md Order.

#![no_std]

use storport::level::{self, Below};

#[cfg(wrong)]
impl Below<level::StartIoHeld> for level::InterruptHeld {}
//~[wrong]^ ERROR: [E0117] only traits defined in the current crate can be implemented for types defined outside of the crate

/// A use of the trait: code that runs with different locks held.
#[cfg(right)]
pub fn from_any<L: Below<level::InterruptHeld>>(_held: &mut storport::Held<'_, L>) {}
