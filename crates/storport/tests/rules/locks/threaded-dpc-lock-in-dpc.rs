//! Only a threaded DPC may take ThreadedDpcLock.
//! storport-rules.md STOR_SPINLOCK.

#![no_std]

#[cfg(wrong)]
use storport::Dpc;
#[cfg(right)]
use storport::ThreadedDpc;
use storport::{DpcLocked, StorStatus};

#[cfg(wrong)]
pub fn dpc<'a>(cx: &mut Dpc<'_, 'a>, queue: &DpcLocked<'a, u32>) -> Result<(), StorStatus> {
    queue.with_in_threaded_dpc(cx, |queue| **queue += 1)
    //~[wrong]^ ERROR: [E0308] mismatched types
}

#[cfg(right)]
pub fn threaded_dpc<'a>(
    cx: &mut ThreadedDpc<'_, 'a>,
    queue: &DpcLocked<'a, u32>,
) -> Result<(), StorStatus> {
    queue.with_in_threaded_dpc(cx, |queue| **queue += 1)
}
