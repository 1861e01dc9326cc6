//! A lock that is held may not be taken again. Storport's locks are not recursive: the
//! second acquisition would wait for ever.
//! storport-rules.md L5, StorPortSpinLock.

#![no_std]

use storport::{Dpc, DpcLocked};

pub fn dpc<'a>(cx: &mut Dpc<'_, 'a>, served: &DpcLocked<'a, u32>) {
    #[cfg(wrong)]
    served.with(cx, |count| {
        let (count, held) = count.split();
        served.with(held, |again| *count += **again);
        //~[wrong]^ ERROR: [E0277] wrong lock order: at level `DpcHeld`, a lock of level `DpcHeld` may not be taken
    });
    #[cfg(right)]
    served.with(cx, |count| **count += 1);
}
