//! The types that a SCSI target and a block device share: logical blocks, 512-byte sectors, a
//! disk's capacity, its topology and its write cache.
//!
//! SCSI counts in logical blocks, whose size the disk chooses. Virtio counts in sectors of
//! 512 bytes, whatever the block size is (VIRTIO 1.3 §5.2.6.1). The two units have different
//! types, so they cannot be confused. [`Capacity::extent`] is the only range check, and the
//! only function that computes a transfer's sector and length.
//!
//! ```
//! use block::{BlockSize, Blocks, Capacity, ExtentError, Lba, Sector, Sectors};
//!
//! let block_size = BlockSize::new(4096).expect("a power of two");
//! let capacity = Capacity::new(Sectors(8000), block_size).expect("below 2^64 bytes");
//!
//! let extent = capacity.extent(Lba(8), Blocks(2))?;
//! assert_eq!((extent.sector(), extent.bytes()), (Sector(64), 8192));
//! assert_eq!(capacity.extent(Lba(999), Blocks(2)), Err(ExtentError::BeyondCapacity));
//! # Ok::<(), ExtentError>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]
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

mod cache;
mod capacity;
mod topology;
mod units;

pub use cache::{CachePolicy, WriteCache};
pub use capacity::{Capacity, Extent, ExtentError};
pub use topology::{Alignment, Topology};
pub use units::{BlockSize, Blocks, Lba, Sector, Sectors};
