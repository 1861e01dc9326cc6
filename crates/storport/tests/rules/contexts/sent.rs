//! A context stays on its processor: the IRQL and the locks are that one's.
//! storport-rules.md Callbacks.

#![no_std]

use storport::Dpc;

/// Hands `work` to another processor.
fn elsewhere<T: Send>(_work: T) {}

pub fn dpc(cx: &mut Dpc<'_, '_>) {
    #[cfg(wrong)]
    elsewhere(cx);
    //~[wrong]^ ERROR: [E0277] `*mut ()` cannot be sent between threads safely
    #[cfg(right)]
    elsewhere(cx.number());
}
