//! A context cannot be lent to another processor.
//! storport-rules.md Callbacks.

#![no_std]

use storport::Dpc;

/// Lends `work` to another processor.
fn elsewhere<T: Sync>(_work: &T) {}

pub fn dpc(cx: &mut Dpc<'_, '_>) {
    #[cfg(wrong)]
    elsewhere(cx);
    //~[wrong]^ ERROR: [E0277] `*mut ()` cannot be shared between threads safely
    #[cfg(right)]
    elsewhere(&cx.number());
}
