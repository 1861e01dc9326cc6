//! A guard cannot be stored in the state of an adapter, where another processor could use
//! it.
//! storport-rules.md L1, L4.

#![no_std]

use storport::{DpcLocked, Guard, level::DpcHeld};

/// Checks the requirement on a miniport's state.
fn is_state<T: Sync>() {}

pub fn state() {
    #[cfg(wrong)]
    is_state::<Option<Guard<'static, 'static, u32, DpcHeld>>>();
    //~[wrong]^ ERROR: [E0277] `*mut ()` cannot be shared between threads safely
    #[cfg(right)]
    is_state::<Option<DpcLocked<'static, u32>>>();
}

/// A use of a guard in the closure that it is made for.
pub fn one_more(served: &mut Guard<'_, '_, u32, DpcHeld>, _all: &DpcLocked<'_, u32>) {
    **served += 1;
}
