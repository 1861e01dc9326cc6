//! A driver and a device on one ring, and the disk that the device plays.

use std::cell::Cell;

use virtio::blk::{BlockSize, Config, Limits, Requests, SectorCount, Segment, WriteCache, limits};
use virtio::dma::DmaMemory;
use virtio::queue_size::QueueSize;
use virtio::slots::{Prepared, Slot, SlotAllocator};
use virtio::spec::F;
use virtio::split_queue::{self, Flight, SplitQueue};

use crate::guest_memory::{GuestMemory, PHYSICAL};
use crate::ring_device::{Chain, RingDevice};

pub const OK: u8 = 0;
pub const IOERR: u8 = 1;
pub const UNSUPP: u8 = 2;

pub const FLAGS: F = F::VERSION_1.union(F::INDIRECT_DESC);
pub const EVENT_IDX: F = FLAGS.union(F::EVENT_IDX);

/// Where the data of requests lie, after ring and areas, and how much there is.
const DATA: usize = 256 * 1024;
const DATA_LENGTH: usize = 64 * 1024;

/// What the requests of a test are known by.
pub type Tag = u32;
pub type Queue<'m> = SplitQueue<'m, Vec<Option<Flight<Tag>>>>;

/// A disk of 1 MiB that takes everything.
pub fn config() -> Config {
    Config {
        capacity: SectorCount(2048),
        block_size: BlockSize::SECTOR,
        size_max: None,
        seg_max: None,
        topology: None,
        write_cache: WriteCache::WriteBack,
        write_cache_changeable: false,
        flush: true,
        read_only: false,
    }
}

pub fn queue_size(size: u16) -> QueueSize {
    QueueSize::new(size).expect("a power of two")
}

/// The memory of a driver and a device.
pub fn memory() -> GuestMemory {
    GuestMemory::new(DATA + DATA_LENGTH)
}

/// A driver and the device it drives.
pub struct Pair<'m> {
    pub slots: SlotAllocator,
    pub requests: Requests<'m>,
    pub queue: Queue<'m>,
    pub device: RingDevice<'m>,
    pub config: Config,
    pub limits: Limits,
    next_tag: Cell<Tag>,
}

impl<'m> Pair<'m> {
    pub fn new(memory: &'m GuestMemory, size: u16, features: F) -> Self {
        Self::with_config(memory, size, features, config())
    }

    pub fn with_config(memory: &'m GuestMemory, size: u16, features: F, config: Config) -> Self {
        let size = queue_size(size);
        let limits = limits(&config, size, 32).expect("a disk that can be used");
        let mut dma = memory.dma();
        let (requests, queue) = lay_out(&mut dma, size, features, &config, &limits);
        assert!(dma.left() >= DATA_LENGTH, "ring and areas reach the data");
        let device = RingDevice::new(memory, queue.placement());
        Self {
            slots: SlotAllocator::new(0, size),
            requests,
            queue,
            device,
            config,
            limits,
            next_tag: Cell::new(1),
        }
    }

    pub fn slot(&self) -> Slot {
        self.slots.reserve().expect("a free slot")
    }

    pub fn tag(&self) -> Tag {
        self.next_tag.replace(self.next_tag.get() + 1)
    }

    /// A read of `blocks` sectors into one segment.
    pub fn prepare_read(&self, sector: u64, blocks: u32) -> Prepared {
        let extent = self.config.extent(sector, blocks).expect("on the disk");
        let slot = self.slot();
        let segment = data(0, extent.bytes());
        self.requests
            .read(slot, extent, [segment])
            .expect("a request")
    }

    /// Publishes a read of one sector.
    pub fn publish_read(&mut self) -> Tag {
        let tag = self.tag();
        let prepared = self.prepare_read(0, 1);
        self.queue
            .publish(prepared, tag, |it| it)
            .expect("published");
        tag
    }

    /// Publishes a read, and lets the device take it.
    pub fn taken_read(&mut self) -> (Tag, Chain) {
        let tag = self.publish_read();
        (tag, self.device.take().expect("available"))
    }

    /// Has the device write the status of a request.
    pub fn write_status(&self, chain: &Chain, status: u8) {
        let place = chain.descriptors.last().expect("a status").address;
        self.device.memory.store8(place, status);
    }

    /// Has the device finish a request as an honest one does.
    pub fn finish(&mut self, chain: &Chain) {
        self.write_status(chain, OK);
        self.device.finish(chain.head, chain.writable_bytes());
    }
}

/// Ring and areas, as a driver lays them out.
pub fn lay_out<'m>(
    dma: &mut DmaMemory<'m>,
    size: QueueSize,
    features: F,
    config: &Config,
    limits: &Limits,
) -> (Requests<'m>, Queue<'m>) {
    let before = dma.left();
    let requests = Requests::new(dma, size, config, limits).expect("memory for the areas");
    assert!(before - dma.left() <= Requests::memory_needed(size, limits));
    let before = dma.left();
    let flights = (0..size.get()).map(|_| None).collect();
    let queue = SplitQueue::new(dma, 0, size, features, flights).expect("memory for the ring");
    assert!(before - dma.left() <= split_queue::memory_needed(size));
    (requests, queue)
}

/// A segment among the data.
pub fn data(offset: u64, length: u32) -> Segment {
    Segment {
        address: PHYSICAL + DATA as u64 + offset,
        length,
    }
}
