//! A guard stays on its processor: the lock and the IRQL to return to are that
//! one's. Another processor is told what was read, not handed the guard.
//! storport-rules.md L1, L3.

#![no_std]

use storport::{Dpc, DpcLocked};

/// Hands `work` to another processor.
fn elsewhere<T: Send>(_work: T) {}

pub fn dpc<'a>(cx: &mut Dpc<'_, 'a>, served: &DpcLocked<'a, u32>) {
    served.with(cx, |served| {
        #[cfg(wrong)]
        elsewhere(served);
        //~[wrong]^ ERROR: [E0277] `*mut ()` cannot be sent between threads safely
        #[cfg(right)]
        elsewhere(**served);
    });
}
