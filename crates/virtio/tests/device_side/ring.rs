//! The contents of the ring that an honest device reads, and its replies.

use block::{Extent, WriteCache};
use testbed_virtio::chain::Chain;
use testbed_virtio::memory::{GuestMemory, Memory};
use testbed_virtio::packed_ring::PackedRingDevice;
use testbed_virtio::split_ring::RingDevice;
use virtio::Error;
use virtio::blk::{Refusal, Segment};
use virtio::queue::{RingFault, VirtQueue};
use virtio::slots::SlotSize;
use virtio::spec::F;

use crate::disk::{
    DeviceSide, EVENT_IDX, FLAGS, Pair, config, data, dma, extent, formats, memory, ring_of,
};

/// V30.
#[test]
fn parts_of_a_ring_are_aligned_and_do_not_overlap_for_any_size() {
    for log in 0..=8 {
        let memory = memory();
        let pair = Pair::<RingDevice>::new(&memory, 4.max(1 << log), FLAGS);

        let ring = pair.device.ring;
        let size = u64::from(ring.size);
        assert!(ring.descriptors.is_multiple_of(16));
        assert!(ring.driver.is_multiple_of(2));
        assert!(ring.device.is_multiple_of(4));
        assert!(ring.descriptors + 16 * size <= ring.driver);
        assert!(ring.driver + 6 + 2 * size <= ring.device);
    }
}

/// V39: the rest of the ring is zeroed too.
#[test]
fn a_new_ring_is_zeroed() {
    let memory = memory();
    let pair = Pair::<RingDevice>::new(&memory, 8, EVENT_IDX);

    let ring = pair.device.ring;
    let bytes = |from: u64, length: u64| (from..from + length).map(|at| memory.load8(at));
    assert!(bytes(ring.descriptors, 16 * 8).all(|byte| byte == 0));
    assert!(bytes(ring.driver, 6 + 2 * 8).all(|byte| byte == 0));
    assert!(bytes(ring.device, 6 + 8 * 8).all(|byte| byte == 0));
}

#[test]
fn with_a_request_in_flight_in_its_table_there_is_no_queue() {
    let memory = memory();
    let Pair {
        slots,
        requests,
        limits,
        ..
    } = Pair::<RingDevice>::new(&memory, 8, FLAGS);
    let mut table = [None; 8];
    let (first, second) = (self::memory(), self::memory());
    let mut queue = VirtQueue::new(
        &mut dma(&first),
        0,
        limits.shape,
        requests.tables(),
        &mut table[..],
    )
    .expect("a queue");
    let flush = requests
        .flush(&slots, slots.reserve(SlotSize::Small).unwrap())
        .unwrap();
    queue.publish(&slots, flush, 1, |it| it).unwrap();

    let queue = VirtQueue::new(
        &mut dma(&second),
        0,
        limits.shape,
        requests.tables(),
        &mut table[..],
    );

    assert_eq!(queue.err(), Some(Error::TableInUse));
}

#[test]
fn an_id_beyond_a_shorter_table_is_not_in_flight() {
    for id in [2, 7] {
        let (memory, other) = (memory(), memory());
        let mut pair = Pair::<RingDevice>::new(&memory, 8, FLAGS);
        let table = vec![None; 2];
        pair.queue = VirtQueue::new(
            &mut dma(&other),
            0,
            pair.limits.shape,
            pair.requests.tables(),
            table,
        )
        .expect("a queue");
        pair.device = RingDevice::new(&other, ring_of(pair.queue.placement()));
        pair.publish_read();

        pair.device.finish_as(id.into(), 1);

        assert_eq!(pair.queue.pop_used(), Err(RingFault::NotInFlight { id }));
        assert_eq!(pair.queue.in_flight(), 1);
    }
}

fn writable(chain: &Chain) -> Vec<bool> {
    chain
        .descriptors
        .iter()
        .map(|it| it.is_writable())
        .collect()
}

fn lengths(chain: &Chain) -> Vec<u32> {
    chain.descriptors.iter().map(|it| it.length).collect()
}

/// The chain of a transfer that the device takes, from a ring with `features`.
fn transfer(
    memory: &GuestMemory,
    features: F,
    is_write: bool,
    extent: Extent,
    segments: &[Segment],
) -> Chain {
    fn taken<'m, D: DeviceSide<'m>>(
        mut pair: Pair<'m, D>,
        is_write: bool,
        extent: Extent,
        segments: &[Segment],
    ) -> Chain {
        let prepared = if is_write {
            pair.write(extent, segments)
        } else {
            pair.read(extent, segments)
        };
        pair.taken(prepared.unwrap()).1
    }
    if features.contains(F::RING_PACKED) {
        let pair = Pair::<PackedRingDevice<&GuestMemory>>::new(memory, 16, features);
        taken(pair, is_write, extent, segments)
    } else {
        let pair = Pair::<RingDevice>::new(memory, 16, features);
        taken(pair, is_write, extent, segments)
    }
}

/// V31, V33, V53, V54: the device checks the form of every chain.
#[test]
fn a_read_is_header_data_and_status() {
    for features in formats() {
        let memory = memory();
        let segments = [data(0, 512), data(8192, 1024)];

        let chain = transfer(&memory, features, false, extent(7, 3), &segments);

        let [header, first, second, status] = chain.descriptors[..] else {
            panic!("{chain:?}");
        };
        assert_eq!(header.length, 16);
        assert_eq!(memory.load32(header.address), 0, "IN");
        assert_eq!(memory.load32(header.address + 4), 0, "reserved");
        assert_eq!(memory.load64(header.address + 8), 7);
        assert_eq!((first.address, first.length), (segments[0].address, 512));
        assert_eq!((second.address, second.length), (segments[1].address, 1024));
        assert_eq!(status.length, 1);
        assert_eq!(writable(&chain), [false, true, true, true], "{features:?}");
    }
}

#[test]
fn a_write_has_data_for_the_device_to_read() {
    for features in formats() {
        let memory = memory();

        let chain = transfer(&memory, features, true, extent(2047, 1), &[data(0, 512)]);

        assert_eq!(memory.load32(chain.descriptors[0].address), 1, "OUT");
        assert_eq!(memory.load64(chain.descriptors[0].address + 8), 2047);
        assert_eq!(lengths(&chain), [16, 512, 1]);
        assert_eq!(writable(&chain), [false, false, true], "{features:?}");
        assert_eq!(chain.writable_bytes(), 1);
    }
}

/// V86.
#[test]
fn a_flush_has_sector_0_and_no_data() {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 16, FLAGS);
    // The slot was used for another sector before.
    for _ in 0..16 {
        let read = pair.read(extent(9, 1), &[data(0, 512)]).unwrap();
        pair.queue.cancel(&pair.slots, read);
    }

    let flush = pair.flush().unwrap();
    let (_, chain) = pair.taken(flush);

    assert_eq!(chain.descriptors.len(), 2);
    assert_eq!(memory.load32(chain.descriptors[0].address), 4, "FLUSH");
    assert_eq!(memory.load64(chain.descriptors[0].address + 8), 0);
}

/// V89.
#[test]
fn an_identity_is_asked_for_with_20_bytes() {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 16, FLAGS);

    let identify = pair.identify();
    let (_, chain) = pair.taken(identify);

    assert_eq!(memory.load32(chain.descriptors[0].address), 8, "GET_ID");
    assert_eq!(memory.load64(chain.descriptors[0].address + 8), 0);
    assert_eq!(chain.descriptors[1].length, 20);
    let answer = *b"20 bytes, any\0\xFF\x80 of\n";
    for (at, byte) in (chain.descriptors[1].address..).zip(answer) {
        memory.store8(at, byte);
    }
    pair.finish(&chain);
    let used = pair.pop_used();
    assert_eq!(pair.requests.identity(&used.slot), Ok(answer));
}

/// V80, V85: the driver sends no request that the disk does not support.
#[test]
fn writes_to_a_read_only_disk_and_flushes_without_a_write_cache_are_refused() {
    let memory = memory();
    let disk = virtio::blk::Config {
        read_only: true,
        write_cache: WriteCache::Absent,
        ..config()
    };
    let pair = Pair::<RingDevice>::with_config(&memory, 16, FLAGS, disk);

    let write = pair.write(extent(0, 1), &[data(0, 512)]);
    let flush = pair.flush();

    assert_eq!(write.unwrap_err().reason, Refusal::ReadOnly);
    assert_eq!(flush.unwrap_err().reason, Refusal::NoFlush);
}

#[test]
fn a_refused_request_leaves_its_slot_with_the_caller() {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 4, FLAGS);
    let scattered = [0, 1, 2, 3].map(|page| data(page * 4096, 512));

    for (segments, reason) in [
        (scattered.as_slice(), Refusal::TooScattered),
        (&[data(0, 1024)], Refusal::BufferShort { missing: 1024 }),
        (&[], Refusal::BufferShort { missing: 2048 }),
    ] {
        let refused = pair.read(extent(0, 4), segments).unwrap_err();
        assert_eq!(refused.reason, reason);
        assert_eq!(pair.free_slots(), 3);
        pair.release(refused.slot);
    }
    assert_eq!(pair.free_slots(), 4, "a slot was lost");
}

/// A small slot has 37 descriptors, of which 35 are for data.
#[test]
fn a_short_list_in_many_pieces_needs_a_large_slot_if_there_are_some() {
    let memory = memory();
    let pieces = [data(0, 512); 36];
    for (size, large) in [(32, false), (64, true)] {
        let pair = Pair::<RingDevice>::new(&memory, size, FLAGS);
        assert_eq!(pair.requests.has_large_slots(), large);

        let refused = pair.read(extent(0, 36), &pieces).unwrap_err();
        assert_eq!(refused.reason, Refusal::TooScattered);

        let slot = pair.slots.reserve(SlotSize::Large);
        assert_eq!(slot.is_some(), large);
        if let Some(slot) = slot {
            let requests = &pair.requests;
            let read = requests.read(&pair.slots, slot, extent(0, 36), &pieces, |it| *it);
            assert!(read.is_ok());
        }
    }
}

/// V92: a longer segment has several descriptors.
#[test]
fn segments_are_no_longer_than_size_max() {
    let memory = memory();
    let disk = virtio::blk::Config {
        size_max: Some(5000),
        ..config()
    };
    let mut pair = Pair::<RingDevice>::with_config(&memory, 32, FLAGS, disk);

    let read = pair.read(extent(0, 32), &[data(0, 16384)]).unwrap();
    let (_, chain) = pair.taken(read);

    assert_eq!(lengths(&chain), [16, 5000, 5000, 5000, 1384, 1]);
    assert_eq!(chain.descriptors[2].address, data(5000, 0).address);
}

#[test]
fn bytes_beyond_the_extent_and_empty_segments_are_not_used() {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 16, FLAGS);
    let with_empty_ones = [data(0, 0), data(512, 700), data(0, 0), data(4096, 4096)];
    let more_than_descriptors = [[data(0, 700), data(4096, 4096)]; 20].concat();

    for segments in [with_empty_ones.as_slice(), &more_than_descriptors] {
        let read = pair.read(extent(0, 2), segments).unwrap();
        let (_, chain) = pair.taken(read);

        assert_eq!(lengths(&chain), [16, 700, 324, 1]);
    }
}

#[test]
fn a_finished_request_is_returned_with_its_slot_payload_and_length() {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 16, FLAGS);
    let (tag, chain) = pair.taken_read();
    assert_eq!(pair.queue.in_flight(), 1);
    assert_eq!(pair.queue.pop_used(), Ok(None));

    pair.finish(&chain);
    let used = pair.pop_used();

    assert_eq!(used.payload, tag);
    assert_eq!(used.slot.index(), chain.id);
    assert_eq!(used.written, 513);
    assert_eq!(pair.requests.outcome(&used.slot), Ok(()));
    assert_eq!(pair.queue.in_flight(), 0);
    assert_eq!(pair.queue.pop_used(), Ok(None));
}

#[test]
fn requests_are_returned_in_the_order_of_the_device() {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 16, FLAGS);
    let taken: Vec<_> = (0..10).map(|_| pair.taken_read()).collect();

    for (_, chain) in taken.iter().rev() {
        pair.finish(chain);
    }

    for (tag, _) in taken.iter().rev() {
        assert_eq!(pair.pop_used().payload, *tag);
    }
}

/// V35: the index wraps, and no entry lies outside of the ring.
#[test]
fn indexes_wrap_at_65536() {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 4, EVENT_IDX);
    let rounds = if cfg!(miri) { 40 } else { 70_000_u32 };

    for round in 1..=rounds {
        let (tag, chain) = pair.taken_read();
        assert_eq!(pair.device.avail_idx(), round as u16);
        pair.finish(&chain);
        let used = pair.pop_used();
        assert_eq!(used.payload, tag);
        pair.release(used.slot);
        assert_eq!(pair.queue.rearm_interrupts(), Ok(false));
        assert_eq!(pair.device.used_event(), round as u16);
    }
    assert!(memory.strips_are_untouched());
}

/// V36, V37.
#[test]
fn interrupts_are_suppressed_either_by_the_flags_or_by_the_event() {
    for (features, suppressed) in [(FLAGS, (1, 0)), (EVENT_IDX, (0, 0xFFFF))] {
        let memory = memory();
        let mut pair = Pair::<RingDevice>::new(&memory, 8, features);
        let fields = |device: &RingDevice<'_>| (device.avail_flags(), device.used_event());

        pair.queue.suppress_interrupts();
        assert_eq!(fields(&pair.device), suppressed);

        assert_eq!(pair.queue.rearm_interrupts(), Ok(false));
        assert_eq!(fields(&pair.device), (0, 0));
    }
}

#[test]
fn enabling_interrupts_reports_requests_that_finished_meanwhile() {
    for features in [FLAGS, EVENT_IDX] {
        let memory = memory();
        let mut pair = Pair::<RingDevice>::new(&memory, 8, features);
        let (_, chain) = pair.taken_read();
        pair.queue.suppress_interrupts();
        assert_eq!(pair.queue.pop_used(), Ok(None));
        pair.finish(&chain);

        assert_eq!(pair.queue.rearm_interrupts(), Ok(true));
        assert!(pair.queue.pop_used().unwrap().is_some());
        assert_eq!(pair.queue.rearm_interrupts(), Ok(false));
    }
}

/// V40, V41: the unit tests of `queue::notification` start at every position.
#[test]
fn the_device_gets_one_notification_for_a_batch_if_it_asks_for_one() {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 8, EVENT_IDX);
    assert!(!pair.queue.notification_needed(), "nothing was published");
    pair.device.set_avail_event(1);
    pair.publish_read();
    assert!(!pair.queue.notification_needed());
    pair.publish_read();
    pair.publish_read();
    pair.device.set_used_flags(1);
    assert!(pair.queue.notification_needed(), "flags count for nothing");
    assert!(!pair.queue.notification_needed());

    let memory = self::memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 8, FLAGS);
    pair.publish_read();
    assert!(pair.queue.notification_needed());
    pair.device.set_used_flags(1);
    pair.publish_read();
    assert!(!pair.queue.notification_needed());
}

/// A23: in an area, the device can read only the data of the request, and zeros.
#[test]
fn areas_do_not_expose_earlier_contents_of_the_memory() {
    let memory = memory();
    let mut pair = Pair::<RingDevice>::new(&memory, 8, FLAGS);
    let (_, chain) = pair.taken_read();

    let header = chain.descriptors[0].address;
    let status = chain.descriptors[2].address;
    let table = chain.table.expect("an indirect table");
    let shown: Vec<u8> = (header + 16..table)
        .filter(|at| *at != status)
        .map(|at| memory.load8(at))
        .collect();
    assert_eq!(shown, vec![0; 31]);
    let entries = 16 * chain.descriptors.len() as u64;
    let rest = table + entries..table + 16 * u64::from(pair.limits.table_entries());
    assert!(rest.map(|at| memory.load8(at)).all(|byte| byte == 0));
}
