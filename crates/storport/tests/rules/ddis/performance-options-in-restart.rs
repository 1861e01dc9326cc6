//! A restart may not set performance options.
//! storport-rules.md StorPortInitializePerfOpts, PERF_CONFIGURATION_DATA.

#![no_std]

#[cfg(right)]
use storport::PassiveInitialize;
#[cfg(wrong)]
use storport::Restart;

#[cfg(wrong)]
pub fn restart(cx: &mut Restart<'_, '_>) {
    let _ = cx.optimize(&storport::Performance::default());
    //~[wrong]^ ERROR: [E0277] performance options cannot be set in `Restart<'_, '_>`
}

#[cfg(right)]
pub fn passive_initialize(cx: &mut PassiveInitialize<'_, '_>) {
    let _ = cx.optimize(&storport::Performance::default());
}
