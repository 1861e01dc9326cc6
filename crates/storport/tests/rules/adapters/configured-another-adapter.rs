//! The `Configured` of one adapter cannot be used for another.
//! storport-rules.md HwFindAdapter.

#![no_std]

use storport::{AdapterLimits, Configured, FindAdapter, LimitsError};

pub fn find_adapter<'a, 'b>(
    cx: &mut FindAdapter<'_, 'a>,
    another: &mut FindAdapter<'_, 'b>,
    limits: &AdapterLimits,
) -> Result<Configured<'a>, LimitsError> {
    #[cfg(wrong)]
    let configured = another.configure(limits);
    #[cfg(right)]
    let configured = cx.configure(limits);
    let _ = (cx, another);
    configured
    //~[wrong]^ ERROR: lifetime may not live long enough
    //~[wrong]| ERROR: lifetime may not live long enough
}
