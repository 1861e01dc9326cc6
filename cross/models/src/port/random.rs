//! Random numbers that Miri's seed determines.

use std::{collections::hash_map::RandomState, hash::BuildHasher};

/// A generator of random numbers.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Makes a generator with a new seed.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "two are not alike")]
    pub fn new() -> Self {
        Self(RandomState::new().hash_one(0) | 1)
    }

    /// Returns a number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}
