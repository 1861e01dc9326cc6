//! Pool may not be used after it was freed.
//! storport-rules.md StorPortAllocatePool.

#![no_std]

use storport::{BuildIo, Pool};

pub fn removed<'a>(cx: &mut BuildIo<'_, 'a>, pool: Pool<'a, u8>) -> Option<u8> {
    #[cfg(wrong)]
    let first = pool.first();
    #[cfg(right)]
    let first = pool.first().copied();
    cx.free(pool);
    //~[wrong]^ ERROR: [E0505] cannot move out of `pool` because it is borrowed
    #[cfg(wrong)]
    let first = first.copied();
    first
}
