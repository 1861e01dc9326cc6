//! HwInterrupt may not open the cell of a DPC lock: it may interrupt code that has the
//! cell open. It issues the DPC instead.
//! storport-rules.md HwInterrupt.

#![no_std]

use storport::{DpcLocked, Interrupt};

pub fn interrupt<'a>(cx: &mut Interrupt<'_, 'a>, queue: &DpcLocked<'a, u32>) {
    #[cfg(wrong)]
    {
        *queue.open(cx) += 1;
        //~[wrong]^ ERROR: [E0277] `Interrupt<'_, 'a>` does not prove that the lock of this cell is held
    }
    #[cfg(right)]
    queue.issue(cx);
}
