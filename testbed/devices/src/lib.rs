//! PCI functions of the testbed: [`VirtioBlk`], a virtio-blk disk in an image file, and
//! [`Bell`], which only sends interrupts. They are device models for tests, with strict checks
//! of the driver: each violation of a specification is recorded, and carried out as far as a
//! real device would. [`Vfio`] is a function of the host. They know no Windows.
//!
//! - `config_space`, `msix`, `interrupt_sender`: PCI configuration space and interrupts
//! - `queue_worker`, `ring`, `blk_request`: the thread of a virtqueue; its ring; a request from
//!   chain to status
//! - `disk_image`, `image_lock`, `guest_io`: the file, its locks, transfers to guest memory
//! - `virtio_blk`, `bell`: the functions, made of these parts
//! - `vfio`: a function of the host
//! - `properties`: the settings of a disk from QEMU's names
//! - `faults`: faults that a test enables, and a record of what the disk did
//!
//! The registers, and the list of what the driver did wrong, are those of `testbed-virtio`.
//!
//! The crates `virtio-queue` and `vm-memory` of rust-vmm read split rings and check guest
//! addresses. Packed rings are those of `testbed-virtio`.
//!
//! ```
//! # #[cfg(target_os = "linux")] {
//! use testbed_devices::{BlkSettings, DiskImage, VirtioBlk};
//! use testbed_machine::pci::PciFunction as _;
//! use vm_memory::{GuestAddress, GuestMemoryMmap};
//!
//! let folder = tempfile::tempdir()?;
//! let image = DiskImage::create(&folder.path().join("disk.img"), 1 << 20)?;
//! let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)])?;
//! let disk = VirtioBlk::new(image, memory, BlkSettings::default());
//!
//! let mut id = [0; 4];
//! disk.config_read(0, &mut id);
//! assert_eq!(u32::from_le_bytes(id), 0x1042_1af4);
//! disk.stop();
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![cfg(target_os = "linux")]

mod bell;
mod blk_request;
mod config_space;
mod disk_image;
mod faults;
mod guest_io;
mod image_lock;
mod interrupt_sender;
mod msix;
mod properties;
mod queue_worker;
mod ring;
mod vfio;
mod virtio_blk;

pub use bell::Bell;
pub use config_space::DeviceId;
pub use disk_image::{DiskImage, DiskImageError, HostFailure};
pub use faults::{Faults, Glitch, Operation, Served};
pub use properties::PropertyError;
pub use vfio::{Vfio, VfioError};
pub use virtio_blk::{BlkSettings, VirtioBlk};
