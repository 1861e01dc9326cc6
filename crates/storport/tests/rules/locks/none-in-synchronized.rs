//! A routine of StorPortSynchronizeAccess runs with the interrupt lock held, so it may
//! not take another lock.
//! storport-rules.md STOR_SYNCHRONIZED_ACCESS, O1.

#![no_std]

use storport::{BuildIo, DpcLocked, InterruptLocked};

pub fn build_io<'a>(
    cx: &mut BuildIo<'_, 'a>,
    queue: &DpcLocked<'a, u32>,
    events: &InterruptLocked<'a, u32>,
) {
    #[cfg(wrong)]
    events.synchronize(cx, |events| {
        let (events, held) = events.split();
        queue.with(held, |queue| **queue += *events);
        //~[wrong]^ ERROR: [E0277] wrong lock order: at level `InterruptHeld`, a lock of level `DpcHeld` may not be taken
    });
    #[cfg(right)]
    queue.with(cx, |queue| {
        let (queue, held) = queue.split();
        events.synchronize(held, |events| *queue += **events);
    });
}
