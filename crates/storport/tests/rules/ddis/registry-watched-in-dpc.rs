//! The registry is watched from PASSIVE_LEVEL.
//! Rule book 3.1 (HwRegistryNotification), 3.6.

#![no_std]

use storport::Context;
#[cfg(wrong)]
use storport::Dpc;
#[cfg(right)]
use storport::PassiveInitialize;

#[cfg(wrong)]
pub fn dpc(cx: &mut Dpc<'_, '_>) {
    let _ = cx.watch_registry();
    //~[wrong]^ ERROR: [E0277] `Dpc<'_, '_>` does not run at PASSIVE_LEVEL
}

#[cfg(right)]
pub fn passive_initialize(cx: &mut PassiveInitialize<'_, '_>) {
    let _ = cx.watch_registry();
}
