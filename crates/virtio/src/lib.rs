//! The driver side of virtio: PCI transport, virtqueues and virtio-blk.
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
//! | [`queue`] | the queue and its ring, split or packed: publishes requests, and takes those that the device returns |
//! | [`blk`] | a disk's configuration, the limits of a request, and the requests |
//!
//! # The path of a request
//!
//! A slot holds one request of a queue. It is room in the ring, an area of shared memory, and
//! an entry in the driver's table of requests in flight. The area contains the table of the
//! request's descriptors, which the device reads there, or which is copied into the ring.
//!
//! 1. [`SlotAllocator::reserve`](slots::SlotAllocator::reserve) returns a free
//!    [`Slot`](slots::Slot). [`Requests::read`](blk::Requests::read) or another
//!    function of [`blk::Requests`] writes the request into the slot's area: header,
//!    table and an invalid status. This needs no lock, on any number of processors.
//!    The result, [`Prepared`](slots::Prepared), is plain data, so the request may be
//!    published later and on another processor. If it is lost,
//!    [`discard_prepared`](queue::VirtQueue::discard_prepared) or the next
//!    [`reclaim`](queue::VirtQueue::reclaim) frees its slot.
//! 2. Under the queue's lock, [`publish`](queue::VirtQueue::publish) makes the
//!    request available to the device, and stores the caller's payload. It rejects a
//!    request whose slot was freed meanwhile. [`cancel`] discards a prepared request.
//!    After a batch, [`notification_needed`](queue::VirtQueue::notification_needed)
//!    returns whether to notify the device.
//! 3. Under the lock, [`pop_used`](queue::VirtQueue::pop_used) returns a
//!    finished request's slot and payload, once.
//!    [`rearm_interrupts`](queue::VirtQueue::rearm_interrupts) ends the drain.
//! 4. [`Requests::outcome`](blk::Requests::outcome) reads the status, once. Then
//!    [`release`](queue::VirtQueue::release) frees the slot, under the lock.
//!
//! These steps allocate nothing, search nothing, and zero no more than they use.
//!
//! [`cancel`]: queue::VirtQueue::cancel
//!
//! # Example
//!
//! Starts a disk, from its reset to a completed read. The device is a disk of one
//! sector full of `Z`. Its code is hidden. It uses the registers and the ring of `testbed-virtio`.
//!
//! ```
//! use block::{Blocks, Lba};
//! use virtio::blk::{Config, Requests, Room, Segment, choose_features, limits};
//! use virtio::dma::DmaMemory;
//! use virtio::pci::{Layout, Location};
//! use virtio::queue_size::QueueSize;
//! use virtio::registers::{Doorbell, Registers};
//! use virtio::queue::VirtQueue;
//! use virtio::queue::format::QueueFormat;
//! use virtio::slots::SlotSize;
//! use virtio::transport::{Device, Windows};
//!
//! # use std::cell::RefCell;
//! # use testbed_virtio::blk_config::BlkConfig;
//! # use testbed_virtio::common_config::CommonConfig;
//! # use testbed_virtio::driver_errors::DriverErrors;
//! # use testbed_virtio::function::{Function, Structure};
//! # use testbed_virtio::memory::{GuestMemory, Memory, PHYSICAL};
//! # use testbed_virtio::split_ring::RingDevice;
//! # #[derive(Clone, Copy, Debug)]
//! # struct Window<'d>(&'d RefCell<Function>, &'d GuestMemory, Structure);
//! # impl Window<'_> {
//! #     fn read<const N: usize>(&self, offset: usize) -> [u8; N] {
//! #         let mut data = [0; N];
//! #         let errors = DriverErrors::default();
//! #         self.0.borrow_mut().read(self.2, offset as u64, &mut data, &errors);
//! #         assert_eq!(errors.list(), [""; 0]);
//! #         data
//! #     }
//! #     fn write(&self, offset: usize, data: &[u8]) {
//! #         let mut function = self.0.borrow_mut();
//! #         if self.2 == Structure::Notify {
//! #             let ring = function.common.ring(0).expect("an enabled queue");
//! #             return serve(RingDevice::new(self.1, ring));
//! #         }
//! #         let errors = DriverErrors::default();
//! #         let effect = function.write(self.2, offset as u64, data, false, &errors);
//! #         function.carry_out(effect);
//! #         assert_eq!(errors.list(), [""; 0]);
//! #     }
//! # }
//! # fn serve(mut device: RingDevice<'_>) {
//! #     let chain = device.take().expect("a request");
//! #     let [_, data, status] = chain.descriptors[..] else { panic!("no read") };
//! #     (0..512).for_each(|at| device.memory.store8(data.address + at, b'Z'));
//! #     device.memory.store8(status.address, 0);
//! #     device.finish(&chain, chain.writable_bytes());
//! # }
//! # struct Bell<'d>(Window<'d>, usize);
//! # impl Doorbell for Bell<'_> {
//! #     fn write(&self, value: u16) { self.0.write_u16(self.1, value) }
//! # }
//! # impl<'d> Registers for Window<'d> {
//! #     type Doorbell = Bell<'d>;
//! #     fn doorbell(&self, offset: usize) -> Option<Bell<'d>> { Some(Bell(*self, offset)) }
//! #     fn length(&self) -> usize { 64 }
//! #     fn read_u8(&self, offset: usize) -> u8 { self.read::<1>(offset)[0] }
//! #     fn read_u16(&self, offset: usize) -> u16 { u16::from_le_bytes(self.read(offset)) }
//! #     fn read_u32(&self, offset: usize) -> u32 { u32::from_le_bytes(self.read(offset)) }
//! #     fn write_u8(&self, offset: usize, value: u8) { self.write(offset, &[value]) }
//! #     fn write_u16(&self, offset: usize, value: u16) { self.write(offset, &value.to_le_bytes()) }
//! #     fn write_u32(&self, offset: usize, value: u32) { self.write(offset, &value.to_le_bytes()) }
//! # }
//! # let memory = GuestMemory::new(16384);
//! # let common = CommonConfig::new(1 << 32 | 1 << 28, 1, 8, 0);
//! # let config = BlkConfig { capacity: 1, ..BlkConfig::default() };
//! # let function = RefCell::new(Function::new(common, config));
//! # let window = |structure| Window(&function, &memory, structure);
//! # let windows = Windows {
//! #     common: window(Structure::Common),
//! #     notify: window(Structure::Notify),
//! #     isr: window(Structure::Isr),
//! #     device: window(Structure::Device),
//! # };
//! # let location = Location { bar: 4, offset: 0, length: 64 };
//! # let layout = Layout {
//! #     common: location, notify: location, notify_multiplier: 0, isr: location,
//! #     device: location, msix_vectors: 0,
//! # };
//! // The layout comes from `Layout::parse(&configuration_space)`.
//! let device = Device::new(&layout, windows)?;
//!
//! // Reset, and negotiate features. Each step is a type of its own.
//! let device = device.reset(1000, std::hint::spin_loop).expect("a reset");
//! let device = device.acknowledge().expect("a device");
//! let features = choose_features(device.offered());
//! let mut device = device.accept(features).expect("agreement");
//!
//! // The disk's configuration, and the limits of requests that follow from it.
//! let config = Config::read(device.config(), features)?;
//! let found = device.find_queue(0, QueueSize::Q256)?;
//! let room = Room { slots: found.size(), table_entries: 64 };
//! let limits = limits(&config, QueueFormat::of(features), found.size(), room)?;
//!
//! // The ring and the requests' areas, in memory that the device shares.
//! // SAFETY: The memory has 16384 bytes, and only driver and device access it.
//! let mut dma = unsafe { DmaMemory::new(memory.start(), PHYSICAL, 8192)? };
//! let requests = Requests::new(&mut dma, &config, &limits)?;
//! let table = vec![None; limits.shape.slots().get().into()];
//! let tables = requests.tables();
//! let mut queue = VirtQueue::new(&mut dma, found.index(), limits.shape, tables, table)?;
//! let slots = limits.slot_allocator(found.index());
//!
//! let enabled = device.enable_queue(found, queue.placement())?;
//! let device = device.start().expect("DRIVER_OK");
//! let notifier = device.notifier(enabled);
//!
//! // Prepare a read of the first block, without the queue's lock.
//! let extent = config.capacity.extent(Lba(0), Blocks(1))?;
//! let buffer = Segment { address: PHYSICAL + 8192, length: 512 };
//! let slot = slots.reserve(SlotSize::Small).expect("a free slot");
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
//! # assert!((0..512).all(|at| memory.load8(PHYSICAL + 8192 + at) == b'Z'));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Trust
//!
//! The device is not trusted. Each value that it writes is read once and checked, and
//! the checked copy is used. The driver's own state lies in memory that the device cannot
//! reach. Every loop is bounded by that state. A protocol violation marks the queue faulty,
//! and only a reset clears the fault.
//! [`reclaim`](queue::VirtQueue::reclaim) then returns the payloads of the
//! requests in flight, one by one, and frees their slots. It needs
//! [proof](transport::Quiet) that the device cannot reach the queue. Nothing here panics.
//!
//! The crate deviates from the specification on purpose in two things. The status alone decides
//! whether a request succeeded, and the used length does not (V38):
//! [`Requests::outcome`](blk::Requests::outcome) gives the reason. The length of a used descriptor
//! is reported even if the device did not set WRITE there (V57).
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
pub mod queue;
pub mod queue_size;
pub mod registers;
pub mod slots;
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
