//! The packed ring: driver and device write to the same descriptors, and two bits of each say
//! whose it is (VIRTIO 1.3 §2.8).
//!
//! A position counts descriptors in 16 bits. Modulo the size it is an index. The next bit is the
//! inverted wrap counter of the specification, and higher bits have no meaning.
//!
//! The ring reads only two things that the device writes: the descriptor at the next position
//! that the device uses, and the device's event suppression structure. Without indirect
//! descriptors it also copies the tables of requests, which the device can reach.

use virtio_spec::le32;
use virtio_spec::virtq::DescF;

use super::format::RingShape;
use super::notification::{NotificationSuppression, notification_needed};
use super::table::TableEntry;
use super::{Returned, Ring, RingFault};
use crate::atomics::{Ordering, fence};
use crate::dma::{CACHE_LINE, DmaCell, DmaMemory, DmaRing, DmaTables, Record};
use crate::error::Error;
use crate::queue_size::QueueSize;
use crate::slots::{MAX_SLOTS, Prepared};
use crate::transport::RingPlacement;

/// The bits of a descriptor's flags that say whose it is. If the driver has made it available,
/// AVAIL equals the driver's wrap counter, and USED is the inverse. If the device has used it,
/// both equal the device's wrap counter (VIRTIO 1.3 §2.8.1).
pub(super) const AVAIL: u16 = 1 << 7;
pub(super) const USED: u16 = 1 << 15;

/// The flags of an event suppression structure.
pub(super) const EVENTS_ENABLED: u16 = 0;
pub(super) const EVENTS_DISABLED: u16 = 1;
pub(super) const EVENT_AT_DESCRIPTOR: u16 = 2;

/// The bit of an event suppression structure for the wrap counter.
pub(super) const EVENT_WRAP: u16 = 1 << 15;

/// Returns how many bytes of memory a ring of `size` needs, whatever the alignment of the
/// memory.
pub(super) const fn memory_needed(size: QueueSize) -> usize {
    // Up to a cache line, less one byte, may be unused before each part.
    let padding = 3 * (CACHE_LINE - 1);
    let descriptors = (size.get() as usize).saturating_mul(size_of::<[u64; 2]>());
    let events = size_of::<[u32; 2]>();
    padding.saturating_add(descriptors).saturating_add(events)
}

/// A descriptor of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) address: u64,
    pub(super) length: u32,
    pub(super) id: u16,
    pub(super) flags: u16,
}

impl Record for Descriptor {
    /// The address; then length, id and flags, with the length in the low bits.
    type Words = [u64; 2];

    #[inline]
    fn into_words(self) -> [u64; 2] {
        let rest = u64::from(self.length)
            | u64::from(self.id).wrapping_shl(32)
            | u64::from(self.flags).wrapping_shl(48);
        [self.address.to_le(), rest.to_le()]
    }

    #[inline]
    fn from_words([address, rest]: [u64; 2]) -> Self {
        let (length, id, flags) = fields(u64::from_le(rest));
        Self {
            address: u64::from_le(address),
            length,
            id,
            flags,
        }
    }
}

/// Length, id and flags in the second word of a descriptor.
#[inline]
fn fields(second: u64) -> (u32, u16, u16) {
    // Each cast keeps the low bits, where the shift has moved the field.
    (
        second as u32,
        second.wrapping_shr(32) as u16,
        second.wrapping_shr(48) as u16,
    )
}

/// The parts of a packed ring in shared memory.
#[derive(Debug)]
pub(super) struct Parts<'m> {
    pub(super) descriptors: DmaRing<'m, Descriptor>,
    /// How the driver suppresses interrupts.
    pub(super) driver_events: DmaCell<'m, le32>,
    /// How the device suppresses notifications.
    pub(super) device_events: DmaCell<'m, le32>,
}

impl<'m> Parts<'m> {
    /// Carves a ring of `size`, zeroed. Each part is on cache lines of its own.
    pub(super) fn carve(memory: &mut DmaMemory<'m>, size: QueueSize) -> Result<Self, Error> {
        memory.next_line()?;
        let descriptors = memory.ring(size)?;
        memory.next_line()?;
        let driver_events = memory.cell()?;
        memory.next_line()?;
        Ok(Self {
            descriptors,
            driver_events,
            device_events: memory.cell()?,
        })
    }
}

/// An event suppression structure in memory: `event` is its first half (VIRTIO 1.3 §2.8.14).
pub(super) fn events(event: u16, flags: u16) -> le32 {
    le32::from_ne(u32::from(event) | u32::from(flags).wrapping_shl(16))
}

/// A packed ring.
#[derive(Debug)]
pub(super) struct PackedRing<'m> {
    parts: Parts<'m>,
    size: QueueSize,
    event_idx: bool,
    /// The tables of all slots, which are copied into the ring. `None` with indirect
    /// descriptors.
    tables: Option<DmaTables<'m>>,
    /// The position of the next descriptor that the driver makes available.
    next_avail: u16,
    /// `next_avail` when [`Self::notification_needed`] was called last.
    notified: u16,
    /// The position of the next descriptor that the device uses.
    next_used: u16,
    /// The number of descriptors of each slot's request, less one. Only without indirect
    /// descriptors: with them each request has one in the ring.
    lengths: [u8; MAX_SLOTS as usize],
}

impl<'m> PackedRing<'m> {
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
            tables: (!shape.format().is_indirect).then_some(tables),
            next_avail: 0,
            notified: 0,
            next_used: 0,
            lengths: [0; MAX_SLOTS as usize],
        })
    }

    /// The bits of a position that have a meaning.
    #[inline]
    fn position_mask(&self) -> u16 {
        self.size.get() | self.size.mask()
    }

    /// The flags of an available descriptor at `position`.
    #[inline]
    fn available(&self, position: u16) -> u16 {
        if self.wrap_counter(position) {
            AVAIL
        } else {
            USED
        }
    }

    /// The wrap counter at `position`.
    #[inline]
    fn wrap_counter(&self, position: u16) -> bool {
        position & self.size.get() == 0
    }

    /// Copies a request's table into the ring. The first descriptor becomes available last,
    /// and with it the others (V53, V55).
    fn copy_chain(&self, tables: &DmaTables<'m>, prepared: &Prepared) {
        for number in (0..prepared.descriptors).rev() {
            let Some(entry) = tables.read(prepared.index(), number) else {
                return;
            };
            let position = self.next_avail.wrapping_add(number);
            let mut flags = DescF::empty();
            flags.set(DescF::WRITE, entry.is_writable());
            flags.set(DescF::NEXT, number.wrapping_add(1) < prepared.descriptors);
            self.parts.descriptors.publish(
                position,
                Descriptor {
                    address: entry.address,
                    length: entry.length(),
                    id: prepared.index(),
                    flags: flags.bits().to_ne() | self.available(position),
                },
            );
        }
    }

    /// The position that an event suppression structure names: an offset and a wrap counter.
    #[inline]
    fn position(&self, event: u16) -> u16 {
        let offset = event & !EVENT_WRAP;
        if event & EVENT_WRAP != 0 {
            offset
        } else {
            offset.wrapping_add(self.size.get())
        }
    }

    /// The reverse of [`Self::position`].
    #[inline]
    fn event(&self, position: u16) -> u16 {
        let offset = position & self.size.mask();
        if self.wrap_counter(position) {
            offset | EVENT_WRAP
        } else {
            offset
        }
    }

    /// The descriptor that the device uses next, if it has used it.
    #[inline]
    fn used_descriptor(&self) -> Option<Returned> {
        // The length is read even if the device did not set WRITE, because QEMU never does. The
        // specification says to ignore it then (V57). It is only a statistic.
        let (written, id, flags) = fields(self.parts.descriptors.read_second(self.next_used));
        let used = if self.wrap_counter(self.next_used) {
            AVAIL | USED
        } else {
            0
        };
        // What the device wrote before the flags is read after them: status and data.
        fence(Ordering::Acquire);
        (flags & (AVAIL | USED) == used).then_some(Returned {
            slot: id,
            id,
            written,
        })
    }
}

impl Ring for PackedRing<'_> {
    fn placement(&self) -> RingPlacement {
        RingPlacement {
            size: self.size,
            descriptors: self.parts.descriptors.physical(0),
            driver: self.parts.driver_events.physical(),
            device: self.parts.device_events.physical(),
        }
    }

    /// Zeroes the ring. Then no descriptor is available or used.
    fn clear(&mut self) {
        for index in 0..self.size.get() {
            let zero = Descriptor::from_words([0, 0]);
            self.parts.descriptors.write(index, zero);
        }
        self.parts.driver_events.write(le32::from_ne(0));
        self.parts.device_events.write(le32::from_ne(0));
        self.next_avail = 0;
        self.notified = 0;
        self.next_used = 0;
    }

    #[inline]
    fn publish(&mut self, prepared: &Prepared) {
        let first = self.next_avail;
        match &self.tables {
            None => {
                let bytes =
                    u32::from(prepared.descriptors).wrapping_mul(size_of::<TableEntry>() as u32);
                self.parts.descriptors.publish(
                    first,
                    Descriptor {
                        address: prepared.table,
                        length: bytes,
                        id: prepared.index(),
                        flags: DescF::INDIRECT.bits().to_ne() | self.available(first),
                    },
                );
                self.next_avail = first.wrapping_add(1);
            }
            Some(tables) => {
                self.copy_chain(tables, prepared);
                self.next_avail = first.wrapping_add(prepared.descriptors);
                if let Some(length) = self.lengths.get_mut(usize::from(prepared.index())) {
                    // A request has 1 to 256 descriptors: see `RingShape`.
                    *length = prepared.descriptors.wrapping_sub(1) as u8;
                }
            }
        }
    }

    #[inline]
    fn notification_needed(&mut self) -> bool {
        // The driver writes the descriptor and then reads the suppression. The device writes
        // the suppression and then reads the descriptor. So at least one of the two sees what
        // the other wrote (V56).
        fence(Ordering::SeqCst);
        let events = self.parts.device_events.read().to_ne();
        let (event, flags) = (events as u16, events.wrapping_shr(16) as u16);
        let suppression = match flags {
            EVENTS_DISABLED => NotificationSuppression::All,
            EVENT_AT_DESCRIPTOR if self.event_idx => {
                NotificationSuppression::Until(self.position(event))
            }
            // The other values are not defined. An unneeded notification does no harm.
            _ => NotificationSuppression::None,
        };
        let before = core::mem::replace(&mut self.notified, self.next_avail);
        notification_needed(suppression, before, self.next_avail, self.position_mask())
    }

    #[inline]
    fn pop_used(&mut self, _in_flight: u16, _fault: &mut Option<RingFault>) -> Option<Returned> {
        let returned = self.used_descriptor()?;
        let more = match &self.tables {
            None => 0,
            Some(_) => match self.lengths.get(usize::from(returned.slot)) {
                Some(length) => u16::from(*length),
                None => 0,
            },
        };
        self.next_used = self.next_used.wrapping_add(more).wrapping_add(1);
        Some(returned)
    }

    #[inline]
    fn check_used(&mut self, in_flight: u16) -> Result<bool, RingFault> {
        match self.used_descriptor() {
            None => Ok(false),
            Some(Returned { id, .. }) if in_flight == 0 => Err(RingFault::NotInFlight { id }),
            Some(_) => Ok(true),
        }
    }

    #[inline]
    fn suppress_interrupts(&mut self) {
        self.parts.driver_events.write(events(0, EVENTS_DISABLED));
    }

    #[inline]
    fn rearm_interrupts(&mut self) {
        let wanted = if self.event_idx {
            events(self.event(self.next_used), EVENT_AT_DESCRIPTOR)
        } else {
            events(0, EVENTS_ENABLED)
        };
        self.parts.driver_events.write(wanted);
        // The driver writes the suppression and then reads the descriptor. The device writes
        // the descriptor and then reads the suppression. So at least one of the two sees what
        // the other wrote.
        fence(Ordering::SeqCst);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use virtio_spec::pvirtq;

    use super::*;

    /// A descriptor and both event suppression structures (VIRTIO 1.3 §2.8.13, 2.8.14).
    #[test]
    fn the_structures_have_the_sizes_of_the_virtio_spec_crate() {
        assert_eq!(size_of::<[u64; 2]>(), size_of::<pvirtq::Desc>());
        assert_eq!(size_of::<u32>(), size_of::<pvirtq::EventSuppress>());
    }

    #[test]
    fn a_descriptor_has_the_layout_of_the_specification() {
        let descriptor = Descriptor {
            address: 0x0102_0304_0506_0708,
            length: 0x1112_1314,
            id: 0x2122,
            flags: 0x3132,
        };

        let words = descriptor.into_words();

        let rest = 0x3132_2122_1112_1314_u64;
        assert_eq!(words, [0x0102_0304_0506_0708_u64.to_le(), rest.to_le()]);
        assert_eq!(Descriptor::from_words(words), descriptor);
    }

    #[test]
    fn a_ring_needs_16_bytes_for_each_descriptor_and_8_for_events() {
        for size in (0..=15).map(|log| 1_u16 << log) {
            let needed = memory_needed(QueueSize::new(size).unwrap());

            assert_eq!(needed, 16 * usize::from(size) + 8 + 3 * 63);
        }
    }
}
