//! Requests between HwBuildIo and HwStartIo: built without a lock, started
//! under the queue's lock, or made stale by a reset in between.

use virtio::slots::{Prepared, SlotAllocator, Staged, Stale};
use virtio::split_queue::{Rejection, RingFault};

use crate::disk::{FLAGS, Pair, data, memory, queue_size};
use crate::pci_device::PciDevice;

/// Stages a read.
fn stage(pair: &Pair<'_>) -> Staged {
    pair.slots.stage(pair.prepare_read(0, 1))
}

/// Resets the device and returns the tags that were in flight. Their slots are
/// free.
fn reclaim(pair: &mut Pair<'_>) -> Vec<u32> {
    let pci = PciDevice::new();
    let reset = pci.reset_device();
    let mut back = Vec::new();
    pair.queue.reclaim(reset.quiet(), &pair.slots, |slot, tag| {
        pair.slots.release(slot);
        back.push(tag);
    });
    pair.device = crate::ring_device::RingDevice::new(pair.device.memory, pair.device.ring);
    back
}

fn free(pair: &Pair<'_>) -> usize {
    let all: Vec<_> = std::iter::from_fn(|| pair.slots.reserve()).collect();
    let count = all.len();
    for slot in all {
        pair.slots.release(slot);
    }
    count
}

#[test]
fn a_staged_request_is_started_and_comes_back() {
    let memory = memory();
    let mut pair = Pair::new(&memory, 8, FLAGS);
    for tag in 0..20 {
        let staged = stage(&pair);
        assert_eq!(staged.queue(), 0);

        let prepared = pair.queue.unstage(&pair.slots, staged).unwrap();
        pair.queue.publish(prepared, tag, |tag| tag).unwrap();

        let chain = pair.device.take().unwrap();
        pair.finish(&chain);
        let used = pair.queue.pop_used().unwrap().unwrap();
        assert_eq!(used.payload, tag);
        pair.slots.release(used.slot);
    }
    assert_eq!(free(&pair), 8);
}

#[test]
fn a_reset_frees_the_slots_of_requests_that_were_never_started() {
    let memory = memory();
    let mut pair = Pair::new(&memory, 8, FLAGS);
    let staged: Vec<Staged> = (0..8).map(|_| stage(&pair)).collect();
    assert_eq!(free(&pair), 0);

    assert!(reclaim(&mut pair).is_empty());

    assert_eq!(free(&pair), 8);
    for staged in staged {
        assert_eq!(pair.queue.unstage(&pair.slots, staged), Err(Stale));
    }
    assert_eq!(free(&pair), 8, "a stale request freed a slot again");
}

#[test]
fn a_reset_leaves_the_slots_that_are_being_built() {
    let memory = memory();
    let mut pair = Pair::new(&memory, 4, FLAGS);
    let slot = pair.slot();
    let prepared = pair.prepare_read(0, 1);
    let _staged = stage(&pair);
    let tag = pair.publish_read();
    let built = [slot.index(), prepared.slot().index()];

    assert_eq!(reclaim(&mut pair), [tag]);

    assert_eq!(free(&pair), 2);
    let others = [pair.slot(), pair.slot()];
    assert!(others.iter().all(|it| !built.contains(&it.index())));
    // What was built during the reset can be started after it.
    let staged = pair.slots.stage(prepared);
    let prepared = pair.queue.unstage(&pair.slots, staged).unwrap();
    pair.queue.publish(prepared, 7, |tag| tag).unwrap();
    assert!(pair.device.take().is_some());
    pair.slots.release(slot);
}

#[test]
fn a_stale_request_does_not_take_the_slot_of_a_later_one() {
    let memory = memory();
    let mut pair = Pair::new(&memory, 4, FLAGS);
    let stale: Vec<Staged> = (0..4).map(|_| stage(&pair)).collect();
    reclaim(&mut pair);
    let later: Vec<Staged> = (0..4).map(|_| stage(&pair)).collect();

    for staged in stale {
        assert_eq!(pair.queue.unstage(&pair.slots, staged), Err(Stale));
    }

    for staged in later {
        let prepared = pair.queue.unstage(&pair.slots, staged).unwrap();
        pair.slots.release(prepared.into_slot());
    }
    assert_eq!(free(&pair), 4);
}

#[test]
fn a_request_is_unstaged_and_published_by_its_own_queue_alone() {
    let memory = memory();
    let mut pair = Pair::new(&memory, 8, FLAGS);
    let other = SlotAllocator::new(1, queue_size(8));
    let extent = pair.config.extent(0, 1).unwrap();
    let build = || -> Prepared {
        let slot = other.reserve().unwrap();
        assert_eq!(slot.queue(), 1);
        pair.requests.read(slot, extent, [data(0, 512)]).unwrap()
    };
    let (first, second, third) = (build(), build(), build());

    let rejected = pair.queue.publish(first, 1, |tag| tag).unwrap_err();
    assert_eq!(rejected.reason, Rejection::ForeignSlot);
    let staged = other.stage(second);
    assert_eq!(pair.queue.unstage(&other, staged), Err(Stale));
    // Neither staged nor freed by an allocator of another queue.
    let staged = pair.slots.stage(third);
    assert_eq!(pair.queue.unstage(&pair.slots, staged), Err(Stale));
    pair.slots.release(rejected.prepared.into_slot());
    assert_eq!(free(&pair), 8);
    reclaim(&mut pair);
    assert_eq!(free(&pair), 8);
}

#[test]
fn the_payload_of_a_rejected_request_is_never_made() {
    let memory = memory();
    let mut pair = Pair::new(&memory, 8, FLAGS);
    pair.device.set_used_idx(1);
    let fault = pair.queue.check_used_index().unwrap_err();
    let prepared = pair.prepare_read(0, 1);
    let index = prepared.slot().index();

    let rejected = pair
        .queue
        .publish(prepared, "given", |_| panic!("made"))
        .unwrap_err();

    assert_eq!(rejected.reason, Rejection::Faulty(fault));
    assert_eq!(rejected.given, "given");
    assert_eq!(rejected.prepared.slot().index(), index);
}

#[test]
fn a_used_ring_that_was_filled_before_driver_ok_is_found_at_once() {
    for index in [1, 8, 0x8000, 0xFFFF] {
        let memory = memory();
        let mut pair = Pair::new(&memory, 8, FLAGS);
        assert_eq!(pair.queue.check_used_index(), Ok(()));

        pair.device.set_used_idx(index);

        let fault = RingFault::UsedIndex {
            found: index,
            taken: 0,
            in_flight: 0,
        };
        assert_eq!(pair.queue.check_used_index(), Err(fault));
        assert_eq!(pair.queue.fault(), Some(fault));
        // Latched: the fault stays when the device takes it back.
        pair.device.set_used_idx(0);
        assert_eq!(pair.queue.check_used_index(), Err(fault));
    }
}

#[test]
fn checking_the_used_index_takes_nothing() {
    let memory = memory();
    let mut pair = Pair::new(&memory, 8, FLAGS);
    let (tag, chain) = pair.taken_read();
    assert_eq!(pair.queue.check_used_index(), Ok(()));
    pair.finish(&chain);

    assert_eq!(pair.queue.check_used_index(), Ok(()));
    assert_eq!(pair.queue.check_used_index(), Ok(()));

    let used = pair.queue.pop_used().unwrap().unwrap();
    assert_eq!(used.payload, tag);
    pair.slots.release(used.slot);
    assert_eq!(pair.queue.pop_used(), Ok(None));
    assert_eq!(pair.queue.check_used_index(), Ok(()));
}

/// A write with FUA is a write and a flush. The flush needs no second slot, so
/// it can't fail for want of one.
#[test]
fn a_flush_follows_a_write_in_the_same_slot() {
    let memory = memory();
    let mut pair = Pair::new(&memory, 4, FLAGS);
    let extent = pair.config.extent(0, 1).unwrap();
    let write = pair
        .requests
        .write(pair.slot(), extent, [data(0, 512)])
        .unwrap();
    let index = write.slot().index();
    pair.queue.publish(write, 1, |tag| tag).unwrap();
    let chain = pair.device.take().unwrap();
    pair.finish(&chain);
    let used = pair.queue.pop_used().unwrap().unwrap();
    assert_eq!(pair.requests.outcome(&used), Ok(()));

    let flush = pair.requests.flush(used.slot).unwrap();
    assert_eq!(flush.slot().index(), index);
    pair.queue.publish(flush, 2, |tag| tag).unwrap();

    let chain = pair.device.take().unwrap();
    assert_eq!(memory.load32(chain.descriptors[0].address), 4, "FLUSH");
    assert_eq!(chain.descriptors.len(), 2);
    // The write's status does not count for the flush.
    pair.device.finish(chain.head, 1);
    let used = pair.queue.pop_used().unwrap().unwrap();
    assert_eq!(used.payload, 2);
    assert!(pair.requests.outcome(&used).is_err());
}
