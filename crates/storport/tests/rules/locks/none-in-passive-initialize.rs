//! HwPassiveInitialize takes no lock, although none is held. HwInitialize, which
//! ran before it, opens every cell.
//! Rule book 2 (HwPassiveInitialize), 3.1.

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
    events.with(cx, |events| **events = 1);
    //~[wrong]^ ERROR: [E0277] no lock may be taken from `PassiveInitialize<'_, 'a>`
}

#[cfg(right)]
pub fn initialize<'a>(cx: &mut Initialize<'_, 'a>, events: &InterruptLocked<'a, u32>) {
    *events.open(cx) = 1;
}
