//! A driver and a device on one ring. The device is a disk.

use std::cell::Cell;
use std::iter;

use block::{BlockSize, Blocks, CachePolicy, Capacity, Extent, Lba, Sectors, Topology, WriteCache};
use testbed_virtio::chain::Chain;
use testbed_virtio::common_config::Ring;
use testbed_virtio::memory::{GuestMemory, Memory, PHYSICAL};
use testbed_virtio::packed_ring::{PackedRingDevice, Place};
use testbed_virtio::split_ring::RingDevice;
use virtio::blk::{Config, Limits, Refused, Requests, Room, Segment, limits};
use virtio::dma::DmaMemory;
use virtio::queue::format::QueueFormat;
use virtio::queue::{self, Used, VirtQueue};
use virtio::queue_size::QueueSize;
use virtio::slots::{Prepared, Slot, SlotAllocator, SlotSize};
use virtio::spec::F;
use virtio::transport::RingPlacement;

use crate::pci_device::PciDevice;

pub const OK: u8 = 0;
pub const IOERR: u8 = 1;
pub const UNSUPP: u8 = 2;

pub const FLAGS: F = F::VERSION_1.union(F::INDIRECT_DESC);
pub const EVENT_IDX: F = FLAGS.union(F::EVENT_IDX);

/// All formats of a queue.
pub fn formats() -> impl Iterator<Item = F> {
    (0..8).map(|bits: u32| {
        let mut features = F::VERSION_1;
        features.set(F::RING_PACKED, bits & 1 != 0);
        features.set(F::INDIRECT_DESC, bits & 2 != 0);
        features.set(F::EVENT_IDX, bits & 4 != 0);
        features
    })
}

/// The room for requests in these tests.
pub const ROOM: Room = Room {
    slots: QueueSize::Q256,
    table_entries: 64,
};

/// The offset and the length of the memory for data of requests. Ring and areas come before it.
const DATA: usize = 256 * 1024;
const DATA_LENGTH: usize = 64 * 1024;

/// Identifies a request in a test.
pub type Tag = u32;
pub type Table<P> = Vec<Option<P>>;
pub type Queue<'m> = VirtQueue<'m, Table<Tag>>;

/// A disk of 1 MiB that supports reads, writes and flushes.
pub fn config() -> Config {
    Config {
        capacity: Capacity::new(Sectors(2048), BlockSize::SECTOR).expect("below 2^64 bytes"),
        size_max: None,
        seg_max: None,
        topology: Topology::default(),
        write_cache: WriteCache::Fixed(CachePolicy::WriteBack),
        read_only: false,
        queues: 1,
    }
}

/// The sectors of a transfer.
pub fn extent(sector: u64, sectors: u32) -> Extent {
    let extent = config()
        .capacity
        .extent(Lba(sector), Blocks(sectors.into()));
    extent.expect("on the disk")
}

pub fn queue_size(size: u16) -> QueueSize {
    QueueSize::new(size).expect("a power of two")
}

/// The memory that driver and device share.
pub fn memory() -> GuestMemory {
    GuestMemory::new(DATA + DATA_LENGTH)
}

/// The memory for the driver. A test calls this once.
#[expect(unsafe_code, reason = "the driver and the device share memory")]
pub fn dma(memory: &GuestMemory) -> DmaMemory<'_> {
    // SAFETY: The memory is valid as long as `memory`. The accesses of the device are atomic.
    let dma = unsafe { DmaMemory::new(memory.start(), PHYSICAL, memory.length()) };
    dma.expect("aligned memory")
}

/// The ring as the device knows it.
pub fn ring_of(ring: RingPlacement) -> Ring {
    Ring {
        size: ring.size.get(),
        descriptors: ring.descriptors,
        driver: ring.driver,
        device: ring.device,
    }
}

/// The device's side of either kind of ring.
pub trait DeviceSide<'m> {
    fn new(memory: &'m GuestMemory, ring: Ring) -> Self;
    fn ring(&self) -> Ring;
    fn memory(&self) -> &'m GuestMemory;
    /// Takes the next available request. `is_honest` is whether the ring has only what an honest
    /// device and the driver wrote.
    fn take(&mut self, is_honest: bool) -> Option<Chain>;
    fn finish(&mut self, chain: &Chain, written: u32);
    /// Returns a request that it may not have.
    fn finish_any(&mut self, id: u32, written: u32);
    /// Sets the place of the next used entry. A split ring also gets it as its used index.
    fn set_next_used(&mut self, place: u16);
    /// Writes any notification suppression: flags, and an event index.
    fn set_suppression(&mut self, flags: u16, event: u16);
}

impl<'m> DeviceSide<'m> for RingDevice<'m> {
    fn new(memory: &'m GuestMemory, ring: Ring) -> Self {
        Self::new(memory, ring)
    }

    fn ring(&self) -> Ring {
        self.ring
    }

    fn memory(&self) -> &'m GuestMemory {
        self.memory
    }

    fn take(&mut self, is_honest: bool) -> Option<Chain> {
        if !is_honest {
            self.catch_up();
        }
        self.take()
    }

    fn finish(&mut self, chain: &Chain, written: u32) {
        self.finish(chain, written);
    }

    fn finish_any(&mut self, id: u32, written: u32) {
        self.finish_as(id, written);
    }

    fn set_next_used(&mut self, place: u16) {
        self.used = place;
        self.set_used_idx(place);
    }

    fn set_suppression(&mut self, flags: u16, event: u16) {
        self.set_used_flags(flags);
        self.set_avail_event(event);
    }
}

impl<'m> DeviceSide<'m> for PackedRingDevice<&'m GuestMemory> {
    fn new(memory: &'m GuestMemory, ring: Ring) -> Self {
        Self::new(memory, ring)
    }

    fn ring(&self) -> Ring {
        self.ring
    }

    fn memory(&self) -> &'m GuestMemory {
        self.memory
    }

    fn take(&mut self, is_honest: bool) -> Option<Chain> {
        match self.take() {
            Ok(chain) => chain,
            Err(error) if is_honest => panic!("{error}"),
            Err(_) => None,
        }
    }

    fn finish(&mut self, chain: &Chain, written: u32) {
        self.finish(chain, written);
    }

    fn finish_any(&mut self, id: u32, written: u32) {
        self.finish_as(id as u16, 1, written);
    }

    fn set_next_used(&mut self, place: u16) {
        let index = place % self.ring.size;
        let wrap = place & 0x8000 != 0;
        self.next_used = Place { index, wrap };
    }

    fn set_suppression(&mut self, flags: u16, event: u16) {
        self.set_device_events(event, flags);
    }
}

/// A driver and its device.
pub struct Pair<'m, D = RingDevice<'m>> {
    pub slots: SlotAllocator,
    pub requests: Requests<'m>,
    pub queue: Queue<'m>,
    pub device: D,
    pub limits: Limits,
    next_tag: Cell<Tag>,
}

impl<'m, D: DeviceSide<'m>> Pair<'m, D> {
    pub fn new(memory: &'m GuestMemory, size: u16, features: F) -> Self {
        Self::with_config(memory, size, features, config())
    }

    pub fn with_config(memory: &'m GuestMemory, size: u16, features: F, config: Config) -> Self {
        let size = queue_size(size);
        let format = QueueFormat::of(features);
        let limits = limits(&config, format, size, ROOM).expect("a disk that can be used");
        let mut dma = dma(memory);
        let (requests, queue) = lay_out(&mut dma, &config, &limits);
        assert!(dma.left() >= DATA_LENGTH, "ring and areas reach the data");
        let device = D::new(memory, ring_of(queue.placement()));
        Self {
            slots: limits.slot_allocator(0),
            requests,
            queue,
            device,
            limits,
            next_tag: Cell::new(1),
        }
    }

    pub fn slot(&self) -> Slot {
        self.slots.reserve(SlotSize::Small).expect("a free slot")
    }

    pub fn release(&mut self, slot: Slot) {
        self.queue.release(&self.slots, slot);
    }

    /// How many slots are free.
    pub fn free_slots(&mut self) -> usize {
        let free: Vec<Slot> = std::iter::from_fn(|| self.slots.reserve(SlotSize::Small)).collect();
        let count = free.len();
        for slot in free {
            self.release(slot);
        }
        count
    }

    pub fn tag(&self) -> Tag {
        self.next_tag.replace(self.next_tag.get() + 1)
    }

    /// A slot of the size that a request for `extent` needs.
    pub fn slot_for(&self, extent: Extent) -> Slot {
        let size = self.requests.slot_size(extent);
        self.slots.reserve(size).expect("a free slot")
    }

    pub fn read(&self, extent: Extent, segments: &[Segment]) -> Result<Prepared, Refused> {
        let slot = self.slot_for(extent);
        self.requests
            .read(&self.slots, slot, extent, segments, |it| *it)
    }

    pub fn write(&self, extent: Extent, segments: &[Segment]) -> Result<Prepared, Refused> {
        let slot = self.slot_for(extent);
        self.requests
            .write(&self.slots, slot, extent, segments, |it| *it)
    }

    pub fn flush(&self) -> Result<Prepared, Refused> {
        self.requests.flush(&self.slots, self.slot())
    }

    pub fn identify(&self) -> Prepared {
        let prepared = self.requests.identify(&self.slots, self.slot());
        prepared.expect("a request")
    }

    /// A read of one sector.
    pub fn prepare_read(&self) -> Prepared {
        self.read(extent(0, 1), &[data(0, 512)]).expect("a request")
    }

    pub fn publish(&mut self, prepared: Prepared) -> Tag {
        let tag = self.tag();
        self.queue
            .publish(&self.slots, prepared, tag, |it| it)
            .expect("published");
        tag
    }

    /// Publishes a read of one sector.
    pub fn publish_read(&mut self) -> Tag {
        self.publish(self.prepare_read())
    }

    /// Publishes a request, which the device then takes.
    pub fn taken(&mut self, prepared: Prepared) -> (Tag, Chain) {
        let tag = self.publish(prepared);
        (tag, self.device.take(true).expect("available"))
    }

    /// Publishes a read, which the device then takes.
    pub fn taken_read(&mut self) -> (Tag, Chain) {
        self.taken(self.prepare_read())
    }

    /// Takes a request that the device has returned.
    pub fn pop_used(&mut self) -> Used<Tag> {
        let used = self.queue.pop_used().expect("no fault");
        used.expect("the device has returned a request")
    }

    /// Resets device and queue. Returns the tags that were in flight.
    pub fn reset(&mut self) -> Vec<Tag> {
        let pci = PciDevice::new();
        let reset = pci.reset_device();
        let tags = iter::from_fn(|| self.queue.reclaim(reset.quiet(), &self.slots)).collect();
        self.device = D::new(self.device.memory(), self.device.ring());
        tags
    }

    /// Makes the device write the status of a request.
    pub fn write_status(&self, chain: &Chain, status: u8) {
        let place = chain.descriptors.last().expect("a status").address;
        self.device.memory().store8(place, status);
    }

    /// Makes the device finish a request correctly.
    pub fn finish(&mut self, chain: &Chain) {
        self.write_status(chain, OK);
        self.device.finish(chain, chain.writable_bytes());
    }
}

/// Allocates ring and areas as a driver does.
pub fn lay_out<'m>(
    dma: &mut DmaMemory<'m>,
    config: &Config,
    limits: &Limits,
) -> (Requests<'m>, Queue<'m>) {
    let before = dma.left();
    let requests = Requests::new(dma, config, limits).expect("memory for the areas");
    assert!(before - dma.left() <= Requests::memory_needed(limits));
    let before = dma.left();
    let table = vec![None; limits.shape.slots().get().into()];
    let queue = VirtQueue::new(dma, 0, limits.shape, requests.tables(), table)
        .expect("memory for the ring");
    assert!(before - dma.left() <= queue::memory_needed(limits.shape));
    if !limits.shape.format().is_packed {
        // No element, all of which have 8 bytes, crosses a page: see `split::Parts::carve`.
        assert_eq!(queue.placement().device % 8, 4);
    }
    (requests, queue)
}

/// A segment at `offset` in the memory for data.
pub fn data(offset: u64, length: u32) -> Segment {
    Segment {
        address: PHYSICAL + DATA as u64 + offset,
        length,
    }
}
