//! The mismatches of a verify pass, and their descriptions.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
};

use crate::stamp::{Damage, SECTOR, Stamp};

/// The number of mismatches that are kept with their details.
const KEPT: usize = 10_000;

/// The place where a sector was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Through the driver.
    Driver,
    /// In the image file.
    Image,
}

/// The mismatch of a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// It does not have the written data.
    Written {
        /// The expected write.
        generation: u64,
        /// The difference.
        damage: Damage,
    },
    /// It changed, although it was never written.
    Untouched {
        /// The stamp that it has now, if it has one.
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
    /// For each write, the number of its sectors that are correct, and of those that have none
    /// of its data.
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

    /// The number of wrong sectors, in both places together.
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

    /// Checks a sector that must not have changed.
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

    /// Adds the findings of another part of the same pass.
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

    /// The mismatches, sorted by place and sector.
    pub fn mismatches(&self) -> impl Iterator<Item = (Place, u64, Mismatch)> {
        self.kept
            .iter()
            .map(|(&(place, sector), &mismatch)| (place, sector, mismatch))
    }

    /// Describes the mismatches, with one line for adjacent sectors with the same mismatch: at
    /// most `limit` lines, and one that counts the rest.
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
                "never written, but has the data of sector {}, generation {}",
                stamp.sector, stamp.generation
            ),
            Mismatch::Untouched { stamp: None } => "never written, but changed".to_owned(),
            Mismatch::Written { generation, damage } => {
                let torn = self
                    .arrived
                    .get(&generation)
                    .filter(|(right, missing)| *right > 0 && *missing > 0)
                    .filter(|_| !matches!(damage, Damage::Torn { .. } | Damage::Flipped { .. }))
                    .map_or_else(String::new, |(right, missing)| {
                        format!(
                            " (the write is torn: {right} of its sectors are correct, {missing} \
                             missing)"
                        )
                    });
                format!("generation {generation} expected, {damage}{torn}")
            }
        };
        format!("{whose}, {place}: {what}")
    }
}

/// Adjacent sectors with the same mismatch.
struct Run {
    place: Place,
    first: u64,
    end: u64,
    mismatch: Mismatch,
}

impl Run {
    /// Whether `sector` continues the run.
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
