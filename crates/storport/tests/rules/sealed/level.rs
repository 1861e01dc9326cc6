//! What may be held is the crate's to say: a driver makes up no level.
//! storport-rules.md Order.

#![no_std]

use storport::level::Level;

#[cfg(wrong)]
pub struct Mine;

#[cfg(wrong)]
impl Level for Mine {}
//~[wrong]^ ERROR: [E0277] the trait bound `Mine: level::sealed::Sealed` is not satisfied

/// What the trait is for: code that runs with one lock or another held.
#[cfg(right)]
pub fn from_any<L: Level>(_held: &mut storport::Held<'_, L>) {}
