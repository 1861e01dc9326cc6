//! HwResetBus may not open cells of the interrupt lock without taking the lock: the
//! StartIo lock does not exclude interrupt routines.
//! storport-rules.md HwResetBus.

#![no_std]

use storport::{InterruptLocked, ResetBus};

pub fn reset_bus<'a>(cx: &mut ResetBus<'_, 'a>, cell: &InterruptLocked<'a, u32>) {
    #[cfg(wrong)]
    {
        *cell.open(cx) += 1;
        //~[wrong]^ ERROR: [E0277] `storport::ResetBus<'_, 'a>` does not prove that the lock of this cell is held
    }
    #[cfg(right)]
    cell.with(cx, |cell| **cell += 1);
}
