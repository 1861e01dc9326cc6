//! HwAdapterControl(ScsiRestartAdapter) takes no lock: whether Storport holds the
//! interrupt lock is not known. No request and no DPC runs meanwhile, so what
//! lies under the StartIo lock or a DPC lock opens with the context.
//! storport-rules.md HwAdapterControl, X1.

#![no_std]

use storport::{DpcLocked, Restart};

pub fn restart<'a>(cx: &mut Restart<'_, 'a>, queue: &DpcLocked<'a, u32>) {
    #[cfg(wrong)]
    queue.with(cx, |queue| **queue = 0);
    //~[wrong]^ ERROR: [E0277] no lock may be taken in `Restart<'_, 'a>`
    #[cfg(right)]
    {
        *queue.open(cx) = 0;
    }
}
