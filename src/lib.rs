//! Ferrostor: a Storport miniport that serves virtio disks.
//!
//! The driver says what a virtio disk is to Windows. How a miniport behaves is
//! `storport`'s business, how a device is driven `virtio`'s, what a disk
//! answers `scsi`'s.
//!
//! | module | what it is |
//! |---|---|
//! | `entry` | DriverEntry |
//! | `adapter` | the miniport: what each of Storport's callbacks does |
//! | `discovery` | HwFindAdapter: from a PCI function to a disk |
//! | `request` | from SRB to request, from outcome to completion |
//! | `queue` | what the queue's lock protects |
//! | `device` | the device as it is between its starts and resets |
//! | `platform` | what Storport gives, as the virtio crate wants it |
//!
//! A request's way: HwBuildIo reads the CDB once; what needs no device is
//! answered there, the rest is written into the memory of a slot, without a
//! lock. HwStartIo publishes it under the queue's lock, and rings the doorbell
//! after, if the device wants that. The interrupt issues the DPC. Under the
//! same lock this takes what the device is done with off the ring, and
//! completes it after.
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

mod adapter;
mod device;
mod discovery;
mod entry;
mod platform;
mod queue;
mod request;
