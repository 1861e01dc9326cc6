//! Random numbers, which Miri's seed chooses.

use std::{collections::hash_map::RandomState, hash::BuildHasher};

/// Random numbers.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Numbers of a seed of their own.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "two are not alike")]
    pub fn new() -> Self {
        Self(RandomState::new().hash_one(0) | 1)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}
