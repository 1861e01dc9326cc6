//! Neither a guard nor a reference to its data can be kept after the closure.
//! storport-rules.md L4, StorPortSpinLock.

#![no_std]

use storport::{Dpc, DpcLocked};

pub fn dpc<'a>(cx: &mut Dpc<'_, 'a>, served: &DpcLocked<'a, u32>) -> Option<u32> {
    let mut last = None;
    #[cfg(wrong)]
    served.with(cx, |served| last = Some(&mut **served));
    //~[wrong]^ ERROR: [E0521] borrowed data escapes outside of closure
    #[cfg(right)]
    served.with(cx, |served| last = Some(**served));
    #[cfg(wrong)]
    let last = last.copied();
    last
}
