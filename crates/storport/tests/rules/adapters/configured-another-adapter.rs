//! What an adapter was configured with says nothing of another adapter.
//! Rule book 3.1 (HwFindAdapter).

#![no_std]

use storport::{AdapterLimits, Configured, FindAdapter};

pub fn find_adapter<'a, 'b>(
    cx: &mut FindAdapter<'_, 'a>,
    another: &mut FindAdapter<'_, 'b>,
    limits: &AdapterLimits,
) -> Configured<'a> {
    let (one, other) = (cx.configure(limits), another.configure(limits));
    #[cfg(wrong)]
    return other;
    //~[wrong]^ ERROR: lifetime may not live long enough
    //~[wrong]| ERROR: lifetime may not live long enough
    #[cfg(right)]
    {
        let _ = other;
        one
    }
}
