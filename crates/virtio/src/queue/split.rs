//! The split ring: the available ring takes each request to the device, and the used ring
//! returns it, once (VIRTIO 1.3 §2.7).
//!
//! The ring reads only three things that the device writes: the used index, the used
//! elements, and the fields that suppress notifications. It reads each once. Without indirect
//! descriptors it also copies the tables of requests, which the device can reach.

use virtio_spec::virtq::{AvailF, Desc, DescF, UsedElem, UsedF};
use virtio_spec::{le16, le32, le64};

use super::format::RingShape;
use super::notification::{NotificationSuppression, notification_needed};
use super::{Returned, Ring, RingFault};
use crate::atomics::{Ordering, fence};
use crate::dma::{CACHE_LINE, DmaCell, DmaMemory, DmaRing, DmaTables};
use crate::error::Error;
use crate::queue_size::QueueSize;
use crate::slots::Prepared;
use crate::transport::RingPlacement;

/// The bits of a position that have a meaning: positions count all entries that were ever
/// published, modulo 2^16.
const POSITION_MASK: u16 = u16::MAX;

/// Returns how many bytes of memory a ring of `size` needs, whatever the alignment of the
/// memory.
pub(super) const fn memory_needed(size: QueueSize) -> usize {
    let entries = size.get() as usize;
    // Up to a cache line, less one byte, may be unused before each part, and 4 bytes more before
    // the used ring. The products do not overflow: 32768 descriptors of 16 bytes.
    let padding = 3 * (CACHE_LINE - 1) + 4;
    let descriptors = entries.saturating_mul(16);
    let available = entries.saturating_mul(2).saturating_add(6);
    let used = entries.saturating_mul(8).saturating_add(6);
    padding
        .saturating_add(descriptors)
        .saturating_add(available)
        .saturating_add(used)
}

/// The parts of a split ring in shared memory.
#[derive(Debug)]
pub(super) struct Parts<'m> {
    pub(super) descriptors: DmaRing<'m, Desc>,
    pub(super) avail_flags: DmaCell<'m, le16>,
    pub(super) avail_idx: DmaCell<'m, le16>,
    pub(super) avail_ring: DmaRing<'m, le16>,
    pub(super) used_event: DmaCell<'m, le16>,
    pub(super) used_flags: DmaCell<'m, le16>,
    pub(super) used_idx: DmaCell<'m, le16>,
    pub(super) used_ring: DmaRing<'m, UsedElem>,
    pub(super) avail_event: DmaCell<'m, le16>,
}

impl<'m> Parts<'m> {
    /// Carves a ring of `size`, zeroed.
    pub(super) fn carve(memory: &mut DmaMemory<'m>, size: QueueSize) -> Result<Self, Error> {
        // Each part is on cache lines of its own. Within a part the fields follow
        // each other without a gap, in the order in which they are carved here
        // (VIRTIO 1.3 §2.7.5, 2.7.6, 2.7.8). Zeros are what the driver starts with,
        // used.flags included (V39).
        memory.next_line()?;
        let descriptors = memory.ring(size)?;
        memory.next_line()?;
        let avail_flags = memory.cell()?;
        let avail_idx = memory.cell()?;
        let avail_ring = memory.ring(size)?;
        let used_event = memory.cell()?;
        memory.next_line()?;
        // The elements behind the flags and the index are aligned to 8 bytes, although
        // VIRTIO asks for 4, so none crosses a cache line or a page. QEMU 7.2 writes an element
        // that crosses a page to a wrong address, if the device is behind an IOMMU.
        for _ in 0..2 {
            let _: DmaCell<'m, le16> = memory.cell()?;
        }
        Ok(Self {
            descriptors,
            avail_flags,
            avail_idx,
            avail_ring,
            used_event,
            used_flags: memory.cell()?,
            used_idx: memory.cell()?,
            used_ring: memory.ring(size)?,
            avail_event: memory.cell()?,
        })
    }
}

/// The division of the ring among the slots, without indirect descriptors.
#[derive(Debug)]
struct Direct<'m> {
    /// The tables of all slots, which are copied into the ring.
    tables: DmaTables<'m>,
    /// How many descriptors belong to each slot: slot *i* has those from *i* times this.
    per_slot: QueueSize,
}

impl Direct<'_> {
    /// The slot whose first descriptor is `head`, if it is the first of one.
    #[cold]
    fn slot_of(&self, head: u16) -> Option<u16> {
        let slot = head.wrapping_shr(self.per_slot.log());
        (head & self.per_slot.mask() == 0).then_some(slot)
    }
}

/// Records `error` in `fault`. Always returns `None`.
#[cold]
fn refuse(fault: &mut Option<RingFault>, error: RingFault) -> Option<Returned> {
    *fault = Some(error);
    None
}

/// A split ring.
#[derive(Debug)]
pub(super) struct SplitRing<'m> {
    parts: Parts<'m>,
    size: QueueSize,
    event_idx: bool,
    /// Only without indirect descriptors.
    direct: Option<Direct<'m>>,
    /// The driver's copy of the available index, as published last.
    avail_idx: u16,
    /// The available index when [`Self::notification_needed`] was called last.
    notified_idx: u16,
    /// The used index up to which elements were taken.
    last_used_idx: u16,
    /// The used index as read last. It is never more than the number of requests in flight
    /// ahead of `last_used_idx`.
    used_idx: u16,
}

impl<'m> SplitRing<'m> {
    /// Carves a ring, zeroed.
    pub(super) fn new(
        memory: &mut DmaMemory<'m>,
        shape: RingShape,
        tables: DmaTables<'m>,
    ) -> Result<Self, Error> {
        Ok(Self {
            parts: Parts::carve(memory, shape.size())?,
            size: shape.size(),
            event_idx: shape.format().event_idx,
            direct: (!shape.format().is_indirect).then_some(Direct {
                tables,
                per_slot: shape.descriptors_per_slot(),
            }),
            avail_idx: 0,
            notified_idx: 0,
            last_used_idx: 0,
            used_idx: 0,
        })
    }

    /// Describes a request by one descriptor, which points to its table. Returns the index of
    /// the descriptor.
    #[inline]
    fn describe(&self, prepared: &Prepared) -> u16 {
        let bytes = u32::from(prepared.descriptors).wrapping_mul(size_of::<Desc>() as u32);
        self.parts.descriptors.write(
            prepared.index(),
            Desc {
                addr: le64::from_ne(prepared.table),
                len: le32::from_ne(bytes),
                flags: DescF::INDIRECT,
                next: le16::from_ne(0),
            },
        );
        prepared.index()
    }

    /// Copies a request's table to the descriptors of its slot. Returns the index of the first
    /// one.
    #[cold]
    fn copy_chain(&self, direct: &Direct<'m>, prepared: &Prepared) -> u16 {
        let head = prepared.index().wrapping_mul(direct.per_slot.get());
        for number in 0..prepared.descriptors {
            let Some(entry) = direct.tables.read(prepared.index(), number) else {
                break;
            };
            let next = number.wrapping_add(1);
            let mut flags = DescF::empty();
            flags.set(DescF::WRITE, entry.is_writable());
            flags.set(DescF::NEXT, next < prepared.descriptors);
            self.parts.descriptors.write(
                head.wrapping_add(number),
                Desc {
                    addr: le64::from_ne(entry.address),
                    len: le32::from_ne(entry.length()),
                    flags,
                    next: le16::from_ne(head.wrapping_add(next)),
                },
            );
        }
        head
    }

    /// Reads and checks the used index. Returns whether the device has returned requests
    /// that were not taken yet.
    #[inline]
    fn read_used_idx(&mut self, in_flight: u16) -> Result<bool, RingFault> {
        let found = self.parts.used_idx.read().to_ne();
        if found.wrapping_sub(self.last_used_idx) > in_flight {
            return Err(RingFault::UsedIndex {
                found,
                last: self.last_used_idx,
                in_flight,
            });
        }
        self.used_idx = found;
        // Elements, status and data are read after the index that covers them.
        fence(Ordering::Acquire);
        Ok(found != self.last_used_idx)
    }
}

impl Ring for SplitRing<'_> {
    fn placement(&self) -> RingPlacement {
        RingPlacement {
            size: self.size,
            descriptors: self.parts.descriptors.physical(0),
            driver: self.parts.avail_flags.physical(),
            device: self.parts.used_flags.physical(),
        }
    }

    fn clear(&mut self) {
        for cell in [
            &self.parts.avail_flags,
            &self.parts.avail_idx,
            &self.parts.used_event,
            &self.parts.used_flags,
            &self.parts.used_idx,
            &self.parts.avail_event,
        ] {
            cell.write(le16::from_ne(0));
        }
        self.avail_idx = 0;
        self.notified_idx = 0;
        self.last_used_idx = 0;
        self.used_idx = 0;
    }

    #[inline]
    fn publish(&mut self, prepared: &Prepared) {
        let head = match &self.direct {
            None => self.describe(prepared),
            Some(direct) => self.copy_chain(direct, prepared),
        };
        self.parts
            .avail_ring
            .write(self.avail_idx, le16::from_ne(head));
        // The device that sees the new index also sees the table, the descriptors and the
        // ring entry (V42).
        fence(Ordering::Release);
        self.avail_idx = self.avail_idx.wrapping_add(1);
        self.parts.avail_idx.write(le16::from_ne(self.avail_idx));
    }

    #[inline]
    fn notification_needed(&mut self) -> bool {
        // The driver writes the index and then reads the suppression. The device writes
        // the suppression and then reads the index. So at least one of the two sees what
        // the other wrote (V43).
        fence(Ordering::SeqCst);
        let suppression = if self.event_idx {
            NotificationSuppression::Until(self.parts.avail_event.read().to_ne())
        } else if self.parts.used_flags.read() & UsedF::NO_NOTIFY.bits() == le16::from_ne(0) {
            NotificationSuppression::None
        } else {
            NotificationSuppression::All
        };
        let before = core::mem::replace(&mut self.notified_idx, self.avail_idx);
        notification_needed(suppression, before, self.avail_idx, POSITION_MASK)
    }

    #[inline]
    fn pop_used(&mut self, in_flight: u16, fault: &mut Option<RingFault>) -> Option<Returned> {
        if self.last_used_idx == self.used_idx {
            match self.read_used_idx(in_flight) {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return refuse(fault, error),
            }
        }
        let element = self.parts.used_ring.read(self.last_used_idx);
        let id = element.id.to_ne();
        let Some(head) = u16::try_from(id).ok().filter(|id| *id < self.size.get()) else {
            return refuse(fault, RingFault::IdOutOfRange { id });
        };
        let slot = match &self.direct {
            None => head,
            Some(direct) => match direct.slot_of(head) {
                Some(slot) => slot,
                None => return refuse(fault, RingFault::NotInFlight { id: head }),
            },
        };
        self.last_used_idx = self.last_used_idx.wrapping_add(1);
        Some(Returned {
            slot,
            id: head,
            written: element.len.to_ne(),
        })
    }

    #[inline]
    fn check_used(&mut self, in_flight: u16) -> Result<bool, RingFault> {
        self.read_used_idx(in_flight)
    }

    #[inline]
    fn suppress_interrupts(&mut self) {
        if self.event_idx {
            // The index that the device reaches last (avail.flags stay 0: V36).
            let passed = self.last_used_idx.wrapping_sub(1);
            self.parts.used_event.write(le16::from_ne(passed));
        } else {
            self.parts.avail_flags.write(AvailF::NO_INTERRUPT.bits());
        }
    }

    #[inline]
    fn rearm_interrupts(&mut self) {
        if self.event_idx {
            self.parts
                .used_event
                .write(le16::from_ne(self.last_used_idx));
        } else {
            self.parts.avail_flags.write(AvailF::empty().bits());
        }
        // The driver writes the suppression and then reads the used index. The device
        // writes the index and then reads the suppression. So at least one of the two sees
        // what the other wrote.
        fence(Ordering::SeqCst);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    /// The sizes of VIRTIO 1.3 §2.7, and padding before each of the three parts.
    #[test]
    fn a_ring_needs_26_bytes_for_each_descriptor() {
        for size in (0..=15).map(|log| 1_u16 << log) {
            let needed = memory_needed(QueueSize::new(size).unwrap());

            assert_eq!(needed, 26 * usize::from(size) + 6 + 6 + 3 * 63 + 4);
        }
    }
}
