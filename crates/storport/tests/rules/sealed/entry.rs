//! Only the crate says which function is a callback's entry: another
//! miniport's would read this miniport's state as its own.
//! storport-rules.md StorPortInitialize.

#![no_std]

use storport::callback::{Entry, key};

/// A miniport that has the callback of another one.
pub struct Copy<Other>(pub Other);

#[cfg(wrong)]
impl<Other: Entry<key::Timer>> Entry<key::Timer> for Copy<Other> {
    //~[wrong]^ ERROR: [E0200] the trait `storport::callback::Entry<storport::callback::key::Timer>` requires an `unsafe impl` declaration
    const ENTRY: storport::callback::EntryPoint = Other::ENTRY;
}

/// What the trait is for: code that any miniport with the callback calls.
#[cfg(right)]
pub fn from_any<M: Entry<key::Timer>>(_copy: &Copy<M>) {}
