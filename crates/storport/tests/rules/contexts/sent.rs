//! A context cannot be sent to another processor, because the IRQL and the locks belong
//! to this processor.
//! storport-rules.md Callbacks.

#![no_std]

use storport::Dpc;

/// Passes `work` to another processor.
fn elsewhere<T: Send>(_work: T) {}

pub fn dpc(cx: &mut Dpc<'_, '_>) {
    #[cfg(wrong)]
    elsewhere(cx);
    //~[wrong]^ ERROR: [E0277] `*mut ()` cannot be sent between threads safely
    #[cfg(right)]
    elsewhere(cx.number());
}
