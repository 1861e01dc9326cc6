//! A guard has no routines: it shows which lock is held, but not at which IRQL the code
//! runs.
//! storport-rules.md L8, STOR_SPINLOCK, StorPortIrql.

#![no_std]

use storport::{Dpc, DpcLocked, Pool};

pub fn dpc<'a>(cx: &mut Dpc<'_, 'a>, queue: &DpcLocked<'a, Option<Pool<'a, u8>>>) {
    #[cfg(wrong)]
    queue.with(cx, |queue| {
        let (queue, held) = queue.split();
        *queue = held.allocate(512, |_| 0).ok();
        //~[wrong]^ ERROR: [E0599] no method named `allocate` found for mutable reference `&mut Held<'_, DpcHeld>` in the current scope
    });
    #[cfg(right)]
    {
        let pool = cx.allocate(512, |_| 0).ok();
        queue.with(cx, |queue| **queue = pool);
    }
}
