//! HwFindAdapter may not take a lock. No data is shared yet: a cell gets its data when it
//! is made.
//! storport-rules.md HwFindAdapter.

#![no_std]

use storport::{FindAdapter, InterruptLocked};

pub fn find_adapter<'a>(cx: &mut FindAdapter<'_, 'a>) -> InterruptLocked<'a, u32> {
    #[cfg(wrong)]
    {
        let events = cx.interrupt_locked(0);
        events.with(cx, |events| **events = 1);
        //~[wrong]^ ERROR: [E0277] no lock may be taken in `FindAdapter<'_, 'a>`
        events
    }
    #[cfg(right)]
    {
        cx.interrupt_locked(1)
    }
}
