//! Requests as the device finds them: header, data and status, described by
//! the indirect table in the slot's own area (VIRTIO 1.3 §5.2.6).
//!
//! A slot's area begins with its header, so that the first cache line has what
//! the device reads first:
//!
//! ```text
//! 0   16         36    37     48
//! ├───┼──────────┼─────┼──────┼────────────────────────────┤
//! header identity status (pad) table: header, data…, status
//! ```
//!
//! Whoever holds the slot writes it, without a lock; nothing is read back but
//! the status byte and the identity, once each. The status is poisoned before
//! the device sees the request, so a status that was not written is none.

use core::fmt;

use virtio_spec::blk;
use virtio_spec::virtq::{Desc, DescF};
use virtio_spec::{le16, le32, le64};

use super::config::{Config, Extent, Sector512};
use super::limits::Limits;
use crate::dma::{CACHE_LINE, DmaError, DmaMemory, DmaRing, DmaTables, Record};
use crate::queue_size::QueueSize;
use crate::slots::{Prepared, Slot};
use crate::split_queue::Used;

/// Bytes of an identity (V89).
pub const IDENTITY: usize = 20;

const HEADER: usize = 16;
const STATUS: usize = 1;
const TABLE: usize = 48;
const PADDING: usize = TABLE.saturating_sub(HEADER + IDENTITY + STATUS);

/// A status that no device writes.
const POISON: u8 = 0xFF;

/// A request's header: `struct virtio_blk_req` up to its data.
#[derive(Clone, Copy)]
struct Header {
    kind: blk::T,
    sector: Sector512,
}

impl Record for Header {
    /// Type and the reserved word, 0; sector.
    type Words = [u64; 2];

    #[inline]
    fn into_words(self) -> [u64; 2] {
        [
            u64::from(u32::from(self.kind)).to_le(),
            self.sector.0.to_le(),
        ]
    }

    fn from_words([kind, sector]: [u64; 2]) -> Self {
        // The type is the low half; an unknown one is never written.
        let kind = blk::T::try_from(u64::from_le(kind) as u32);
        Self {
            kind: kind.unwrap_or(blk::T::In),
            sector: Sector512(u64::from_le(sector)),
        }
    }
}

/// A physically contiguous piece of a buffer, as the device reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Physical address.
    pub address: u64,
    /// Bytes.
    pub length: u32,
}

/// Why a request was not prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The buffer takes more descriptors than there are (see
    /// [`Limits::max_segments`]).
    TooScattered,
    /// The segments are shorter than the extent.
    BufferShort {
        /// Bytes that are missing.
        missing: u32,
    },
    /// A segment ends above 2^64.
    AddressOverflow,
    /// The disk takes no writes (V85).
    ReadOnly,
    /// The disk takes no flushes (V80).
    NoFlush,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooScattered => f.write_str("the buffer has more segments than a request holds"),
            Self::BufferShort { missing } => write!(f, "the buffer lacks {missing} bytes"),
            Self::AddressOverflow => f.write_str("a segment ends above 2^64"),
            Self::ReadOnly => f.write_str("the disk is read-only"),
            Self::NoFlush => f.write_str("the disk takes no flushes"),
        }
    }
}

/// A request that was not prepared, with the slot that was for it.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// The slot, untouched or half written: free for another request.
    pub slot: Slot,
    /// Why.
    pub reason: Refusal,
}

/// What went wrong with a request that the device has finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// `VIRTIO_BLK_S_IOERR`. Nothing is known of what was read or written (V91).
    Io,
    /// `VIRTIO_BLK_S_UNSUPP`.
    Unsupported,
    /// The device gave the request back without a status.
    NoStatus,
    /// The device wrote a status that does not exist.
    UnknownStatus(u8),
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io => f.write_str("the device reports an I/O error"),
            Self::Unsupported => f.write_str("the device does not support the request"),
            Self::NoStatus => f.write_str("the device finished the request without a status"),
            Self::UnknownStatus(status) => {
                write!(f, "the device finished the request with status {status:#x}")
            }
        }
    }
}

impl core::error::Error for RequestError {}

/// A disk's identity: what it answers to GET_ID, made fit to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    bytes: [u8; IDENTITY],
    length: usize,
}

impl Identity {
    /// Takes what comes before the first NUL, all 20 bytes if there is none,
    /// with `_` for whatever is no printable ASCII.
    fn new(raw: [u8; IDENTITY]) -> Self {
        let length = raw.iter().position(|byte| *byte == 0).unwrap_or(raw.len());
        let bytes = raw.map(|byte| match byte {
            b' '..=b'~' | 0 => byte,
            _ => b'_',
        });
        Self { bytes, length }
    }

    /// Printable ASCII, at most 20 bytes; empty if the disk has no identity.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Whether the device writes a request's data, and so what its descriptors say.
#[derive(Clone, Copy)]
struct Data {
    flags: DescF,
}

impl Data {
    const FROM_DEVICE: Self = Self {
        flags: DescF::NEXT.union(DescF::WRITE),
    };
    const TO_DEVICE: Self = Self { flags: DescF::NEXT };

    #[inline]
    fn writable(self, bytes: u32) -> u32 {
        if self.flags.contains(DescF::WRITE) {
            bytes
        } else {
            0
        }
    }
}

/// The areas of all slots of a queue, where requests are prepared.
#[derive(Debug)]
pub struct Requests<'m> {
    headers: DmaRing<'m, Header>,
    identities: DmaRing<'m, [u8; IDENTITY]>,
    statuses: DmaRing<'m, u8>,
    tables: DmaTables<'m, Desc>,
    data_descriptors: u16,
    size_max: u32,
    read_only: bool,
    flush: bool,
}

impl<'m> Requests<'m> {
    /// Bytes of memory that the areas of `slots` slots need, whatever the
    /// alignment of the memory.
    #[must_use]
    pub fn memory_needed(slots: QueueSize, limits: &Limits) -> usize {
        area(limits)
            .saturating_mul(usize::from(slots.get()))
            .saturating_add(CACHE_LINE - 1)
    }

    /// Areas in zeroed `memory` for `slots` slots, for a disk with `config`.
    ///
    /// # Errors
    ///
    /// [`DmaError::TooShort`].
    pub fn new(
        memory: &mut DmaMemory<'m>,
        slots: QueueSize,
        config: &Config,
        limits: &Limits,
    ) -> Result<Self, DmaError> {
        let mut areas = memory.areas(slots, area(limits))?;
        let headers = areas.ring()?;
        let identities = areas.ring()?;
        let statuses = areas.ring()?;
        areas.skip(PADDING)?;
        Ok(Self {
            headers,
            identities,
            statuses,
            tables: areas.tables(limits.table_entries())?,
            data_descriptors: limits.data_descriptors,
            size_max: limits.size_max.max(1),
            read_only: config.read_only,
            flush: config.flush,
        })
    }

    /// Prepares to read `extent` into the buffer of these segments: its first
    /// bytes, if it is longer. A segment longer than `size_max` is described in
    /// pieces, an empty one not at all.
    ///
    /// # Errors
    ///
    /// [`Refused`] gives the slot back.
    #[inline]
    pub fn read(
        &self,
        slot: Slot,
        extent: Extent,
        segments: impl IntoIterator<Item = Segment>,
    ) -> Result<Prepared, Refused> {
        self.transfer(slot, blk::T::In, Data::FROM_DEVICE, extent, segments)
    }

    /// Prepares to write `extent` from the buffer of these segments, likewise.
    ///
    /// # Errors
    ///
    /// [`Refused`] gives the slot back.
    #[inline]
    pub fn write(
        &self,
        slot: Slot,
        extent: Extent,
        segments: impl IntoIterator<Item = Segment>,
    ) -> Result<Prepared, Refused> {
        if self.read_only {
            return Err(Refused {
                slot,
                reason: Refusal::ReadOnly,
            });
        }
        self.transfer(slot, blk::T::Out, Data::TO_DEVICE, extent, segments)
    }

    /// Prepares to flush the disk's cache: sector 0, no data (V86).
    ///
    /// # Errors
    ///
    /// [`Refused`] gives the slot back.
    #[inline]
    pub fn flush(&self, slot: Slot) -> Result<Prepared, Refused> {
        if !self.flush {
            return Err(Refused {
                slot,
                reason: Refusal::NoFlush,
            });
        }
        self.frame(slot, blk::T::Flush, Sector512(0), 1, 0)
    }

    /// Prepares to ask for the disk's identity; [`Self::identity`] has it
    /// afterwards.
    ///
    /// # Errors
    ///
    /// None in practice; [`Refused`] gives the slot back.
    pub fn identify(&self, slot: Slot) -> Result<Prepared, Refused> {
        let index = slot.index();
        // Nothing of an earlier answer may pass for this one's.
        self.identities.write(index, [0; IDENTITY]);
        let segment = Segment {
            address: self.identities.physical(index),
            length: IDENTITY as u32,
        };
        match self.describe(index, Data::FROM_DEVICE, segment.length, [segment]) {
            Ok(entries) => self.frame(slot, blk::T::GetId, Sector512(0), entries, segment.length),
            Err(reason) => Err(Refused { slot, reason }),
        }
    }

    #[inline]
    fn transfer(
        &self,
        slot: Slot,
        kind: blk::T,
        data: Data,
        extent: Extent,
        segments: impl IntoIterator<Item = Segment>,
    ) -> Result<Prepared, Refused> {
        match self.describe(slot.index(), data, extent.bytes(), segments) {
            Ok(entries) => {
                let writable = data.writable(extent.bytes());
                self.frame(slot, kind, extent.sector(), entries, writable)
            }
            Err(reason) => Err(Refused { slot, reason }),
        }
    }

    /// Describes the first `bytes` of the segments, from the table's entry 1
    /// on, and gives the entry after them.
    #[inline]
    fn describe(
        &self,
        index: u16,
        data: Data,
        bytes: u32,
        segments: impl IntoIterator<Item = Segment>,
    ) -> Result<u16, Refusal> {
        let mut missing = bytes;
        let mut entry = 1_u16;
        for segment in segments {
            let mut left = segment.length.min(missing);
            let mut address = segment.address;
            // Neither wraps: `left` was taken to be no more.
            missing = missing.wrapping_sub(left);
            while left > 0 {
                if entry > self.data_descriptors {
                    return Err(Refusal::TooScattered);
                }
                let length = left.min(self.size_max);
                // Does not wrap: a u16 that was no larger than another.
                let next = entry.wrapping_add(1);
                let piece = descriptor(address, length, data.flags, next);
                let written = self.tables.write(index, entry, piece);
                written.ok_or(Refusal::TooScattered)?;
                address = address
                    .checked_add(u64::from(length))
                    .ok_or(Refusal::AddressOverflow)?;
                left = left.wrapping_sub(length);
                entry = next;
            }
            if missing == 0 {
                return Ok(entry);
            }
        }
        if missing == 0 {
            Ok(entry)
        } else {
            Err(Refusal::BufferShort { missing })
        }
    }

    /// Completes a request whose data lie in the table's entries up to `last`:
    /// the header before them, the status after, poisoned. All that the device
    /// reads comes before all that it writes (V31).
    #[inline]
    fn frame(
        &self,
        slot: Slot,
        kind: blk::T,
        sector: Sector512,
        last: u16,
        data: u32,
    ) -> Result<Prepared, Refused> {
        let index = slot.index();
        self.headers.write(index, Header { kind, sector });
        self.statuses.write(index, POISON);

        let header = self.headers.physical(index);
        let first = descriptor(header, HEADER as u32, DescF::NEXT, 1);
        let status = self.statuses.physical(index);
        let status = descriptor(status, STATUS as u32, DescF::WRITE, 0);
        let written = self
            .tables
            .write(index, 0, first)
            .and_then(|()| self.tables.write(index, last, status));
        if written.is_none() {
            return Err(Refused {
                slot,
                reason: Refusal::TooScattered,
            });
        }
        Ok(Prepared {
            table: self.tables.physical(index),
            slot,
            // Neither wraps: `last` is an entry of a table, `data` is 2^31 at
            // most.
            descriptors: last.wrapping_add(1),
            writable: data.wrapping_add(STATUS as u32),
        })
    }

    /// How a request ended. The status byte decides alone.
    ///
    /// The status was poisoned before the device had the request and is read
    /// once, so there is no success unless the device has written `OK`. `OK`
    /// means that the device has transferred all data: a virtio-blk request has
    /// no partial success (VIRTIO 1.3 §5.2.6).
    ///
    /// The used length is not believed, although VIRTIO 1.3 §2.7.8.2 forbids
    /// assumptions about bytes beyond it (V38). bhyve, ACRN and others report 0
    /// or 1 for every request, data and status written. A driver that believes
    /// them returns reads without data. [`Used::is_short`] tells of such devices.
    /// A device that lies in its status could lie in its data as well, so the
    /// length protects from nothing.
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    #[inline]
    pub fn outcome<P>(&self, used: &Used<P>) -> Result<(), RequestError> {
        match self.statuses.read(used.slot.index()) {
            POISON => Err(RequestError::NoStatus),
            status => match blk::S::try_from(status) {
                Ok(blk::S::Ok) => Ok(()),
                Ok(blk::S::Ioerr) => Err(RequestError::Io),
                Ok(blk::S::Unsupp) => Err(RequestError::Unsupported),
                // Those of zoned disks are not negotiated.
                Ok(_) | Err(_) => Err(RequestError::UnknownStatus(status)),
            },
        }
    }

    /// The answer to [`Self::identify`], copied once and checked after that.
    ///
    /// The used length is not believed here either. The place was cleared before
    /// the device had it, so bytes that the device did not write are zeros.
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    pub fn identity<P>(&self, used: &Used<P>) -> Result<Identity, RequestError> {
        self.outcome(used)?;
        Ok(Identity::new(self.identities.read(used.slot.index())))
    }
}

/// Bytes of one slot's area.
fn area(limits: &Limits) -> usize {
    usize::from(limits.table_entries())
        .saturating_mul(size_of::<Desc>())
        .saturating_add(TABLE)
        .next_multiple_of(CACHE_LINE)
}

#[inline]
fn descriptor(address: u64, length: u32, flags: DescF, next: u16) -> Desc {
    Desc {
        addr: le64::from_ne(address),
        len: le32::from_ne(length),
        flags,
        next: le16::from_ne(next),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A21.
    #[test]
    fn an_identity_is_printable_whatever_the_device_says() {
        for (raw, shown) in [
            (*b"disk-0001\0\0\0\0\0\0\0\0\0\0\0", &b"disk-0001"[..]),
            (*b"twenty-bytes-no-nul!", b"twenty-bytes-no-nul!"),
            ([0; 20], b""),
            (*b"tab\there\xFF\x80\n\0garbage!", b"tab_here___"),
        ] {
            assert_eq!(Identity::new(raw).as_bytes(), shown);
        }
        for byte in (1..=u8::MAX).step_by(if cfg!(miri) { 31 } else { 1 }) {
            let identity = Identity::new([byte; IDENTITY]);
            assert_eq!(identity.as_bytes().len(), IDENTITY);
            assert!(
                identity
                    .as_bytes()
                    .iter()
                    .all(|byte| (b' '..=b'~').contains(byte))
            );
        }
    }

    #[test]
    fn a_header_survives_the_way_through_its_words() {
        for kind in [blk::T::In, blk::T::Out, blk::T::Flush, blk::T::GetId] {
            let header = Header::from_words(
                Header {
                    kind,
                    sector: Sector512(u64::MAX - 5),
                }
                .into_words(),
            );

            assert_eq!(header.kind, kind);
            assert_eq!(header.sector, Sector512(u64::MAX - 5));
        }
    }
}
