//! DpcLevelLock may only be taken at DISPATCH_LEVEL.
//! storport-rules.md STOR_SPINLOCK.

#![no_std]

#[cfg(right)]
use storport::Dpc;
#[cfg(wrong)]
use storport::Work;
use storport::{DpcLocked, StorStatus};

#[cfg(wrong)]
pub fn work<'a>(cx: &mut Work<'_, 'a>, queue: &DpcLocked<'a, u32>) -> Result<(), StorStatus> {
    queue.with_at_dpc_level(cx, |queue| **queue += 1)
    //~[wrong]^ ERROR: [E0277] `storport::Work<'_, 'a>` is not known to run at DISPATCH_LEVEL
}

#[cfg(right)]
pub fn dpc<'a>(cx: &mut Dpc<'_, 'a>, queue: &DpcLocked<'a, u32>) -> Result<(), StorStatus> {
    queue.with_at_dpc_level(cx, |queue| **queue += 1)
}
