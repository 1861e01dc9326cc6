//! While a lock is held, the context that it was taken with is borrowed, so it cannot
//! take another lock. Further locks are taken with the guard, whose type shows which lock
//! is held.
//! storport-rules.md L3, L5, StorPortSpinLock.

#![no_std]

use storport::{Dpc, DpcLocked, InterruptLocked};

pub fn dpc<'a>(
    cx: &mut Dpc<'_, 'a>,
    queue: &DpcLocked<'a, u32>,
    events: &InterruptLocked<'a, u32>,
) {
    #[cfg(wrong)]
    queue.with(cx, |queue| {
        //~[wrong]^ ERROR: [E0501] cannot borrow `*cx` as mutable
        //~[wrong]| ERROR: [E0500] closure requires unique access to `*cx`
        events.with(cx, |events| **queue += **events);
    });
    #[cfg(right)]
    queue.with(cx, |queue| {
        let (queue, held) = queue.split();
        events.with(held, |events| *queue += **events);
    });
}
