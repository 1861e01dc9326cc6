//! The split virtqueue, driver side: requests go to the device by the available ring
//! and come back by the used ring, each once (VIRTIO 1.3 §2.7).
//!
//! Whoever uses the queue holds its lock, so everything takes `&mut self`. What the
//! driver needs later, it keeps in its own memory, in the table of requests in flight.
//! Of what the device writes, only the used ring's index, its elements and its wishes
//! for notifications are read, each once. A protocol violation marks the queue faulty.
//! From then on the ring is not read, and only [`SplitQueue::reclaim`] after a reset
//! clears the fault.

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
    /// The slot, the caller's again.
    pub slot: Slot,
    /// The payload that the request was published with.
    pub payload: P,
    /// How many bytes the device reports as written.
    ///
    /// A device may legally report fewer than it was allowed to write, some report 0
    /// or 1 for every request, and a faulty one reports anything. So this is for
    /// statistics (see [`Requests::outcome`](crate::blk::Requests::outcome)).
    pub written: u32,
}

/// A request that was not published. Its slot is free.
#[derive(Debug, PartialEq, Eq)]
pub struct NotPublished<G> {
    /// What its payload was to be made of.
    pub given: G,
    /// Why.
    pub reason: Rejection,
}

/// Why a request was not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The queue is faulty until its device is reset.
    Faulty(RingFault),
    /// A reset reclaimed its slot since it was prepared, or it belongs to another queue,
    /// whose reclaim frees its slot.
    Stale,
    /// Its chain is empty or longer than the queue, or its slot is in flight or beyond
    /// the queue or its table: it was prepared for a queue of another size or with
    /// another allocator.
    Unfit,
}

/// A protocol violation by the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingFault {
    /// The used index ran ahead of what is in flight, or backwards.
    #[error(
        "used index {found} after {last} with {in_flight} requests in flight: reset the device"
    )]
    UsedIndex {
        /// The index as the device has it.
        found: u16,
        /// The index up to which elements were taken.
        last: u16,
        /// Requests in flight.
        in_flight: u16,
    },
    /// A used element names a descriptor that the queue does not have.
    #[error("used id {id} exceeds the queue size: reset the device")]
    IdOutOfRange {
        /// All 32 bits of it.
        id: u32,
    },
    /// A used element names a request that is not in flight: never published,
    /// returned before, or not the head of a chain.
    #[error("used id {id} is not in flight: reset the device")]
    NotInFlight {
        /// The descriptor.
        id: u16,
    },
    /// A used element names a request that the device has not finished: it wrote
    /// no status.
    #[error("used id {id} has no status: reset the device")]
    NotFinished {
        /// The descriptor.
        id: u16,
    },
}

/// How the device suppresses notifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotificationSuppression {
    /// Without `EVENT_IDX`: the used ring's flags.
    Flags(u16),
    /// With `EVENT_IDX`: the device wants a notification once this index is published.
    AvailEvent(u16),
}

/// Whether the device must be notified that the available index went from `before`
/// to `now` (V40, V41; VIRTIO 1.3 §2.7.10).
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
        // Whether the index was published since `before`.
        NotificationSuppression::AvailEvent(index) => index.wrapping_sub(before) < published,
    }
}

/// Bytes of memory that a queue of `size` needs, whatever the alignment of the
/// memory.
#[must_use]
pub const fn memory_needed(size: QueueSize) -> usize {
    let entries = size.get() as usize;
    // Each part may leave most of a cache line unused before it. The products
    // fit: 32768 descriptors of 16 bytes.
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

    /// Makes the ring as new.
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

/// A split virtqueue. Each request has a payload `P` that comes back with it.
///
/// `T` is the table of requests in flight, one place for each slot: memory of the
/// caller's, anything that dereferences to a slice, that the device cannot
/// reach.
#[derive(Debug)]
pub struct SplitQueue<'m, T> {
    queue: u16,
    size: QueueSize,
    event_idx: bool,
    ring: Ring<'m>,

    /// The available index that was published last.
    avail_idx: u16,
    /// The available index when a notification was last decided on.
    notified_idx: u16,
    /// The used index up to which elements were taken.
    last_used_idx: u16,
    /// The used index when it was last read: never more than `in_flight` ahead of
    /// `last_used_idx`.
    used_idx: u16,
    /// How many requests are in flight.
    in_flight: u16,
    /// The payloads of the requests in flight, each at the number of its slot.
    requests: T,
    fault: Option<RingFault>,
}

impl<'m, T> SplitQueue<'m, T> {
    /// A queue with nothing in its ring and its table.
    fn empty(queue: u16, size: QueueSize, event_idx: bool, ring: Ring<'m>, requests: T) -> Self {
        Self {
            queue,
            size,
            event_idx,
            ring,
            avail_idx: 0,
            notified_idx: 0,
            last_used_idx: 0,
            used_idx: 0,
            in_flight: 0,
            requests,
            fault: None,
        }
    }
}

impl<'m, P, T> SplitQueue<'m, T>
where
    T: DerefMut<Target = [Option<P>]>,
{
    /// Queue number `queue` with `size` descriptors, in zeroed `memory`, for a
    /// device with the features `accepted`. `requests` has an empty place for each slot
    /// that is used.
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
        let event_idx = accepted.contains(F::EVENT_IDX);
        Ok(Self::empty(queue, size, event_idx, ring, requests))
    }

    /// The same queue, as new, with another table and so another kind of payload.
    /// `quiet` proves that the device cannot reach the queue (V15). Requests that were
    /// in flight are dropped with their table.
    pub fn with_table<U>(self, quiet: Quiet<'_>, requests: U) -> SplitQueue<'m, U> {
        let _: Quiet<'_> = quiet;
        self.ring.clear();
        SplitQueue::empty(self.queue, self.size, self.event_idx, self.ring, requests)
    }

    /// Where the device finds the ring.
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

    /// Makes a request available to the device, which may act on it at once.
    /// Call [`Self::notification_needed`] after the last of a batch.
    ///
    /// `payload` is called only once nothing can fail any more, so a caller can still
    /// complete the request itself if it is rejected.
    ///
    /// # Errors
    ///
    /// [`NotPublished`] gives `given` back. The slot is free.
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
        // Does not wrap: one for each place of `requests` that is taken.
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
        // The device sees table, descriptor and ring entry no later than the
        // index that covers them (V42).
        fence(Ordering::Release);
        self.avail_idx = self.avail_idx.wrapping_add(1);
        self.ring.avail_idx.write(le16::from_ne(self.avail_idx));
        Ok(())
    }

    /// The place in the table for a request that may be published.
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

    /// Whether the device must be notified of what was published since the last
    /// call.
    #[inline]
    #[must_use]
    pub fn notification_needed(&mut self) -> bool {
        // The index is written before the suppression is read. The device does the two
        // in the opposite order, so at least one of them sees the other (V43).
        fence(Ordering::SeqCst);
        let suppression = if self.event_idx {
            NotificationSuppression::AvailEvent(self.ring.avail_event.read().to_ne())
        } else {
            NotificationSuppression::Flags(self.ring.used_flags.read().to_ne())
        };
        let before = core::mem::replace(&mut self.notified_idx, self.avail_idx);
        notification_needed(suppression, before, self.avail_idx)
    }

    /// Takes the next request that the device has returned; `None` if there is none
    /// now. Under one hold of the lock it returns at most as many as were in flight.
    ///
    /// # Errors
    ///
    /// [`RingFault`]: the queue is faulty, and every later call returns this.
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
        // Does not wrap: a request was taken out of the table.
        self.in_flight = self.in_flight.wrapping_sub(1);
        Ok(Some(Used {
            slot: Slot::returned(self.queue, index),
            payload,
            written: element.len.to_ne(),
        }))
    }

    /// Reads the device's used index. Returns whether there is anything new.
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
        // What the index covers, elements and data, is read after it.
        fence(Ordering::Acquire);
        Ok(found != self.last_used_idx)
    }

    #[cold]
    fn mark_faulty(&mut self, fault: RingFault) -> RingFault {
        *self.fault.get_or_insert(fault)
    }

    /// Releases a slot, for the next request that is built.
    #[inline]
    pub fn release(&mut self, slots: &SlotAllocator, slot: Slot) {
        slots.release(slot);
    }

    /// Gives up a request that was prepared, and releases its slot. A stale request has
    /// no slot any more.
    pub fn cancel(&mut self, slots: &SlotAllocator, prepared: Prepared) {
        if prepared.queue == self.queue
            && let Ok(slot) = slots.unstage(&prepared)
        {
            slots.release(slot);
        }
    }

    /// Takes a request back that the device returned without having finished it,
    /// and marks the queue faulty. The device may still write to its memory, so it
    /// is in flight again, until [`Self::reclaim`] returns it.
    pub fn take_back(&mut self, used: Used<P>) {
        let id = used.slot.index();
        if let Some(place) = self.requests.get_mut(usize::from(id)) {
            *place = Some(used.payload);
            // Does not wrap: it was counted before it was taken.
            self.in_flight = self.in_flight.wrapping_add(1);
        }
        self.mark_faulty(RingFault::NotFinished { id });
    }

    /// Checks the used index and takes nothing: it must not be ahead of what is
    /// in flight.
    ///
    /// Right after `DRIVER_OK`, when nothing is in flight, this finds a device
    /// that has filled the used ring before. On an idle queue it finds one that uses
    /// buffers that it was not given. No interrupt may ever come for those.
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

    /// Asks the device for no interrupts while the driver drains the ring. The device
    /// may send one all the same (V37).
    #[inline]
    pub fn suppress_interrupts(&mut self) {
        if self.event_idx {
            // As far off as an index can be (avail.flags stay 0: V36).
            let passed = self.last_used_idx.wrapping_sub(1);
            self.ring.used_event.write(le16::from_ne(passed));
        } else {
            self.ring.avail_flags.write(AvailF::NO_INTERRUPT.bits());
        }
    }

    /// Asks the device for an interrupt with the next request it finishes.
    /// Needed after every drain, whether interrupts were suppressed or not: with
    /// `EVENT_IDX` one request yields one interrupt.
    ///
    /// Returns true if the device has finished some already: drain again, no interrupt
    /// may come for them. Returns false on a faulty queue ([`Self::fault`]).
    #[inline]
    #[must_use = "requests that are finished already may raise no interrupt"]
    pub fn rearm_interrupts(&mut self) -> bool {
        if self.event_idx {
            self.ring
                .used_event
                .write(le16::from_ne(self.last_used_idx));
        } else {
            self.ring.avail_flags.write(AvailF::empty().bits());
        }
        // The wish is written before the index is read. The device does the two in the
        // opposite order.
        fence(Ordering::SeqCst);
        self.fault.is_none() && self.ring.used_idx.read().to_ne() != self.last_used_idx
    }

    /// Frees the slots of all requests in flight and returns their payloads to `each`,
    /// once each. Frees the slots of all prepared requests as well: [`Self::publish`] finds those
    /// stale. Makes the queue as new: empty and without fault, to be set up with
    /// the device again.
    ///
    /// A slot that is being built, and one that is prepared while this runs, stays
    /// as it is: its request can be published after the reset.
    ///
    /// `slots` is this queue's allocator. `quiet` proves that the device cannot
    /// reach the queue (V15).
    pub fn reclaim(&mut self, quiet: Quiet<'_>, slots: &SlotAllocator, mut each: impl FnMut(P)) {
        let _: Quiet<'_> = quiet;
        for (index, place) in (0..self.size.get()).zip(self.requests.iter_mut()) {
            if let Some(payload) = place.take() {
                slots.release(Slot::returned(self.queue, index));
                each(payload);
            }
        }
        if slots.queue() == self.queue {
            slots.reclaim_prepared();
        }
        self.ring.clear();
        self.avail_idx = 0;
        self.notified_idx = 0;
        self.last_used_idx = 0;
        self.used_idx = 0;
        self.in_flight = 0;
        self.fault = None;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// The rule of the specification, one index at a time: each index that is
    /// published and equals `avail_event` needs a notification.
    fn notified_one_by_one(event: u16, before: u16, published: u16) -> bool {
        (0..published).any(|step| before.wrapping_add(step) == event)
    }

    /// V41.
    #[cfg_attr(miri, ignore = "pure arithmetic over all of 2^16: minutes under Miri")]
    #[test]
    fn an_index_is_announced_if_the_device_waits_for_it_over_all_wraps() {
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
    fn all_events_are_as_the_specification_goes_one_by_one() {
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
    fn without_event_idx_bit_0_of_the_flags_decides_alone() {
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

#[cfg(all(test, loom))]
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

    /// Involuntary switches between processors that the model of three of them
    /// goes through.
    const PREEMPTIONS: usize = 3;

    /// The slot that the models use: one whose number is not what memory
    /// holds before anything is written.
    const SLOT: u16 = 1;
    const TABLE: u64 = 0x1234_5670;

    /// Bytes of the ring: each of its three parts in a cache line of its own.
    const RING: usize = 3 * CACHE_LINE;

    #[repr(align(64))]
    struct Page([u8; RING]);

    fn memory(page: &mut Page) -> DmaMemory<'static> {
        let start = NonNull::from(&mut page.0).cast();
        // SAFETY: the page outlives the model; loom's cells are what is
        // accessed in its place.
        unsafe { DmaMemory::new(start, start.addr().get() as u64, page.0.len()) }.unwrap()
    }

    /// The ring as the device reaches it: the same addresses, carved in the same order.
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

    /// Runs a model: a queue and a request for it, and the device's side, to
    /// be taken to a thread of its own.
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
    fn a_device_that_sees_the_index_sees_what_it_covers() {
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
                // Goes to sleep: asks for notifications, and looks once more.
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
            let more = queue.rearm_interrupts();
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
            let more = queue.rearm_interrupts();
            let interrupted = device.join().unwrap();
            assert!(more || interrupted, "a finished request is never seen");
        });
    }

    #[test]
    fn what_the_used_index_covers_is_read_after_it() {
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
        /// What lies in the area of each queue's one slot.
        areas: [UnsafeCell<u32>; 2],
    }

    impl Shared {
        /// HwBuildIo for a request of queue `number`; nothing if it is busy.
        fn build(&self, number: u16) {
            let slots = &self.slots[usize::from(number)];
            if let Some(slot) = slots.reserve() {
                // loom checks that no other processor is in the area.
                self.areas[usize::from(number)].with_mut(|_| ());
                let prepared = slots.stage(slot, TABLE, 2);
                self.prepared.lock().unwrap().push(prepared);
            }
        }

        /// HwStartIo for the request that was built first, if there is one.
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
            queue.reclaim(Quiet::assumed(), &self.slots[0], |payload| {
                assert_eq!(payload, 7);
            });
        }
    }

    /// One processor builds, one starts, one resets and builds anew. Each queue
    /// has one slot, which the model finds lost or doubled at the end.
    #[test]
    fn no_slot_is_lost_or_doubled_by_a_reset_between_build_and_start() {
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
