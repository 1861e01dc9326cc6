//! The virtio-queue of rust-vmm, an implementation of the device's side by other authors, serves a
//! disk from the driver's rings.

#![expect(unsafe_code, reason = "the driver shares the mapping's memory")]

use std::ptr::NonNull;

use block::Extent;
use proptest::prelude::*;
use virtio::blk::{Segment, limits};
use virtio::dma::DmaMemory;
use virtio::slots::SlotAllocator;
use virtio::spec::F;
use virtio::transport::RingPlacement;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::disk::{self, EVENT_IDX, FLAGS, config, lay_out, queue_size};
use crate::proptest_config;

const START: u64 = 0x10_0000;
const RING: usize = 256 * 1024;
const DATA: u64 = START + RING as u64;
const DATA_LENGTH: usize = 256 * 1024;
const SECTORS: usize = 2048;

/// The length of the data of one request of a batch.
const PLACE: u64 = 64 * 1024;
const BATCH: usize = DATA_LENGTH / PLACE as usize;

/// The device: the queue of rust-vmm, and a disk.
struct Disk<'m> {
    memory: &'m GuestMemoryMmap,
    queue: Queue,
    backing: Vec<u8>,
}

impl<'m> Disk<'m> {
    fn new(memory: &'m GuestMemoryMmap, ring: RingPlacement, event_idx: bool) -> Self {
        let mut queue = Queue::new(256).expect("a queue");
        queue.try_set_size(ring.size.get()).expect("a size");
        let part = GuestAddress;
        queue
            .try_set_desc_table_address(part(ring.descriptors))
            .expect("aligned");
        queue
            .try_set_avail_ring_address(part(ring.available))
            .expect("aligned");
        queue
            .try_set_used_ring_address(part(ring.used))
            .expect("aligned");
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        assert!(queue.is_valid(memory));
        Self {
            memory,
            queue,
            backing: vec![0; SECTORS * 512],
        }
    }

    /// Serves all available requests after a notification. Returns whether to interrupt.
    fn serve(&mut self) -> bool {
        loop {
            self.queue.disable_notification(self.memory).unwrap();
            while let Some(chain) = self.queue.pop_descriptor_chain(self.memory) {
                let head = chain.head_index();
                let written = self.perform(chain.collect());
                self.queue.add_used(self.memory, head, written).unwrap();
            }
            if !self.queue.enable_notification(self.memory).unwrap() {
                break self.queue.needs_notification(self.memory).unwrap();
            }
        }
    }

    /// Carries out one request. Returns how many bytes it wrote.
    fn perform(&mut self, descriptors: Vec<Descriptor>) -> u32 {
        let (header, rest) = descriptors.split_first().unwrap();
        let (status, data) = rest.split_last().unwrap();
        assert!(!header.is_write_only() && status.is_write_only());
        assert_eq!((header.len(), status.len()), (16, 1));
        let kind: u32 = self.memory.read_obj(header.addr()).unwrap();
        let sector: u64 = self
            .memory
            .read_obj(GuestAddress(header.addr().0 + 8))
            .unwrap();

        let mut at = sector as usize * 512;
        let mut written = 1;
        for piece in data {
            let length = piece.len() as usize;
            assert_eq!(piece.is_write_only(), kind != OUT);
            match kind {
                IN => self
                    .memory
                    .write_slice(&self.backing[at..at + length], piece.addr()),
                OUT => self
                    .memory
                    .read_slice(&mut self.backing[at..at + length], piece.addr()),
                GET_ID => self.memory.write_slice(&IDENTITY, piece.addr()),
                kind => panic!("request {kind} with data"),
            }
            .unwrap();
            if piece.is_write_only() {
                written += piece.len();
            }
            at += length;
        }
        self.memory.write_obj(0_u8, status.addr()).unwrap();
        written
    }
}

const IN: u32 = 0;
const OUT: u32 = 1;
const GET_ID: u32 = 8;
const IDENTITY: [u8; 20] = *b"rust-vmm\0\0\0\0\0\0\0\0\0\0\0\0";

#[derive(Clone, Debug)]
enum Operation {
    Read {
        sector: u64,
        pieces: Vec<u32>,
    },
    Write {
        sector: u64,
        pieces: Vec<u32>,
        stamp: u8,
    },
    Flush,
    Identify,
}

fn operation() -> impl Strategy<Value = Operation> {
    let pieces = || prop::collection::vec((1..8_u32).prop_map(|sectors| sectors * 512), 1..8);
    let sector = || 0..SECTORS as u64 - 64;
    prop_oneof![
        5 => (sector(), pieces()).prop_map(|(sector, pieces)| Operation::Read { sector, pieces }),
        5 => (sector(), pieces(), any::<u8>())
            .prop_map(|(sector, pieces, stamp)| Operation::Write { sector, pieces, stamp }),
        1 => Just(Operation::Flush),
        1 => Just(Operation::Identify),
    ]
}

/// Segments with gaps between them, from `at` on.
fn segments(at: u64, pieces: &[u32]) -> Vec<Segment> {
    let mut next = at;
    let place = |length: &u32| {
        let address = next;
        next += u64::from(*length) + 4096;
        Segment {
            address,
            length: *length,
        }
    };
    pieces.iter().map(place).collect()
}

fn extent(sector: u64, pieces: &[u32]) -> Extent {
    let bytes: u32 = pieces.iter().sum();
    disk::extent(sector, bytes / 512)
}

/// Runs the operations in batches, each with one notification and one drain. Compares the data that
/// is read with the data that was written before.
fn run(operations: &[Operation], features: F) {
    let range = (GuestAddress(START), RING + DATA_LENGTH);
    let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[range]).expect("memory");
    let start = memory
        .get_host_address(GuestAddress(START))
        .expect("mapped");
    let start = NonNull::new(start).expect("mapped");
    // SAFETY: The memory is mapped as long as `memory`, which outlives the parts that are carved
    // from it. The device accesses it from this thread.
    let mut dma = unsafe { DmaMemory::new(start, START, RING) }.expect("aligned");
    let size = queue_size(16);
    let limits = limits(&config(), size, 32).expect("limits");
    let (requests, mut queue) = lay_out(&mut dma, size, features, &config(), &limits);
    let slots = SlotAllocator::new(0, size);
    let mut disk = Disk::new(&memory, queue.placement(), features.contains(F::EVENT_IDX));
    let mut model = disk.backing.clone();

    for batch in operations.chunks(BATCH) {
        // The expected data of each read of the batch. The device carries out requests in order.
        let mut found: Vec<Vec<u8>> = Vec::new();
        for (tag, operation) in (0_u32..).zip(batch) {
            let slot = slots.reserve().expect("a slot for each of a batch");
            let place = DATA + PLACE * u64::from(tag);
            let mut expected = Vec::new();
            let prepared = match operation {
                Operation::Read { sector, pieces } => {
                    let extent = extent(*sector, pieces);
                    let first = *sector as usize * 512;
                    expected = model[first..first + extent.bytes() as usize].to_vec();
                    requests.read(&slots, slot, extent, &segments(place, pieces), |it| *it)
                }
                Operation::Write {
                    sector,
                    pieces,
                    stamp,
                } => {
                    for segment in segments(place, pieces) {
                        let stamps = vec![*stamp; segment.length as usize];
                        memory
                            .write_slice(&stamps, GuestAddress(segment.address))
                            .unwrap();
                    }
                    let extent = extent(*sector, pieces);
                    let first = *sector as usize * 512;
                    model[first..first + extent.bytes() as usize].fill(*stamp);
                    requests.write(&slots, slot, extent, &segments(place, pieces), |it| *it)
                }
                Operation::Flush => requests.flush(&slots, slot),
                Operation::Identify => requests.identify(&slots, slot),
            };
            queue
                .publish(&slots, prepared.expect("a request"), tag, |it| it)
                .expect("published");
            found.push(expected);
        }
        assert!(
            queue.notification_needed(),
            "the device waits, and is not told"
        );
        assert!(disk.serve(), "the driver waits, and is not interrupted");

        queue.suppress_interrupts();
        for (tag, operation) in (0_u32..).zip(batch) {
            let used = queue
                .pop_used()
                .expect("an honest device")
                .expect("finished");
            assert_eq!(used.payload, tag);
            match operation {
                Operation::Read { pieces, .. } => {
                    assert_eq!(requests.outcome(&used.slot), Ok(()));
                    let mut read = Vec::new();
                    for segment in segments(DATA + PLACE * u64::from(tag), pieces) {
                        let mut bytes = vec![0; segment.length as usize];
                        memory
                            .read_slice(&mut bytes, GuestAddress(segment.address))
                            .unwrap();
                        read.extend(bytes);
                    }
                    assert_eq!(read, found[tag as usize]);
                }
                Operation::Write { .. } | Operation::Flush => {
                    assert_eq!(requests.outcome(&used.slot), Ok(()));
                }
                Operation::Identify => {
                    assert_eq!(requests.identity(&used.slot), Ok(IDENTITY));
                }
            }
            queue.release(&slots, used.slot);
        }
        assert_eq!(queue.rearm_interrupts(), Ok(false), "all is drained");
    }
    assert_eq!(disk.backing, model);
}

proptest! {
    #![proptest_config(proptest_config(200))]

    #[cfg_attr(miri, ignore = "vm-memory maps its memory by mmap, which Miri has not")]
    #[test]
    fn rust_vmm_serves_requests_from_the_rings(
        operations in prop::collection::vec(operation(), 0..60),
        event_idx in any::<bool>(),
    ) {
        run(&operations, if event_idx { EVENT_IDX } else { FLAGS });
    }
}

/// Runs so many requests that all indexes wrap.
#[cfg_attr(miri, ignore = "vm-memory maps its memory by mmap, which Miri has not")]
#[test]
fn rust_vmm_serves_requests_while_the_index_wraps() {
    for features in [FLAGS, EVENT_IDX] {
        run(&vec![Operation::Flush; 70_000], features);
    }
}
