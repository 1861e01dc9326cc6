//! Under a lock no routine may be called that the IRQL forbids. The interrupt lock raises
//! the IRQL to DIRQL, where pool cannot be allocated. Allocate it before.
//! storport-rules.md L8, STOR_SPINLOCK, X9, StorPortIrql.

#![no_std]

use storport::{Dpc, InterruptLocked, Pool};

pub fn dpc<'a>(cx: &mut Dpc<'_, 'a>, events: &InterruptLocked<'a, Option<Pool<'a, u8>>>) {
    #[cfg(wrong)]
    events.with(cx, |events| **events = cx.allocate(512, |_| 0).ok());
    //~[wrong]^ ERROR: [E0502] cannot borrow `*cx` as mutable because it is also borrowed as immutable
    #[cfg(right)]
    {
        let pool = cx.allocate(512, |_| 0).ok();
        events.with(cx, |events| **events = pool);
    }
}
