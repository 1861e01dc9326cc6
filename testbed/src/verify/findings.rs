//! What a verify pass found wrong, in words that tell what kind of wrong.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
};

use crate::stamp::{Damage, SECTOR, Stamp};

/// So many mismatches are kept with all their details.
const KEPT: usize = 10_000;

/// Where a sector was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Through the driver.
    Driver,
    /// In the image file.
    Image,
}

/// What is wrong with a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// It does not hold what was written to it.
    Written {
        /// The write that it should hold.
        generation: u64,
        /// What it holds.
        damage: Damage,
    },
    /// It changed though it was never written.
    Untouched {
        /// The stamp that it holds now, if it is one.
        stamp: Option<Stamp>,
    },
}

/// Mismatches of a pass.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    block_bytes: u32,
    seed: u64,
    count: u64,
    kept: BTreeMap<(Place, u64), Mismatch>,
    /// For each write, sectors of it that were found as written, and sectors
    /// that nothing of it arrived at.
    arrived: BTreeMap<u64, (u64, u64)>,
}

impl Findings {
    /// No mismatch yet.
    #[must_use]
    pub fn new(seed: u64, block_bytes: u32) -> Self {
        Self {
            block_bytes,
            seed,
            ..Self::default()
        }
    }

    /// How many sectors were wrong, in both places together.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Checks a sector that was written.
    pub(crate) fn written(&mut self, place: Place, expected: Stamp, found: &[u8; SECTOR]) {
        let (right, missing) = self.arrived.entry(expected.generation).or_default();
        let Err(damage) = expected.check(found) else {
            *right += 1;
            return;
        };
        if matches!(
            damage,
            Damage::Stale { .. } | Damage::OtherPass { .. } | Damage::Zeros | Damage::Foreign
        ) {
            *missing += 1;
        }
        self.add(
            place,
            expected.sector,
            Mismatch::Written {
                generation: expected.generation,
                damage,
            },
        );
    }

    /// Checks a sector that must be as it was before.
    pub(crate) fn untouched(
        &mut self,
        place: Place,
        sector: u64,
        before: &[u8; SECTOR],
        found: &[u8; SECTOR],
    ) {
        if found != before {
            let stamp = Stamp::found_in(found).filter(|stamp| stamp.seed == self.seed);
            self.add(place, sector, Mismatch::Untouched { stamp });
        }
    }

    fn add(&mut self, place: Place, sector: u64, mismatch: Mismatch) {
        self.count += 1;
        if self.kept.len() < KEPT {
            self.kept.entry((place, sector)).or_insert(mismatch);
        }
    }

    /// Takes over what another part of the same pass found.
    pub(crate) fn merge(&mut self, other: Self) {
        self.count += other.count;
        for (at, mismatch) in other.kept {
            if self.kept.len() < KEPT {
                self.kept.entry(at).or_insert(mismatch);
            }
        }
        for (generation, (right, missing)) in other.arrived {
            let sums = self.arrived.entry(generation).or_default();
            sums.0 += right;
            sums.1 += missing;
        }
    }

    /// What was wrong where, by sector.
    pub fn mismatches(&self) -> impl Iterator<Item = (Place, u64, Mismatch)> {
        self.kept
            .iter()
            .map(|(&(place, sector), &mismatch)| (place, sector, mismatch))
    }

    /// The mismatches in words, one line for neighbours with the same fate, at
    /// most `limit` lines and one that counts the rest.
    #[must_use]
    pub fn describe(&self, limit: usize) -> Vec<String> {
        let mut runs: Vec<Run> = Vec::new();
        for (place, sector, mismatch) in self.mismatches() {
            match runs.last_mut() {
                Some(run) if run.takes(place, sector, &mismatch) => run.end += 1,
                _ => runs.push(Run {
                    place,
                    first: sector,
                    end: sector + 1,
                    mismatch,
                }),
            }
        }
        let mut lines: Vec<String> = runs.iter().take(limit).map(|run| self.line(run)).collect();
        if runs.len() > limit {
            lines.push(format!("and {} more places", runs.len() - limit));
        }
        lines
    }

    fn line(&self, run: &Run) -> String {
        let block_sectors = u64::from(self.block_bytes) / SECTOR as u64;
        let lba = |sector: u64| sector / block_sectors.max(1);
        let (first, last) = (lba(run.first), lba(run.end - 1));
        let place = match run.place {
            Place::Driver => "read through the driver",
            Place::Image => "in the image file",
        };
        let whose = if first == last {
            format!("LBA {first}")
        } else {
            format!("LBA {first} to {last}")
        };
        let what = match run.mismatch {
            Mismatch::Untouched { stamp: Some(stamp) } => format!(
                "never written, but it holds sector {} of generation {}",
                stamp.sector, stamp.generation
            ),
            Mismatch::Untouched { stamp: None } => {
                "never written, but not what it was before".to_owned()
            }
            Mismatch::Written { generation, damage } => {
                let torn = self
                    .arrived
                    .get(&generation)
                    .filter(|(right, missing)| *right > 0 && *missing > 0)
                    .filter(|_| !matches!(damage, Damage::Torn { .. } | Damage::Flipped { .. }))
                    .map_or_else(String::new, |(right, missing)| {
                        format!(
                            " (the write is torn: {right} sectors of it were found right, \
                             {missing} missing)"
                        )
                    });
                format!("generation {generation} expected, {damage}{torn}")
            }
        };
        format!("{whose}, {place}: {what}")
    }
}

/// Neighbouring sectors with the same fate.
struct Run {
    place: Place,
    first: u64,
    end: u64,
    mismatch: Mismatch,
}

impl Run {
    /// Whether `sector` continues it.
    fn takes(&self, place: Place, sector: u64, mismatch: &Mismatch) -> bool {
        let shifted = |stamp: u64| stamp + (self.end - self.first);
        let same = match (self.mismatch, *mismatch) {
            (
                Mismatch::Written { generation, damage },
                Mismatch::Written {
                    generation: other_generation,
                    damage: other,
                },
            ) if generation == other_generation => match (damage, other) {
                (
                    Damage::Misplaced { sector, generation },
                    Damage::Misplaced {
                        sector: other_sector,
                        generation: other_generation,
                    },
                ) => shifted(sector) == other_sector && generation == other_generation,
                (Damage::Flipped { .. } | Damage::Torn { .. }, _) => false,
                (damage, other) => damage == other,
            },
            (
                Mismatch::Untouched { stamp: Some(stamp) },
                Mismatch::Untouched { stamp: Some(other) },
            ) => shifted(stamp.sector) == other.sector && stamp.generation == other.generation,
            (left, right) => left == right,
        };
        place == self.place && sector == self.end && same
    }
}

impl Display for Findings {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "{} mismatches", self.count)
    }
}
