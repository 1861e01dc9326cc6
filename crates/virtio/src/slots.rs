//! The slots of a queue: which are free, and who owns each.
//!
//! A slot holds one request: it is room in the ring, an area of shared memory, and an
//! entry in the table of requests in flight. Any processor may reserve a slot and
//! prepare a request in it at any IRQL, without a lock. A slot is released under the queue's
//! lock, by [`VirtQueue`](crate::queue::VirtQueue).
//!
//! Slots are reserved in the order in which they were released, so a released slot stays
//! free as long as possible. If a device returns a request twice, the second used id then
//! names a slot that is not in flight, and the driver detects that. If the slot were reused
//! at once, the used id would name the slot's next request, and the driver could not detect
//! that.

use core::array;
use core::ops::Range;

use thiserror::Error;

use crate::atomics::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::queue_size::QueueSize;

/// The maximum number of slots of a queue. A slot's index fits 8 bits.
pub const MAX_SLOTS: u16 = 256;

/// The number of entries in a list of free slots, a power of two. loom records the history of each
/// entry, so its models have few.
const PLACES: usize = if cfg!(all(loom, test)) {
    2
} else {
    MAX_SLOTS as usize
};

/// How often [`SlotAllocator::reserve`] tries to take a slot from a list if other processors take
/// slots at the same time.
const ATTEMPTS: u32 = 64;

/// The size of a slot: how many descriptors its table has room for. A table for the longest request
/// takes a page, and most requests are short. So not every slot has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotSize {
    /// Enough for most requests.
    Small,
    /// Enough for every request.
    Large,
}

/// The ownership of one slot: its room in the ring, and its area. At most one value exists
/// for each slot. A slot that is dropped is never used again.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a slot that is dropped is lost; release it"]
pub struct Slot {
    queue: u16,
    index: u8,
    size: SlotSize,
}

impl Slot {
    /// Makes the slot of a request that was taken out of the queue's table. It counts as small,
    /// because a further request in it is a flush.
    #[inline]
    pub(crate) fn returned(queue: u16, index: u8) -> Self {
        Self {
            queue,
            index,
            size: SlotSize::Small,
        }
    }

    /// The size for which the slot was reserved. A slot that was in flight counts as small.
    #[inline]
    #[must_use]
    pub fn size(&self) -> SlotSize {
        self.size
    }

    /// The number of the queue that the slot belongs to.
    #[inline]
    #[must_use]
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// The slot's index, below the number of slots of the queue.
    #[inline]
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index.into()
    }
}

/// A request that is written completely into its slot's area, and not published yet. It
/// is plain data without a destructor. If it is lost, the next
/// [`VirtQueue::discard_prepared`](crate::queue::VirtQueue::discard_prepared) or
/// [`VirtQueue::reclaim`](crate::queue::VirtQueue::reclaim) frees its slot.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "its slot is taken until the request is published, cancelled or discarded"]
pub struct Prepared {
    /// The physical address of its descriptor table.
    pub(crate) table: u64,
    /// The slot's sequence number: odd, and different for each request in the slot.
    sequence: u32,
    pub(crate) queue: u16,
    index: u8,
    /// The number of descriptors in the table.
    pub(crate) descriptors: u16,
}

// It is stored in the SRB extension, which is never dropped.
const _: () = assert!(size_of::<Prepared>() <= 24 && !core::mem::needs_drop::<Prepared>());

impl Prepared {
    /// The number of the queue that the request is for.
    #[inline]
    #[must_use]
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// The index of the request's slot.
    #[inline]
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index.into()
    }
}

/// The slot of a prepared request was freed, so the request must be prepared again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the slot was freed after the request was prepared; prepare the request again")]
pub struct Stale;

/// The slots of one queue.
///
/// # Invariants
///
/// A queue number has one `SlotAllocator` and one
/// [`VirtQueue`](crate::queue::VirtQueue). Each slot is in exactly one
/// of four states:
///
/// | state | owner of the slot | in a list | sequence number |
/// |---|---|---|---|
/// | free | nobody | yes | even |
/// | being built | the one [`Slot`] value | no | even |
/// | prepared | nobody; a [`Prepared`] value may still name it | no | odd |
/// | in flight | the queue's table of requests | no | even |
///
/// No slot exists twice, and none is lost while it is prepared:
///
/// - *Free → being built.* [`reserve`](Self::reserve) advances the list's `head` by a
///   compare-and-exchange that only one processor wins. `head` never passes `tail`.
/// - *Being built → prepared.* `stage` consumes the [`Slot`], which exists once. No
///   other processor writes the sequence number of a slot that is being built, so
///   `stage` needs no locked instruction.
/// - *Prepared → in flight, being built or free.* Only `VirtQueue::publish`, `cancel`,
///   `discard_prepared` and `reclaim` do this. All borrow the queue mutably, so the
///   queue's lock keeps them apart, and a load and a store are enough. Each adds one to
///   the sequence number, which makes it even. So a `Prepared` value is used at most once:
///   if its slot was freed, or prepared again, the number differs from the one that the
///   value holds, and `publish` finds it [`Stale`]. (The number repeats after 2^31 requests
///   in one slot. A stale request that waited for all of those would be published in place
///   of a new one.)
/// - *In flight → being built.* `VirtQueue::pop_used` and `reclaim` take the
///   request out of the table.
/// - *Being built → free.* `VirtQueue::release` and `reclaim` append the slot to the list of
///   its size, under the same lock, so one processor at a time writes `tail`. A slot is
///   in a list at most once, so the place that is written is not in use.
///
/// `reclaim_prepared`, which `discard_prepared` and `reclaim` call, frees a slot only if its
/// number is odd. So it never mistakes a slot that is free, being built or in flight for a
/// prepared one. If `stage` runs at the same time, there are two cases. If
/// `reclaim_prepared` sees the new number, the request is stale. If it does not, the request
/// stays prepared.
///
/// Each transition happens before the next one of the same slot: a release stores
/// `tail` with Release, which `reserve` acquires; `stage` stores the number with
/// Release, which `unstage` and `reclaim_prepared` acquire; the queue's lock orders the
/// rest.
///
/// An allocator has cache lines of its own, so that processors that use different queues do not
/// wait for each other's.
#[derive(Debug)]
#[repr(align(64))]
pub struct SlotAllocator {
    queue: u16,
    /// The index of the first large slot. The small ones precede it.
    first_large: u16,
    small: FreeList,
    large: FreeList,
    /// A sequence number for each slot, odd while a request is prepared in it.
    sequences: [AtomicU32; PLACES],
}

impl SlotAllocator {
    /// Makes an allocator for queue number `queue`, with `count` free slots. More than
    /// [`MAX_SLOTS`] count as [`MAX_SLOTS`]. The last `large` of them are large. If that is 0, all
    /// have the same size, which counts as small.
    #[must_use]
    pub fn new(queue: u16, count: QueueSize, large: u16) -> Self {
        let count = count.get().min(MAX_SLOTS);
        let first_large = count.saturating_sub(large);
        Self {
            queue,
            first_large,
            small: FreeList::new(0..first_large),
            large: FreeList::new(first_large..count),
            sequences: array::from_fn(|_| AtomicU32::new(0)),
        }
    }

    /// The number of the queue that the slots belong to.
    #[inline]
    #[must_use]
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// Reserves a free slot of `size`. If no small slot is free, a large one serves as a small one.
    /// Returns `None` if none is free, or if other processors won every attempt. Runs at any IRQL.
    #[inline]
    pub fn reserve(&self, size: SlotSize) -> Option<Slot> {
        let list = match size {
            SlotSize::Small if !self.small.is_empty() => &self.small,
            _ => &self.large,
        };
        Some(Slot {
            queue: self.queue,
            index: list.take()?,
            size,
        })
    }

    /// Releases a slot. The caller holds the queue's lock. A slot of another queue is not
    /// released and is lost.
    #[inline]
    pub(crate) fn release(&self, slot: Slot) {
        if slot.queue == self.queue {
            self.free(slot.index);
        }
    }

    #[inline]
    fn free(&self, index: u8) {
        if u16::from(index) < self.first_large {
            self.small.put(index);
        } else {
            self.large.put(index);
        }
    }

    /// Marks a slot's request as prepared. From now on the queue owns the slot.
    #[inline]
    pub(crate) fn stage(&self, slot: Slot, table: u64, descriptors: u16) -> Prepared {
        let Slot { queue, index, .. } = slot;
        let sequence = match self.sequences.get(usize::from(index)) {
            Some(word) if queue == self.queue => {
                let odd = word.load(Ordering::Relaxed).wrapping_add(1);
                // Release: the request is written before it counts as prepared.
                word.store(odd, Ordering::Release);
                odd
            }
            // A slot of another queue is lost, and its request is stale.
            _ => 0,
        };
        Prepared {
            table,
            sequence,
            queue,
            index,
            descriptors,
        }
    }

    /// Takes back the slot of a prepared request. The caller holds the queue's lock.
    #[inline]
    pub(crate) fn unstage(&self, prepared: &Prepared) -> Result<Slot, Stale> {
        let Prepared {
            sequence,
            queue,
            index,
            ..
        } = *prepared;
        let word = self.sequences.get(usize::from(index)).ok_or(Stale)?;
        if queue != self.queue
            || !is_prepared(sequence)
            // Acquire, with the store in `stage`, which may have run on another processor.
            || word.load(Ordering::Acquire) != sequence
        {
            return Err(Stale);
        }
        word.store(sequence.wrapping_add(1), Ordering::Relaxed);
        Ok(Slot::returned(queue, index))
    }

    /// Frees the slots of all prepared requests. The caller holds the queue's lock.
    pub(crate) fn reclaim_prepared(&self) {
        for (index, word) in (0..=u8::MAX).zip(&self.sequences) {
            let sequence = word.load(Ordering::Acquire);
            if is_prepared(sequence) {
                word.store(sequence.wrapping_add(1), Ordering::Relaxed);
                self.free(index);
            }
        }
    }
}

/// A list of free slots. Slots are taken in the order in which they were put in.
#[derive(Debug)]
struct FreeList {
    /// The free slots, as a ring: the entries from `head` to `tail`, each index modulo
    /// [`PLACES`].
    places: [AtomicU8; PLACES],
    /// How many slots were ever taken. It has 64 bits so that it never wraps: a processor that is
    /// suspended inside `take` then always finds that `head` has changed.
    head: AtomicU64,
    /// How many slots were ever put in.
    tail: AtomicU64,
}

impl FreeList {
    /// A list of `slots`, at most [`PLACES`]. Each is below [`MAX_SLOTS`].
    fn new(mut slots: Range<u16>) -> Self {
        Self {
            head: AtomicU64::new(0),
            tail: AtomicU64::new(slots.len() as u64),
            // 8 bits hold an index.
            places: array::from_fn(|_| AtomicU8::new(slots.next().unwrap_or(0) as u8)),
        }
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.head.load(Ordering::Relaxed) == self.tail.load(Ordering::Relaxed)
    }

    /// Takes a slot. Returns `None` if there is none, or if other processors won every attempt.
    #[inline]
    fn take(&self) -> Option<u8> {
        // Bounded, because no loop at raised IRQL may depend on other processors.
        for _ in 0..ATTEMPTS {
            // Acquire: a processor that sees that a slot was taken also sees that it was put in
            // before. So `head` is at most the `tail` that is loaded next.
            let head = self.head.load(Ordering::Acquire);
            // Acquire, with the store in `put`: the last owner's accesses to the slot happen
            // before those of the next owner.
            if head == self.tail.load(Ordering::Acquire) {
                return None;
            }
            // If another processor takes this slot, `head` changes before the entry is
            // overwritten, and the exchange fails.
            let index = self.place(head)?.load(Ordering::Relaxed);
            let next = head.wrapping_add(1);
            let exchanged =
                self.head
                    .compare_exchange(head, next, Ordering::AcqRel, Ordering::Relaxed);
            if exchanged.is_ok() {
                return Some(index);
            }
        }
        None
    }

    /// Puts in a slot that is not in the list. One processor at a time calls this.
    #[inline]
    fn put(&self, index: u8) {
        let tail = self.tail.load(Ordering::Relaxed);
        if let Some(place) = self.place(tail) {
            place.store(index, Ordering::Relaxed);
            // Release, with the load in `take`: this owner's accesses to the slot happen before
            // those of the next owner.
            self.tail.store(tail.wrapping_add(1), Ordering::Release);
        }
    }

    /// The entry that `number`, a value of `head` or `tail`, refers to.
    #[inline]
    fn place(&self, number: u64) -> Option<&AtomicU8> {
        // The cast keeps every bit that the remainder depends on.
        self.places.get(number as usize % PLACES)
    }
}

#[inline]
fn is_prepared(sequence: u32) -> bool {
    sequence % 2 == 1
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::collections::{HashSet, VecDeque};

    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn slots(count: u16) -> SlotAllocator {
        SlotAllocator::new(0, QueueSize::new(count).unwrap(), 0)
    }

    #[test]
    fn each_slot_is_reserved_once_and_then_none_is_left() {
        for count in [1, 64, 256] {
            let allocator = slots(count);

            let taken: Vec<Slot> =
                std::iter::from_fn(|| allocator.reserve(SlotSize::Small)).collect();

            let different: HashSet<u16> = taken.iter().map(Slot::index).collect();
            assert_eq!(different, (0..count).collect());
            assert_eq!(taken.len(), usize::from(count));
        }
    }

    #[test]
    fn the_number_of_slots_is_limited_to_the_maximum() {
        let allocator = slots(1024);

        assert_eq!(
            std::iter::from_fn(|| allocator.reserve(SlotSize::Small)).count(),
            256
        );
    }

    /// A6.
    #[test]
    fn a_released_slot_is_not_reserved_while_others_are_free() {
        for count in [2, 64, 128, 256] {
            let allocator = slots(count);
            let first = allocator.reserve(SlotSize::Small).unwrap();
            let resting = first.index();
            allocator.release(first);

            for _ in 1..count {
                let slot = allocator.reserve(SlotSize::Small).unwrap();
                assert_ne!(slot.index(), resting);
                allocator.release(slot);
            }
        }
    }

    #[test]
    fn a_slot_and_its_request_name_their_queue_and_index() {
        for queue in [0, 1, 7] {
            let allocator = SlotAllocator::new(queue, QueueSize::new(4).unwrap(), 0);
            assert_eq!(allocator.queue(), queue);
            for index in 0..4 {
                let slot = allocator.reserve(SlotSize::Small).unwrap();
                assert_eq!((slot.queue(), slot.index()), (queue, index));

                let prepared = allocator.stage(slot, 0x1000, 3);

                assert_eq!((prepared.queue(), prepared.index()), (queue, index));
                assert_eq!((prepared.table, prepared.descriptors), (0x1000, 3));
            }
        }
    }

    #[test]
    fn the_slot_of_a_prepared_request_is_taken_back_once() {
        let allocator = slots(2);
        let prepared = allocator.stage(allocator.reserve(SlotSize::Small).unwrap(), 0, 1);

        assert_eq!(allocator.unstage(&prepared), Ok(Slot::returned(0, 0)));
        assert_eq!(allocator.unstage(&prepared), Err(Stale));
    }

    #[test]
    fn a_slot_of_another_queue_is_neither_released_nor_taken_back() {
        let [one, other] =
            [1, 2].map(|queue| SlotAllocator::new(queue, QueueSize::new(4).unwrap(), 0));
        let of_one = one.stage(one.reserve(SlotSize::Small).unwrap(), 0, 1);
        let of_other = other.stage(other.reserve(SlotSize::Small).unwrap(), 0, 1);
        assert_eq!(other.unstage(&of_one), Err(Stale));
        assert_eq!(one.unstage(&of_other), Err(Stale));

        // The slot is not known here, and its request is stale everywhere.
        let strange = other.stage(one.reserve(SlotSize::Small).unwrap(), 0, 1);
        assert_eq!(one.unstage(&strange), Err(Stale));
        assert_eq!(other.unstage(&strange), Err(Stale));

        other.release(one.reserve(SlotSize::Small).unwrap());
        other.reclaim_prepared();
        assert_eq!(
            std::iter::from_fn(|| other.reserve(SlotSize::Small)).count(),
            4
        );
    }

    #[test]
    fn only_the_slots_of_prepared_requests_are_reclaimed() {
        let allocator = slots(4);
        let built = allocator.reserve(SlotSize::Small).unwrap();
        let prepared = allocator.stage(allocator.reserve(SlotSize::Small).unwrap(), 0, 1);

        for _ in 0..2 {
            allocator.reclaim_prepared();
        }

        assert_eq!(allocator.unstage(&prepared), Err(Stale));
        let free: Vec<u16> = std::iter::from_fn(|| allocator.reserve(SlotSize::Small))
            .map(|slot| slot.index())
            .collect();
        assert_eq!((built.index(), free), (0, vec![2, 3, 1]));
    }

    proptest! {
        #![proptest_config(crate::proptest_config(256))]

        /// So no slot is lost or duplicated, and each stays free as long as possible.
        #[test]
        fn slots_of_each_size_are_reserved_in_the_order_in_which_they_were_released(
            count in prop::sample::select(vec![1_u16, 4, 64, 256]),
            is_mixed in any::<bool>(),
            steps in prop::collection::vec(
                any::<(bool, bool, prop::sample::Index)>(),
                0..if cfg!(miri) { 60 } else { 600 },
            ),
        ) {
            let first_large = if is_mixed { count - count / 4 } else { count };
            let allocator =
                SlotAllocator::new(0, QueueSize::new(count).unwrap(), count - first_large);
            let mut small: VecDeque<u16> = (0..first_large).collect();
            let mut large: VecDeque<u16> = (first_large..count).collect();
            let mut held: Vec<Slot> = Vec::new();
            for (reserve, is_large, which) in steps {
                if reserve {
                    let size = if is_large { SlotSize::Large } else { SlotSize::Small };
                    let slot = allocator.reserve(size);
                    let from = if is_large || small.is_empty() { &mut large } else { &mut small };
                    prop_assert_eq!(slot.as_ref().map(Slot::index), from.pop_front());
                    prop_assert!(slot.as_ref().is_none_or(|it| it.size() == size));
                    held.extend(slot);
                } else if !held.is_empty() {
                    let slot = held.swap_remove(which.index(held.len()));
                    let to = if slot.index() < first_large { &mut small } else { &mut large };
                    to.push_back(slot.index());
                    allocator.release(slot);
                }
            }
        }
    }
}

#[cfg(test)]
#[cfg(loom)]
mod models {
    use core::iter;

    use loom::cell::UnsafeCell;
    use loom::sync::{Arc, Mutex};
    use loom::thread;
    use std::vec::Vec;

    use super::*;

    /// The slots of a queue as two processors share them.
    struct Shared {
        allocator: SlotAllocator,
        /// Each slot's area. loom fails the model if two processors access one area at the
        /// same time, or if one does not see the accesses of the one before.
        areas: [UnsafeCell<u32>; PLACES],
        /// The queue's lock.
        lock: Mutex<()>,
    }

    impl Shared {
        /// Reserves a slot and writes to its area.
        fn reserve(&self) -> Option<Slot> {
            let slot = self.allocator.reserve(SlotSize::Small)?;
            self.areas[usize::from(slot.index())].with_mut(|_| ());
            Some(slot)
        }

        fn release(&self, slot: Slot) {
            let _held = self.lock.lock().unwrap();
            self.allocator.release(slot);
        }

        /// Uses a slot for one request. Returns false if there is none.
        fn use_once(&self) -> bool {
            self.reserve().map(|slot| self.release(slot)).is_some()
        }
    }

    /// Runs `one` and `other` on two processors that share `count` slots. Afterwards
    /// all slots are free, each once.
    fn model(count: u16, one: fn(&Shared), other: fn(&Shared)) {
        loom::model(move || {
            let shared = Arc::new(Shared {
                allocator: SlotAllocator::new(0, QueueSize::new(count).unwrap(), 0),
                areas: [UnsafeCell::new(0), UnsafeCell::new(0)],
                lock: Mutex::new(()),
            });
            let running = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || other(&shared))
            };
            one(&shared);
            running.join().unwrap();

            let mut free: Vec<u16> = iter::from_fn(|| shared.reserve())
                .map(|slot| slot.index())
                .collect();
            free.sort_unstable();
            assert!(free.into_iter().eq(0..count), "a slot was lost or doubled");
        });
    }

    /// Two slots are used three times, so entries of the list of free slots are
    /// overwritten while the other processor reads them.
    #[test]
    fn two_processors_never_use_one_slot() {
        model(
            2,
            |shared| assert!(shared.use_once()),
            |shared| {
                assert!(shared.use_once());
                assert!(shared.use_once());
            },
        );
    }

    /// The slots change their positions in the list, so a processor that reads an entry
    /// too early would take a slot that is not the next.
    #[test]
    fn a_slot_that_moves_in_the_list_meanwhile_is_reserved_once() {
        model(
            2,
            |shared| {
                shared.use_once();
            },
            |shared| {
                let taken = [shared.reserve(), shared.reserve()];
                for slot in taken.into_iter().rev().flatten() {
                    shared.release(slot);
                }
            },
        );
    }

    /// There is one slot, so the list changes between empty and not empty while the other
    /// processor looks at it. A processor that finds the list empty gets no slot.
    #[test]
    fn a_slot_is_reserved_while_it_is_released() {
        model(
            1,
            |shared| {
                shared.use_once();
                shared.use_once();
            },
            |shared| {
                shared.use_once();
            },
        );
    }

    /// Two processors reserve the only slot. One gets it, and the other gets none.
    #[test]
    fn only_one_of_two_processors_gets_the_last_slot() {
        loom::model(|| {
            let allocator = Arc::new(SlotAllocator::new(0, QueueSize::new(1).unwrap(), 0));
            let other = {
                let allocator = Arc::clone(&allocator);
                thread::spawn(move || allocator.reserve(SlotSize::Small))
            };
            let mine = allocator.reserve(SlotSize::Small);
            let theirs = other.join().unwrap();

            assert!(mine.is_some() ^ theirs.is_some());
        });
    }
}
