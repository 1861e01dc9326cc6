//! HwRegistryNotification takes no lock: what Storport holds there is not
//! documented. A work item does what needs one.
//! Rule book 2 (HwRegistryNotification).

#![no_std]

use storport::{Context, DpcLocked, RegistryChange, Work};

pub fn registry_changed<'a>(cx: &mut RegistryChange<'_, 'a>, depth: &DpcLocked<'a, u32>) {
    #[cfg(wrong)]
    {
        let wanted = cx.registry_u32(c"QueueDepth").unwrap_or(1);
        depth.with(cx, |depth| **depth = wanted);
        //~[wrong]^ ERROR: [E0277] no lock may be taken from `RegistryChange<'_, 'a>`
    }
    #[cfg(right)]
    {
        let _ = depth;
        cx.queue_work(0);
    }
}

pub fn work<'a>(cx: &mut Work<'_, 'a>, depth: &DpcLocked<'a, u32>) {
    let wanted = cx.registry_u32(c"QueueDepth").unwrap_or(1);
    depth.with(cx, |depth| **depth = wanted);
}
