//! HwPassiveInitialize may not take a lock, although Storport holds none. The context
//! opens the cells of the StartIo lock and of DPC locks, which no other callback uses at
//! the same time.
//! storport-rules.md HwPassiveInitialize.

#![no_std]

use storport::{DpcLocked, PassiveInitialize, StartIoLocked};

pub fn passive_initialize<'a>(
    cx: &mut PassiveInitialize<'_, 'a>,
    next: &StartIoLocked<'a, u32>,
    queue: &DpcLocked<'a, u32>,
) {
    #[cfg(wrong)]
    queue.with(cx, |queue| **queue = 1);
    //~[wrong]^ ERROR: [E0277] no lock may be taken in `storport::PassiveInitialize<'_, 'a>`
    #[cfg(right)]
    {
        *queue.open(cx) = 1;
    }
    *next.open(cx) = 1;
}
