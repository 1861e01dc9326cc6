//! HwAdapterControl(ScsiRestartAdapter) may not take a lock: it is not known whether
//! Storport holds the interrupt lock. No request and no DPC runs at the same time, so the
//! context opens the cells of the StartIo lock and of DPC locks.
//! storport-rules.md HwAdapterControl, X1.

#![no_std]

use storport::{DpcLocked, Restart};

pub fn restart<'a>(cx: &mut Restart<'_, 'a>, queue: &DpcLocked<'a, u32>) {
    #[cfg(wrong)]
    queue.with(cx, |queue| **queue = 0);
    //~[wrong]^ ERROR: [E0277] no lock may be taken in `Restart<'_, 'a>`
    #[cfg(right)]
    {
        *queue.open(cx) = 0;
    }
}
