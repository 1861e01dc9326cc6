//! Requests between preparation and publication: HwBuildIo prepares one without a lock,
//! HwStartIo publishes it under the queue's lock, and a reset in between makes it stale.

use testbed_virtio::memory::Memory;
use testbed_virtio::split_ring::RingDevice;
use virtio::queue::format::{QueueFormat, RingShape};
use virtio::queue::{NotPublished, Rejection, RingFault, VirtQueue};
use virtio::queue_size::QueueSize;
use virtio::slots::{Prepared, SlotAllocator, SlotSize};

use crate::disk::{FLAGS, Pair, data, dma, extent, memory, queue_size, ring_of};

/// Publishes a request that must be refused. Its payload must not be made.
fn rejection(pair: &mut Pair<'_>, prepared: Prepared) -> Rejection {
    let rejected = pair
        .queue
        .publish(&pair.slots, prepared, "given", |_| panic!("made"));
    let NotPublished { given, reason } = rejected.unwrap_err();
    assert_eq!(given, "given");
    reason
}

/// Prepares a read in every free slot.
fn prepare_all(pair: &mut Pair<'_>) -> Vec<Prepared> {
    (0..pair.free_slots())
        .map(|_| pair.prepare_read())
        .collect()
}

/// Storport may drop requests between HwBuildIo and HwStartIo. Their slots must not wait for
/// a reset of the device.
#[test]
fn slots_of_lost_requests_are_freed_without_a_reset() {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 8, FLAGS);
    let tag = pair.publish_read();
    let mut prepared = prepare_all(&mut pair);
    let late = prepared.pop().unwrap();
    assert_eq!((pair.free_slots(), pair.queue.in_flight()), (0, 1));

    pair.queue.discard_prepared(&pair.slots);

    assert_eq!((pair.free_slots(), pair.queue.in_flight()), (7, 1));
    assert_eq!(rejection(&mut pair, late), Rejection::Stale);
    assert_eq!(pair.reset(), [tag]);
    assert_eq!(pair.free_slots(), 8);
}

/// The slot of a request for another queue stays prepared until that queue is reclaimed. A slot
/// that is passed to the wrong allocator is lost.
#[test]
fn only_its_own_queue_publishes_or_cancels_a_request() {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 8, FLAGS);
    let other = SlotAllocator::new(1, queue_size(8), 0);
    let build = |slots| {
        let slot = other.reserve(SlotSize::Small).unwrap();
        assert_eq!(slot.queue(), 1);
        pair.requests
            .read(slots, slot, extent(0, 1), &[data(0, 512)], |it| *it)
            .unwrap()
    };
    let [first, second, third, fourth] = [(); 4].map(|()| build(&other));
    let mixed = build(&pair.slots);

    assert_eq!(rejection(&mut pair, first), Rejection::Stale);
    let rejected = pair.queue.publish(&other, second, 1, |tag| tag);
    assert_eq!(rejected.unwrap_err().reason, Rejection::Stale);
    pair.queue.cancel(&pair.slots, third);
    pair.queue.cancel(&other, fourth);
    assert_eq!(rejection(&mut pair, mixed), Rejection::Stale);
    let slot = other.reserve(SlotSize::Small).unwrap();
    pair.release(slot);

    assert_eq!(
        std::iter::from_fn(|| other.reserve(SlotSize::Small)).count(),
        2
    );
    assert_eq!(pair.free_slots(), 8);
    pair.reset();
    assert_eq!(pair.free_slots(), 8);
}

/// Requests prepared for a queue of 32 are published to one of 4.
#[test]
fn a_request_that_does_not_fit_the_queue_frees_its_slot() {
    for table in [2, 4, 32] {
        let (memory, other) = (memory(), memory());
        let mut pair = Pair::<RingDevice>::new(&memory, 32, FLAGS);
        let format = QueueFormat::of(FLAGS);
        let shape = RingShape::new(format, queue_size(4), QueueSize::Q256, 4);
        let (tables, table_of) = (pair.requests.tables(), vec![None; table]);
        pair.queue = VirtQueue::new(&mut dma(&other), 0, shape, tables, table_of).unwrap();
        pair.device = RingDevice::new(&other, ring_of(pair.queue.placement()));

        let pieces = [0, 1, 2].map(|page| data(page * 4096, 512));
        let long = pair.read(extent(0, 3), &pieces).unwrap();
        assert_eq!(rejection(&mut pair, long), Rejection::Unfit);
        assert_eq!(pair.free_slots(), 32);

        let beyond = table.min(4);
        for prepared in prepare_all(&mut pair) {
            if usize::from(prepared.index()) < beyond {
                pair.publish(prepared);
            } else {
                assert_eq!(rejection(&mut pair, prepared), Rejection::Unfit);
            }
        }
        assert_eq!(usize::from(pair.queue.in_flight()), beyond);
        assert_eq!(pair.free_slots(), 32 - beyond);
        assert_eq!(pair.reset().len(), beyond);
        assert_eq!(pair.free_slots(), 32);
    }
}

#[test]
fn a_request_for_a_faulty_queue_frees_its_slot() {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 8, FLAGS);
    pair.device.set_used_idx(1);
    let fault = pair.queue.check_used().unwrap_err();

    let prepared = pair.prepare_read();

    assert_eq!(rejection(&mut pair, prepared), Rejection::Faulty(fault));
    assert_eq!(pair.free_slots(), 8);
}

#[test]
fn a_used_ring_that_was_filled_before_driver_ok_is_found_at_once() {
    for index in [1, 8, 0x8000, 0xFFFF] {
        let memory = memory();
        let mut pair = Pair::<RingDevice>::new(&memory, 8, FLAGS);
        assert_eq!(pair.queue.check_used(), Ok(()));

        pair.device.set_used_idx(index);

        let fault = RingFault::UsedIndex {
            found: index,
            last: 0,
            in_flight: 0,
        };
        assert_eq!(pair.queue.check_used(), Err(fault));
        assert_eq!(pair.queue.fault(), Some(fault));
        // The fault stays when the device corrects the index.
        pair.device.set_used_idx(0);
        assert_eq!(pair.queue.check_used(), Err(fault));
    }
}

#[test]
fn checking_the_used_index_takes_nothing() {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 8, FLAGS);
    let (tag, chain) = pair.taken_read();
    assert_eq!(pair.queue.check_used(), Ok(()));
    pair.finish(&chain);

    assert_eq!(pair.queue.check_used(), Ok(()));
    assert_eq!(pair.queue.check_used(), Ok(()));

    let used = pair.pop_used();
    assert_eq!(used.payload, tag);
    pair.release(used.slot);
    assert_eq!(pair.queue.pop_used(), Ok(None));
    assert_eq!(pair.queue.check_used(), Ok(()));
}

/// A write with FUA is a write and a flush. The flush uses the slot of the write, so it cannot fail
/// because all slots are in use.
#[test]
fn a_flush_follows_a_write_in_the_same_slot() {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 4, FLAGS);
    let write = pair.write(extent(0, 1), &[data(0, 512)]).unwrap();
    let (_, chain) = pair.taken(write);
    pair.finish(&chain);
    let used = pair.pop_used();
    assert_eq!(pair.requests.outcome(&used.slot), Ok(()));

    let flush = pair.requests.flush(&pair.slots, used.slot).unwrap();
    assert_eq!(flush.index(), chain.id);
    let (tag, chain) = pair.taken(flush);

    assert_eq!(memory.load32(chain.descriptors[0].address), 4, "FLUSH");
    assert_eq!(chain.descriptors.len(), 2);
    // The write's status does not count for the flush.
    pair.device.finish(&chain, 1);
    let used = pair.pop_used();
    assert_eq!(used.payload, tag);
    assert!(pair.requests.outcome(&used.slot).is_err());
}
