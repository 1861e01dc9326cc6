//! Requests in the form that the device reads: header, data and status, described by the
//! descriptor table in the slot's area (VIRTIO 1.3 §5.2.6).
//!
//! A slot's area begins with the header, so the first cache line contains what the device
//! reads first:
//!
//! ```text
//! 0   16         36    37     48
//! ├───┼──────────┼─────┼──────┼────────────────────────────┤
//! header identity status (pad) table: header, data…, status
//! ```
//!
//! The tables of large slots lie in areas of their own, because they are long.
//!
//! The owner of the slot writes to the area, without a lock. The driver reads back only
//! the status byte and the identity, once each. It writes an invalid status before the
//! device sees the request, and so recognises a status that the device did not write.

use block::{Extent, Sector};
use virtio_spec::blk;

use super::config::Config;
use super::limits::Limits;
use crate::dma::{Area, CACHE_LINE, DmaAreas, DmaMemory, DmaTable, DmaTables, Record};
use crate::error::Error;
use crate::queue::table::{Access, PackedEntries, SplitEntries, TableFormat};
use crate::slots::{Prepared, Slot, SlotAllocator, SlotSize};

/// Bytes of a disk's identity (V89).
pub const IDENTITY: usize = 20;

const HEADER_AT: usize = 0;
const HEADER: usize = 16;
const IDENTITY_AT: usize = 16;
const STATUS_AT: usize = 36;
const STATUS: usize = 1;
/// Bytes before the table.
const HEAD: usize = 48;

/// The status that the driver writes before the device has the request. No device writes
/// it.
const POISON: u8 = 0xFF;

/// A request's header: `struct virtio_blk_req` up to its data.
#[derive(Clone, Copy)]
struct Header {
    kind: blk::T,
    sector: Sector,
}

impl Record for Header {
    /// The type and the reserved word, which is 0; then the sector.
    type Words = [u64; 2];

    #[inline]
    fn into_words(self) -> [u64; 2] {
        [
            u64::from(u32::from(self.kind)).to_le(),
            self.sector.0.to_le(),
        ]
    }

    fn from_words([kind, sector]: [u64; 2]) -> Self {
        // The type is the low half. The driver writes no unknown type.
        let kind = blk::T::try_from(u64::from_le(kind) as u32);
        Self {
            kind: kind.unwrap_or(blk::T::In),
            sector: Sector(u64::from_le(sector)),
        }
    }
}

impl Header {
    #[inline]
    fn new(kind: blk::T, sector: Sector) -> Self {
        Self { kind, sector }
    }

    /// Who accesses the request's data.
    #[inline]
    fn access(&self) -> Access {
        match self.kind {
            blk::T::Out => Access::DeviceReads,
            _ => Access::DeviceWrites,
        }
    }
}

/// A physically contiguous piece of a buffer: one element of a scatter/gather list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The physical address.
    pub address: u64,
    /// The length in bytes.
    pub length: u32,
}

/// Why a request was not prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The buffer needs more descriptors than a request has (see
    /// [`Limits::max_segments`]).
    #[error("the buffer has more segments than a request holds")]
    TooScattered,
    /// The segments together are shorter than the extent.
    #[error("the buffer lacks {missing} bytes")]
    BufferShort {
        /// The number of bytes that are missing.
        missing: u32,
    },
    /// The disk is read-only (V85).
    #[error("the disk is read-only")]
    ReadOnly,
    /// The disk does not support flushes (V80).
    #[error("the disk has no flush")]
    NoFlush,
}

/// A request that was not prepared. It returns the slot.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// The slot, whose area may be partly written. The caller owns it and can use it for
    /// another request.
    pub slot: Slot,
    /// Why.
    pub reason: Refusal,
}

/// What went wrong with a request that the device has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// `VIRTIO_BLK_S_IOERR`. Which part was read or written is unknown (V91).
    #[error("the device reports an I/O error")]
    Io,
    /// `VIRTIO_BLK_S_UNSUPP`.
    #[error("the device does not support the request")]
    Unsupported,
    /// The device returned the request without a status.
    #[error("the device returned the request without a status")]
    NoStatus,
    /// The device wrote a status that virtio-blk does not define.
    #[error("the device returned the request with status {0:#x}")]
    UnknownStatus(u8),
}

/// Finishes a request whose data descriptors are entries 1 to `last` - 1 of `table`. Entry 0
/// becomes the header's descriptor, and entry `last` the status's. So descriptors that the device
/// reads precede those that it writes (V31). Also writes the header and the invalid status to
/// `area`, and marks the request as prepared.
#[inline]
fn frame<F: TableFormat>(
    slots: &SlotAllocator,
    slot: Slot,
    area: &Area<'_, HEAD>,
    table: &DmaTable<'_>,
    header: Header,
    last: u16,
) -> Result<Prepared, Refused> {
    area.write::<Header, HEADER_AT>(header);
    area.write::<u8, STATUS_AT>(POISON);

    let header = area.physical::<HEADER_AT>();
    let first = F::entry(0, header, HEADER as u32, Access::DeviceReads);
    let status = area.physical::<STATUS_AT>();
    let status = F::last(status, STATUS as u32, Access::DeviceWrites);
    // The last entry is written first, so the compiler needs no bounds check for entry 0.
    let written = table
        .write_entry(last, status)
        .and_then(|()| table.write_entry(0, first));
    if written.is_none() {
        let reason = Refusal::TooScattered;
        return Err(Refused { slot, reason });
    }
    // Does not wrap: `last` is an entry of the table.
    Ok(slots.stage(slot, table.physical(), last.wrapping_add(1)))
}

/// The areas of all slots of a queue, in which requests are prepared.
#[derive(Debug)]
pub struct Requests<'m> {
    areas: DmaAreas<'m, HEAD>,
    /// The tables of the large slots, if there are any.
    large_tables: Option<DmaAreas<'m, 0>>,
    has_linked_tables: bool,
    /// The maximum number of bytes of a request in a small slot.
    small_bytes: u32,
    /// The maximum number of data descriptors of a request.
    data_descriptors: u16,
    size_max: u32,
    read_only: bool,
    flush: bool,
}

impl<'m> Requests<'m> {
    /// Returns how many bytes of memory the areas of all slots need, whatever the alignment of
    /// the memory.
    #[must_use]
    pub fn memory_needed(limits: &Limits) -> usize {
        let small = DmaAreas::<HEAD>::stride(limits.small_table_entries())
            .saturating_mul(usize::from(limits.shape.slots().get()));
        let large = limits.large_slots().map_or(0, |count| {
            DmaAreas::<0>::stride(limits.table_entries()).saturating_mul(usize::from(count.get()))
        });
        small.saturating_add(large).saturating_add(CACHE_LINE - 1)
    }

    /// Carves zeroed areas for all slots out of `memory`, for a disk with `config`.
    ///
    /// # Errors
    ///
    /// [`Error::MemoryShort`].
    pub fn new(
        memory: &mut DmaMemory<'m>,
        config: &Config,
        limits: &Limits,
    ) -> Result<Self, Error> {
        Ok(Self {
            areas: memory.areas(limits.shape.slots(), limits.small_table_entries())?,
            large_tables: match limits.large_slots() {
                Some(count) => Some(memory.areas(count, limits.table_entries())?),
                None => None,
            },
            has_linked_tables: limits.shape.format().has_linked_tables(),
            small_bytes: limits.small_bytes(),
            data_descriptors: limits.data_descriptors,
            size_max: limits.size_max.max(1),
            read_only: config.read_only,
            flush: config.has_flush(),
        })
    }

    /// The size of the slot that a read or a write of `extent` needs, if each segment but the first
    /// and the last is a page or more.
    #[inline]
    #[must_use]
    pub fn slot_size(&self, extent: Extent) -> SlotSize {
        if extent.bytes() <= self.small_bytes {
            SlotSize::Small
        } else {
            SlotSize::Large
        }
    }

    /// Whether some slots are large. Otherwise all slots are equal.
    #[must_use]
    pub fn has_large_slots(&self) -> bool {
        self.large_tables.is_some()
    }

    /// The area and the table of a slot.
    #[inline]
    fn area_and_table(&self, slot: &Slot) -> (Area<'_, HEAD>, DmaTable<'_>) {
        let area = self.areas.area(slot.index());
        let table = match (slot.size(), &self.large_tables) {
            // The large slots are the last quarter, and there are as many tables. So the index
            // modulo their number is that of the table.
            (SlotSize::Large, Some(tables)) => tables.area(slot.index()).table(),
            _ => area.table(),
        };
        (area, table)
    }

    /// The tables of all slots, for a queue without indirect descriptors, whose slots are equal.
    #[must_use]
    pub fn tables(&self) -> DmaTables<'m> {
        self.areas.tables()
    }

    /// Prepares a read of `extent` into a buffer, whose scatter/gather list is `list`.
    /// `segment` converts an element of the list. A buffer that is longer than the extent is
    /// filled from its beginning. A segment that is longer than `size_max` takes several
    /// descriptors, and an empty one takes none.
    ///
    /// # Errors
    ///
    /// [`Refused`] gives the slot back.
    #[inline]
    pub fn read<E>(
        &self,
        slots: &SlotAllocator,
        slot: Slot,
        extent: Extent,
        list: &[E],
        segment: impl Fn(&E) -> Segment,
    ) -> Result<Prepared, Refused> {
        let header = Header::new(blk::T::In, extent.sector());
        self.prepare(slots, slot, header, extent.bytes(), list, segment)
    }

    /// Prepares a write of `extent` from a buffer. The parameters are those of
    /// [`Self::read`].
    ///
    /// # Errors
    ///
    /// [`Refused`] gives the slot back.
    #[inline]
    pub fn write<E>(
        &self,
        slots: &SlotAllocator,
        slot: Slot,
        extent: Extent,
        list: &[E],
        segment: impl Fn(&E) -> Segment,
    ) -> Result<Prepared, Refused> {
        if self.read_only {
            let reason = Refusal::ReadOnly;
            return Err(Refused { slot, reason });
        }
        let header = Header::new(blk::T::Out, extent.sector());
        self.prepare(slots, slot, header, extent.bytes(), list, segment)
    }

    /// Prepares a flush of the disk's cache: sector 0, no data (V86).
    ///
    /// # Errors
    ///
    /// [`Refused`] gives the slot back.
    #[inline]
    pub fn flush(&self, slots: &SlotAllocator, slot: Slot) -> Result<Prepared, Refused> {
        if !self.flush {
            let reason = Refusal::NoFlush;
            return Err(Refused { slot, reason });
        }
        let header = Header::new(blk::T::Flush, Sector(0));
        let (area, table) = self.area_and_table(&slot);
        if self.has_linked_tables {
            frame::<SplitEntries>(slots, slot, &area, &table, header, 1)
        } else {
            frame::<PackedEntries>(slots, slot, &area, &table, header, 1)
        }
    }

    /// Prepares a request for the disk's identity (GET_ID). [`Self::identity`] reads the
    /// answer.
    ///
    /// # Errors
    ///
    /// [`Refused`] gives the slot back. It does not occur with limits of
    /// [`limits`](super::limits()).
    pub fn identify(&self, slots: &SlotAllocator, slot: Slot) -> Result<Prepared, Refused> {
        let area = self.areas.area(slot.index());
        // Otherwise bytes that the device does not write would be those of an earlier
        // answer.
        area.write::<[u8; IDENTITY], IDENTITY_AT>([0; IDENTITY]);
        let segment = Segment {
            address: area.physical::<IDENTITY_AT>(),
            length: IDENTITY as u32,
        };
        let header = Header::new(blk::T::GetId, Sector(0));
        self.prepare(slots, slot, header, segment.length, &[segment], |it| *it)
    }

    /// Prepares a request for the first `bytes` bytes of a list.
    #[inline(always)]
    fn prepare<E>(
        &self,
        slots: &SlotAllocator,
        slot: Slot,
        header: Header,
        bytes: u32,
        list: &[E],
        segment: impl Fn(&E) -> Segment,
    ) -> Result<Prepared, Refused> {
        let access = header.access();
        let (area, table) = self.area_and_table(&slot);
        if self.has_linked_tables {
            match self.describe::<SplitEntries, E>(&table, access, bytes, list, segment) {
                Ok(last) => frame::<SplitEntries>(slots, slot, &area, &table, header, last),
                Err(reason) => Err(Refused { slot, reason }),
            }
        } else {
            match self.describe::<PackedEntries, E>(&table, access, bytes, list, segment) {
                Ok(last) => frame::<PackedEntries>(slots, slot, &area, &table, header, last),
                Err(reason) => Err(Refused { slot, reason }),
            }
        }
    }

    /// Writes data descriptors for the first `bytes` bytes of the list, from entry 1 of the
    /// table on. Returns the number of the entry behind them.
    #[inline]
    fn describe<F: TableFormat, E>(
        &self,
        table: &DmaTable<'_>,
        access: Access,
        bytes: u32,
        list: &[E],
        segment: impl Fn(&E) -> Segment,
    ) -> Result<u16, Refusal> {
        // Usually each element takes one descriptor.
        if bytes <= self.size_max {
            // The sum of each length less one. An empty segment adds 2^32 - 1, so that the sum is
            // not that of the extent, which is shorter. The sum does not wrap: there are at most
            // 2^16 segments.
            let mut sum = 0_u64;
            let entry = |number: u16, element: &E| {
                let Segment { address, length } = segment(element);
                sum = sum.wrapping_add(length.wrapping_sub(1).into());
                F::entry(number, address, length, access)
            };
            if let Some(last) = table.write_entries(1, list, entry)
                && sum.wrapping_add(list.len() as u64) == u64::from(bytes)
            {
                return Ok(last);
            }
        }
        self.describe_pieces::<F, E>(table, access, bytes, list, segment)
    }

    /// As [`Self::describe`], for lists with empty segments, with segments that are longer
    /// than `size_max`, with more elements than descriptors, or with more bytes than the extent.
    #[cold]
    #[inline(never)]
    fn describe_pieces<F: TableFormat, E>(
        &self,
        table: &DmaTable<'_>,
        access: Access,
        bytes: u32,
        list: &[E],
        segment: impl Fn(&E) -> Segment,
    ) -> Result<u16, Refusal> {
        let mut missing = bytes;
        let mut entry = 1_u16;
        for element in list {
            let Segment {
                mut address,
                length,
            } = segment(element);
            let mut left = length.min(missing);
            // Does not wrap: `left` is at most `missing`.
            missing = missing.wrapping_sub(left);
            while left > 0 {
                if entry > self.data_descriptors {
                    return Err(Refusal::TooScattered);
                }
                let length = left.min(self.size_max);
                // Does not wrap: `entry` is at most `data_descriptors`, which leaves two entries
                // for header and status.
                let next = entry.wrapping_add(1);
                table
                    .write_entry(entry, F::entry(entry, address, length, access))
                    .ok_or(Refusal::TooScattered)?;
                address = address.wrapping_add(u64::from(length));
                left = left.wrapping_sub(length);
                entry = next;
            }
            if missing == 0 {
                return Ok(entry);
            }
        }
        Err(Refusal::BufferShort { missing })
    }

    /// Reads the outcome of a request that the device has returned. The status byte alone
    /// decides.
    ///
    /// The status was invalid before the device had the request, and is read once. So a
    /// request succeeds only if the device has written `OK`. `OK` means that the device has
    /// transferred all data: a virtio-blk request has no partial success (VIRTIO 1.3 §5.2.6).
    ///
    /// The used length does not count, although VIRTIO 1.3 §2.7.8.2 forbids assumptions
    /// about bytes beyond it (V38). bhyve, ACRN and others write data and status, and then
    /// report 0 or 1 for every request. A driver that relies on the length fails their
    /// reads, or returns them without data. A device that reports a false status could
    /// write false data as well, so checking the length would protect from nothing.
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    #[inline]
    pub fn outcome(&self, slot: &Slot) -> Result<(), RequestError> {
        match self.areas.area(slot.index()).read::<u8, STATUS_AT>() {
            POISON => Err(RequestError::NoStatus),
            status => match blk::S::try_from(status) {
                Ok(blk::S::Ok) => Ok(()),
                Ok(blk::S::Ioerr) => Err(RequestError::Io),
                Ok(blk::S::Unsupp) => Err(RequestError::Unsupported),
                // The statuses of zoned disks: that feature is not negotiated.
                Ok(_) | Err(_) => Err(RequestError::UnknownStatus(status)),
            },
        }
    }

    /// Copies the answer to [`Self::identify`], once. It may be any bytes.
    ///
    /// The used length does not count here either. The field was zeroed before the device
    /// had the request, so bytes that the device did not write are zeros.
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    pub fn identity(&self, slot: &Slot) -> Result<[u8; IDENTITY], RequestError> {
        self.outcome(slot)?;
        Ok(self
            .areas
            .area(slot.index())
            .read::<[u8; IDENTITY], IDENTITY_AT>())
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use virtio_spec::F;

    use super::*;
    use crate::queue::format::{QueueFormat, RingShape};
    use crate::queue_size::QueueSize;

    /// The area has a head of 48 bytes and a table, on cache lines of its own. The tables of large
    /// slots are separate.
    #[test]
    fn each_slot_needs_an_area() {
        for (log, data_descriptors, expected) in [
            (2, 3, 4 * 128),
            (2, 4, 4 * 192),
            (8, 254, 256 * (48 + 37 * 16) + 64 * 256 * 16),
        ] {
            let limits = Limits {
                shape: RingShape::new(
                    QueueFormat::of(F::INDIRECT_DESC),
                    QueueSize::power(log),
                    QueueSize::Q256,
                    4,
                ),
                max_segments: data_descriptors,
                max_transfer: 4096,
                data_descriptors,
                size_max: u32::MAX,
            };
            let needed = Requests::memory_needed(&limits);

            assert_eq!(needed, expected + 63);
        }
    }

    #[test]
    fn a_header_is_unchanged_after_a_conversion_to_words_and_back() {
        for kind in [blk::T::In, blk::T::Out, blk::T::Flush, blk::T::GetId] {
            let header = Header::from_words(
                Header {
                    kind,
                    sector: Sector(u64::MAX - 5),
                }
                .into_words(),
            );

            assert_eq!(header.kind, kind);
            assert_eq!(header.sector, Sector(u64::MAX - 5));
        }
    }
}
