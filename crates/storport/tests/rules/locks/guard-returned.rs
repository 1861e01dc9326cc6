//! A guard cannot leave its closure, because the lock is released when the closure ends.
//! Copy the needed data out instead.
//! storport-rules.md L4, StorPortSpinLock.

#![no_std]

use storport::{Dpc, DpcLocked};

pub fn dpc<'a>(cx: &mut Dpc<'_, 'a>, served: &DpcLocked<'a, u32>) -> u32 {
    #[cfg(wrong)]
    return *served.with(cx, |served| &mut **served);
    //~[wrong]^ ERROR: lifetime may not live long enough
    //~[wrong]| ERROR: lifetime may not live long enough
    #[cfg(right)]
    served.with(cx, |served| **served)
}
