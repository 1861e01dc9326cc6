//! The uncached extension may only be taken after `configure`, because Storport must know
//! first whether the adapter is a bus master.
//! storport-rules.md StorPortGetUncachedExtension.

#![no_std]

use storport::{AdapterLimits, FindAdapter, UncachedExtension};

pub fn find_adapter<'a>(
    cx: &mut FindAdapter<'_, 'a>,
    limits: &AdapterLimits,
) -> Option<UncachedExtension<'a>> {
    #[cfg(wrong)]
    return cx.uncached_extension(limits, 4096);
    //~[wrong]^ ERROR: [E0308] mismatched types
    #[cfg(right)]
    {
        let configured = cx.configure(limits).ok()?;
        cx.uncached_extension(&configured, 4096)
    }
}
