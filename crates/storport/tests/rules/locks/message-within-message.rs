//! The locks of messages may not be nested, for the same reason as DPC locks.
//! storport-rules.md O6.

#![no_std]

use storport::{BuildIo, MessageLocked};

pub fn build_io<'a>(
    cx: &mut BuildIo<'_, 'a>,
    one: &MessageLocked<'a, u32>,
    other: &MessageLocked<'a, u32>,
) {
    #[cfg(wrong)]
    one.with(cx, |one| {
        let (one, held) = one.split();
        other.with(held, |other| *one += **other);
        //~[wrong]^ ERROR: [E0277] wrong lock order: at level `InterruptHeld`, a lock of level `InterruptHeld` may not be taken
    });
    #[cfg(right)]
    {
        let sum = one.with(cx, |one| **one);
        other.with(cx, |other| **other += sum);
    }
}
