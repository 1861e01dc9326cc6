//! Pool may be freed only once.
//! storport-rules.md StorPortAllocatePool, StorPortAllocatePool2.

#![no_std]

use storport::{BuildIo, Pool};

pub fn removed<'a>(cx: &mut BuildIo<'_, 'a>, pool: Pool<'a, u8>) {
    cx.free(pool);
    #[cfg(wrong)]
    cx.free(pool);
    //~[wrong]^ ERROR: [E0382] use of moved value: `pool`
}
