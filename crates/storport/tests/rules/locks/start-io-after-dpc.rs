//! The StartIo lock may not be taken while a DPC lock is held. In other callbacks
//! Storport holds the StartIo lock while the driver takes a DPC lock, so two processors
//! could wait for each other.
//! storport-rules.md O3, StorPortSpinLock3.

#![no_std]

use storport::{BuildIo, DpcLocked, StartIoLocked};

pub fn build_io<'a>(
    cx: &mut BuildIo<'_, 'a>,
    first: &StartIoLocked<'a, u32>,
    second: &DpcLocked<'a, u32>,
) {
    #[cfg(wrong)]
    second.with(cx, |second| {
        let (second, held) = second.split();
        first.with(held, |first| **first += *second);
        //~[wrong]^ ERROR: [E0277] wrong lock order: at level `DpcHeld`, a lock of level `StartIoHeld` may not be taken
    });
    #[cfg(right)]
    first.with(cx, |first| {
        let (first, held) = first.split();
        second.with(held, |second| *first += **second);
    });
}
