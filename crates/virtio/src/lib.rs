//! The driver side of virtio: PCI transport, split virtqueue and virtio-blk.
//!
//! The crate knows no operating system. It is given register windows and a
//! block of memory that the device shares, and says what to do with both.
//!
//! # Architecture
//!
//! | module | what it is |
//! |---|---|
//! | [`pci`] | where the device keeps its registers: the capability list, believed in nothing |
//! | [`registers`] | one mapped window of registers, as a trait |
//! | [`transport`] | the device from reset to `DRIVER_OK`, each step a type |
//! | [`dma`] | shared memory, and the only code that touches it |
//! | [`slots`] | who may use which slot, without a lock |
//! | [`split_queue`] | the ring: what the device has, and what it gives back |
//! | [`blk`] | what a disk says of itself, how much a request may carry, the requests |
//!
//! # A request's way
//!
//! A slot is a request's place: a descriptor of the ring, an area of shared
//! memory, an entry in the driver's table of flights. Descriptor *i* always
//! points at the indirect table in slot *i*'s area.
//!
//! 1. [`slots::SlotAllocator::reserve`] gives a [`slots::Slot`], and
//!    [`blk::Requests`] writes header, table and a poisoned status into its
//!    area. No lock, on any number of processors.
//! 2. Under the queue's lock [`split_queue::SplitQueue::publish`] takes the
//!    request with a payload of the caller's, and
//!    [`doorbell_needed`](split_queue::SplitQueue::doorbell_needed) says
//!    whether to ring.
//! 3. Under it too [`pop_used`](split_queue::SplitQueue::pop_used) gives slot
//!    and payload back, once, with what the device wrote;
//!    [`rearm_interrupts`](split_queue::SplitQueue::rearm_interrupts) ends the
//!    drain.
//! 4. [`blk::Requests::outcome`] reads the status, once, and the slot is
//!    released.
//!
//! Nothing on this way allocates, searches, or zeroes more than it uses.
//!
//! # Trust
//!
//! The device is not trusted. What it says is read once, checked, and owned
//! from then on; what the driver needs later is where the device can't reach.
//! Every loop is bounded by the driver's own state. A queue whose device said
//! what can't be is latched faulty, and left by a reset alone; what was in
//! flight then comes back by [`split_queue::SplitQueue::reclaim`], which wants
//! [proof](transport::Quiet) that the device is quiet. Nothing here panics.
//!
//! `V` numbers and attack numbers in the documentation of tests are those of
//! the project's lists of requirements and of attacks; sections are those of
//! VIRTIO 1.3.
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

pub use virtio_spec as spec;

mod atomics;
pub mod blk;
pub mod dma;
pub mod pci;
pub mod queue_size;
pub mod registers;
pub mod slots;
pub mod split_queue;
pub mod transport;

/// `cases` a property, a few of them under Miri, and no files written.
#[cfg(all(test, not(loom)))]
fn proptest_config(cases: u32) -> proptest::test_runner::Config {
    proptest::test_runner::Config {
        cases: if cfg!(miri) { 2 } else { cases },
        failure_persistence: None,
        ..Default::default()
    }
}
