//! HwTimer may not open cells of the interrupt lock without taking the lock: the StartIo
//! lock does not exclude interrupt routines.
//! storport-rules.md HwTimer.

#![no_std]

use storport::{InterruptLocked, Timer};

pub fn timer<'a>(cx: &mut Timer<'_, 'a>, cell: &InterruptLocked<'a, u32>) {
    #[cfg(wrong)]
    {
        *cell.open(cx) += 1;
        //~[wrong]^ ERROR: [E0277] `storport::Timer<'_, 'a>` does not prove that the lock of this cell is held
    }
    #[cfg(right)]
    cell.with(cx, |cell| **cell += 1);
}
