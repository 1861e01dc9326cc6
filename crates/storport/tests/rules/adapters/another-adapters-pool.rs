//! Pool may only be freed through the adapter that allocated it.
//! storport-rules.md StorPortAllocatePool.

#![no_std]

use storport::{BuildIo, Pool};

pub fn removed<'a, 'b>(
    cx: &mut BuildIo<'_, 'a>,
    #[cfg(wrong)] pool: Pool<'b, u8>,
    #[cfg(right)] pool: Pool<'a, u8>,
    _another: &Pool<'b, u8>,
) {
    cx.free(pool);
    //~[wrong]^ ERROR: lifetime may not live long enough
    //~[wrong]| ERROR: lifetime may not live long enough
}
