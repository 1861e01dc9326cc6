//! A guard cannot be moved out of its place. Only the reference to it can be forgotten,
//! which has no effect: `with` releases the lock, whichever way the closure ends.
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
