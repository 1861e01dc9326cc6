//! The StartIo lock may not be taken while the interrupt lock is held.
//! storport-rules.md O1, O2, StorPortSpinLock3.

#![no_std]

use storport::{BuildIo, InterruptLocked, StartIoLocked};

pub fn build_io<'a>(
    cx: &mut BuildIo<'_, 'a>,
    first: &StartIoLocked<'a, u32>,
    second: &InterruptLocked<'a, u32>,
) {
    #[cfg(wrong)]
    second.with(cx, |second| {
        let (second, held) = second.split();
        first.with(held, |first| **first += *second);
        //~[wrong]^ ERROR: [E0277] wrong lock order: at level `InterruptHeld`, a lock of level `StartIoHeld` may not be taken
    });
    #[cfg(right)]
    first.with(cx, |first| {
        let (first, held) = first.split();
        second.with(held, |second| *first += **second);
    });
}
