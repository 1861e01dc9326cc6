//! Stamped sectors: 512 bytes that name their sector and their write, with a filling that
//! shows whether they are complete.
//!
//! So the contents of a wrong sector show what went wrong: the stamp of another sector was
//! misplaced, the stamp of an older write is stale, half a stamp is torn, and a stamp with a
//! few wrong bits was corrupted in transfer.

use std::fmt::{self, Display, Formatter};

/// Bytes of a stamp, independent of the disk's block size.
pub const SECTOR: usize = 512;

/// The first bytes of a stamp.
const MAGIC: [u8; 8] = *b"\x7FSTAMP\x01\x00";

/// The offset of the filling, after magic, sector, generation and seed.
const HEADER: usize = 32;

/// Up to so many wrong bits count as flipped bits, more as other data.
const FEW_BITS: u32 = 16;

/// So many bytes of filling do not match by chance.
const CERTAIN: usize = 8;

/// The contents of a stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The sector's number on the disk, in units of 512 bytes.
    pub sector: u64,
    /// The number of the write. Later writes of a pass have greater numbers.
    pub generation: u64,
    /// The seed of the pass.
    pub seed: u64,
}

impl Stamp {
    /// The stamp's bytes. The last two are zero, never 55 AA, so that a stamped disk does not
    /// look like one with a master boot record.
    #[must_use]
    pub fn bytes(&self) -> [u8; SECTOR] {
        let mut bytes = [0; SECTOR];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.sector.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.generation.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.seed.to_le_bytes());
        // SplitMix64 (Steele, Lea, Flood 2014): each state gives another word.
        let mut state = mix(self.seed ^ mix(self.sector ^ mix(self.generation)));
        for word in bytes[HEADER..].chunks_exact_mut(8) {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            word.copy_from_slice(&mix(state).to_le_bytes());
        }
        bytes[SECTOR - 2..].fill(0);
        bytes
    }

    /// The stamp in the header of `bytes`, complete or not.
    fn claimed_by(bytes: &[u8; SECTOR]) -> Option<Self> {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        bytes.starts_with(&MAGIC).then(|| Self {
            sector: word(8),
            generation: word(16),
            seed: word(24),
        })
    }

    /// The stamp in `bytes`, if it is complete.
    #[must_use]
    pub fn found_in(bytes: &[u8; SECTOR]) -> Option<Self> {
        Self::claimed_by(bytes).filter(|stamp| stamp.bytes() == *bytes)
    }

    /// Compares a sector with this stamp.
    ///
    /// # Errors
    /// The damage of the sector.
    pub fn check(&self, found: &[u8; SECTOR]) -> Result<(), Damage> {
        let expected = self.bytes();
        if *found == expected {
            return Ok(());
        }
        Err(self.damage(&expected, found))
    }

    fn damage(&self, expected: &[u8; SECTOR], found: &[u8; SECTOR]) -> Damage {
        let wrong_bits: u32 = expected
            .iter()
            .zip(found)
            .map(|(expected, found)| (expected ^ found).count_ones())
            .sum();
        let differs = |at: &usize| expected[*at] != found[*at];
        let first = (0..SECTOR).find(differs).unwrap_or(0);
        let end = (0..SECTOR).rev().find(differs).map_or(0, |last| last + 1);
        if wrong_bits <= FEW_BITS {
            return Damage::Flipped {
                bits: wrong_bits,
                first,
            };
        }
        if let Some(other) = Self::found_in(found) {
            return if other.seed != self.seed {
                Damage::OtherPass { seed: other.seed }
            } else if other.sector != self.sector {
                Damage::Misplaced {
                    sector: other.sector,
                    generation: other.generation,
                }
            } else {
                Damage::Stale {
                    generation: other.generation,
                }
            };
        }
        let begin_is_right = first >= HEADER + CERTAIN;
        // The last two bytes are zero in every stamp.
        let end_is_right = SECTOR - end >= CERTAIN + 2;
        match (begin_is_right, end_is_right) {
            (true, true) => Damage::Overwritten { first, end },
            (true, false) => Damage::Torn { at: first },
            (false, true) => Damage::Torn { at: end },
            (false, false) if found.iter().all(|&byte| byte == 0) => Damage::Zeros,
            (false, false) => Damage::Foreign,
        }
    }
}

/// SplitMix64's output function.
pub(crate) fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// The damage of a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A few bits differ.
    Flipped {
        /// The number of wrong bits.
        bits: u32,
        /// The offset of the first byte with a wrong bit.
        first: usize,
    },
    /// It has the complete stamp of another sector.
    Misplaced {
        /// That sector.
        sector: u64,
        /// The stamp's write.
        generation: u64,
    },
    /// It has the complete stamp of another write to this sector.
    Stale {
        /// That write.
        generation: u64,
    },
    /// It has the complete stamp of another pass: the write of this pass never arrived.
    OtherPass {
        /// That pass.
        seed: u64,
    },
    /// It has the start of one stamp and the end of another.
    Torn {
        /// The offset of the second part.
        at: usize,
    },
    /// A part in its middle has other data.
    Overwritten {
        /// The offset of that part.
        first: usize,
        /// The offset of the end of that part.
        end: usize,
    },
    /// It is all zeros.
    Zeros,
    /// It has no data of any pass.
    Foreign,
}

impl Display for Damage {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Flipped { bits, first } => {
                write!(
                    out,
                    "bits flipped: {bits} wrong bits, the first in byte {first}"
                )
            }
            Self::Misplaced { sector, generation } => write!(
                out,
                "misplaced: has the data of sector {sector}, generation {generation}"
            ),
            Self::Stale { generation } => write!(out, "stale: has generation {generation}"),
            Self::OtherPass { seed } => {
                write!(out, "stale: has data of another pass, with seed {seed}")
            }
            Self::Torn { at } => write!(out, "torn: two versions meet at byte {at}"),
            Self::Overwritten { first, end } => {
                write!(out, "overwritten: bytes {first} to {end} have other data")
            }
            Self::Zeros => write!(out, "lost: all zeros"),
            Self::Foreign => write!(out, "lost: no data of this pass"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp {
        sector: 1000,
        generation: 7,
        seed: 42,
    };

    fn damage(change: impl FnOnce(&mut [u8; SECTOR])) -> Damage {
        let mut bytes = STAMP.bytes();
        change(&mut bytes);
        STAMP.check(&bytes).expect_err("the sector was damaged")
    }

    #[test]
    fn an_untouched_sector_is_right() {
        assert_eq!(STAMP.check(&STAMP.bytes()), Ok(()));
    }

    #[test]
    fn every_field_changes_the_filling() {
        let others = [
            Stamp {
                sector: 1001,
                ..STAMP
            },
            Stamp {
                generation: 8,
                ..STAMP
            },
            Stamp { seed: 43, ..STAMP },
        ];
        for other in others {
            let same = STAMP.bytes()[HEADER..]
                .iter()
                .zip(&other.bytes()[HEADER..])
                .filter(|(left, right)| left == right)
                .count();
            assert!(same < 24, "{same} bytes of 480 are the same");
        }
    }

    #[test]
    fn no_stamp_ends_like_a_boot_record() {
        for sector in 0..10_000 {
            let bytes = Stamp { sector, ..STAMP }.bytes();
            assert_eq!(bytes[510..], [0, 0]);
        }
    }

    #[test]
    fn a_few_wrong_bits_are_counted_and_placed_wherever_they_are() {
        for first in [0, 9, 17, 30, 200, 511] {
            let flipped = Damage::Flipped { bits: 2, first };
            assert_eq!(damage(|bytes| bytes[first] ^= 0x81), flipped);
        }
    }

    #[test]
    fn each_damage_is_told_from_the_others() {
        let stamp = |change: fn(&mut Stamp)| {
            let mut stamp = STAMP;
            change(&mut stamp);
            stamp.bytes()
        };
        let misplaced = stamp(|stamp| (stamp.sector, stamp.generation) = (1001, 3));
        let older = stamp(|stamp| stamp.generation = 6);
        let other = stamp(|stamp| stamp.seed = 9);
        for (range, data, expected) in [
            (
                0..512,
                &misplaced,
                Damage::Misplaced {
                    sector: 1001,
                    generation: 3,
                },
            ),
            (0..512, &older, Damage::Stale { generation: 6 }),
            (0..512, &other, Damage::OtherPass { seed: 9 }),
            (256..512, &older, Damage::Torn { at: 256 }),
            (0..128, &older, Damage::Torn { at: 128 }),
            (64..512, &[0; SECTOR], Damage::Torn { at: 64 }),
            (
                100..164,
                &[0xEE; SECTOR],
                Damage::Overwritten {
                    first: 100,
                    end: 164,
                },
            ),
            (0..512, &[0; SECTOR], Damage::Zeros),
            (0..512, &[0xA5; SECTOR], Damage::Foreign),
        ] {
            let found = damage(|bytes| bytes[range.clone()].copy_from_slice(&data[range.clone()]));
            assert_eq!(found, expected, "{range:?}");
        }
    }
}
