//! The hardware: a virtio-blk PCI function behind an image file, and a bell for
//! miniports that need no disk.
//!
//! [`VirtioBlk`] is the function. It is built of parts that know little of each
//! other:
//!
//! * `config_space`: the 256 bytes of PCI configuration space;
//! * `virtio_pci`: the common configuration registers, a state machine that
//!   also knows what a driver must not do;
//! * `blk_config`: the device-specific configuration;
//! * `msix` and `interrupt_sender`: how an event becomes a message or a level;
//! * `queue_worker`: the thread that serves one virtqueue;
//! * `blk_request`: one request, from its descriptor chain to its status;
//! * `disk_image`, `image_lock` and `guest_io`: the file, its locks, and the way
//!   between it and guest memory;
//! * `faults`: what the disk does wrong when a test asks for it, and a record
//!   of what it did;
//! * `driver_errors`: what the driver did wrong, in words.
//!
//! [`Bell`] is a function that only interrupts, when it is told to.
//!
//! The rings are read by rust-vmm's `virtio-queue`, guest addresses are checked
//! by `vm-memory`. Nothing a driver does makes the device panic: it complains,
//! and answers as a device would that has to go on.
#![cfg(target_os = "linux")]

mod bell;
mod blk_config;
mod blk_request;
mod config_space;
mod disk_image;
mod driver_errors;
mod faults;
mod guest_io;
mod image_lock;
mod interrupt_sender;
mod msix;
mod queue_worker;
mod virtio_blk;
mod virtio_pci;

pub use bell::Bell;
pub use config_space::DeviceId;
pub use disk_image::{Access, DiskImage, DiskImageError, HostFailure};
pub use faults::{Faults, Glitch, Operation, Served};
pub use virtio_blk::{BlkSettings, VirtioBlk};
