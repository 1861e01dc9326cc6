//! Locks can only be taken with contexts and guards. A driver's own type cannot be used.
//! storport-rules.md Callbacks.

#![no_std]

use storport::Scope;

/// A type of the driver that claims to be a context.
pub struct Mine;

#[cfg(wrong)]
impl<'a> Scope<'a> for Mine {
    type Level = storport::level::NothingHeld;
}
//~[wrong]^^^ ERROR: [E0277] `Mine` is neither the context of a callback nor the guard of a lock

/// A use of the trait: code for several callbacks.
#[cfg(right)]
pub fn from_any<'a, C: Scope<'a>>(_cx: &mut C, _mine: &Mine) {}
