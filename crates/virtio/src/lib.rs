//! The driver side of virtio: PCI transport, split virtqueue and virtio-blk.
//!
//! The crate knows no operating system. The caller maps the device's registers and
//! allocates the memory that the device shares.
//!
//! In comments `V41` is a row of `docs/reference/virtio-requirements.md`, and `A6` a row of
//! `docs/reference/hostile-device.md`. A test's doc comment begins with the rows that it
//! shows.
//!
//! # Architecture
//!
//! | module | contents |
//! |---|---|
//! | [`pci`] | the locations of the device's registers, from its capability list |
//! | [`registers`] | one mapped window of registers, as a trait |
//! | [`transport`] | the device's initialization from reset to `DRIVER_OK`, with a type for each step |
//! | [`dma`] | shared memory, and the only code that accesses it |
//! | [`slots`] | which slots of a queue are free, and who owns each |
//! | [`split_queue`] | the ring: publishes requests, and takes those that the device returns |
//! | [`blk`] | a disk's configuration, the limits of a request, and the requests |
//!
//! # The path of a request
//!
//! A slot holds one request of a queue. It is a descriptor of the ring, an area of shared
//! memory, and an entry in the driver's table of requests in flight. Descriptor *i* always
//! points at the indirect table in slot *i*'s area.
//!
//! 1. [`SlotAllocator::reserve`](slots::SlotAllocator::reserve) returns a free
//!    [`Slot`](slots::Slot). [`Requests::read`](blk::Requests::read) or another
//!    function of [`blk::Requests`] writes the request into the slot's area: header,
//!    table and an invalid status. This needs no lock, on any number of processors.
//!    The result, [`Prepared`](slots::Prepared), is plain data, so the request may be
//!    published later and on another processor. If it is lost,
//!    [`discard_prepared`](split_queue::SplitQueue::discard_prepared) or the next
//!    [`reclaim`](split_queue::SplitQueue::reclaim) frees its slot.
//! 2. Under the queue's lock, [`publish`](split_queue::SplitQueue::publish) makes the
//!    request available to the device, and stores the caller's payload. It rejects a
//!    request whose slot was freed meanwhile. [`cancel`] discards a prepared request.
//!    After a batch,
//!    [`notification_needed`](split_queue::SplitQueue::notification_needed) returns
//!    whether to notify the device.
//! 3. Under the lock, [`pop_used`](split_queue::SplitQueue::pop_used) returns a
//!    finished request's slot and payload, once.
//!    [`rearm_interrupts`](split_queue::SplitQueue::rearm_interrupts) ends the drain.
//! 4. [`Requests::outcome`](blk::Requests::outcome) reads the status, once. Then
//!    [`release`](split_queue::SplitQueue::release) frees the slot, under the lock.
//!
//! These steps allocate nothing, search nothing, and zero no more than they use.
//!
//! [`cancel`]: split_queue::SplitQueue::cancel
//!
//! # Example
//!
//! Starts a disk, from its reset to a completed read. The code of the device is hidden: some
//! sixty lines that answer register accesses and, when notified, serve the ring. The device
//! is a disk of one sector full of `Z`.
//!
//! ```
//! use std::ptr::NonNull;
//!
//! use block::{Blocks, Lba};
//! use virtio::blk::{Config, Requests, Segment, choose_features, limits};
//! use virtio::dma::DmaMemory;
//! use virtio::pci::{Layout, Location};
//! use virtio::queue_size::QueueSize;
//! use virtio::registers::Registers;
//! use virtio::slots::SlotAllocator;
//! use virtio::split_queue::SplitQueue;
//! use virtio::transport::{Device, Windows};
//!
//! # const PHYSICAL: u64 = 0x4000_0000;
//! # #[repr(align(4096))]
//! # struct Memory([u8; 16384]);
//! # use std::cell::Cell;
//! # use virtio::pci::Structure;
//! # struct FakeDisk {
//! #     start: NonNull<u8>,
//! #     status: Cell<u8>,
//! #     select: Cell<u32>,
//! #     enabled: Cell<u16>,
//! #     ring: [Cell<u32>; 6],
//! # }
//! # impl FakeDisk {
//! #     fn new(start: NonNull<u8>) -> Self {
//! #         let (status, select) = (Cell::new(0), Cell::new(0));
//! #         Self { start, status, select, enabled: Cell::new(0), ring: Default::default() }
//! #     }
//! #     fn windows(&self) -> Windows<Window<'_>> {
//! #         let window = |structure| Window(self, structure);
//! #         Windows {
//! #             common: window(Structure::Common),
//! #             notify: window(Structure::Notify),
//! #             isr: window(Structure::Isr),
//! #             device: window(Structure::Device),
//! #         }
//! #     }
//! #     fn at<T>(&self, physical: u64) -> NonNull<T> {
//! #         // SAFETY: all that the driver gives addresses of is in its memory.
//! #         unsafe { self.start.add((physical - PHYSICAL) as usize) }.cast()
//! #     }
//! #     fn load<T: Copy>(&self, physical: u64) -> T {
//! #         // SAFETY: as for `at`; everything lies aligned.
//! #         unsafe { self.at(physical).read_volatile() }
//! #     }
//! #     fn store<T>(&self, physical: u64, value: T) {
//! #         // SAFETY: as for `load`.
//! #         unsafe { self.at(physical).write_volatile(value) }
//! #     }
//! #     fn serve(&self) {
//! #         let part = |part: usize| u64::from(self.ring[part].get());
//! #         let (descriptors, available, used) = (part(0), part(2), part(4));
//! #         let head: u16 = self.load(available + 4);
//! #         let table: u64 = self.load(descriptors + 16 * u64::from(head));
//! #         let entries = self.load::<u32>(descriptors + 16 * u64::from(head) + 8) / 16;
//! #         let mut written = 0;
//! #         for entry in (1..u64::from(entries)).map(|entry| table + 16 * entry) {
//! #             let (address, length): (u64, u32) = (self.load(entry), self.load(entry + 8));
//! #             let byte = if length == 1 { 0 } else { b'Z' };
//! #             (0..u64::from(length)).for_each(|at| self.store(address + at, byte));
//! #             written += length;
//! #         }
//! #         self.store(used + 4, u32::from(head));
//! #         self.store(used + 8, written);
//! #         self.store(used + 2, 1_u16);
//! #     }
//! # }
//! # #[derive(Clone, Copy, Debug)]
//! # struct Window<'d>(&'d FakeDisk, Structure);
//! # impl std::fmt::Debug for FakeDisk {
//! #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("a disk") }
//! # }
//! # impl Registers for Window<'_> {
//! #     fn length(&self) -> usize { 64 }
//! #     fn read_u8(&self, offset: usize) -> u8 {
//! #         if offset == 0x14 { self.0.status.get() } else { 0 }
//! #     }
//! #     fn read_u16(&self, offset: usize) -> u16 {
//! #         match offset { 0x12 => 1, 0x18 => 8, 0x1C => self.0.enabled.get(), _ => 0 }
//! #     }
//! #     fn read_u32(&self, offset: usize) -> u32 {
//! #         match (self.1, offset, self.0.select.get()) {
//! #             (Structure::Device, 0, _) => 1,
//! #             (Structure::Common, 4, 0) => 1 << 28,
//! #             (Structure::Common, 4, 1) => 1,
//! #             _ => 0,
//! #         }
//! #     }
//! #     fn write_u8(&self, _: usize, status: u8) { self.0.status.set(status) }
//! #     fn write_u16(&self, offset: usize, value: u16) {
//! #         match (self.1, offset) {
//! #             (Structure::Notify, _) => self.0.serve(),
//! #             (_, 0x1C) => self.0.enabled.set(value),
//! #             _ => {}
//! #         }
//! #     }
//! #     fn write_u32(&self, offset: usize, value: u32) {
//! #         match offset {
//! #             0 => self.0.select.set(value),
//! #             0x20.. => self.0.ring[(offset - 0x20) / 4].set(value),
//! #             _ => {}
//! #         }
//! #     }
//! # }
//! # let mut memory = Box::new(Memory([0; 16384]));
//! # let start: NonNull<u8> = NonNull::from(&mut memory.0).cast();
//! # let disk = FakeDisk::new(start);
//! # let location = Location { bar: 4, offset: 0, length: 64 };
//! # let layout = Layout {
//! #     common: location, notify: location, notify_multiplier: 0, isr: location,
//! #     device: location, msix_vectors: 0,
//! # };
//! // The layout comes from `Layout::parse(&configuration_space)`.
//! let device = Device::new(&layout, disk.windows())?;
//!
//! // Reset, and negotiate features. Each step is a type of its own.
//! let device = device.reset(1000, std::hint::spin_loop).expect("a reset");
//! let device = device.acknowledge().expect("a device");
//! let features = choose_features(device.offered())?;
//! let mut device = device.accept(features).expect("agreement");
//!
//! // The disk's configuration, and the limits of requests that follow from it.
//! let config = Config::read(device.config(), features)?;
//! let found = device.find_queue(0, QueueSize::Q256)?;
//! let limits = limits(&config, found.size(), 64)?;
//!
//! // The ring and the requests' areas, in memory that the device shares.
//! // SAFETY: The memory has 16384 bytes, and only driver and device access it.
//! let mut dma = unsafe { DmaMemory::new(start, PHYSICAL, 8192)? };
//! let requests = Requests::new(&mut dma, found.size(), &config, &limits)?;
//! let table = vec![None; found.size().get().into()];
//! let mut queue = SplitQueue::new(&mut dma, found.index(), found.size(), features, table)?;
//! let slots = SlotAllocator::new(found.index(), found.size());
//!
//! let enabled = device.enable_queue(found, queue.placement())?;
//! let device = device.start().expect("DRIVER_OK");
//! let notifier = device.notifier(enabled);
//!
//! // Prepare a read of the first block, without the queue's lock.
//! let extent = config.capacity.extent(Lba(0), Blocks(1))?;
//! let buffer = Segment { address: PHYSICAL + 8192, length: 512 };
//! let slot = slots.reserve().expect("a free slot");
//! let prepared = requests.read(&slots, slot, extent, &[buffer], |it| *it).expect("a request");
//!
//! // Publish it, under the lock.
//! queue.publish(&slots, prepared, "my read", |it| it).expect("published");
//! if queue.notification_needed() {
//!     notifier.notify();
//! }
//!
//! // After the interrupt, take the request off the used ring, under the lock too.
//! let used = queue.pop_used()?.expect("the device has finished");
//! assert_eq!(used.payload, "my read");
//! assert_eq!(requests.outcome(&used.slot), Ok(()));
//! queue.release(&slots, used.slot);
//! assert!(!queue.rearm_interrupts()?);
//! # // SAFETY: the device is done with its memory.
//! # let sector = unsafe { start.add(8192).cast::<[u8; 512]>().read() };
//! # assert_eq!(sector, [b'Z'; 512]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Trust
//!
//! The device is not trusted. Each value that it writes is read once and checked, and
//! the checked copy is used. The driver's own state lies in memory that the device cannot
//! reach. Every loop is bounded by that state. A protocol violation marks the queue faulty,
//! and only a reset clears the fault.
//! [`reclaim`](split_queue::SplitQueue::reclaim) then returns the payloads of the
//! requests in flight, one by one, and frees their slots. It needs [proof](transport::Quiet) that the
//! device cannot reach the queue. Nothing here panics.
//!
//! The crate deviates from the specification in one thing, on purpose: the status alone
//! decides whether a request succeeded, and the used length does not count.
//! [`Requests::outcome`](blk::Requests::outcome) gives the reason.
#![no_std]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::todo,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

#[cfg(test)]
extern crate std;

pub use error::Error;
pub use virtio_spec as spec;

mod atomics;
pub mod blk;
pub mod dma;
mod error;
pub mod pci;
pub mod queue_size;
pub mod registers;
pub mod slots;
pub mod split_queue;
pub mod transport;

/// Configures a property with `cases` cases, or a few under Miri. No files are written.
// Two attributes, here and elsewhere: cargo-mutants leaves code alone only if `test` is the
// whole condition.
#[cfg(test)]
#[cfg(not(loom))]
fn proptest_config(cases: u32) -> proptest::test_runner::Config {
    proptest::test_runner::Config {
        cases: if cfg!(miri) { 2 } else { cases },
        failure_persistence: None,
        ..Default::default()
    }
}
