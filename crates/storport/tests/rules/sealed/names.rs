//! Only `driver_entry!` says which optional callbacks a miniport has: it tells
//! Storport of them.
//! storport-rules.md StorPortInitialize.

#![no_std]

use storport::callback::{Names, key};

pub struct Disk;

#[cfg(wrong)]
impl Names<key::Timer> for Disk {}
//~[wrong]^ ERROR: [E0200] the trait `Names<storport::callback::key::Timer>` requires an `unsafe impl` declaration

/// What the trait is for: code that any miniport with the callback calls.
#[cfg(right)]
pub fn from_any<M: Names<key::Timer>>(_disk: &Disk) {}
