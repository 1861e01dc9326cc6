//! HwDpcRoutine may not open the cell of its DPC's lock without taking the lock: Storport
//! does not hold it, and the same DPC may run on another processor.
//! storport-rules.md O10, X6.

#![no_std]

use storport::{Dpc, DpcLocked};

pub fn dpc<'a>(cx: &mut Dpc<'_, 'a>, queue: &DpcLocked<'a, u32>) {
    #[cfg(wrong)]
    {
        *queue.open(cx) += 1;
        //~[wrong]^ ERROR: [E0277] `Dpc<'_, 'a>` does not prove that the lock of this cell is held
    }
    #[cfg(right)]
    queue.with(cx, |queue| **queue += 1);
}
