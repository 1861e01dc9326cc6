//! The driver's time for a read of 4 KiB on each kind of ring, beside that of the crate
//! `virtio-drivers`: `cargo bench --package ferrostor-virtio`.
//!
//! A batch of reads is submitted, the device returns them, and they are completed. Only the
//! first and the last part are measured: from a free request to one that the device can take,
//! with the question whether to notify it; and from the used ring to a status that was checked.
//! The device is the same for all, and returns the requests in their order. Driver and device run
//! on one processor, so no cache line moves between caches. EVENT_IDX is off.
#![expect(unsafe_code, reason = "driver and device share memory")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::hint::black_box;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use block::{BlockSize, Blocks, CachePolicy, Capacity, Extent, Lba, Sectors, Topology, WriteCache};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use virtio::blk::{Config, Requests, Room, Segment, limits};
use virtio::dma::DmaMemory;
use virtio::queue::VirtQueue;
use virtio::queue::format::QueueFormat;
use virtio::queue_size::QueueSize;
use virtio::slots::{SlotAllocator, SlotSize};
use virtio::spec::F;
use virtio_drivers::queue::VirtQueue as OtherQueue;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// The descriptors of a ring.
const SIZE: u16 = 256;

/// The requests of a batch.
const BATCH: usize = 16;

const BLOCK: usize = 4096;
const SECTORS: u32 = 8;

const NEXT: u16 = 1;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// A driver with room for [`BATCH`] requests.
trait Driver {
    /// Submits read `number` of a batch.
    fn submit(&mut self, number: usize);
    /// Whether to notify the device.
    fn notification_needed(&mut self) -> bool;
    /// Completes read `number`, which the device has returned.
    fn complete(&mut self, number: usize);
}

/// The addresses of a ring. Physical addresses are those of the process.
#[derive(Clone, Copy, Default)]
struct Ring {
    descriptors: u64,
    driver: u64,
    device: u64,
}

macro_rules! accesses {
    ($($load:ident $store:ident $word:ty, $atomic:ty;)*) => {$(
        #[inline]
        fn $load(at: u64) -> $word {
            let at = ptr::with_exposed_provenance_mut(at as usize);
            // SAFETY: The driver gave this address, and its memory outlives the device.
            unsafe { <$atomic>::from_ptr(at) }.load(Ordering::Relaxed)
        }

        #[inline]
        fn $store(at: u64, value: $word) {
            let at = ptr::with_exposed_provenance_mut(at as usize);
            // SAFETY: As for the load.
            unsafe { <$atomic>::from_ptr(at) }.store(value, Ordering::Relaxed);
        }
    )*};
}

/// A status is only written.
fn store8(at: u64, value: u8) {
    let at = ptr::with_exposed_provenance_mut(at as usize);
    // SAFETY: As above.
    unsafe { AtomicU8::from_ptr(at) }.store(value, Ordering::Relaxed);
}

accesses! {
    load16 store16 u16, AtomicU16;
    load32 store32 u32, AtomicU32;
    load64 store64 u64, AtomicU64;
}

/// The device: returns each available request at once, as successful.
enum Device {
    Split(Ring, u16),
    /// The place of the next descriptor, and the wrap counter.
    Packed(Ring, u16, bool),
}

impl Device {
    fn new(ring: Ring, is_packed: bool) -> Self {
        if is_packed {
            Self::Packed(ring, 0, true)
        } else {
            Self::Split(ring, 0)
        }
    }

    fn serve(&mut self) {
        match self {
            Self::Split(ring, next) => serve_split(*ring, next),
            Self::Packed(ring, next, wrap) => serve_packed(*ring, next, wrap),
        }
    }
}

fn serve_split(ring: Ring, next: &mut u16) {
    while *next != load16(ring.driver + 2) {
        fence(Ordering::Acquire);
        let place = u64::from(*next % SIZE);
        let head = load16(ring.driver + 4 + 2 * place);
        let (mut table, mut at) = (ring.descriptors, u64::from(head));
        if load16(table + 16 * at + 12) & INDIRECT != 0 {
            (table, at) = (load64(table + 16 * at), 0);
        }
        while load16(table + 16 * at + 12) & NEXT != 0 {
            at = load16(table + 16 * at + 14).into();
        }
        store8(load64(table + 16 * at), 0);
        store32(ring.device + 4 + 8 * place, head.into());
        store32(ring.device + 8 + 8 * place, BLOCK as u32 + 1);
        fence(Ordering::Release);
        *next = next.wrapping_add(1);
        store16(ring.device + 2, *next);
    }
}

fn serve_packed(ring: Ring, next: &mut u16, wrap: &mut bool) {
    let descriptor = |index: u16| ring.descriptors + 16 * u64::from(index % SIZE);
    loop {
        let first = descriptor(*next);
        let flags = load16(first + 14);
        if (flags & AVAIL != 0) != *wrap || (flags & USED != 0) == *wrap {
            return;
        }
        fence(Ordering::Acquire);
        let mut count = 1;
        while load16(descriptor(*next + count - 1) + 14) & NEXT != 0 {
            count += 1;
        }
        let last = descriptor(*next + count - 1);
        let id = load16(last + 12);
        let status = if flags & INDIRECT != 0 {
            load64(first) + u64::from(load32(first + 8)) - 16
        } else {
            last
        };
        store8(load64(status), 0);
        fence(Ordering::Release);
        let used = if *wrap { AVAIL | USED } else { 0 };
        let rest = u64::from(id) << 32 | u64::from(used) << 48 | (BLOCK as u64 + 1);
        store64(first + 8, rest);
        *next += count;
        if *next >= SIZE {
            *next -= SIZE;
            *wrap = !*wrap;
        }
    }
}

/// Zeroed memory of whole pages, which nothing accesses but by pointers.
struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

impl Memory {
    fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes.next_multiple_of(PAGE_SIZE), PAGE_SIZE);
        let layout = layout.expect("a layout");
        // SAFETY: The size is not 0.
        let start = unsafe { alloc_zeroed(layout) };
        Self {
            start: NonNull::new(start).expect("memory"),
            layout,
        }
    }

    fn physical(&self) -> u64 {
        self.start.expose_provenance().get() as u64
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `new` allocated it with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// This crate's queue.
struct Ours<'m> {
    slots: SlotAllocator,
    requests: Requests<'m>,
    queue: VirtQueue<'m, Vec<Option<usize>>>,
    extents: [Extent; BATCH],
    data: u64,
}

impl<'m> Ours<'m> {
    fn new(memory: &'m Memory, data: &Memory, features: F) -> Self {
        let config = Config {
            capacity: Capacity::new(Sectors(1 << 20), BlockSize::SECTOR).expect("a capacity"),
            size_max: None,
            seg_max: None,
            topology: Topology::default(),
            write_cache: WriteCache::Fixed(CachePolicy::WriteBack),
            read_only: false,
            queues: 1,
        };
        let room = Room {
            slots: QueueSize::new(BATCH as u16).expect("a power of two"),
            table_entries: 8,
        };
        let size = QueueSize::new(SIZE).expect("a power of two");
        let limits = limits(&config, QueueFormat::of(features), size, room).expect("limits");
        let bytes = memory.layout.size();
        // SAFETY: The memory outlives the queue. Only the queue and the device access it.
        let dma = unsafe { DmaMemory::new(memory.start, memory.physical(), bytes) };
        let mut dma = dma.expect("aligned memory");
        let requests = Requests::new(&mut dma, &config, &limits).expect("memory");
        let count = limits.shape.slots();
        assert!(usize::from(count.get()) >= BATCH);
        let table = vec![None; count.get().into()];
        let queue = VirtQueue::new(&mut dma, 0, limits.shape, requests.tables(), table);
        let extent = |number: usize| {
            let lba = Lba(number as u64 * u64::from(SECTORS));
            let extent = config.capacity.extent(lba, Blocks(SECTORS.into()));
            extent.expect("on the disk")
        };
        Self {
            slots: limits.slot_allocator(0),
            requests,
            queue: queue.expect("memory"),
            extents: std::array::from_fn(extent),
            data: data.physical(),
        }
    }

    fn ring(&self) -> Ring {
        let ring = self.queue.placement();
        Ring {
            descriptors: ring.descriptors,
            driver: ring.driver,
            device: ring.device,
        }
    }
}

impl Driver for Ours<'_> {
    fn submit(&mut self, number: usize) {
        let slot = self.slots.reserve(SlotSize::Small).expect("a slot");
        let segment = Segment {
            address: self.data + (number * BLOCK) as u64,
            length: BLOCK as u32,
        };
        let extent = self.extents[number];
        let prepared = self
            .requests
            .read(&self.slots, slot, extent, &[segment], |it| *it)
            .expect("a request");
        let published = self.queue.publish(&self.slots, prepared, number, |it| it);
        assert!(published.is_ok());
    }

    fn notification_needed(&mut self) -> bool {
        self.queue.notification_needed()
    }

    fn complete(&mut self, number: usize) {
        let used = self.queue.pop_used().expect("no fault").expect("a request");
        assert_eq!(used.payload, number);
        assert!(self.requests.outcome(&used.slot).is_ok());
        self.queue.release(&self.slots, used.slot);
    }
}

/// A device function with one queue, for `virtio-drivers`.
#[derive(Default)]
struct Function(Ring);

impl Transport for Function {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn read_device_features(&mut self) -> u64 {
        0
    }

    fn write_driver_features(&mut self, _: u64) {}

    fn max_queue_size(&mut self, _: u16) -> u32 {
        SIZE.into()
    }

    fn notify(&mut self, _: u16) {}

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::empty()
    }

    fn set_status(&mut self, _: DeviceStatus) {}

    fn set_guest_page_size(&mut self, _: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(&mut self, _: u16, _: u32, descriptors: u64, driver: u64, device: u64) {
        self.0 = Ring {
            descriptors,
            driver,
            device,
        };
    }

    fn queue_unset(&mut self, _: u16) {}

    fn queue_used(&mut self, _: u16) -> bool {
        false
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }

    fn read_config_generation(&self) -> u32 {
        0
    }

    fn read_config_space<T>(&self, _: usize) -> virtio_drivers::Result<T> {
        Err(virtio_drivers::Error::Unsupported)
    }

    fn write_config_space<T>(&mut self, _: usize, _: T) -> virtio_drivers::Result<()> {
        Err(virtio_drivers::Error::Unsupported)
    }
}

/// Memory for `virtio-drivers`. All of it is shared with the device.
struct Identity;

// SAFETY: The pages are zeroed, aligned, and nobody else's.
unsafe impl Hal for Identity {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let memory = std::mem::ManuallyDrop::new(Memory::new(pages * PAGE_SIZE));
        (memory.physical(), memory.start)
    }

    unsafe fn dma_dealloc(_: PhysAddr, start: NonNull<u8>, pages: usize) -> i32 {
        let layout = Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).expect("a layout");
        drop(Memory { start, layout });
        0
    }

    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::dangling()
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().expose_provenance().get() as u64
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

const HEADER: usize = 16;

/// The queue of `virtio-drivers`, with the header and the status of a request as its driver for
/// block devices has them.
struct Other {
    queue: OtherQueue<Identity, { SIZE as usize }>,
    data: NonNull<u8>,
    /// A header and a status for each request, a cache line apart.
    frames: Memory,
    tokens: [u16; BATCH],
}

impl Other {
    fn new(data: &Memory, is_indirect: bool) -> (Self, Ring) {
        let mut function = Function::default();
        let queue = OtherQueue::new(&mut function, 0, is_indirect, false).expect("a queue");
        let other = Self {
            queue,
            data: data.start,
            frames: Memory::new(BATCH * 64),
            tokens: [0; BATCH],
        };
        (other, function.0)
    }

    /// The bytes of request `number`: header, data and status.
    fn buffers(&mut self, number: usize) -> (&[u8], &mut [u8], &mut [u8]) {
        let frame = self.frames.start.as_ptr().wrapping_add(number * 64);
        let data = self.data.as_ptr().wrapping_add(number * BLOCK);
        // SAFETY: The parts do not overlap, and live as long as the driver.
        let header = unsafe { slice::from_raw_parts(frame, HEADER) };
        // SAFETY: As above. The device writes no data.
        let data = unsafe { slice::from_raw_parts_mut(data, BLOCK) };
        // SAFETY: As above. The device writes the status while the driver does not access it.
        let status = unsafe { slice::from_raw_parts_mut(frame.wrapping_add(HEADER), 1) };
        (header, data, status)
    }
}

impl Driver for Other {
    fn submit(&mut self, number: usize) {
        let frame = self.frames.start.as_ptr().wrapping_add(number * 64);
        let sector = number as u64 * u64::from(SECTORS);
        let header: [u64; 2] = [0, sector.to_le()];
        // SAFETY: The frame is 64 bytes of this driver's memory.
        unsafe { frame.cast::<[u64; 2]>().write(header) };
        // SAFETY: As above.
        unsafe { frame.wrapping_add(HEADER).write(0xFF) };
        let queue = &raw mut self.queue;
        let (header, data, status) = self.buffers(number);
        // SAFETY: `buffers` does not refer to the queue.
        let queue = unsafe { &mut *queue };
        // SAFETY: The buffers stay until the request is completed.
        let token = unsafe { queue.add(&[header], &mut [data, status]) };
        self.tokens[number] = token.expect("room");
    }

    fn notification_needed(&mut self) -> bool {
        self.queue.should_notify()
    }

    fn complete(&mut self, number: usize) {
        let token = self.queue.peek_used().expect("a request");
        assert_eq!(token, self.tokens[number]);
        let queue = &raw mut self.queue;
        let (header, data, status) = self.buffers(number);
        // SAFETY: `buffers` does not refer to the queue.
        let queue = unsafe { &mut *queue };
        // SAFETY: The buffers are those of `submit`.
        let popped = unsafe { queue.pop_used(token, &[header], &mut [data, status]) };
        assert!(popped.is_ok());
        let frame = self.frames.start.as_ptr().wrapping_add(number * 64);
        // SAFETY: The frame is this driver's memory, and the device has written the status.
        assert_eq!(unsafe { frame.wrapping_add(HEADER).read_volatile() }, 0);
    }
}

/// The driver's time for `batches` batches, each of which takes the median time. Other work on
/// the processor makes some take a thousand times as long.
fn run(driver: &mut impl Driver, device: &mut Device, batches: u64) -> Duration {
    let mut times = Vec::new();
    for _ in 0..batches {
        let begin = Instant::now();
        for number in 0..BATCH {
            driver.submit(number);
            black_box(driver.notification_needed());
        }
        let submission = begin.elapsed();
        device.serve();
        let begin = Instant::now();
        for number in 0..BATCH {
            driver.complete(number);
        }
        times.push(submission + begin.elapsed());
    }
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable(middle);
    median.mul_f64(batches as f64)
}

fn queues(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("16 reads of 4 KiB");
    group.throughput(Throughput::Elements(BATCH as u64));
    let data = Memory::new(BATCH * BLOCK);
    for (name, features) in [
        ("split", F::VERSION_1),
        ("split, indirect", F::INDIRECT_DESC),
        ("packed", F::RING_PACKED),
        ("packed, indirect", F::RING_PACKED.union(F::INDIRECT_DESC)),
    ] {
        let memory = Memory::new(256 * 1024);
        let mut driver = Ours::new(&memory, &data, features.union(F::VERSION_1));
        let mut device = Device::new(driver.ring(), features.contains(F::RING_PACKED));
        group.bench_function(format!("ferrostor, {name}"), |bencher| {
            bencher.iter_custom(|batches| run(&mut driver, &mut device, batches));
        });
    }
    for (name, is_indirect) in [("split", false), ("split, indirect", true)] {
        let (mut driver, ring) = Other::new(&data, is_indirect);
        let mut device = Device::new(ring, false);
        group.bench_function(format!("virtio-drivers, {name}"), |bencher| {
            bencher.iter_custom(|batches| run(&mut driver, &mut device, batches));
        });
    }
    group.finish();
}

criterion_group!(benches, queues);
criterion_main!(benches);
