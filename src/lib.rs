//! Ferrostor: a Storport miniport that serves virtio disks.
//!
//! The driver combines three crates: `storport` has the callbacks, locks and SRBs of a
//! miniport, `virtio` the driver side of a virtio device, and `scsi` the SCSI commands and
//! the replies to them. The last two share the types of `block`, such as a range of blocks.
//!
//! | module | contents |
//! |---|---|
//! | `entry` | DriverEntry |
//! | `driver` | the miniport: Storport's callbacks |
//! | `probe` | HwFindAdapter: from a PCI function to a disk |
//! | `device` | the device's life: start, reset, restart, removal |
//! | `io` | a request: build, submit, complete |
//! | `error` | why a device cannot be used or started |
//! | `report` | errors as events of the system log |
//! | `events` | the events and their texts |
//! | `registers` | Storport's mapped registers and shared memory, for the `virtio` crate |
//!
//! The path of a request: HwBuildIo reads the CDB once. It completes a request that needs no
//! device, and writes any other request into the memory of a slot, without a lock. The slot
//! is one of the processor's queue, or of another queue if that one is full. HwStartIo
//! publishes the request under the queue's lock. It releases the lock, and then notifies the
//! device if the device needs a notification. The interrupt routine issues the queue's DPC.
//! The DPC takes finished requests off the ring under the same lock, releases it, and
//! completes them.
#![no_std]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::todo,
    clippy::unreachable,
    clippy::unwrap_used
)]

mod device;
mod driver;
mod entry;
mod error;
#[expect(dead_code, reason = "the build script puts the texts into the file")]
mod events;
mod io;
mod probe;
mod registers;
mod report;
