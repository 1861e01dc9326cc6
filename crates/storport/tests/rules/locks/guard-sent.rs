//! A guard cannot be sent to another processor, because the lock and the IRQL to return
//! to belong to this processor. Send a copy of the data instead.
//! storport-rules.md L1, L3.

#![no_std]

use storport::{Dpc, DpcLocked};

/// Passes `work` to another processor.
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
