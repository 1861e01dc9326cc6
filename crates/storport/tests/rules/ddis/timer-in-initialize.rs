//! The timer is asked for when the adapter runs: its routine takes locks, which
//! HwInitialize's data knows nothing of.
//! Rule book 2 (HwTimer), 3.2.

#![no_std]

use storport::Context;
#[cfg(wrong)]
use storport::Initialize;
#[cfg(right)]
use storport::PassiveInitialize;

#[cfg(wrong)]
pub fn initialize(cx: &mut Initialize<'_, '_>) {
    let _ = cx.request_timer(core::num::NonZero::<u32>::MIN);
    //~[wrong]^ ERROR: [E0277] in `Initialize<'_, '_>` the adapter is not running
}

#[cfg(right)]
pub fn passive_initialize(cx: &mut PassiveInitialize<'_, '_>) {
    let _ = cx.request_timer(core::num::NonZero::<u32>::MIN);
}
