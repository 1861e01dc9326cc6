//! The guard of one cell cannot open another cell, because each cell has its own lock.
//! storport-rules.md STOR_SPINLOCK, X10.

#![no_std]

use storport::{Dpc, DpcLocked};

pub fn dpc<'a>(cx: &mut Dpc<'_, 'a>, one: &DpcLocked<'a, u32>, other: &DpcLocked<'a, u32>) {
    #[cfg(wrong)]
    one.with(cx, |one| {
        let (one, held) = one.split();
        *one += *other.open(held);
        //~[wrong]^ ERROR: [E0277] `Held<'_, DpcHeld>` does not prove that the lock of this cell is held
    });
    #[cfg(right)]
    {
        let sum = other.with(cx, |other| **other);
        one.with(cx, |one| **one += sum);
    }
}
