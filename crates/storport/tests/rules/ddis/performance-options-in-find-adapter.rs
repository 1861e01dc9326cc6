//! Performance options may only be set while the adapter is initialised.
//! storport-rules.md StorPortInitializePerfOpts, PERF_CONFIGURATION_DATA.

#![no_std]

#[cfg(wrong)]
use storport::FindAdapter;
#[cfg(right)]
use storport::Initialize;

#[cfg(wrong)]
pub fn find_adapter(cx: &mut FindAdapter<'_, '_>) {
    let _ = cx.optimize(&storport::Performance::default());
    //~[wrong]^ ERROR: [E0277] performance options cannot be set in `FindAdapter<'_, '_>`
}

#[cfg(right)]
pub fn initialize(cx: &mut Initialize<'_, '_>) {
    let _ = cx.optimize(&storport::Performance::default());
}
