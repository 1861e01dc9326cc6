//! DpcLevelLock is the lock of a DPC object, so it may not be taken under the lock of
//! another DPC object.
//! storport-rules.md STOR_SPINLOCK, O4.

#![no_std]

use storport::{Dpc, DpcLocked, StorStatus};

pub fn dpc<'a>(
    cx: &mut Dpc<'_, 'a>,
    one: &DpcLocked<'a, u32>,
    other: &DpcLocked<'a, u32>,
) -> Result<(), StorStatus> {
    #[cfg(wrong)]
    return one.with(cx, |one| other.with_at_dpc_level(one, |other| **other += 1));
    //~[wrong]^ ERROR: [E0277] `Guard<'_, '_, u32, DpcHeld>` is not known to run at DISPATCH_LEVEL
    //~[wrong]| ERROR: [E0277] wrong lock order: at level `DpcHeld`, a lock of level `DpcHeld` may not be taken
    #[cfg(right)]
    {
        let sum = one.with(cx, |one| **one);
        other.with_at_dpc_level(cx, |other| **other += sum)
    }
}
