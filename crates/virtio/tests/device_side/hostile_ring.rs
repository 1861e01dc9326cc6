//! Devices that misuse the ring or the data of requests. At worst the queue is marked faulty, and a
//! reset returns every request, once.

use testbed_virtio::chain::Descriptor;
use testbed_virtio::memory::Memory;
use testbed_virtio::split_ring::RingDevice;
use virtio::blk::RequestError;
use virtio::queue::{Rejection, RingFault};
use virtio::slots::{SlotAllocator, SlotSize};
use virtio::spec::F;

use crate::disk::{
    EVENT_IDX, FLAGS, IOERR, OK, Pair, Tag, UNSUPP, data, extent, memory, queue_size,
};

/// Checks three things: the next `pop_used` marks the queue faulty with `fault`; whatever the
/// device does then, the ring is not read again; and a reset returns the requests `in_flight`.
fn expect_fault(pair: &mut Pair<'_>, fault: RingFault, in_flight: &[Tag]) {
    assert_eq!(pair.queue.pop_used(), Err(fault));
    assert_eq!(pair.queue.fault(), Some(fault));

    // The device now writes correct values.
    pair.device.set_used_idx(1);
    pair.device.write_used(0, 0, 1);
    assert_eq!(pair.queue.pop_used(), Err(fault));
    assert_eq!(pair.queue.rearm_interrupts(), Err(fault));
    let free = pair.free_slots();
    if free > 0 {
        let flush = pair.flush().unwrap();
        let rejected = pair.queue.publish(&pair.slots, flush, 0, |it| it);
        let rejected = rejected.unwrap_err();
        assert_eq!(rejected.reason, Rejection::Faulty(fault));
        assert_eq!(rejected.given, 0);
        assert_eq!(pair.free_slots(), free);
    }

    expect_all_back_after_a_reset(pair, in_flight);
}

/// Runs `act` with a queue of 8 slots, and expects the fault that it returns, with these requests in
/// flight.
fn fault_after(act: impl Fn(&mut Pair<'_>) -> (RingFault, Vec<Tag>)) {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 8, FLAGS);
    let (fault, in_flight) = act(&mut pair);
    expect_fault(&mut pair, fault, &in_flight);
}

fn expect_all_back_after_a_reset(pair: &mut Pair<'_>, in_flight: &[Tag]) {
    let mut back = pair.reset();
    back.sort_unstable();
    assert_eq!(back, in_flight);
    assert!(pair.reset().is_empty(), "returned twice");
    assert_eq!(pair.queue.in_flight(), 0);
    assert_eq!(pair.queue.fault(), None);
    let size = usize::from(pair.device.ring.size);
    assert_eq!(pair.free_slots(), size, "a slot was lost or doubled");

    // The queue works again.
    let (tag, chain) = pair.taken_read();
    pair.finish(&chain);
    let used = pair.pop_used();
    assert_eq!(used.payload, tag);
    pair.release(used.slot);
    assert!(pair.device.memory.strips_are_untouched());
}

/// A3.
#[test]
fn a_false_used_index_at_the_end_of_a_drain_marks_the_queue_faulty() {
    for features in [FLAGS, EVENT_IDX] {
        let memory = memory();
        let mut pair = Pair::<RingDevice>::new(&memory, 8, features);
        let (tag, _) = pair.taken_read();
        assert_eq!(pair.queue.pop_used(), Ok(None));
        pair.device.set_used_idx(2);

        let fault = RingFault::UsedIndex {
            found: 2,
            last: 0,
            in_flight: 1,
        };
        assert_eq!(pair.queue.rearm_interrupts(), Err(fault));
        expect_fault(&mut pair, fault, &[tag]);
    }
}

/// A1, A2, A3, A4: each descriptor of the ring is the head of an indirect chain. The index of a
/// descriptor in an indirect table is not a used id.
#[test]
fn a_used_id_that_is_not_in_flight_marks_the_queue_faulty() {
    let indirect = [1, 2];
    let beyond = [8, 200, 40_000, 65_535];
    let with_low_bits_of_the_head = [1 << 16, 2 << 16, 0x8000 << 16, 0xFFFF << 16];
    for id in [&indirect[..], &beyond, &with_low_bits_of_the_head].concat() {
        fault_after(|pair| {
            let (tag, chain) = pair.taken_read();
            assert_eq!((chain.id, chain.descriptors.len()), (0, 3));
            pair.device.finish_as(id, 1);
            let fault = match id {
                0..8 => RingFault::NotInFlight { id: id as u16 },
                _ => RingFault::IdOutOfRange { id },
            };
            (fault, vec![tag])
        });
    }
}

/// A1, A4: without indirect descriptors, a slot has 4 descriptors of the ring of 16. Only the index
/// of its first one is a used id.
#[test]
fn a_used_id_inside_a_chain_or_of_another_slot_marks_the_queue_faulty() {
    for id in [1, 2, 3, 4, 5, 12, 15, 16, 65_535, 1 << 16] {
        let memory = memory();
        let mut pair = Pair::<RingDevice>::new(&memory, 16, F::VERSION_1);
        let (tag, chain) = pair.taken_read();
        assert_eq!((chain.id, chain.in_ring), (0, 3));

        pair.device.finish_as(id, 1);

        let fault = match id {
            0..16 => RingFault::NotInFlight { id: id as u16 },
            _ => RingFault::IdOutOfRange { id },
        };
        assert_eq!(pair.queue.pop_used(), Err(fault));
        assert_eq!(pair.reset(), [tag]);
        assert_eq!(pair.free_slots(), 4);
    }
}

/// A5.
#[test]
fn the_same_id_twice_in_a_batch_completes_once() {
    fault_after(|pair| {
        let (first, chain) = pair.taken_read();
        let (second, _) = pair.taken_read();
        pair.finish(&chain);
        pair.finish(&chain);
        let used = pair.pop_used();
        assert_eq!(used.payload, first);
        pair.release(used.slot);
        (RingFault::NotInFlight { id: chain.id }, vec![second])
    });
}

/// A6: a released slot is not reserved again while others are free, so the repeated id is not in
/// flight.
#[test]
fn a_replay_after_other_requests_completes_nothing() {
    fault_after(|pair| {
        let (_, chain) = pair.taken_read();
        pair.finish(&chain);
        let used = pair.pop_used();
        pair.release(used.slot);
        let others = (0..7).map(|_| pair.taken_read().0).collect();
        pair.finish(&chain);
        (RingFault::NotInFlight { id: chain.id }, others)
    });
}

/// A7, A8.
#[test]
fn an_index_that_goes_back_or_beyond_the_requests_in_flight_marks_the_queue_faulty() {
    for (finished, in_flight, found) in [
        (0, 0, 1),
        (0, 1, 2),
        (0, 3, 4),
        (0, 3, 9),
        (0, 3, 0x8000),
        (0, 8, 9),
        (2, 1, 1),
    ] {
        fault_after(|pair| {
            for _ in 0..finished {
                let (_, chain) = pair.taken_read();
                pair.finish(&chain);
                let used = pair.pop_used();
                pair.release(used.slot);
            }
            let tags = (0..in_flight).map(|_| pair.taken_read().0).collect();
            pair.device.set_used_idx(found);
            let fault = RingFault::UsedIndex {
                found,
                last: finished,
                in_flight,
            };
            (fault, tags)
        });
    }
}

/// A8: a device returns requests without end. A drain still ends after the requests that were in
/// flight when it began, because only the driver can put more in flight.
#[test]
fn a_drain_takes_no_more_requests_than_were_in_flight() {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 8, FLAGS);
    for _ in 0..8 {
        pair.taken_read();
    }

    // The device advances its index before each `pop_used`, over valid elements.
    let mut drained = 0;
    let end = loop {
        pair.device.finish_as(drained % 8, 1);
        match pair.queue.pop_used() {
            Ok(Some(used)) => {
                pair.release(used.slot);
                drained += 1;
            }
            end => break end,
        }
    };

    assert_eq!(drained, 8);
    assert!(end.is_err());
}

/// The device may still write to the memory of the request, so only a reset returns it.
#[test]
fn a_request_returned_without_a_status_stays_in_flight() {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 8, FLAGS);
    let (first, _) = pair.taken_read();
    let (second, chain) = pair.taken_read();
    pair.device.finish(&chain, 513);

    let used = pair.pop_used();
    assert_eq!(
        pair.requests.outcome(&used.slot),
        Err(RequestError::NoStatus)
    );
    let slot = used.slot.index();
    pair.queue.take_back(used);

    assert_eq!(pair.queue.in_flight(), 2);
    let fault = RingFault::NotFinished { slot };
    expect_fault(&mut pair, fault, &[first, second]);
}

/// A10: the status byte is set to the invalid value for each request, not only for the first.
#[test]
fn the_status_of_an_earlier_request_is_not_used() {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 4, FLAGS);
    for _ in 0..4 {
        let (_, chain) = pair.taken_read();
        pair.finish(&chain);
        let used = pair.pop_used();
        assert_eq!(pair.requests.outcome(&used.slot), Ok(()));
        pair.release(used.slot);
    }

    for _ in 0..4 {
        let (_, chain) = pair.taken_read();
        pair.device.finish(&chain, 513);
        let used = pair.pop_used();
        assert_eq!(
            pair.requests.outcome(&used.slot),
            Err(RequestError::NoStatus)
        );
        pair.release(used.slot);
    }
}

const GARBAGE: Descriptor = Descriptor {
    address: 0xDEAD_BEEF_0000,
    length: u32::MAX,
    flags: 0xFFFF,
    next: 0xFFFF,
};

/// A11, A12: the driver does not read descriptors back.
#[test]
fn rewritten_descriptors_and_tables_change_nothing() {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 8, FLAGS);
    for _ in 0..20 {
        let (tag, chain) = pair.taken_read();
        pair.write_status(&chain, OK);
        for slot in 0..8 {
            let at = pair.device.ring.descriptors + 16 * slot;
            pair.device.write_descriptor(at, GARBAGE);
        }
        for entry in 0..chain.descriptors.len() as u64 {
            let at = chain.table.expect("an indirect table") + 16 * entry;
            pair.device.write_descriptor(at, GARBAGE);
        }

        pair.device.finish(&chain, u32::MAX);

        let used = pair.pop_used();
        assert_eq!(used.payload, tag);
        assert_eq!(used.written, u32::MAX);
        assert_eq!(pair.requests.outcome(&used.slot), Ok(()));
        // `take` checks the descriptors of the next request too.
        pair.release(used.slot);
    }
}

/// A11: the driver does not read the available ring back. It uses its own copy of the index.
#[test]
fn a_rewritten_available_ring_changes_nothing() {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 8, FLAGS);
    pair.taken_read();
    let available = pair.device.ring.driver;

    memory.store16(available + 2, 0x4444);
    pair.publish_read();

    assert_eq!(pair.device.avail_idx(), 2);
}

/// A13: the driver reads a used element once, so it does not see later changes.
#[test]
fn an_element_changed_after_it_was_taken_is_not_read_again() {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 8, FLAGS);
    let (tag, chain) = pair.taken_read();
    pair.write_status(&chain, OK);
    pair.device.finish(&chain, 100);

    let used = pair.pop_used();
    pair.device.write_used(0, 5, 513);

    assert_eq!((used.payload, used.written), (tag, 100));
    assert_eq!(pair.requests.outcome(&used.slot), Ok(()));
}

/// A14: a false value causes a notification too many or too few, and nothing else.
#[test]
fn false_notification_fields_change_only_whether_to_notify() {
    for features in [FLAGS, EVENT_IDX] {
        let memory = memory();
        let mut pair = Pair::<RingDevice>::new(&memory, 8, features);
        for hint in (0..=u16::MAX).step_by(if cfg!(miri) { 8191 } else { 251 }) {
            pair.device.set_avail_event(hint);
            pair.device.set_used_flags(hint);
            let (tag, chain) = pair.taken_read();
            let _: bool = pair.queue.notification_needed();
            pair.finish(&chain);
            let used = pair.pop_used();
            assert_eq!(used.payload, tag);
            pair.release(used.slot);
        }
    }
}

/// A16: the device can read a prepared request, because it is in shared memory.
#[test]
fn a_completion_before_the_publication_marks_the_queue_faulty() {
    for others in [0, 1] {
        let memory = memory();
        let mut pair = Pair::<RingDevice>::new(&memory, 8, FLAGS);
        let tags: Vec<Tag> = (0..others).map(|_| pair.taken_read().0).collect();
        let prepared = pair.prepare_read();
        let id = prepared.index();

        pair.device.finish_as(id.into(), 1);

        let fault = match others {
            0 => RingFault::UsedIndex {
                found: 1,
                last: 0,
                in_flight: 0,
            },
            _ => RingFault::NotInFlight { id },
        };
        assert_eq!(pair.queue.pop_used(), Err(fault));
        pair.queue.cancel(&pair.slots, prepared);
        expect_all_back_after_a_reset(&mut pair, &tags);
    }
}

/// A17, A43: the driver overwrites what the device wrote after its reset before it uses the ring
/// again. The returned request is not in flight.
#[test]
fn a_completion_after_the_reset_marks_the_queue_faulty() {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 8, FLAGS);
    let (tag, chain) = pair.taken_read();
    assert_eq!(pair.reset(), [tag]);

    pair.finish(&chain);

    assert!(pair.queue.pop_used().is_err());
    expect_all_back_after_a_reset(&mut pair, &[]);
}

/// A10, A18. With OK this deviates from VIRTIO 1.3 §2.7.8.3. Some hypervisors report a length of 0 or
/// 1 for every request, and some count a write's data as written (cloud-hypervisor did until April
/// 2026). So only the status decides.
#[test]
fn only_the_status_decides_how_a_request_ended() {
    let mut cases = vec![
        (OK, Ok(())),
        (IOERR, Err(RequestError::Io)),
        (UNSUPP, Err(RequestError::Unsupported)),
        // The device does not write it.
        (0xFF, Err(RequestError::NoStatus)),
    ];
    let unknown = (3..0xFF).step_by(if cfg!(miri) { 50 } else { 1 });
    cases.extend(unknown.map(|status| (status, Err(RequestError::UnknownStatus(status)))));
    for (status, outcome) in cases {
        for length in [0, 1, 512, 513, 514, 4096, u32::MAX] {
            let memory = memory();
            let mut pair = Pair::<RingDevice>::new(&memory, 8, FLAGS);
            let (_, chain) = pair.taken_read();
            if status != 0xFF {
                pair.write_status(&chain, status);
            }

            pair.device.finish(&chain, length);

            let used = pair.pop_used();
            assert_eq!(pair.requests.outcome(&used.slot), outcome);
            assert_eq!(used.written, length);
        }
    }
}

/// The driver checks and keeps a copy of a reply.
#[test]
fn a_reply_that_changes_after_it_was_read_is_not_read_again() {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 8, FLAGS);
    let identify = pair.identify();
    let (_, chain) = pair.taken(identify);
    let place = chain.descriptors[1].address;
    for (at, byte) in (place..).zip(*b"serial") {
        memory.store8(at, byte);
    }
    pair.finish(&chain);

    let used = pair.pop_used();
    let identity = pair.requests.identity(&used.slot).unwrap();
    memory.store8(place, b'X');
    pair.write_status(&chain, 1);

    assert_eq!(identity, *b"serial\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
}

#[test]
fn an_identity_does_not_contain_data_of_an_earlier_request() {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 4, FLAGS);
    for answer in [*b"a disk with 20 bytes", [0; 20]] {
        for _ in 0..4 {
            let identify = pair.identify();
            let (_, chain) = pair.taken(identify);
            // The second time the device writes only the status.
            for (at, byte) in (chain.descriptors[1].address..).zip(answer) {
                if byte != 0 {
                    memory.store8(at, byte);
                }
            }
            pair.finish(&chain);
            let used = pair.pop_used();
            assert_eq!(pair.requests.identity(&used.slot), Ok(answer));
            pair.release(used.slot);
        }
    }
}

/// The request was prepared with another allocator for the same queue number. The number of its
/// slot is in flight.
#[test]
fn a_slot_in_flight_is_not_published_again() {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 8, FLAGS);
    let (tag, chain) = pair.taken_read();
    for (by_its_own, reason) in [(false, Rejection::Stale), (true, Rejection::Unfit)] {
        let foreign = SlotAllocator::new(0, queue_size(8), 0);
        let slot = foreign.reserve(SlotSize::Small).unwrap();
        assert_eq!(slot.index(), chain.id);
        let prepared = pair
            .requests
            .read(&foreign, slot, extent(0, 1), &[data(0, 512)], |it| *it)
            .unwrap();

        let slots = if by_its_own { &foreign } else { &pair.slots };
        let rejected = pair.queue.publish(slots, prepared, 99, |it| it);

        assert_eq!(rejected.unwrap_err().reason, reason);
        assert_eq!(pair.queue.in_flight(), 1);
    }
    pair.finish(&chain);
    assert_eq!(pair.pop_used().payload, tag);
}
