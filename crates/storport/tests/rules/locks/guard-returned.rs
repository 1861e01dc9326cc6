//! A guard does not leave its closure: when the closure ends the lock is
//! released. What is wanted of the data is copied out.
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
