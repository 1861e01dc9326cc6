//! A context opens one cell at a time, so no cell can be opened twice.
//! storport-rules.md L5.

#![no_std]

use storport::{Interrupt, InterruptLocked};

pub fn interrupt<'a>(cx: &mut Interrupt<'_, 'a>, events: &InterruptLocked<'a, [u32; 2]>) {
    #[cfg(wrong)]
    {
        let [first, _] = events.open(cx);
        let [_, second] = events.open(cx);
        //~[wrong]^ ERROR: [E0499] cannot borrow `*cx` as mutable more than once at a time
        *first += *second;
    }
    #[cfg(right)]
    {
        let [first, second] = events.open(cx);
        *first += *second;
    }
}
