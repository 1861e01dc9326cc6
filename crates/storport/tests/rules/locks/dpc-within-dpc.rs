//! DPC locks may not be nested. Storport defines no order for them, so two processors
//! that take two of them could wait for each other. Release the first one before the
//! second one is taken.
//! storport-rules.md O4.

#![no_std]

use storport::{BuildIo, DpcLocked};

pub fn build_io<'a>(
    cx: &mut BuildIo<'_, 'a>,
    one: &DpcLocked<'a, u32>,
    other: &DpcLocked<'a, u32>,
) {
    #[cfg(wrong)]
    one.with(cx, |one| {
        let (one, held) = one.split();
        other.with(held, |other| *one += **other);
        //~[wrong]^ ERROR: [E0277] wrong lock order: at level `DpcHeld`, a lock of level `DpcHeld` may not be taken
    });
    #[cfg(right)]
    {
        let sum = one.with(cx, |one| **one);
        other.with(cx, |other| **other += sum);
    }
}
