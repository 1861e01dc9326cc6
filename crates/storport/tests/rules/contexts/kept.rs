//! A context cannot be kept after its callback, because its IRQL and locks hold only
//! during the call.
//! storport-rules.md L4, Callbacks.

#![no_std]

use storport::Dpc;
#[cfg(right)]
use storport::DpcNumber;

pub fn dpc<'c, 'a>(
    cx: &'c mut Dpc<'c, 'a>,
    #[cfg(wrong)] last: &mut Option<&'a Dpc<'a, 'a>>,
    #[cfg(right)] last: &mut Option<DpcNumber>,
) {
    #[cfg(wrong)]
    {
        *last = Some(cx);
        //~[wrong]^ ERROR: lifetime may not live long enough
    }
    #[cfg(right)]
    {
        *last = Some(cx.number());
    }
}
