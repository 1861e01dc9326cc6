//! HwStartIo may not open cells of the interrupt lock without taking the lock: in full
//! duplex Storport does not hold it.
//! storport-rules.md HwStartIo, SynchronizationModel.

#![no_std]

use storport::{InterruptLocked, StartIo};

pub fn start_io<'a>(cx: &mut StartIo<'_, 'a>, cell: &InterruptLocked<'a, u32>) {
    #[cfg(wrong)]
    {
        *cell.open(cx) += 1;
        //~[wrong]^ ERROR: [E0277] `StartIo<'_, 'a>` does not prove that the lock of this cell is held
    }
    #[cfg(right)]
    cell.with(cx, |cell| **cell += 1);
}
