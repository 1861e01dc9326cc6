//! Allocates page frames of physical memory.
//!
//! Contiguous runs come from the low end. Single frames come from the high end, shuffled within
//! zones, so that they do not fragment the memory for runs.

use std::collections::VecDeque;

use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

/// The number of frames that are shuffled together: 16 MiB.
const ZONE: usize = 4096;

/// A constant, so that a driver's bug recurs in the next run.
const SEED: u64 = 0x5ca7_7e2e_d4a9_e5f0;

/// The free frames.
#[derive(Debug)]
pub(super) struct Frames {
    free: Vec<bool>,
    free_count: usize,
    /// Frames for single use, the next one last. A frame that a run has taken stays here and is
    /// not free.
    order: Vec<u32>,
    ordered: Vec<bool>,
}

impl Frames {
    /// `count` frames, all free.
    pub(super) fn new(count: u32) -> Self {
        let mut order: Vec<u32> = (0..count).collect();
        let mut random = StdRng::seed_from_u64(SEED);
        for zone in order.chunks_mut(ZONE.min(count as usize / 8).max(16)) {
            zone.shuffle(&mut random);
        }
        Self {
            free: vec![true; count as usize],
            free_count: count as usize,
            order,
            ordered: vec![true; count as usize],
        }
    }

    /// Takes `count` frames. No frame is adjacent to the one before.
    pub(super) fn take_scattered(&mut self, count: usize) -> Option<Vec<u32>> {
        if count > self.free_count {
            return None;
        }
        let mut taken: Vec<u32> = Vec::with_capacity(count);
        // Frames adjacent to the one before. They are used as soon as they fit.
        let mut waiting = VecDeque::new();
        while taken.len() < count {
            let before = taken.last().copied();
            let fits = |frame: u32| before.is_none_or(|before| before.abs_diff(frame) != 1);
            if let Some(place) = waiting.iter().position(|&frame| fits(frame)) {
                taken.extend(waiting.remove(place));
                continue;
            }
            let Some(frame) = self.next_single() else {
                break;
            };
            if fits(frame) {
                taken.push(frame);
            } else {
                waiting.push_back(frame);
            }
        }
        let enough = taken.len() == count;
        let unused = waiting
            .into_iter()
            .chain(if enough { vec![] } else { taken.clone() });
        for frame in unused {
            self.give_back(frame);
        }
        enough.then_some(taken)
    }

    /// Takes `count` adjacent frames and returns the first.
    pub(super) fn take_run(&mut self, count: usize) -> Option<u32> {
        let mut length = 0;
        let last = self.free.iter().position(|&free| {
            length = if free { length + 1 } else { 0 };
            length == count
        })?;
        let first = last + 1 - count;
        self.free[first..=last].fill(false);
        self.free_count -= count;
        Some(first as u32)
    }

    /// Frees a frame.
    pub(super) fn give_back(&mut self, frame: u32) {
        let at = frame as usize;
        self.free[at] = true;
        self.free_count += 1;
        if !self.ordered[at] {
            self.ordered[at] = true;
            self.order.push(frame);
        }
    }

    fn next_single(&mut self) -> Option<u32> {
        while let Some(frame) = self.order.pop() {
            let at = frame as usize;
            self.ordered[at] = false;
            if self.free[at] {
                self.free[at] = false;
                self.free_count -= 1;
                return Some(frame);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::Frames;

    #[test]
    fn no_frame_is_taken_twice_or_follows_its_neighbour() {
        let mut frames = Frames::new(4096);
        let mut seen = HashSet::new();

        for _ in 0..8 {
            let taken = frames.take_scattered(500).expect("4000 of 4096");

            assert!(taken.windows(2).all(|pair| pair[0].abs_diff(pair[1]) != 1));
            assert!(taken.into_iter().all(|frame| seen.insert(frame)));
        }
    }

    #[test]
    fn a_failed_allocation_takes_no_frames() {
        let mut frames = Frames::new(64);
        let held = frames.take_scattered(60).expect("60 of 64");

        assert_eq!(frames.take_scattered(5), None);

        for frame in held {
            frames.give_back(frame);
        }
        assert_eq!(frames.take_run(64), Some(0));
    }

    #[test]
    fn neighbours_alone_are_not_enough_for_scattered_memory() {
        let mut frames = Frames::new(2);

        assert_eq!(frames.take_scattered(2), None);
        assert_eq!(frames.take_run(2), Some(0));
    }

    #[test]
    fn runs_and_single_frames_never_share_a_frame() {
        let mut frames = Frames::new(256);
        let mut held = HashSet::new();

        for round in 0..8 {
            let first = frames.take_run(10).expect("a run of 10");
            assert!((first..first + 10).all(|frame| held.insert(frame)));
            let singles = frames.take_scattered(20).expect("20 frames");
            assert!(singles.iter().all(|&frame| held.insert(frame)));
            if round % 2 == 0 {
                for frame in first..first + 10 {
                    frames.give_back(frame);
                    held.remove(&frame);
                }
            }
        }
    }
}
