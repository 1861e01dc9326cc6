//! The order of locks is the crate's: a driver adds nothing to it.
//! storport-rules.md Order.

#![no_std]

use storport::level::{self, Below};

#[cfg(wrong)]
impl Below<level::StartIoHeld> for level::InterruptHeld {}
//~[wrong]^ ERROR: [E0117] only traits defined in the current crate can be implemented for types defined outside of the crate

/// What the trait is for: code that runs with one lock or another held.
#[cfg(right)]
pub fn from_any<L: Below<level::InterruptHeld>>(_held: &mut storport::Held<'_, L>) {}
