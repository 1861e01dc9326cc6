//! Ferrostor: a Storport miniport that serves virtio disks.
//!
//! The driver joins three crates: `storport` has the miniport's callbacks, locks and
//! SRBs, `virtio` the driver's side of a virtio device, `scsi` the commands and
//! their answers.
//!
//! | module | what it is |
//! |---|---|
//! | `driver` | the miniport: each of Storport's callbacks in a few lines |
//! | `probe` | HwFindAdapter: from a PCI function to a disk |
//! | `device` | the device's life: start, reset, restart, removal |
//! | `io` | a request: build, submit, complete |
//! | `error` | why a device cannot be used or started |
//! | `report` | errors as events of the system log |
//! | `events` | the events and their texts |
//! | `registers` | Storport's registers and memory, as `virtio` needs them |
//!
//! The path of a request: HwBuildIo reads the CDB once. It completes a request that
//! needs no device, and writes any other into the memory of a slot, without a lock.
//! HwStartIo publishes the request under the queue's lock. It releases the lock and
//! then notifies the device, if the device wants a notification. The interrupt
//! routine issues the DPC. The DPC takes finished requests off the used ring under
//! the same lock, releases it, and completes them.
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
