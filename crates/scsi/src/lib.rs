//! The SCSI side of a disk. It turns a CDB into reply data, sense data or a media operation.
//!
//! The crate implements the commands of a direct access block device (SPC-4, SBC-3, SAM-5).
//! It does not depend on the bus that carried the CDB, or on the device that holds the
//! blocks. The driver carries out the media operations and copies the data.
//!
//! ```
//! use scsi::block::{BlockSize, CachePolicy, Capacity, Sectors, Topology, WriteCache};
//! use scsi::{Disk, Identity, Lun, MediaOp, Outcome, Sense, Serial, WriteCacheState};
//!
//! // The driver makes this from the device's configuration, once at start.
//! let block_size = BlockSize::new(4096).expect("a power of two");
//! let disk = Disk {
//!     capacity: Capacity::new(Sectors(8_000), block_size).expect("below 2^64 bytes"),
//!     topology: Topology::default(),
//!     write_cache: WriteCacheState::new(WriteCache::Switchable(CachePolicy::WriteBack)),
//!     dpo_fua: true,
//!     read_only: false,
//!     identity: Identity {
//!         vendor: *b"EXAMPLE ",
//!         product: *b"Disk            ",
//!         revision: *b"0001",
//!         serial: Serial::new(b"disk-7\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
//!     },
//! };
//!
//! // READ(10) of 2 blocks from LBA 8. The driver carries it out, in the device's units.
//! let read = [0x28, 0, 0, 0, 0, 8, 0, 0, 2, 0];
//! let Ok(Outcome::Media(MediaOp::Read(extent))) = disk.execute(Lun(0), &read) else {
//!     panic!("a read inside the capacity is a media operation");
//! };
//! assert_eq!((extent.sector().0, extent.bytes()), (64, 8192));
//!
//! // READ CAPACITY(10). This crate answers it, cut to the buffer.
//! let capacity = [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0];
//! let mut buffer = [0; 512];
//! let Ok(Outcome::Data(reply)) = disk.execute(Lun(0), &capacity) else {
//!     panic!("READ CAPACITY returns data");
//! };
//! assert_eq!(reply.write_to(&mut buffer), 8);
//! assert_eq!(buffer[..8], [0, 0, 3, 231, 0, 0, 16, 0]);
//!
//! // A read past the end: CHECK CONDITION, with sense data for the initiator.
//! let past = [0x28, 0, 0, 0, 3, 231, 0, 0, 2, 0];
//! let Err(sense) = disk.execute(Lun(0), &past) else {
//!     panic!("LBA 1000 does not exist");
//! };
//! let mut sense_buffer = [0; Sense::FIXED_LENGTH];
//! assert_eq!(sense.write_to(&mut sense_buffer), 18);
//! assert_eq!((sense_buffer[2], sense_buffer[12]), (0x05, 0x21));
//! ```
//!
//! # Guarantees
//!
//! * [`Disk::execute`] is a function of the disk, the LUN and the CDB, and changes nothing. It
//!   takes no lock and allocates nothing, so it runs at any IRQL and on any number of
//!   processors at the same time.
//! * The initiator is not trusted. A CDB or a parameter list may be any bytes. No bytes cause a
//!   panic, or a media operation outside the capacity: only [`block::Capacity::extent`] makes
//!   a [`block::Extent`].
//! * The crate needs the caller's data buffer only to write a reply into it
//!   ([`Reply::write_to`]). So the buffer of a READ or a WRITE need not be mapped. A reply
//!   ends at the CDB's allocation length, or at the buffer's end.
//!
//! # Supported commands
//!
//! TEST UNIT READY, REQUEST SENSE, INQUIRY with VPD pages 00h, 80h, 83h and B0h,
//! READ CAPACITY (10, 16), READ and WRITE (6, 10, 12, 16), VERIFY (10, 16),
//! SYNCHRONIZE CACHE (10, 16), MODE SENSE and MODE SELECT (6, 10), START STOP UNIT,
//! REPORT LUNS.
//! Every other operation code is refused with INVALID COMMAND OPERATION CODE.
//!
//! Reserved and obsolete CDB bits are ignored, as SPC-4 allows. A bit is refused if ignoring it
//! would do something else than the initiator asked for.
//!
//! The standards are cited by the titles of their clauses, because the numbers differ from
//! one revision to the next.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo
    )
)]

#[cfg(test)]
extern crate std;

mod capacity;
mod cdb;
mod disk;
mod execute;
mod identity;
mod inquiry;
mod luns;
mod medium;
mod mode;
mod range;
mod reply;
mod request_sense;
mod sense;
mod vpd;

#[cfg(test)]
mod example;

pub use block;

pub use cdb::opcode;
pub use disk::{Disk, WriteCacheState};
pub use execute::{CacheSwitch, Direction, MediaOp, Outcome};
pub use identity::{Identity, Serial};
pub use luns::Lun;
pub use mode::ModeSelect;
pub use reply::Reply;
pub use sense::{AdditionalSense, CdbField, Sense, SenseKey};
