//! Locks are released in the reverse order of their acquisition, because each one has the
//! IRQL to return to. The guard of an inner lock cannot outlive that of the outer lock.
//! storport-rules.md L3.

#![no_std]

use storport::{BuildIo, DpcLocked, InterruptLocked};

pub fn build_io<'a>(
    cx: &mut BuildIo<'_, 'a>,
    queue: &DpcLocked<'a, u32>,
    events: &InterruptLocked<'a, u32>,
) -> u32 {
    queue.with(cx, |queue| {
        let (queue, held) = queue.split();
        #[cfg(wrong)]
        {
            let mut outer: Option<&mut u32> = None;
            events.with(held, |events| outer = Some(&mut **events));
            //~[wrong]^ ERROR: [E0521] borrowed data escapes outside of closure
            outer.map_or(*queue, |events| *events)
        }
        #[cfg(right)]
        {
            let events = events.with(held, |events| **events);
            events + *queue
        }
    })
}
