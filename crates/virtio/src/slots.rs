//! A lock-free allocator of request slots. Each slot belongs to one queue, and
//! the right to use it is a value that exists once.
//!
//! A slot is the place of a request: one descriptor of the ring, one area of
//! shared memory, one entry in the driver's table. All processors may reserve,
//! release and stage at once, at any IRQL, without a lock.
//!
//! Slots are given out in turn, so that a released slot stays free as long as
//! possible. A device that returns a buffer twice then names a slot that is not in
//! flight, which the driver detects. If the slot were used again at once, the device
//! would name its next request, which nobody can detect.

use core::array;
use core::fmt;

use crate::atomics::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use crate::queue_size::QueueSize;

/// The most slots that an allocator gives out.
pub const MAX_SLOTS: u16 = 256;

const WORDS: u16 = 4;
const WORD_BITS: u16 = 64;
const LOOKS: u8 = 4;

/// The number of sequence words. loom keeps the history of each, so its models have
/// few.
const SEQUENCES: usize = if cfg!(all(loom, test)) {
    2
} else {
    MAX_SLOTS as usize
};

/// The right to use one slot's descriptor and area. There is at most one value for
/// each slot. A slot that is dropped instead of released is lost for good.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a slot that is dropped is lost; release it"]
pub struct Slot {
    queue: u16,
    index: u16,
}

impl Slot {
    /// The number of the queue that the slot belongs to.
    #[inline]
    #[must_use]
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// The slot's number, below the number of the queue's slots.
    #[inline]
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }
}

/// A request that is complete in its slot's area and not published yet.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "its slot is lost unless it is published, staged or released"]
pub struct Prepared {
    pub(crate) slot: Slot,
    /// Physical address of its indirect table.
    pub(crate) table: u64,
    /// Descriptors in that table.
    pub(crate) descriptors: u16,
    /// Bytes of it that the device may write.
    pub(crate) writable: u32,
}

impl Prepared {
    /// Its slot.
    #[inline]
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Gives the request up: its slot is free for another.
    #[inline]
    pub fn into_slot(self) -> Slot {
        self.slot
    }
}

/// A prepared request that waits to be started, as plain data: whoever holds it
/// may lose it. Its slot then comes back with the next
/// [`SplitQueue::reclaim`](crate::split_queue::SplitQueue::reclaim).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "its slot is taken until the request is unstaged or the queue is reclaimed"]
pub struct Staged {
    table: u64,
    writable: u32,
    /// The slot's sequence number at the time of staging: odd, and different for each
    /// request in the slot. It is 0 if the allocator refused to stage the request.
    sequence: u32,
    queue: u16,
    index: u16,
    descriptors: u16,
}

// It lies in the SRB extension.
const _: () = assert!(size_of::<Staged>() <= 24 && !core::mem::needs_drop::<Staged>());

impl Staged {
    /// The number of the queue that the request is for.
    #[inline]
    #[must_use]
    pub fn queue(&self) -> u16 {
        self.queue
    }
}

/// The slot of a staged request was reclaimed: the request is not prepared any
/// more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale;

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the queue was reset after the request was built; build it again")
    }
}

impl core::error::Error for Stale {}

/// The slots of one queue.
///
/// # Invariants
///
/// A queue number has one `SlotAllocator` and one
/// [`SplitQueue`](crate::split_queue::SplitQueue). Each slot is in exactly one
/// of four states:
///
/// | state | who has the slot | bit in `free` | sequence word |
/// |---|---|---|---|
/// | free | nobody | 1 | even |
/// | being built | the one [`Slot`] or [`Prepared`] value | 0 | even |
/// | staged | nobody; a [`Staged`] value may still name it | 0 | odd |
/// | in flight | the queue's table of requests, which holds the `Slot` | 0 | even |
///
/// No slot exists twice, and none is lost while it is staged:
///
/// - *Free → being built.* [`reserve`](Self::reserve) clears the bit by an atomic
///   operation that only one processor wins.
/// - *Being built → free, staged or in flight.* [`release`](Self::release),
///   [`stage`](Self::stage) and `SplitQueue::publish` consume the value, which
///   exists once. No other processor writes the sequence word of a slot that is
///   being built, so `stage` needs no locked instruction.
/// - *Staged → being built or free.* Only `SplitQueue::unstage` and
///   `SplitQueue::reclaim` do this. Both borrow the queue mutably, so the
///   queue's lock keeps them apart, and a load and a store are enough. Each adds
///   one to the word, which makes it even. So a `Staged` value is unstaged at most
///   once: after `reclaim`, or if the slot was staged again, the word differs from
///   the one that the value holds, and `unstage` returns [`Stale`].
///   (The word wraps after 2^31 requests in one slot. A stale request that waits
///   for all of those would be taken for a new one.)
/// - *In flight → being built.* `SplitQueue::pop_used` and `reclaim` take the
///   slot out of the table of requests in flight.
///
/// `reclaim` frees a staged slot only if its word is odd, so it does not take one that
/// is free, being built or in flight for a staged one. If `stage` runs at the same
/// time, there are two cases. If `reclaim` sees the new word, the request is stale. If
/// it does not, the request counts as staged after the reset.
///
/// Each transition happens before the next one of the same slot: `release` and
/// `reclaim` store to `free` with Release, which `reserve` acquires; `stage`
/// stores the word with Release, which `unstage` and `reclaim` acquire; the
/// queue's lock orders the rest.
#[derive(Debug)]
pub struct SlotAllocator {
    queue: u16,
    /// A bit for each slot that is free.
    free: [AtomicU64; WORDS as usize],
    /// The index at which to look first. It is a hint, and may be outdated.
    next: AtomicU16,
    /// A number for each slot, odd while the slot is staged.
    sequences: [AtomicU32; SEQUENCES],
}

impl SlotAllocator {
    /// An allocator of `count` slots, of [`MAX_SLOTS`] at most, all free, for
    /// queue number `queue`.
    #[must_use]
    pub fn new(queue: u16, count: QueueSize) -> Self {
        let count = count.get().min(MAX_SLOTS);
        let mut first = 0_u16;
        let free = [(); WORDS as usize].map(|()| {
            let bits = count.saturating_sub(first).min(WORD_BITS);
            first = first.saturating_add(WORD_BITS);
            AtomicU64::new(
                u64::MAX
                    .checked_shr(u32::from(WORD_BITS.saturating_sub(bits)))
                    .unwrap_or(0),
            )
        });
        Self {
            queue,
            free,
            next: AtomicU16::new(0),
            sequences: array::from_fn(|_| AtomicU32::new(0)),
        }
    }

    /// The number of the queue that the slots belong to.
    #[inline]
    #[must_use]
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// Takes a free slot; `None` if it sees none.
    ///
    /// This looks at one word after the other. While other processors reserve and
    /// release slots, it can miss a slot although there was always one free, so it
    /// looks several times. A caller that gets `None` completes its request as busy.
    #[inline]
    pub fn reserve(&self) -> Option<Slot> {
        let slot = (0..LOOKS).find_map(|_| self.look())?;
        let after = slot.index.wrapping_add(1) % MAX_SLOTS;
        self.next.store(after, Ordering::Relaxed);
        Some(slot)
    }

    /// Goes once through all words: first from the hint to the end of its word, then
    /// through the other words, and last through the bits below the hint.
    #[inline]
    fn look(&self) -> Option<Slot> {
        let next = self.next.load(Ordering::Relaxed);
        let word = next / WORD_BITS;
        let later = u64::MAX.wrapping_shl(u32::from(next % WORD_BITS));
        self.take(word, later)
            .or_else(|| (1..WORDS).find_map(|step| self.take(word.wrapping_add(step), u64::MAX)))
            .or_else(|| self.take(word, !later))
    }

    /// Frees a slot. The slot of another queue is not freed but lost.
    #[inline]
    pub fn release(&self, slot: Slot) {
        if slot.queue == self.queue {
            self.free(slot.index);
        }
    }

    #[inline]
    fn free(&self, index: u16) {
        if let Some(free) = self.word(index / WORD_BITS) {
            // Release: what was done in the slot is done before another has it.
            free.fetch_or(bit_of(index), Ordering::Release);
        }
    }

    /// Stages a request: from now on the queue is responsible for its slot.
    /// [`SplitQueue::unstage`](crate::split_queue::SplitQueue::unstage) takes the
    /// request back, or a reset reclaims the slot. The request of another queue is
    /// not staged: its slot is lost, and unstaging it returns [`Stale`].
    #[inline]
    pub fn stage(&self, prepared: Prepared) -> Staged {
        let Prepared {
            slot: Slot { queue, index },
            table,
            descriptors,
            writable,
        } = prepared;
        let sequence = match self.sequences.get(usize::from(index)) {
            Some(word) if queue == self.queue => {
                let odd = word.load(Ordering::Relaxed).wrapping_add(1);
                // Release: the request is written before its slot is staged.
                word.store(odd, Ordering::Release);
                odd
            }
            _ => 0,
        };
        Staged {
            table,
            writable,
            sequence,
            queue,
            index,
            descriptors,
        }
    }

    /// Takes a staged request back. The caller holds the queue's lock.
    #[inline]
    pub(crate) fn unstage(&self, staged: Staged) -> Result<Prepared, Stale> {
        let Staged {
            table,
            writable,
            sequence,
            queue,
            index,
            descriptors,
        } = staged;
        let word = self.sequences.get(usize::from(index)).ok_or(Stale)?;
        if queue != self.queue
            || !is_staged(sequence)
            // Acquire: with `stage`, which another processor may have done.
            || word.load(Ordering::Acquire) != sequence
        {
            return Err(Stale);
        }
        word.store(sequence.wrapping_add(1), Ordering::Relaxed);
        Ok(Prepared {
            slot: Slot { queue, index },
            table,
            descriptors,
            writable,
        })
    }

    /// Frees all staged slots. The caller holds the queue's lock.
    pub(crate) fn reclaim_staged(&self) {
        for (index, word) in (0..MAX_SLOTS).zip(&self.sequences) {
            let sequence = word.load(Ordering::Acquire);
            if is_staged(sequence) {
                word.store(sequence.wrapping_add(1), Ordering::Relaxed);
                self.free(index);
            }
        }
    }

    /// Takes the lowest free slot of a word, among those in `mask`.
    #[inline]
    fn take(&self, word: u16, mask: u64) -> Option<Slot> {
        let word = word % WORDS;
        let free = self.word(word)?;
        let mut seen = free.load(Ordering::Relaxed) & mask;
        // Each turn but the last lost its slot to another processor. A bound,
        // because no loop at raised IRQL may depend on what others do.
        for _ in 0..WORD_BITS {
            if seen == 0 {
                return None;
            }
            let bit = seen & seen.wrapping_neg();
            // Acquire: with the release of whoever had the slot before.
            let before = free.fetch_and(!bit, Ordering::Acquire);
            if before & bit != 0 {
                // `trailing_zeros` of a word with a bit set is below 64.
                let number = bit.trailing_zeros() as u16;
                return Some(Slot {
                    queue: self.queue,
                    index: word.wrapping_mul(WORD_BITS).wrapping_add(number),
                });
            }
            seen = before & mask;
        }
        None
    }

    #[inline]
    fn word(&self, number: u16) -> Option<&AtomicU64> {
        self.free.get(usize::from(number % WORDS))
    }
}

#[inline]
fn is_staged(sequence: u32) -> bool {
    sequence % 2 == 1
}

#[inline]
fn bit_of(index: u16) -> u64 {
    1_u64.wrapping_shl(u32::from(index % WORD_BITS))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::HashSet;

    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn slots(count: u16) -> SlotAllocator {
        SlotAllocator::new(0, QueueSize::new(count).unwrap())
    }

    #[test]
    fn each_slot_is_given_out_once_and_then_none() {
        for count in [1, 64, 256] {
            let allocator = slots(count);

            let taken: Vec<Slot> = std::iter::from_fn(|| allocator.reserve()).collect();

            let different: HashSet<u16> = taken.iter().map(Slot::index).collect();
            assert_eq!(different, (0..count).collect());
            assert_eq!(taken.len(), usize::from(count));
        }
    }

    #[test]
    fn more_slots_than_the_allocator_has_are_clipped() {
        let allocator = slots(1024);

        assert_eq!(std::iter::from_fn(|| allocator.reserve()).count(), 256);
    }

    /// A6.
    #[test]
    fn a_released_slot_rests_while_others_are_free() {
        for count in [2, 64, 128, 256] {
            let allocator = slots(count);
            let first = allocator.reserve().unwrap();
            let resting = first.index();
            allocator.release(first);

            for _ in 1..count {
                let slot = allocator.reserve().unwrap();
                assert_ne!(slot.index(), resting);
                allocator.release(slot);
            }
        }
    }

    proptest! {
        #![proptest_config(crate::proptest_config(256))]

        #[test]
        fn no_slot_is_lost_or_doubled(
            count in prop::sample::select(vec![1_u16, 4, 64, 256]),
            steps in prop::collection::vec(any::<(bool, prop::sample::Index)>(), 0..if cfg!(miri) { 60 } else { 600 }),
        ) {
            let allocator = slots(count);
            let mut held: Vec<Slot> = Vec::new();
            for (reserve, which) in steps {
                if reserve {
                    let slot = allocator.reserve();
                    prop_assert_eq!(slot.is_some(), held.len() < usize::from(count));
                    if let Some(slot) = slot {
                        prop_assert!(!held.contains(&slot));
                        held.push(slot);
                    }
                } else if !held.is_empty() {
                    let slot = held.swap_remove(which.index(held.len()));
                    allocator.release(slot);
                }
            }
        }
    }
}

#[cfg(all(test, loom))]
mod models {
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// Two processors, one more slot use than slots: each use is alone in its
    /// slot, and sees what the use before it wrote (`UnsafeCell` of loom's
    /// fails the model if not).
    #[test]
    fn two_processors_are_never_in_one_slot() {
        loom::model(|| {
            let allocator = Arc::new(SlotAllocator::new(0, QueueSize::new(2).unwrap()));
            let areas = Arc::new([UnsafeCell::new(0_u32), UnsafeCell::new(0)]);
            let use_once = |allocator: &SlotAllocator, areas: &[UnsafeCell<u32>; 2]| {
                let slot = allocator.reserve().expect("two slots, two users");
                areas[usize::from(slot.index())].with_mut(|area| {
                    // loom checks the access itself.
                    let _: *mut u32 = area;
                });
                allocator.release(slot);
            };
            let other = {
                let (allocator, areas) = (Arc::clone(&allocator), Arc::clone(&areas));
                thread::spawn(move || {
                    use_once(&allocator, &areas);
                    use_once(&allocator, &areas);
                })
            };
            use_once(&allocator, &areas);
            other.join().unwrap();

            let both = [allocator.reserve(), allocator.reserve()];
            assert!(both.iter().all(Option::is_some), "a slot was lost");
            assert!(allocator.reserve().is_none(), "a slot was doubled");
        });
    }

    /// One slot, two that want it: whoever sees it taken gets none.
    #[test]
    fn one_slot_goes_to_one_of_two() {
        loom::model(|| {
            let allocator = Arc::new(SlotAllocator::new(0, QueueSize::new(1).unwrap()));
            let other = {
                let allocator = Arc::clone(&allocator);
                thread::spawn(move || allocator.reserve())
            };
            let mine = allocator.reserve();
            let theirs = other.join().unwrap();

            assert!(mine.is_some() ^ theirs.is_some());
        });
    }
}
