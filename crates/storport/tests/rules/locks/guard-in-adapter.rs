//! A guard does not lie in an adapter's state, where another processor would find
//! it.
//! storport-rules.md L1, L4.

#![no_std]

use storport::{DpcLocked, Guard, level::DpcHeld};

/// What a miniport's state must be.
fn is_state<T: Sync>() {}

pub fn state() {
    #[cfg(wrong)]
    is_state::<Option<Guard<'static, 'static, u32, DpcHeld>>>();
    //~[wrong]^ ERROR: [E0277] `*mut ()` cannot be shared between threads safely
    #[cfg(right)]
    is_state::<Option<DpcLocked<'static, u32>>>();
}

/// What is held, where it is held.
pub fn one_more(served: &mut Guard<'_, '_, u32, DpcHeld>, _all: &DpcLocked<'_, u32>) {
    **served += 1;
}
