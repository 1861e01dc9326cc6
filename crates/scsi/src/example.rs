//! A disk for the unit tests.

use block::{BlockSize, CachePolicy, Capacity, Sectors, Topology, WriteCache};

use crate::disk::{Disk, WriteCacheState};
use crate::execute::Outcome;
use crate::identity::{Identity, Serial};
use crate::luns::Lun;
use std::vec::Vec;

/// How many logical blocks [`disk`] has.
pub(crate) const BLOCKS: u32 = 10_000;

/// A writable disk of 10,000 blocks of 512 bytes with a write cache, a serial
/// number, and no limits.
pub(crate) fn disk() -> Disk {
    Disk {
        capacity: capacity(BLOCKS.into(), 512),
        topology: Topology::default(),
        write_cache: WriteCacheState::new(WriteCache::Switchable(CachePolicy::WriteBack)),
        dpo_fua: true,
        read_only: false,
        identity: Identity {
            vendor: *b"EXAMPLE ",
            product: *b"Disk            ",
            revision: *b"0001",
            serial: Serial::new(b"disk-7\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        },
    }
}

pub(crate) fn capacity(sectors: u64, block_size: u32) -> Capacity {
    Capacity::new(Sectors(sectors), BlockSize::new(block_size).unwrap()).unwrap()
}

/// The data with which `disk` answers `cdb`, in a buffer of 512 bytes.
pub(crate) fn data(disk: &Disk, lun: Lun, cdb: &[u8]) -> Vec<u8> {
    let mut buffer = [0xEE; 512];
    match disk.execute(lun, cdb) {
        Ok(Outcome::Data(reply)) => {
            let written = reply.write_to(&mut buffer);
            buffer[..written].to_vec()
        }
        outcome => panic!("no data: {outcome:?}"),
    }
}
