//! HwPassiveInitialize may not open cells of the interrupt lock: the adapter may already
//! interrupt.
//! storport-rules.md HwPassiveInitialize.

#![no_std]

#[cfg(right)]
use storport::Initialize;
use storport::InterruptLocked;
#[cfg(wrong)]
use storport::PassiveInitialize;

#[cfg(wrong)]
pub fn passive_initialize<'a>(
    cx: &mut PassiveInitialize<'_, 'a>,
    events: &InterruptLocked<'a, u32>,
) {
    *events.open(cx) = 1;
    //~[wrong]^ ERROR: [E0277] `storport::PassiveInitialize<'_, 'a>` does not prove that the lock of this cell is held
}

#[cfg(right)]
pub fn initialize<'a>(cx: &mut Initialize<'_, 'a>, events: &InterruptLocked<'a, u32>) {
    *events.open(cx) = 1;
}
