//! HwAdapterControl(ScsiAdapterSurpriseRemoval) may not open cells of the StartIo lock
//! without taking the lock: Storport holds no lock there. It may take every lock, in the
//! order StartIo, Dpc, Interrupt.
//! storport-rules.md HwAdapterControl, O3.

#![no_std]

#[cfg(right)]
use storport::{DpcLocked, InterruptLocked};
use storport::{StartIoLocked, SurpriseRemoval};

pub fn surprise_removal<'a>(
    cx: &mut SurpriseRemoval<'_, 'a>,
    ids: &StartIoLocked<'a, u32>,
    #[cfg(right)] queue: &DpcLocked<'a, u32>,
    #[cfg(right)] events: &InterruptLocked<'a, u32>,
) {
    #[cfg(wrong)]
    {
        *ids.open(cx) += 1;
        //~[wrong]^ ERROR: [E0277] `storport::SurpriseRemoval<'_, 'a>` does not prove that the lock of this cell is held
    }
    #[cfg(right)]
    ids.with(cx, |ids| {
        queue.with(ids, |queue| {
            events.with(queue, |events| **events += 1);
        });
    });
}
