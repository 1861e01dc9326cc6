//! The result of `channels` holds for one call of HwStartIo. It cannot be kept for the
//! next call.
//! storport-rules.md HwStartIo.

#![no_std]

use storport::{Channels, StartIo};

pub fn start_io<'a>(
    cx: &mut StartIo<'a, 'a>,
    #[cfg(wrong)] last: &mut Option<Channels<'a, 'a>>,
    #[cfg(right)] last: &mut Option<bool>,
) {
    #[cfg(wrong)]
    {
        *last = Some(cx.channels());
        //~[wrong]^ ERROR: [E0621] explicit lifetime required in the type of `cx`
    }
    #[cfg(right)]
    {
        *last = Some(matches!(cx.channels(), Channels::Serial(_)));
    }
}
