//! Only `driver_entry!` names the optional callbacks of a miniport, because it also
//! registers them with Storport.
//! storport-rules.md StorPortInitialize.

#![no_std]

use storport::callback::{Names, key};

pub struct Disk;

#[cfg(wrong)]
impl Names<key::Timer> for Disk {}
//~[wrong]^ ERROR: [E0200] the trait `Names<storport::callback::key::Timer>` requires an `unsafe impl` declaration

/// A use of the trait: code for any miniport with the callback.
#[cfg(right)]
pub fn from_any<M: Names<key::Timer>>(_disk: &Disk) {}
