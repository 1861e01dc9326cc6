//! The crate defines the levels of locks. A driver cannot add one.
//! storport-rules.md Order.

#![no_std]

use storport::level::Level;

#[cfg(wrong)]
pub struct Mine;

#[cfg(wrong)]
impl Level for Mine {}
//~[wrong]^ ERROR: [E0277] the trait bound `Mine: level::sealed::Sealed` is not satisfied

/// A use of the trait: code that runs with different locks held.
#[cfg(right)]
pub fn from_any<L: Level>(_held: &mut storport::Held<'_, L>) {}
