//! HwRegistryNotification may not take a lock: the documentation does not say which locks
//! Storport holds there. A work item may take locks.
//! storport-rules.md HwRegistryNotification.

#![no_std]

use storport::{DpcLocked, RegistryChange, Work, callback};

pub fn registry_changed<'a, M: callback::Work>(
    cx: &mut RegistryChange<'_, 'a>,
    depth: &DpcLocked<'a, u32>,
) {
    #[cfg(wrong)]
    {
        let wanted = cx.registry_u32(c"QueueDepth").unwrap_or(1);
        depth.with(cx, |depth| **depth = wanted);
        //~[wrong]^ ERROR: [E0277] no lock may be taken in `storport::RegistryChange<'_, 'a>`
    }
    #[cfg(right)]
    {
        let _ = depth;
        let _ = cx.queue_work::<M>(0);
    }
}

pub fn work<'a>(cx: &mut Work<'_, 'a>, depth: &DpcLocked<'a, u32>) {
    let wanted = cx.registry_u32(c"QueueDepth").unwrap_or(1);
    depth.with(cx, |depth| **depth = wanted);
}
