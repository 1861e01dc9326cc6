//! Performance options are passed by reference, so they cannot be null.
//! storport-rules.md StorPortInitializePerfOpts, StorPortPerfOpts.

#![no_std]

use storport::{Initialize, Performance};

pub fn initialize(cx: &mut Initialize<'_, '_>) -> Performance {
    #[cfg(wrong)]
    return cx.optimize(core::ptr::null());
    //~[wrong]^ ERROR: [E0308] mismatched types
    #[cfg(right)]
    cx.optimize(&Performance::default())
}
