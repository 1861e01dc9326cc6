//! The plan of a verify pass: the extents that are written, rewritten and read, and their order.
//!
//! All of it follows from the seed. Positions and lengths are in sectors of
//! 512 bytes, always whole blocks of the disk.

use std::{collections::BTreeMap, ops::Range};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::stamp::SECTOR;

/// The longest extent: 1 MiB.
pub const LONGEST: u64 = (1 << 20) / SECTOR as u64;

/// Extents closer than this are read back together.
const BRIDGED: u64 = 64;

/// Sectors of a disk.
pub type Extent = Range<u64>;

/// One transfer of the pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Stamp these sectors.
    Write {
        /// Where.
        extent: Extent,
        /// The write's number, from 1 up.
        generation: u32,
    },
    /// Read these sectors and compare.
    Read {
        /// The sectors.
        extent: Extent,
    },
}

impl Step {
    /// The sectors that it writes or reads.
    #[must_use]
    pub fn extent(&self) -> &Extent {
        match self {
            Self::Write { extent, .. } | Self::Read { extent } => extent,
        }
    }

    /// Whether the two must not be in flight together.
    #[must_use]
    pub fn conflicts_with(&self, other: &Self) -> bool {
        let both_read = matches!((self, other), (Self::Read { .. }, Self::Read { .. }));
        let (left, right) = (self.extent(), other.extent());
        !both_read && left.start < right.end && right.start < left.end
    }
}

/// A pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its transfers. One that conflicts with an earlier one must wait for it.
    pub steps: Vec<Step>,
    /// The extents that are written first, in ascending order; they do not
    /// overlap.
    pub extents: Vec<Extent>,
    /// Sectors that are never written, and whose neighbours are, or that were
    /// picked at random; in ascending order.
    pub untouched: Vec<u64>,
}

impl Plan {
    /// Plans a pass that verifies `sectors` of a disk of `disk_sectors`, in
    /// blocks of `block_sectors`.
    ///
    /// # Panics
    /// If the lengths are not whole blocks, or the disk is too short.
    #[must_use]
    pub fn new(seed: u64, disk_sectors: u64, block_sectors: u64, sectors: u64) -> Self {
        assert!(
            sectors <= disk_sectors
                && disk_sectors.is_multiple_of(block_sectors)
                && sectors.is_multiple_of(block_sectors),
            "{sectors} sectors of {disk_sectors} in blocks of {block_sectors}"
        );
        let mut random = Chance {
            random: StdRng::seed_from_u64(seed),
            block_sectors,
        };
        let extents = random.extents(disk_sectors, sectors);
        let mut steps = random.writes(&extents);
        let mut generation = 0;
        for step in &mut steps {
            if let Step::Write { generation: of, .. } = step {
                generation += 1;
                *of = generation;
            }
        }
        steps.extend(random.read_back(&extents));
        let untouched = random.untouched(&extents, disk_sectors);
        Self {
            steps,
            extents,
            untouched,
        }
    }

    /// The written extents, those that touch put together, in ascending order.
    #[must_use]
    pub fn spans(&self) -> Vec<Extent> {
        joined(&self.extents, 0)
    }
}

/// Joins extents with at most `gap` sectors between them.
fn joined(extents: &[Extent], gap: u64) -> Vec<Extent> {
    let mut spans: Vec<Extent> = Vec::new();
    for extent in extents {
        match spans.last_mut() {
            Some(last) if extent.start - last.end <= gap => last.end = extent.end,
            _ => spans.push(extent.clone()),
        }
    }
    spans
}

/// Random lengths and positions for the pass.
struct Chance {
    random: StdRng,
    block_sectors: u64,
}

impl Chance {
    /// A length of one block to 1 MiB, short ones as likely as long ones.
    fn length(&mut self) -> u64 {
        let longest = (LONGEST / self.block_sectors).max(1) as f64;
        let blocks = longest.powf(self.random.random_range(0.0..=1.0));
        blocks.round() as u64 * self.block_sectors
    }

    /// Extents of `sectors` together that do not overlap, the first and the
    /// last block of the disk among them.
    fn extents(&mut self, disk_sectors: u64, sectors: u64) -> Vec<Extent> {
        let mut lengths = Vec::new();
        let mut left = sectors;
        // The extremes always take part.
        for length in [LONGEST, self.block_sectors] {
            if left >= 4 * length {
                lengths.push(length);
                left -= length;
            }
        }
        while left > 0 {
            let length = self.length().min(left);
            lengths.push(length);
            left -= length;
        }
        lengths.shuffle(&mut self.random);
        let slack = (disk_sectors - sectors) / self.block_sectors;
        let mut shifts: Vec<u64> = lengths
            .iter()
            .map(|_| self.random.random_range(0..=slack) * self.block_sectors)
            .collect();
        shifts.sort_unstable();
        if let [first, .., last] = &mut shifts[..] {
            *first = 0;
            *last = slack * self.block_sectors;
        }
        let mut end_of_lengths = 0;
        lengths
            .iter()
            .zip(shifts)
            .map(|(length, shift)| {
                let start = end_of_lengths + shift;
                end_of_lengths += length;
                start..start + length
            })
            .collect()
    }

    /// A part of `extent`, or all of it.
    fn part_of(&mut self, extent: &Extent) -> Extent {
        let blocks = (extent.end - extent.start) / self.block_sectors;
        let from = self.random.random_range(0..blocks);
        let to = self.random.random_range(from..blocks) + 1;
        extent.start + from * self.block_sectors..extent.start + to * self.block_sectors
    }

    /// Each extent written once, in any order; after some of them, at any later
    /// time, a part written again or read. Generations are left to the caller.
    fn writes(&mut self, extents: &[Extent]) -> Vec<Step> {
        let mut timed = Vec::new();
        for extent in extents {
            let time = self.random.random_range(0..u64::MAX);
            timed.push((time, write(extent.clone())));
            if self.random.random_bool(0.25) {
                let later = self.random.random_range(time + 1..=u64::MAX);
                timed.push((later, write(self.part_of(extent))));
            }
            if self.random.random_bool(0.25) {
                let later = self.random.random_range(time + 1..=u64::MAX);
                let extent = self.part_of(extent);
                timed.push((later, Step::Read { extent }));
            }
        }
        timed.sort_by_key(|(time, _)| *time);
        timed.into_iter().map(|(_, step)| step).collect()
    }

    /// All extents read, in any order and cut otherwise than they were written.
    fn read_back(&mut self, extents: &[Extent]) -> Vec<Step> {
        let mut steps = Vec::new();
        for span in joined(extents, BRIDGED) {
            let mut start = span.start;
            while start < span.end {
                let end = (start + self.length()).min(span.end);
                steps.push(Step::Read { extent: start..end });
                start = end;
            }
        }
        steps.shuffle(&mut self.random);
        steps
    }

    /// The blocks before and behind each span, and some far from any.
    fn untouched(&mut self, extents: &[Extent], disk_sectors: u64) -> Vec<u64> {
        let spans = joined(extents, 0);
        let mut blocks: Vec<u64> = Vec::new();
        for span in &spans {
            blocks.extend(span.start.checked_sub(self.block_sectors));
            blocks.push(span.end);
        }
        let disk_blocks = disk_sectors / self.block_sectors;
        blocks
            .extend((0..64).map(|_| self.random.random_range(0..disk_blocks) * self.block_sectors));
        let ends: BTreeMap<u64, u64> = spans.iter().map(|span| (span.start, span.end)).collect();
        let written = |sector: u64| {
            ends.range(..=sector)
                .next_back()
                .is_some_and(|(_, end)| sector < *end)
        };
        blocks.retain(|&block| block < disk_sectors && !written(block));
        blocks.sort_unstable();
        blocks.dedup();
        blocks
            .into_iter()
            .flat_map(|block| block..block + self.block_sectors)
            .collect()
    }
}

fn write(extent: Extent) -> Step {
    Step::Write {
        extent,
        generation: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = (1 << 20) / SECTOR as u64;

    #[test]
    fn the_same_seed_plans_the_same_pass_and_another_one_another() {
        let plan = Plan::new(7, 256 * MIB, 1, 64 * MIB);
        assert_eq!(plan, Plan::new(7, 256 * MIB, 1, 64 * MIB));
        assert_ne!(plan, Plan::new(8, 256 * MIB, 1, 64 * MIB));
    }

    #[test]
    fn extents_add_up_and_do_not_overlap_and_reach_both_ends_of_the_disk() {
        for (disk, block, sectors) in [
            (256 * MIB, 1, 64 * MIB),
            (64 * MIB, 8, 64 * MIB),
            (1000, 1, 10),
            (16, 8, 8),
            (1, 1, 1),
        ] {
            let plan = Plan::new(3, disk, block, sectors);
            let total: u64 = plan
                .extents
                .iter()
                .map(|extent| extent.end - extent.start)
                .sum();

            assert_eq!(total, sectors);
            for pair in plan.extents.windows(2) {
                assert!(pair[0].end <= pair[1].start);
            }
            for extent in &plan.extents {
                assert!(extent.start < extent.end && extent.end <= disk);
                assert!(extent.start % block == 0 && extent.end % block == 0);
                assert!(extent.end - extent.start <= LONGEST);
            }
            if plan.extents.len() > 1 {
                assert_eq!(plan.extents.first().map(|extent| extent.start), Some(0));
                assert_eq!(plan.extents.last().map(|extent| extent.end), Some(disk));
            }
        }
    }

    #[test]
    fn extents_are_of_every_size_from_one_block_to_a_mebibyte() {
        let plan = Plan::new(1, 256 * MIB, 1, 64 * MIB);
        let lengths: Vec<u64> = plan
            .extents
            .iter()
            .map(|extent| extent.end - extent.start)
            .collect();

        assert!(lengths.contains(&1) && lengths.contains(&LONGEST));
        for limit in [8, 64, 512] {
            assert!(
                lengths
                    .iter()
                    .any(|length| (limit / 8..limit).contains(length))
            );
        }
    }

    #[test]
    fn generations_count_the_writes_and_rewrites_come_after_their_extent() {
        let plan = Plan::new(5, 256 * MIB, 1, 64 * MIB);
        let mut seen = Vec::new();
        let mut rewrites = 0;
        let mut last = 0;
        for step in &plan.steps {
            if let Step::Write { extent, generation } = step {
                assert_eq!(*generation, last + 1);
                last = *generation;
                if plan.extents.contains(extent) && !seen.contains(extent) {
                    seen.push(extent.clone());
                } else {
                    rewrites += 1;
                    let covered = seen
                        .iter()
                        .any(|of: &Extent| of.start <= extent.start && extent.end <= of.end);
                    assert!(covered, "{extent:?} was not written before");
                }
            }
        }
        assert_eq!(seen.len(), plan.extents.len());
        assert!(rewrites > plan.extents.len() / 8);
    }

    #[test]
    fn every_written_sector_is_read_back_after_all_writes() {
        let plan = Plan::new(5, 64 * MIB, 8, 16 * MIB);
        let last_write = plan
            .steps
            .iter()
            .rposition(|step| matches!(step, Step::Write { .. }))
            .expect("a pass writes");
        let mut read: Vec<Extent> = plan.steps[last_write..]
            .iter()
            .filter(|step| matches!(step, Step::Read { .. }))
            .map(|step| step.extent().clone())
            .collect();
        read.sort_by_key(|extent| extent.start);
        let read = joined(&read, 0);

        for extent in &plan.extents {
            assert!(
                read.iter()
                    .any(|span| span.start <= extent.start && extent.end <= span.end)
            );
        }
    }

    #[test]
    fn untouched_sectors_are_beside_extents_and_in_none() {
        let plan = Plan::new(5, 64 * MIB, 8, 16 * MIB);

        assert!(plan.untouched.len() as u64 > 8 * 64);
        for sector in &plan.untouched {
            assert!(!plan.extents.iter().any(|extent| extent.contains(sector)));
        }
        let span = &plan.spans()[1];
        assert!(plan.untouched.contains(&(span.start - 1)));
        assert!(plan.untouched.contains(&span.end));
    }

    #[test]
    fn steps_conflict_where_they_overlap_and_one_of_them_writes() {
        let read = |extent: Extent| Step::Read { extent };

        assert!(write(0..8).conflicts_with(&write(7..9)));
        assert!(write(0..8).conflicts_with(&read(2..3)));
        assert!(read(2..3).conflicts_with(&write(0..8)));
        assert!(!write(0..8).conflicts_with(&write(8..9)));
        assert!(!read(0..8).conflicts_with(&read(0..8)));
    }
}
