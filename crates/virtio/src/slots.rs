//! Who may use which slot: a lock-free allocator of request slots, each a
//! token that exists once.
//!
//! A slot is a request's place: one descriptor of the ring, one area of shared
//! memory, one entry in the driver's table. Reserving and releasing need no
//! lock and may happen on all processors at once, at any IRQL.
//!
//! Slots are given out in turn, so that one that was just released rests as
//! long as others are free: a device that completes a buffer twice then names
//! a slot that is not in flight, which the ring detects, and not somebody
//! else's request, which nobody could.

use crate::atomics::{AtomicU16, AtomicU64, Ordering};
use crate::queue_size::QueueSize;

/// The most slots that an allocator gives out.
pub const MAX_SLOTS: u16 = 256;

const WORDS: u16 = 4;
const WORD_BITS: u16 = 64;
const LOOKS: u8 = 4;

/// The right to use one slot's descriptor and area. It exists once for each
/// slot: who drops it instead of releasing it loses the slot for good.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a slot that is dropped is lost; release it"]
pub struct Slot {
    index: u16,
}

impl Slot {
    /// The slot's number, below the number of slots.
    #[inline]
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }
}

/// The free slots of one queue.
#[derive(Debug)]
pub struct SlotAllocator {
    /// A bit for each slot that is free.
    free: [AtomicU64; WORDS as usize],
    /// Where to look first. A hint: it may be old.
    next: AtomicU16,
}

impl SlotAllocator {
    /// An allocator of `count` slots, of [`MAX_SLOTS`] at most, all free.
    #[must_use]
    pub fn new(count: QueueSize) -> Self {
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
            free,
            next: AtomicU16::new(0),
        }
    }

    /// Takes a free slot; `None` if it sees none.
    ///
    /// While slots move between other processors, a look at one word after the
    /// other can miss one that was free all the time. It looks several times;
    /// a caller that gets none answers "busy" as if there were none.
    #[inline]
    pub fn reserve(&self) -> Option<Slot> {
        let slot = (0..LOOKS).find_map(|_| self.look())?;
        let after = slot.index.wrapping_add(1) % MAX_SLOTS;
        self.next.store(after, Ordering::Relaxed);
        Some(slot)
    }

    /// Goes once through all words: from the hint to its word's end, the other
    /// words, and last what is below the hint.
    #[inline]
    fn look(&self) -> Option<Slot> {
        let next = self.next.load(Ordering::Relaxed);
        let word = next / WORD_BITS;
        let later = u64::MAX.wrapping_shl(u32::from(next % WORD_BITS));
        self.take(word, later)
            .or_else(|| (1..WORDS).find_map(|step| self.take(word.wrapping_add(step), u64::MAX)))
            .or_else(|| self.take(word, !later))
    }

    /// Gives a slot back.
    #[inline]
    pub fn release(&self, slot: Slot) {
        if let Some(free) = self.word(slot.index / WORD_BITS) {
            // Release: what was done in the slot is done before another has it.
            free.fetch_or(bit_of(slot.index), Ordering::Release);
        }
    }

    /// Takes the lowest free slot of a word that `mask` allows.
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
        SlotAllocator::new(QueueSize::new(count).unwrap())
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

    #[test]
    fn attack_6_a_released_slot_rests_while_others_are_free() {
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
            let allocator = Arc::new(SlotAllocator::new(QueueSize::new(2).unwrap()));
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
            let allocator = Arc::new(SlotAllocator::new(QueueSize::new(1).unwrap()));
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
