//! The split virtqueue, driver side. The available ring takes each request to the device,
//! and the used ring returns it, once (VIRTIO 1.3 §2.7).
//!
//! The caller holds the queue's lock, so every method that changes the queue takes
//! `&mut self`. The driver keeps its own state in its own memory: the indices, and the
//! table of requests in flight. It reads only three things that the device writes: the
//! used index, the used elements, and the fields that suppress notifications. It reads
//! each once. A protocol violation marks the queue faulty. From then on `pop_used` does
//! not read the ring, and only [`SplitQueue::reclaim`] after a reset clears the fault.

use core::ops::DerefMut;

use virtio_spec::virtq::{AvailF, Desc, DescF, UsedElem, UsedF};
use virtio_spec::{F, le16, le32, le64};

use crate::atomics::{Ordering, fence};
use crate::dma::{CACHE_LINE, DmaCell, DmaMemory, DmaRing};
use crate::error::Error;
use crate::queue_size::QueueSize;
use crate::slots::{Prepared, Slot, SlotAllocator, Stale};
use crate::transport::{Quiet, RingPlacement};

/// A request that the device has returned.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "its slot is lost unless it is released, its payload unless it is completed"]
pub struct Used<P> {
    /// The slot, which the caller now owns.
    pub slot: Slot,
    /// The payload that the request was published with.
    pub payload: P,
    /// How many bytes the device reports as written.
    ///
    /// A device may legally report fewer bytes than it was allowed to write. Some devices
    /// report 0 or 1 for every request, and a faulty one reports anything. So use this for
    /// statistics only (see [`Requests::outcome`](crate::blk::Requests::outcome)).
    pub written: u32,
}

/// A request that was not published. Its slot is free again.
#[derive(Debug, PartialEq, Eq)]
pub struct NotPublished<G> {
    /// The value that the payload would have been made of.
    pub given: G,
    /// Why.
    pub reason: Rejection,
}

/// Why a request was not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The queue is faulty until the device is reset.
    Faulty(RingFault),
    /// The slot was freed after the request was prepared, by a reset or by
    /// [`SplitQueue::discard_prepared`]. Or the request belongs to another queue, which
    /// frees its slot in the same way.
    Stale,
    /// The request was prepared for a queue of another size, or with another allocator:
    /// its chain is empty or longer than the queue, or its slot is in flight or beyond the
    /// queue or the table.
    Unfit,
}

/// A protocol violation by the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingFault {
    /// The used index went backwards, or is further ahead than requests are in flight.
    #[error(
        "used index {found} after {last} with {in_flight} requests in flight: reset the device"
    )]
    UsedIndex {
        /// The used index that the device wrote.
        found: u16,
        /// The driver's `last_used_idx`: the index up to which elements were taken.
        last: u16,
        /// The number of requests in flight.
        in_flight: u16,
    },
    /// A used element names a descriptor that the queue does not have.
    #[error("used id {id} exceeds the queue size: reset the device")]
    IdOutOfRange {
        /// The id, with all its 32 bits.
        id: u32,
    },
    /// A used element names a request that is not in flight: it was never published, was
    /// returned before, or is not the head of a chain.
    #[error("used id {id} is not in flight: reset the device")]
    NotInFlight {
        /// The used id.
        id: u16,
    },
    /// A used element names a request that the device has not finished: the device wrote
    /// no status.
    #[error("used id {id} has no status: reset the device")]
    NotFinished {
        /// The used id.
        id: u16,
    },
}

/// How the device suppresses notifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotificationSuppression {
    /// Without `EVENT_IDX`: the used ring's flags. `NO_NOTIFY` suppresses notifications.
    Flags(u16),
    /// With `EVENT_IDX`: `avail_event`. The device wants a notification once the entry with
    /// this index is published.
    AvailEvent(u16),
}

/// Returns whether the device needs a notification after the driver advanced the
/// available index from `before` to `now` (V40, V41; VIRTIO 1.3 §2.7.10).
///
/// ```
/// use virtio::split_queue::{NotificationSuppression, notification_needed};
///
/// assert!(notification_needed(NotificationSuppression::AvailEvent(7), 7, 8));
/// assert!(!notification_needed(NotificationSuppression::AvailEvent(7), 8, 9));
/// ```
#[inline]
#[must_use]
pub const fn notification_needed(
    suppression: NotificationSuppression,
    before: u16,
    now: u16,
) -> bool {
    let published = now.wrapping_sub(before);
    match suppression {
        NotificationSuppression::Flags(flags) => {
            published > 0 && flags & UsedF::NO_NOTIFY.bits().to_ne() == 0
        }
        // Whether the entry `index` is one of those published since `before`.
        NotificationSuppression::AvailEvent(index) => index.wrapping_sub(before) < published,
    }
}

/// Returns how many bytes of memory a queue of `size` needs, whatever the alignment of the
/// memory.
#[must_use]
pub const fn memory_needed(size: QueueSize) -> usize {
    let entries = size.get() as usize;
    // Up to a cache line, less one byte, may be unused before each part. The products do
    // not overflow: 32768 descriptors of 16 bytes.
    let padding = 3 * (CACHE_LINE - 1);
    let descriptors = entries.saturating_mul(16);
    let available = entries.saturating_mul(2).saturating_add(6);
    let used = entries.saturating_mul(8).saturating_add(6);
    padding
        .saturating_add(descriptors)
        .saturating_add(available)
        .saturating_add(used)
}

/// The parts of a split virtqueue in shared memory (VIRTIO 1.3 §2.7).
#[derive(Debug)]
struct Ring<'m> {
    descriptors: DmaRing<'m, Desc>,
    avail_flags: DmaCell<'m, le16>,
    avail_idx: DmaCell<'m, le16>,
    avail_ring: DmaRing<'m, le16>,
    used_event: DmaCell<'m, le16>,
    used_flags: DmaCell<'m, le16>,
    used_idx: DmaCell<'m, le16>,
    used_ring: DmaRing<'m, UsedElem>,
    avail_event: DmaCell<'m, le16>,
}

impl<'m> Ring<'m> {
    /// Carves a ring of `size`, zeroed.
    fn carve(memory: &mut DmaMemory<'m>, size: QueueSize) -> Result<Self, Error> {
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

    /// Zeroes all fields that the driver or the device reads at first.
    fn clear(&self) {
        for cell in [
            &self.avail_flags,
            &self.avail_idx,
            &self.used_event,
            &self.used_flags,
            &self.used_idx,
            &self.avail_event,
        ] {
            cell.write(le16::from_ne(0));
        }
    }
}

/// A split virtqueue. Each request has a payload `P`, which the queue returns with it.
///
/// `T` is the table of requests in flight, with one entry for each slot. It is memory of
/// the caller that dereferences to a slice, and that the device cannot reach.
#[derive(Debug)]
pub struct SplitQueue<'m, T> {
    queue: u16,
    size: QueueSize,
    event_idx: bool,
    ring: Ring<'m>,

    /// The driver's copy of the available index, as published last.
    avail_idx: u16,
    /// The available index when [`Self::notification_needed`] was called last.
    notified_idx: u16,
    /// The used index up to which elements were taken.
    last_used_idx: u16,
    /// The used index as read last. It is never more than `in_flight` ahead of
    /// `last_used_idx`.
    used_idx: u16,
    /// How many requests are in flight.
    in_flight: u16,
    /// The payloads of the requests in flight, each at the index of its slot.
    requests: T,
    fault: Option<RingFault>,
}

impl<'m, P, T> SplitQueue<'m, T>
where
    T: DerefMut<Target = [Option<P>]>,
{
    /// Makes queue number `queue` with `size` descriptors, for a device with the features
    /// `accepted`. The ring is carved out of `memory` and zeroed. `requests` has one empty
    /// entry for each slot that is used.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn new(
        memory: &mut DmaMemory<'m>,
        queue: u16,
        size: QueueSize,
        accepted: F,
        requests: T,
    ) -> Result<Self, Error> {
        if requests.iter().any(Option::is_some) {
            return Err(Error::TableInUse);
        }
        if !accepted.contains(F::INDIRECT_DESC) {
            return Err(Error::NoIndirect);
        }
        let ring = Ring::carve(memory, size)?;
        Ok(Self {
            queue,
            size,
            event_idx: accepted.contains(F::EVENT_IDX),
            ring,
            avail_idx: 0,
            notified_idx: 0,
            last_used_idx: 0,
            used_idx: 0,
            in_flight: 0,
            requests,
            fault: None,
        })
    }

    /// Replaces the queue's table, and so the type of its payloads. Drops the old table, with
    /// the payloads of requests that are in flight. `slots` is the queue's new allocator, all of
    /// whose slots are free.
    ///
    /// The device may still process the requests that were in flight. So they count as in
    /// flight, and their slots are taken, until [`Self::reclaim`]. Only that makes the queue
    /// usable then.
    pub fn with_table<U>(self, requests: U, slots: &SlotAllocator) -> SplitQueue<'m, U> {
        if self.in_flight > 0 {
            // A new allocator returns its slots in the order of their indices.
            for place in self.requests.iter() {
                match (slots.reserve(), place) {
                    (Some(slot), None) => slots.release(slot),
                    // `reclaim` frees the slots of prepared requests.
                    (Some(slot), Some(_)) => {
                        let _: Prepared = slots.stage(slot, 0, 0);
                    }
                    (None, _) => break,
                }
            }
        }
        SplitQueue {
            queue: self.queue,
            size: self.size,
            event_idx: self.event_idx,
            ring: self.ring,
            avail_idx: self.avail_idx,
            notified_idx: self.notified_idx,
            last_used_idx: self.last_used_idx,
            used_idx: self.last_used_idx,
            in_flight: self.in_flight,
            requests,
            fault: self.fault,
        }
    }

    /// The physical addresses of the ring, for the device.
    #[must_use]
    pub fn placement(&self) -> RingPlacement {
        RingPlacement {
            size: self.size,
            descriptors: self.ring.descriptors.physical(0),
            available: self.ring.avail_flags.physical(),
            used: self.ring.used_flags.physical(),
        }
    }

    /// How many requests are in flight.
    #[inline]
    #[must_use]
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// The protocol violation that marked the queue faulty, if one did.
    #[inline]
    #[must_use]
    pub fn fault(&self) -> Option<RingFault> {
        self.fault
    }

    /// Makes a request available to the device, which may process it at once. After the
    /// last request of a batch, call [`Self::notification_needed`].
    ///
    /// `payload` makes the payload of `given`. It is called only when the request can no
    /// longer be rejected. So a caller whose request is rejected still has `given`.
    ///
    /// # Errors
    ///
    /// [`NotPublished`] returns `given`. The slot is free again.
    #[inline]
    pub fn publish<G>(
        &mut self,
        slots: &SlotAllocator,
        prepared: Prepared,
        given: G,
        payload: impl FnOnce(G) -> P,
    ) -> Result<(), NotPublished<G>> {
        let index = prepared.index();
        let place = match self.admit(slots, &prepared) {
            Ok(place) => place,
            Err(reason) => return Err(NotPublished { given, reason }),
        };
        *place = Some(payload(given));
        // Does not wrap: it counts the occupied entries of `requests`.
        self.in_flight = self.in_flight.wrapping_add(1);

        let bytes = u32::from(prepared.descriptors).wrapping_mul(size_of::<Desc>() as u32);
        self.ring.descriptors.write(
            index,
            Desc {
                addr: le64::from_ne(prepared.table),
                len: le32::from_ne(bytes),
                flags: DescF::INDIRECT,
                next: le16::from_ne(0),
            },
        );
        self.ring
            .avail_ring
            .write(self.avail_idx, le16::from_ne(index));
        // The device that sees the new index also sees the table, the descriptor and the
        // ring entry (V42).
        fence(Ordering::Release);
        self.avail_idx = self.avail_idx.wrapping_add(1);
        self.ring.avail_idx.write(le16::from_ne(self.avail_idx));
        Ok(())
    }

    /// Takes the slot of a request and returns its entry in the table. If the request may
    /// not be published, releases the slot.
    #[inline]
    fn admit(
        &mut self,
        slots: &SlotAllocator,
        prepared: &Prepared,
    ) -> Result<&mut Option<P>, Rejection> {
        if prepared.queue != self.queue {
            return Err(Rejection::Stale);
        }
        let slot = slots.unstage(prepared).map_err(|Stale| Rejection::Stale)?;
        let size = self.size.get();
        let fits = (1..=size).contains(&prepared.descriptors) && slot.index() < size;
        let place = self.requests.get_mut(usize::from(slot.index()));
        match (self.fault, place) {
            (None, Some(place)) if fits && place.is_none() => Ok(place),
            (fault, _) => {
                slots.release(slot);
                Err(fault.map_or(Rejection::Unfit, Rejection::Faulty))
            }
        }
    }

    /// Returns whether the device needs a notification for the requests that were
    /// published since the last call.
    #[inline]
    #[must_use]
    pub fn notification_needed(&mut self) -> bool {
        // The driver writes the index and then reads the suppression. The device writes
        // the suppression and then reads the index. So at least one of the two sees what
        // the other wrote (V43).
        fence(Ordering::SeqCst);
        let suppression = if self.event_idx {
            NotificationSuppression::AvailEvent(self.ring.avail_event.read().to_ne())
        } else {
            NotificationSuppression::Flags(self.ring.used_flags.read().to_ne())
        };
        let before = core::mem::replace(&mut self.notified_idx, self.avail_idx);
        notification_needed(suppression, before, self.avail_idx)
    }

    /// Takes the next request that the device has returned. Returns `None` if there is
    /// none now. While the caller holds the lock and publishes nothing, it returns at most
    /// as many requests as were in flight.
    ///
    /// # Errors
    ///
    /// [`RingFault`] if the queue is faulty. Until [`Self::reclaim`], every later call
    /// returns the same.
    #[inline]
    pub fn pop_used(&mut self) -> Result<Option<Used<P>>, RingFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if self.last_used_idx == self.used_idx && !self.read_used_idx()? {
            return Ok(None);
        }

        let element = self.ring.used_ring.read(self.last_used_idx);
        let id = element.id.to_ne();
        let Some(index) = u16::try_from(id).ok().filter(|id| *id < self.size.get()) else {
            return Err(self.mark_faulty(RingFault::IdOutOfRange { id }));
        };
        let place = self.requests.get_mut(usize::from(index));
        let Some(payload) = place.and_then(Option::take) else {
            return Err(self.mark_faulty(RingFault::NotInFlight { id: index }));
        };
        self.last_used_idx = self.last_used_idx.wrapping_add(1);
        // Does not wrap: it counted the request that was taken out of the table.
        self.in_flight = self.in_flight.wrapping_sub(1);
        Ok(Some(Used {
            slot: Slot::returned(self.queue, index),
            payload,
            written: element.len.to_ne(),
        }))
    }

    /// Reads and checks the used index. Returns whether the device has returned requests
    /// that were not taken yet.
    #[inline]
    fn read_used_idx(&mut self) -> Result<bool, RingFault> {
        let found = self.ring.used_idx.read().to_ne();
        if found.wrapping_sub(self.last_used_idx) > self.in_flight {
            return Err(self.mark_faulty(RingFault::UsedIndex {
                found,
                last: self.last_used_idx,
                in_flight: self.in_flight,
            }));
        }
        self.used_idx = found;
        // Elements, status and data are read after the index that covers them.
        fence(Ordering::Acquire);
        Ok(found != self.last_used_idx)
    }

    #[cold]
    fn mark_faulty(&mut self, fault: RingFault) -> RingFault {
        *self.fault.get_or_insert(fault)
    }

    /// Releases a slot, so that another request can use it.
    #[inline]
    pub fn release(&mut self, slots: &SlotAllocator, slot: Slot) {
        slots.release(slot);
    }

    /// Discards a prepared request and releases its slot. Does nothing if the request is
    /// stale, because its slot is free already.
    pub fn cancel(&mut self, slots: &SlotAllocator, prepared: Prepared) {
        if prepared.queue == self.queue
            && let Ok(slot) = slots.unstage(&prepared)
        {
            slots.release(slot);
        }
    }

    /// Puts back a request that the device returned before it finished it, and marks the
    /// queue faulty. The device may still write to the request's memory, so the request
    /// stays in flight until [`Self::reclaim`] returns it.
    pub fn take_back(&mut self, used: Used<P>) {
        let id = used.slot.index();
        if let Some(place) = self.requests.get_mut(usize::from(id)) {
            *place = Some(used.payload);
            // Does not wrap: the request was counted before `pop_used` took it.
            self.in_flight = self.in_flight.wrapping_add(1);
        }
        self.mark_faulty(RingFault::NotFinished { id });
    }

    /// Reads and checks the used index, and takes no request. The index must not be
    /// further ahead than requests are in flight.
    ///
    /// Right after `DRIVER_OK`, when nothing is in flight, this detects a device that has
    /// filled the used ring already. On an idle queue it detects a device that uses
    /// buffers which it was not given. Such a device may never send an interrupt.
    ///
    /// # Errors
    ///
    /// [`RingFault`], as for [`Self::pop_used`].
    pub fn check_used_index(&mut self) -> Result<(), RingFault> {
        match self.fault {
            Some(fault) => Err(fault),
            None => self.read_used_idx().map(|_| ()),
        }
    }

    /// Asks the device not to interrupt while the driver drains the ring. The device may
    /// interrupt nevertheless (V37).
    #[inline]
    pub fn suppress_interrupts(&mut self) {
        if self.event_idx {
            // The index that the device reaches last (avail.flags stay 0: V36).
            let passed = self.last_used_idx.wrapping_sub(1);
            self.ring.used_event.write(le16::from_ne(passed));
        } else {
            self.ring.avail_flags.write(AvailF::NO_INTERRUPT.bits());
        }
    }

    /// Asks the device to interrupt when it finishes the next request. Call this after
    /// every drain, whether interrupts were suppressed or not: with `EVENT_IDX` the device
    /// interrupts at most once for each call.
    ///
    /// Returns true if the device has already finished more requests. Drain again then,
    /// because no interrupt may come for them.
    ///
    /// # Errors
    ///
    /// [`RingFault`], as for [`Self::pop_used`].
    #[inline]
    #[must_use = "requests that are finished already may raise no interrupt"]
    pub fn rearm_interrupts(&mut self) -> Result<bool, RingFault> {
        if self.event_idx {
            self.ring
                .used_event
                .write(le16::from_ne(self.last_used_idx));
        } else {
            self.ring.avail_flags.write(AvailF::empty().bits());
        }
        // The driver writes the suppression and then reads the used index. The device
        // writes the index and then reads the suppression. So at least one of the two sees
        // what the other wrote.
        fence(Ordering::SeqCst);
        match self.fault {
            Some(fault) => Err(fault),
            None => self.read_used_idx(),
        }
    }

    /// Takes back the next request in flight after a reset of the device: releases its slot
    /// and returns its payload. Call it until it returns `None`.
    ///
    /// With the last call the queue is empty and its fault cleared. The slots of all prepared
    /// requests are free ([`Self::discard_prepared`]), and the ring is zeroed, so that the
    /// device can be given the queue again. A request that is being built while this runs is
    /// not affected. It can be published after the reset.
    ///
    /// The caller may release the queue's lock between two calls, if it lets no request be
    /// published until the last one. `slots` is this queue's allocator. `quiet` proves that
    /// the device cannot reach the queue (V15).
    #[must_use = "the payload is lost unless it is completed"]
    pub fn reclaim(&mut self, quiet: Quiet<'_>, slots: &SlotAllocator) -> Option<P> {
        let _: Quiet<'_> = quiet;
        for (index, place) in (0..self.size.get()).zip(self.requests.iter_mut()) {
            if let Some(payload) = place.take() {
                slots.release(Slot::returned(self.queue, index));
                // Does not wrap: it counted the request that was taken out of the table.
                self.in_flight = self.in_flight.wrapping_sub(1);
                return Some(payload);
            }
        }
        self.discard_prepared(slots);
        self.ring.clear();
        self.avail_idx = 0;
        self.notified_idx = 0;
        self.last_used_idx = 0;
        self.used_idx = 0;
        self.in_flight = 0;
        self.fault = None;
        None
    }

    /// Frees the slots of all prepared requests. [`Self::publish`] finds these requests stale.
    /// `slots` is this queue's allocator.
    pub fn discard_prepared(&mut self, slots: &SlotAllocator) {
        if slots.queue() == self.queue {
            slots.reclaim_prepared();
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    /// The sizes of VIRTIO 1.3 §2.7, and padding before each of the three parts.
    #[test]
    fn a_queue_needs_26_bytes_for_each_descriptor() {
        for size in (0..=15).map(|power| 1_u16 << power) {
            let needed = memory_needed(QueueSize::new(size).unwrap());

            assert_eq!(needed, 26 * usize::from(size) + 6 + 6 + 3 * 63);
        }
    }

    /// The specification's rule, one index at a time: a notification is needed when the
    /// index that equals `avail_event` is published.
    fn notified_one_by_one(event: u16, before: u16, published: u16) -> bool {
        (0..published).any(|step| before.wrapping_add(step) == event)
    }

    /// V41.
    #[cfg_attr(miri, ignore = "pure arithmetic over all of 2^16: minutes under Miri")]
    #[test]
    fn the_device_is_notified_of_the_index_that_it_waits_for_over_all_wraps() {
        for before in 0..=u16::MAX {
            for published in [0, 1, 2, 255, 256, 32768] {
                let now = before.wrapping_add(published);
                for distance in [0, 1, 2, 255, 256, 32767, 32768, 65534, 65535] {
                    let event = before.wrapping_add(distance);
                    assert_eq!(
                        notification_needed(
                            NotificationSuppression::AvailEvent(event),
                            before,
                            now
                        ),
                        distance < published,
                        "event {event} before {before} now {now}"
                    );
                }
            }
        }
    }

    /// V41.
    #[cfg_attr(miri, ignore = "pure arithmetic over all of 2^16: minutes under Miri")]
    #[test]
    fn notifications_of_a_batch_are_those_of_its_single_entries() {
        for before in [0, 1, 32767, 65530, 65535] {
            for published in [0, 1, 3, 16] {
                for event in 0..=u16::MAX {
                    assert_eq!(
                        notification_needed(
                            NotificationSuppression::AvailEvent(event),
                            before,
                            before.wrapping_add(published)
                        ),
                        notified_one_by_one(event, before, published)
                    );
                }
            }
        }
    }

    /// V40.
    #[cfg_attr(miri, ignore = "pure arithmetic over all of 2^16: minutes under Miri")]
    #[test]
    fn without_event_idx_only_bit_0_of_the_flags_decides() {
        for flags in 0..=u16::MAX {
            let suppression = NotificationSuppression::Flags(flags);

            assert_eq!(notification_needed(suppression, 65535, 0), flags & 1 == 0);
            assert!(
                !notification_needed(suppression, 7, 7),
                "nothing was published"
            );
        }
    }
}

#[cfg(test)]
#[cfg(loom)]
mod models {
    #![expect(unsafe_code, reason = "the memory is an allocation of the test's")]

    use core::ptr::NonNull;
    use std::vec::Vec;

    use loom::cell::UnsafeCell;
    use loom::sync::{Arc, Mutex};
    use loom::thread;

    use super::*;
    use crate::dma::word;

    const SIZE: QueueSize = match QueueSize::new(2) {
        Some(size) => size,
        None => unreachable!(),
    };

    /// The number of preemptions that the model of three processors tries.
    const PREEMPTIONS: usize = 3;

    /// The slot that the models use. Its index is not 0, the content of memory before
    /// anything is written.
    const SLOT: u16 = 1;
    const TABLE: u64 = 0x1234_5670;

    /// Bytes of the ring. Each of its three parts has a cache line of its own.
    const RING: usize = 3 * CACHE_LINE;

    #[repr(align(64))]
    struct Page([u8; RING]);

    fn memory(page: &mut Page) -> DmaMemory<'static> {
        let start = NonNull::from(&mut page.0).cast();
        // SAFETY: the contract of `DmaMemory::new`: the page outlives the model, and all
        // accesses go to loom's cells in its place.
        unsafe { DmaMemory::new(start, start.addr().get() as u64, page.0.len()) }.unwrap()
    }

    /// The device's view of the ring: the same addresses, carved in the same order.
    fn device_side(page: &mut Page) -> Ring<'static> {
        Ring::carve(&mut memory(page), SIZE).unwrap()
    }

    /// A queue and a request for it.
    struct Published {
        queue: SplitQueue<'static, Vec<Option<u32>>>,
        slots: SlotAllocator,
        prepared: Prepared,
    }

    impl Published {
        fn publish(self) -> SplitQueue<'static, Vec<Option<u32>>> {
            let Self {
                mut queue,
                slots,
                prepared,
            } = self;
            queue
                .publish(&slots, prepared, 7, |payload| payload)
                .unwrap();
            queue
        }
    }

    /// Runs a model. `run` gets a queue, a request for it, and the device's view of the
    /// ring, which it moves to another thread.
    fn model(features: F, run: impl Fn(Published, Ring<'static>) + Sync + Send + 'static) {
        loom::model(move || {
            let mut page = std::boxed::Box::new(Page([0; RING]));
            word::prepare(page.0.as_ptr().addr(), RING);
            let device = device_side(&mut page);
            let requests = Vec::from([None, None]);
            let queue =
                SplitQueue::new(&mut memory(&mut page), 0, SIZE, features, requests).unwrap();
            let slots = SlotAllocator::new(0, SIZE);
            let _first = slots.reserve().unwrap();
            let prepared = slots.stage(slots.reserve().unwrap(), TABLE, 2);
            assert_eq!(prepared.index(), SLOT);
            let request = Published {
                queue,
                slots,
                prepared,
            };
            run(request, device);
            word::forget();
        });
    }

    const FLAGS: F = F::INDIRECT_DESC;
    const EVENT_IDX: F = F::INDIRECT_DESC.union(F::EVENT_IDX);

    /// V42.
    #[test]
    fn a_device_that_reads_the_index_sees_the_published_entries() {
        model(FLAGS, |request, device| {
            let device = thread::spawn(move || {
                if device.avail_idx.read().to_ne() == 1 {
                    fence(Ordering::Acquire);
                    assert_eq!(device.avail_ring.read(0).to_ne(), SLOT);
                    let descriptor = device.descriptors.read(SLOT);
                    assert_eq!(descriptor.addr.to_ne(), TABLE);
                    assert_eq!(descriptor.len.to_ne(), 32);
                }
            });
            let _queue = request.publish();
            device.join().unwrap();
        });
    }

    /// V43.
    #[test]
    fn with_flags_no_notification_is_lost() {
        model(FLAGS, |request, device| {
            device.used_flags.write(UsedF::NO_NOTIFY.bits());
            let device = thread::spawn(move || {
                // Before it sleeps, the device asks for notifications and looks once more.
                device.used_flags.write(le16::from_ne(0));
                fence(Ordering::SeqCst);
                device.avail_idx.read().to_ne() == 1
            });
            let mut queue = request.publish();
            let notified = queue.notification_needed();
            let seen = device.join().unwrap();
            assert!(notified || seen, "the device sleeps with a request unseen");
        });
    }

    /// V43.
    #[test]
    fn with_event_idx_no_notification_is_lost() {
        model(EVENT_IDX, |request, device| {
            device.avail_event.write(le16::from_ne(0x8000));
            let device = thread::spawn(move || {
                device.avail_event.write(le16::from_ne(0));
                fence(Ordering::SeqCst);
                device.avail_idx.read().to_ne() == 1
            });
            let mut queue = request.publish();
            let notified = queue.notification_needed();
            let seen = device.join().unwrap();
            assert!(notified || seen, "the device sleeps with a request unseen");
        });
    }

    fn finish(device: &Ring<'_>) {
        let element = UsedElem {
            id: le32::from_ne(SLOT.into()),
            len: le32::from_ne(1),
        };
        device.used_ring.write(0, element);
        fence(Ordering::Release);
        device.used_idx.write(le16::from_ne(1));
        fence(Ordering::SeqCst);
    }

    #[test]
    fn with_flags_no_interrupt_is_lost() {
        model(FLAGS, |request, device| {
            let mut queue = request.publish();
            queue.suppress_interrupts();
            let device = thread::spawn(move || {
                finish(&device);
                device.avail_flags.read() != AvailF::NO_INTERRUPT.bits()
            });
            let more = queue.rearm_interrupts().expect("the device is honest");
            let interrupted = device.join().unwrap();
            assert!(more || interrupted, "a finished request is never seen");
        });
    }

    #[test]
    fn with_event_idx_no_interrupt_is_lost() {
        model(EVENT_IDX, |request, device| {
            let mut queue = request.publish();
            queue.suppress_interrupts();
            let device = thread::spawn(move || {
                finish(&device);
                device.used_event.read().to_ne() == 0
            });
            let more = queue.rearm_interrupts().expect("the device is honest");
            let interrupted = device.join().unwrap();
            assert!(more || interrupted, "a finished request is never seen");
        });
    }

    #[test]
    fn used_elements_are_read_after_the_used_index() {
        model(FLAGS, |request, device| {
            let mut queue = request.publish();
            let device = thread::spawn(move || finish(&device));
            if let Some(used) = queue.pop_used().expect("the device is honest") {
                assert_eq!((used.payload, used.written), (7, 1));
            }
            device.join().unwrap();
        });
    }

    /// The queues of a device as three processors share them.
    struct Shared {
        slots: [SlotAllocator; 2],
        queues: [Mutex<SplitQueue<'static, Vec<Option<u32>>>>; 2],
        /// Storport, between HwBuildIo and HwStartIo.
        prepared: Mutex<Vec<Prepared>>,
        /// The area of each queue's one slot.
        areas: [UnsafeCell<u32>; 2],
    }

    impl Shared {
        /// HwBuildIo for a request of queue `number`. Does nothing if no slot is free.
        fn build(&self, number: u16) {
            let slots = &self.slots[usize::from(number)];
            if let Some(slot) = slots.reserve() {
                // loom checks that no other processor accesses the area.
                self.areas[usize::from(number)].with_mut(|_| ());
                let prepared = slots.stage(slot, TABLE, 2);
                self.prepared.lock().unwrap().push(prepared);
            }
        }

        /// HwStartIo for the request that was built first. Returns false if there is none.
        fn start(&self) -> bool {
            let prepared = {
                let mut all = self.prepared.lock().unwrap();
                if all.is_empty() {
                    return false;
                }
                all.remove(0)
            };
            let number = usize::from(prepared.queue());
            let mut queue = self.queues[number].lock().unwrap();
            let published = queue.publish(&self.slots[number], prepared, (), |()| {
                self.areas[number].with(|_| ());
                7
            });
            if let Err(rejected) = published {
                assert_eq!(rejected.reason, Rejection::Stale);
                assert_eq!(number, 0, "queue 1 was never reset");
            }
            true
        }

        /// A reset of queue 0.
        fn reset(&self) {
            let mut queue = self.queues[0].lock().unwrap();
            while let Some(payload) = queue.reclaim(Quiet::assumed(), &self.slots[0]) {
                assert_eq!(payload, 7);
            }
        }
    }

    /// One processor builds, one starts, and one resets and builds again. Each queue has
    /// one slot. At the end the model checks that it was neither lost nor duplicated.
    #[test]
    fn a_reset_between_build_and_start_neither_loses_nor_duplicates_a_slot() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(PREEMPTIONS);
        builder.check(|| {
            let mut pages = [(); 2].map(|()| std::boxed::Box::new(Page([0; RING])));
            let mut number = 0;
            let queues = pages.each_mut().map(|page| {
                word::prepare(page.0.as_ptr().addr(), RING);
                let requests = Vec::from([None, None]);
                let queue =
                    SplitQueue::new(&mut memory(page), number, SIZE, FLAGS, requests).unwrap();
                number += 1;
                Mutex::new(queue)
            });
            let shared = Arc::new(Shared {
                slots: [0, 1].map(|number| SlotAllocator::new(number, QueueSize::ONE)),
                queues,
                prepared: Mutex::default(),
                areas: [UnsafeCell::new(0), UnsafeCell::new(0)],
            });

            let building = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    shared.build(0);
                    shared.build(1);
                })
            };
            let starting = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    shared.start();
                    shared.start();
                })
            };
            shared.reset();
            shared.build(0);
            building.join().unwrap();
            starting.join().unwrap();
            while shared.start() {}

            for (slots, queue) in shared.slots.iter().zip(&shared.queues) {
                let free = core::iter::from_fn(|| slots.reserve()).count();
                let in_flight = usize::from(queue.lock().unwrap().in_flight());
                assert_eq!(free + in_flight, 1, "a slot was lost or doubled");
            }
            word::forget();
        });
    }
}
