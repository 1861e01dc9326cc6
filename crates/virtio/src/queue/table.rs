//! The table of a request's descriptors, in the area of its slot. The device reads it as an
//! indirect table. Without indirect descriptors it is copied into the ring.

use virtio_spec::virtq::DescF;

use crate::dma::Record;

/// A descriptor in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableEntry {
    /// The physical address of the buffer.
    pub(super) address: u64,
    /// The length in the low half. Above it are flags and `next` (split ring), or buffer id
    /// and flags (packed ring).
    rest: u64,
}

impl TableEntry {
    /// The length of the buffer in bytes.
    pub(super) fn length(self) -> u32 {
        // The cast keeps the low half, where the length is.
        self.rest as u32
    }

    /// Whether the device writes the buffer, in a table of [`PackedEntries`].
    pub(super) fn is_writable(self) -> bool {
        self.rest.wrapping_shr(PackedEntries::FLAGS_AT) & WRITE != 0
    }
}

impl Record for TableEntry {
    type Words = [u64; 2];

    #[inline]
    fn into_words(self) -> [u64; 2] {
        [self.address.to_le(), self.rest.to_le()]
    }

    #[inline]
    fn from_words([address, rest]: [u64; 2]) -> Self {
        Self {
            address: u64::from_le(address),
            rest: u64::from_le(rest),
        }
    }
}

const WRITE: u64 = DescF::WRITE.bits().to_ne() as u64;
const NEXT: u64 = DescF::NEXT.bits().to_ne() as u64;

/// Who accesses a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// The device reads it.
    DeviceReads,
    /// The device writes it.
    DeviceWrites,
}

/// The layout of a table's entries. It is a type, so that the code that writes a table is
/// compiled for each format.
pub(crate) trait TableFormat {
    /// The lowest bit of the flags in an entry's second word.
    const FLAGS_AT: u32;
    /// Whether each entry names the next one.
    const IS_LINKED: bool;

    /// Entry `number`, which is not the last one.
    #[inline]
    fn entry(number: u16, address: u64, length: u32, access: Access) -> TableEntry {
        let mut entry = Self::last(address, length, access);
        if Self::IS_LINKED {
            let next = u64::from(number.wrapping_add(1)).wrapping_shl(48);
            entry.rest |= NEXT.wrapping_shl(Self::FLAGS_AT) | next;
        }
        entry
    }

    /// The last entry.
    #[inline]
    fn last(address: u64, length: u32, access: Access) -> TableEntry {
        let flags = match access {
            Access::DeviceReads => 0,
            Access::DeviceWrites => WRITE,
        };
        TableEntry {
            address,
            rest: u64::from(length) | flags.wrapping_shl(Self::FLAGS_AT),
        }
    }
}

/// Entries with the layout of a split descriptor, linked by NEXT: the indirect table of a split
/// ring (VIRTIO 1.3 §2.7.5.3).
pub(crate) enum SplitEntries {}

impl TableFormat for SplitEntries {
    const FLAGS_AT: u32 = 32;
    const IS_LINKED: bool = true;
}

/// Entries with the layout of a packed descriptor, without NEXT: the indirect table of a packed
/// ring (V54), and every table that is copied into a ring.
pub(crate) enum PackedEntries {}

impl TableFormat for PackedEntries {
    const FLAGS_AT: u32 = 48;
    const IS_LINKED: bool = false;
}
