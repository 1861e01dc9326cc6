//! What only a packed ring has: descriptors that driver and device both write, and wrap
//! counters. `properties` runs the same steps on all formats of both kinds.

use testbed_virtio::memory::{GuestMemory, Memory};
use testbed_virtio::packed_ring::{PackedRingDevice, Place};
use virtio::queue::RingFault;
use virtio::spec::F;

use crate::disk::{DeviceSide as _, Pair, data, extent, formats, memory};

type PackedPair<'m> = Pair<'m, PackedRingDevice<&'m GuestMemory>>;

const FLAGS: F = F::VERSION_1.union(F::RING_PACKED).union(F::INDIRECT_DESC);
const EVENT_IDX: F = FLAGS.union(F::EVENT_IDX);
const DIRECT: F = F::VERSION_1.union(F::RING_PACKED);

fn packed(memory: &GuestMemory, size: u16, features: F) -> PackedPair<'_> {
    PackedPair::new(memory, size, features)
}

fn packed_formats() -> impl Iterator<Item = F> {
    formats().filter(|features| features.contains(F::RING_PACKED))
}

/// V50.
#[test]
fn the_parts_are_aligned_zeroed_and_do_not_overlap() {
    for log in 2..=8 {
        let memory = memory();
        let ring = packed(&memory, 1 << log, FLAGS).device.ring;

        let descriptors = 16 * u64::from(ring.size);
        assert!(ring.descriptors.is_multiple_of(16));
        assert!(ring.driver.is_multiple_of(4) && ring.device.is_multiple_of(4));
        assert!(ring.descriptors + descriptors <= ring.driver);
        assert!(ring.driver + 4 <= ring.device);
        let parts = [
            (ring.descriptors, descriptors),
            (ring.driver, 4),
            (ring.device, 4),
        ];
        for (start, length) in parts {
            assert!((start..start + length).all(|at| memory.load8(at) == 0));
        }
    }
}

/// V51, V53, V54, V58: the device checks each chain, and what it returns. The requests have 2, 3 and 4
/// descriptors, so chains lie across the end of the ring too.
#[test]
fn requests_go_round_the_ring_in_any_order() {
    for features in packed_formats() {
        let memory = memory();
        let mut pair = packed(&memory, 16, features);
        let mut taken = Vec::new();
        let rounds = if cfg!(miri) { 30 } else { 3000 };
        for round in 0..rounds {
            let prepared = match round % 3 {
                0 => pair.flush().unwrap(),
                1 => pair.read(extent(1, 1), &[data(0, 512)]).unwrap(),
                _ => pair
                    .write(extent(2, 2), &[data(0, 512), data(4096, 512)])
                    .unwrap(),
            };
            taken.push(pair.taken(prepared));
            assert_eq!(taken[taken.len() - 1].1.descriptors.len(), 2 + round % 3);
            if taken.len() == pair.limits.shape.slots().get().into() || round % 5 == 0 {
                let (tag, chain) = taken.swap_remove(round % taken.len());
                assert_eq!(pair.device.check_unchanged(&chain), Ok(()));
                pair.finish(&chain);
                let used = pair.pop_used();
                assert_eq!((used.payload, used.written), (tag, chain.writable_bytes()));
                pair.release(used.slot);
                assert_eq!(pair.queue.pop_used(), Ok(None));
            }
        }
        assert!(memory.strips_are_untouched());
    }
}

/// V56, at every place of two laps.
#[test]
fn the_device_gets_a_notification_when_it_asked_for_the_descriptor() {
    let memory = memory();
    let mut pair = packed(&memory, 4, EVENT_IDX);
    for round in 0..20 {
        assert!(!pair.device.enable_notifications(true));
        assert!(!pair.queue.notification_needed(), "nothing was published");
        // One request at a time, or two.
        let first: Vec<_> = (0..=round % 2).map(|_| pair.taken_read()).collect();
        assert!(pair.queue.notification_needed());
        let second = pair.taken_read();
        assert!(!pair.queue.notification_needed(), "it has not asked again");
        pair.device.disable_notifications();
        let third = pair.taken_read();
        assert!(!pair.queue.notification_needed());
        for (_, chain) in first.into_iter().chain([second, third]) {
            pair.finish(&chain);
            let used = pair.pop_used();
            pair.release(used.slot);
        }
    }
}

/// Values that are not defined, or not without EVENT_IDX, cost at most a notification.
#[test]
fn unknown_suppression_suppresses_nothing() {
    for (features, flags, needed) in [
        (FLAGS, 0, true),
        (FLAGS, 1, false),
        (FLAGS, 2, true),
        (EVENT_IDX, 3, true),
        (EVENT_IDX, 0xFFFD, true),
    ] {
        let memory = memory();
        let mut pair = packed(&memory, 8, features);
        pair.device.set_device_events(0x8003, flags);
        pair.publish_read();

        assert_eq!(pair.queue.notification_needed(), needed);
    }
}

#[test]
fn an_interrupt_comes_for_what_the_driver_has_not_seen() {
    for features in packed_formats() {
        let event_idx = features.contains(F::EVENT_IDX);
        let memory = memory();
        let mut pair = packed(&memory, 8, features);
        for _ in 0..20 {
            let (_, first) = pair.taken_read();
            let (_, second) = pair.taken_read();
            let before = pair.device.next_used;
            pair.queue.suppress_interrupts();
            pair.finish(&first);
            assert_eq!(pair.device.interrupt_wanted(event_idx, before), Ok(false));
            assert_eq!(pair.queue.rearm_interrupts(), Ok(true));
            let used = pair.pop_used();
            pair.release(used.slot);
            assert_eq!(pair.queue.rearm_interrupts(), Ok(false));

            let before = pair.device.next_used;
            pair.finish(&second);
            assert_eq!(pair.device.interrupt_wanted(event_idx, before), Ok(true));
            let used = pair.pop_used();
            pair.release(used.slot);
        }
    }
}

/// A1 to A6 of a packed ring: an id beyond the queue, one that is not in flight, and one that
/// was returned before.
#[test]
fn a_used_id_that_is_not_in_flight_marks_the_queue_faulty() {
    for features in packed_formats() {
        for id in [1, 3, 8, 200, 40_000, 65_535] {
            let memory = memory();
            let mut pair = packed(&memory, 16, features);
            let (tag, _) = pair.taken_read();

            pair.device.finish_as(id, 1, 1);

            let fault = RingFault::NotInFlight { id };
            assert_eq!(pair.queue.pop_used(), Err(fault));
            pair.device.finish_as(0, 1, 1);
            assert_eq!(pair.queue.pop_used(), Err(fault));
            assert_eq!(pair.reset(), [tag]);
            let slots = usize::from(pair.limits.shape.slots().get());
            assert_eq!((pair.queue.fault(), pair.free_slots()), (None, slots));
        }
        let memory = memory();
        let mut pair = packed(&memory, 16, features);
        let (_, chain) = pair.taken_read();
        let (second, _) = pair.taken_read();
        pair.finish(&chain);
        pair.finish(&chain);
        let used = pair.pop_used();
        pair.release(used.slot);
        let fault = RingFault::NotInFlight { id: chain.id };
        assert_eq!(pair.queue.pop_used(), Err(fault));
        assert_eq!(pair.reset(), [second]);
    }
}

#[test]
fn a_descriptor_that_is_used_although_nothing_is_in_flight_is_found_at_once() {
    let memory = memory();
    let mut pair = packed(&memory, 8, FLAGS);
    assert_eq!(pair.queue.check_used(), Ok(()));

    pair.device.write_used(2, 1);

    let fault = RingFault::NotInFlight { id: 2 };
    assert_eq!(pair.queue.check_used(), Err(fault));
    assert_eq!(pair.queue.rearm_interrupts(), Err(fault));
    assert!(pair.reset().is_empty());
    assert_eq!(pair.queue.check_used(), Ok(()));
}

/// A device that goes on at a wrong place, or in a wrong lap, is never seen.
#[test]
fn a_used_descriptor_at_another_place_is_not_read() {
    for (index, wrap) in [(1, true), (5, true), (0, false)] {
        let place = Place { index, wrap };
        let memory = memory();
        let mut pair = packed(&memory, 8, FLAGS);
        let (_, chain) = pair.taken_read();

        pair.device.next_used = place;
        pair.finish(&chain);

        assert_eq!(pair.queue.pop_used(), Ok(None));
        assert_eq!(pair.queue.in_flight(), 1);
    }
}

/// The driver counts the descriptors of a request itself: the device rewrites a chain, and the
/// next request is still found where the driver expects it.
#[test]
fn the_length_of_a_chain_is_not_read_from_the_ring() {
    let memory = memory();
    let mut pair = packed(&memory, 16, DIRECT);
    let (first, chain) = pair.taken_read();
    let (second, other) = pair.taken_read();
    let ring = pair.device.ring().descriptors;
    for at in 0..u64::from(chain.in_ring) {
        memory.store64(ring + 16 * at + 8, 0);
    }

    pair.finish(&chain);
    pair.finish(&other);

    assert_eq!(pair.pop_used().payload, first);
    assert_eq!(pair.pop_used().payload, second);
}
