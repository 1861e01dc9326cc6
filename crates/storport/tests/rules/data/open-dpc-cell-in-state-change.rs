//! HwStateChange may not open the cell of a DPC lock without taking the lock: the StartIo
//! lock does not exclude DPCs.
//! storport-rules.md HwStateChange.

#![no_std]

use storport::{DpcLocked, StateChange};

pub fn state_changed<'a>(cx: &mut StateChange<'_, 'a>, cell: &DpcLocked<'a, u32>) {
    #[cfg(wrong)]
    {
        *cell.open(cx) += 1;
        //~[wrong]^ ERROR: [E0277] `storport::StateChange<'_, 'a>` does not prove that the lock of this cell is held
    }
    #[cfg(right)]
    cell.with(cx, |cell| **cell += 1);
}
