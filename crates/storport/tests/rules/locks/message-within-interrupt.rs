//! The lock of a message may not be taken while the interrupt lock is held, which
//! includes it.
//! storport-rules.md O5.

#![no_std]

use storport::{BuildIo, InterruptLocked, MessageLocked};

pub fn build_io<'a>(
    cx: &mut BuildIo<'_, 'a>,
    one: &InterruptLocked<'a, u32>,
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
