//! The SCSI side of a disk: a CDB goes in, and reply data, sense data or a
//! media operation comes out.
//!
//! The crate knows what a direct access block device has to answer (SPC-4,
//! SBC-3, SAM-5). It knows nothing of the bus the CDB came by, nor of the
//! device that holds the blocks: the driver around it does the media
//! operations and moves the bytes.
//!
//! ```
//! use scsi::block::{BlockSize, CachePolicy, Capacity, Sectors, Topology, WriteCache};
//! use scsi::{Disk, Identity, Lun, MediaOp, Outcome, Sense, Serial, WriteCacheState};
//!
//! // What the device told of itself, checked once at start.
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
//! // READ(10) of 2 blocks from LBA 8: the driver's work, in the device's units.
//! let read = [0x28, 0, 0, 0, 0, 8, 0, 0, 2, 0];
//! let Ok(Outcome::Media(MediaOp::Read(extent))) = disk.execute(Lun(0), &read) else {
//!     panic!("a read inside the capacity is a media operation");
//! };
//! assert_eq!((extent.sector().0, extent.bytes()), (64, 8192));
//!
//! // READ CAPACITY(10): answered here, cut to the buffer.
//! let capacity = [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0];
//! let mut buffer = [0; 512];
//! let Ok(Outcome::Data(reply)) = disk.execute(Lun(0), &capacity) else {
//!     panic!("READ CAPACITY returns data");
//! };
//! assert_eq!(reply.write_to(&mut buffer), 8);
//! assert_eq!(buffer[..8], [0, 0, 3, 231, 0, 0, 16, 0]);
//!
//! // A read past the end: CHECK CONDITION, with sense data to hand back.
//! let past = [0x28, 0, 0, 0, 3, 231, 0, 0, 2, 0];
//! let Err(sense) = disk.execute(Lun(0), &past) else {
//!     panic!("LBA 1000 does not exist");
//! };
//! let mut sense_buffer = [0; Sense::FIXED_LENGTH];
//! assert_eq!(sense.write_to(&mut sense_buffer), 18);
//! assert_eq!((sense_buffer[2], sense_buffer[12]), (0x05, 0x21));
//! ```
//!
//! # What holds
//!
//! * [`Disk::execute`] is a function of the disk, the LUN and the CDB, and
//!   changes nothing. It takes no lock and allocates nothing, so it runs at any
//!   IRQL and on any number of processors at once.
//! * The initiator is not trusted. Any bytes are a CDB or a parameter list;
//!   whatever they say, there is no panic, and a media operation that comes out lies inside the capacity:
//!   only [`block::Capacity::extent`] makes an [`block::Extent`].
//! * The caller's data buffer is not asked for until there is something to put
//!   into it ([`Reply::write_to`]), so a READ or a WRITE never needs one mapped.
//!   Nothing is written beyond the CDB's allocation length or the buffer's end.
//!
//! # What is answered
//!
//! TEST UNIT READY, REQUEST SENSE, INQUIRY with VPD pages 00h, 80h, 83h and B0h,
//! READ CAPACITY (10, 16), READ and WRITE (6, 10, 12, 16), VERIFY (10, 16),
//! SYNCHRONIZE CACHE (10, 16), MODE SENSE and MODE SELECT (6, 10), START STOP UNIT,
//! REPORT LUNS.
//! Every other operation code is refused with INVALID COMMAND OPERATION CODE.
//!
//! Reserved and obsolete CDB bits are ignored, as SPC-4 allows, unless ignoring
//! one would do something else than was asked for.
//!
//! The standards are cited by the titles of their clauses, whose numbers differ
//! from one revision to the next.
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
