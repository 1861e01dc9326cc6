//! The crate alone defines the entry function of a callback. The entry function of
//! another miniport would use this miniport's state as its own.
//! storport-rules.md StorPortInitialize.

#![no_std]

use storport::callback::{Entry, key};

/// A miniport with the callback of another miniport.
pub struct Copy<Other>(pub Other);

#[cfg(wrong)]
impl<Other: Entry<key::Timer>> Entry<key::Timer> for Copy<Other> {
    //~[wrong]^ ERROR: [E0200] the trait `storport::callback::Entry<storport::callback::key::Timer>` requires an `unsafe impl` declaration
    const ENTRY: storport::callback::EntryPoint = Other::ENTRY;
}

/// A use of the trait: code for any miniport with the callback.
#[cfg(right)]
pub fn from_any<M: Entry<key::Timer>>(_copy: &Copy<M>) {}
