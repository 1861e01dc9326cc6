//! A context cannot be copied. A second context could take a lock while the first one
//! holds a lock.
//! storport-rules.md L5, Callbacks.

#![no_std]

use storport::{Dpc, DpcLocked};

pub fn dpc<'a>(cx: &mut Dpc<'_, 'a>, served: &DpcLocked<'a, u32>) {
    #[cfg(wrong)]
    let cx = &mut { *cx };
    //~[wrong]^ ERROR: [E0507] cannot move out of `*cx` which is behind a mutable reference
    served.with(cx, |served| **served += 1);
}
