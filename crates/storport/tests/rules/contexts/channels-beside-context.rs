//! While the result of `channels` is in use, no lock may be taken with the context that
//! returned it.
//! storport-rules.md L5, HwStartIo.

#![no_std]

use storport::{Channels, DpcLocked, StartIo, StartIoLocked};

pub fn start_io<'a>(
    cx: &mut StartIo<'_, 'a>,
    ids: &StartIoLocked<'a, u32>,
    queue: &DpcLocked<'a, u32>,
) {
    if let Channels::Serial(mut serial) = cx.channels() {
        let id = ids.open(&mut serial);
        #[cfg(wrong)]
        queue.with(cx, |queue| **queue = *id);
        //~[wrong]^ ERROR: [E0499] cannot borrow `*cx` as mutable more than once at a time
        #[cfg(right)]
        {
            let id = *id;
            queue.with(&mut serial, |queue| **queue = id);
        }
    }
}
