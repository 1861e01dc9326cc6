//! A guard is not taken out of its place. What can be forgotten is the borrow of
//! it, which changes nothing: `with` releases the lock, not the guard, and does so
//! on every way out of the closure.
//! storport-rules.md L1, L2, L4, StorPortSpinLock, StorPortSpinLock4.

#![no_std]

use core::mem::forget;

use storport::{Dpc, DpcLocked};

pub fn dpc<'a>(cx: &mut Dpc<'_, 'a>, served: &DpcLocked<'a, u32>) -> Option<u32> {
    served.with(cx, |served| {
        let before = served.checked_sub(1)?;
        #[cfg(wrong)]
        forget(*served);
        //~[wrong]^ ERROR: [E0507] cannot move out of `*served` which is behind a mutable reference
        #[cfg(right)]
        #[expect(forgetting_references, reason = "the lock is released all the same")]
        forget(served);
        Some(before)
    })
}
