//! Ferrostor: a Storport miniport that serves virtio disks.
//!
//! The driver tells Storport what a virtio disk is. `storport` knows how a
//! miniport behaves, `virtio` how a device is driven, `scsi` what a disk answers.
//!
//! | module | what it is |
//! |---|---|
//! | `driver` | the miniport: each of Storport's callbacks in a few lines |
//! | `probe` | HwFindAdapter: from a PCI function to a disk |
//! | `device` | the device's life: start, reset, restart, removal |
//! | `io` | a request: build, submit, complete |
//! | `report` | errors as events of the system log |
//! | `events` | the events and their texts |
//! | `registers` | what Storport maps, as the virtio crate wants it |
//!
//! A request's way: HwBuildIo reads the CDB once. What needs no device is answered
//! there; the rest is written into the memory of a slot, without a lock. HwStartIo
//! publishes it under the queue's lock, and notifies the device after, if the
//! device wants that. The interrupt issues the DPC. Under the same lock the DPC
//! takes finished requests off the used ring, and completes them after.
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
#[expect(dead_code, reason = "the build script puts the texts into the file")]
mod events;
mod io;
mod probe;
mod registers;
mod report;
