//! Only contexts and guards say that locks may be taken.
//! storport-rules.md Callbacks.

#![no_std]

use storport::Scope;

/// Calls itself a context.
pub struct Mine;

#[cfg(wrong)]
impl<'a> Scope<'a> for Mine {
    type Level = storport::level::NothingHeld;
}
//~[wrong]^^^ ERROR: [E0277] `Mine` is neither the context of a callback nor the guard of a lock

/// What the trait is for: one piece of code for several callbacks.
#[cfg(right)]
pub fn from_any<'a, C: Scope<'a>>(_cx: &mut C, _mine: &Mine) {}
