//! HwAdapterControl(ScsiStopAdapter) may not take a lock: it is not known whether
//! Storport holds the interrupt lock. Data that it needs must be atomic.
//! storport-rules.md HwAdapterControl, X1.

#![no_std]

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use storport::{InterruptLocked, Stop};

pub fn stop<'a>(cx: &mut Stop<'_, 'a>, events: &InterruptLocked<'a, u32>, seen: &AtomicU32) {
    #[cfg(wrong)]
    events.with(cx, |events| seen.store(**events, Relaxed));
    //~[wrong]^ ERROR: [E0277] no lock may be taken in `Stop<'_, 'a>`
    #[cfg(right)]
    {
        let _ = (cx, events);
        seen.store(0, Relaxed);
    }
}
