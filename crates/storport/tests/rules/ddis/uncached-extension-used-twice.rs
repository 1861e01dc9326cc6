//! The uncached extension has only one owner.
//! storport-rules.md StorPortGetUncachedExtension.

#![no_std]

use storport::{UncachedExtension, UncachedParts};

pub fn queues(memory: UncachedExtension<'_>) -> [UncachedParts; 2] {
    let first = memory.into_parts();
    #[cfg(wrong)]
    let second = memory.into_parts();
    //~[wrong]^ ERROR: [E0382] use of moved value: `memory`
    #[cfg(right)]
    let second = UncachedParts {
        address: first.address,
        physical: first.physical,
        length: 0,
    };
    [first, second]
}
