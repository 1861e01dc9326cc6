//! The split virtqueue, driver side: slots go to the device by the available
//! ring and come back by the used ring, each once (VIRTIO 1.3 §2.7).
//!
//! The ring's owner holds the queue's lock, so everything takes `&mut self`.
//! What the driver needs later it keeps in its own memory, in the table of
//! flights; of what the device writes, only the used ring's index, its
//! elements and its hints are read, each once. A device that says what can't be
//! true latches the queue faulty: from then on the ring is not read, and the
//! way out is [`SplitQueue::reclaim`] after a reset.

use core::fmt;
use core::ops::DerefMut;

use virtio_spec::virtq::{AvailF, Desc, DescF, UsedElem, UsedF};
use virtio_spec::{F, le16, le32, le64};

use crate::atomics::{Ordering, fence};
use crate::dma::{CACHE_LINE, DmaCell, DmaError, DmaMemory, DmaRing};
use crate::queue_size::QueueSize;
use crate::slots::{Prepared, Slot, SlotAllocator, Staged, Stale};
use crate::transport::{Quiet, RingPlacement};

/// A request that the device has finished.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "its slot is lost unless it is released, its payload unless it is completed"]
pub struct Used<P> {
    /// The slot, the caller's again.
    pub slot: Slot,
    /// What was published with it.
    pub payload: P,
    /// Bytes that the device reports as written, at most `writable`. A report
    /// only: see [`Self::is_short`].
    pub written: u32,
    /// Bytes that it was allowed to write.
    pub writable: u32,
}

impl<P> Used<P> {
    /// Whether the device reports fewer bytes than it was allowed to write.
    ///
    /// A device may legally do so, and some report 0 or 1 for every request.
    /// So this is for statistics: it does not say that data are missing (see
    /// [`Requests::outcome`](crate::blk::Requests::outcome)).
    #[inline]
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.written < self.writable
    }
}

/// A request that was not published.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejected<G> {
    /// The request, untouched.
    pub prepared: Prepared,
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
    /// The slot belongs to another queue, is beyond this queue's size, or has
    /// the number of one that is in flight (a slot of another allocator).
    ForeignSlot,
    /// The chain is empty or longer than the queue (V33).
    ChainLength,
}

/// What a device did that can't be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingFault {
    /// The used index ran ahead of what is in flight, or backwards.
    UsedIndex {
        /// The index as the device has it.
        found: u16,
        /// Elements taken so far, modulo 65536.
        taken: u16,
        /// Requests in flight.
        in_flight: u16,
    },
    /// A used element names a descriptor that the queue doesn't have.
    IdOutOfRange {
        /// All 32 bits of it.
        id: u32,
    },
    /// A used element names a request that is not in flight: never published,
    /// finished before, or no head of a chain.
    NotInFlight {
        /// The descriptor.
        id: u16,
    },
    /// A used element names a request that the device has not finished: it wrote
    /// no status.
    NotFinished {
        /// The descriptor.
        id: u16,
    },
}

impl fmt::Display for RingFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UsedIndex {
                found,
                taken,
                in_flight,
            } => write!(
                f,
                "used index {found} after {taken} with {in_flight} requests in flight: reset the device"
            ),
            Self::IdOutOfRange { id } => {
                write!(f, "used id {id} is beyond the queue: reset the device")
            }
            Self::NotInFlight { id } => {
                write!(f, "used id {id} is not in flight: reset the device")
            }
            Self::NotFinished { id } => {
                write!(f, "used id {id} has no status: reset the device")
            }
        }
    }
}

impl core::error::Error for RingFault {}

/// Why a queue could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueError {
    /// The memory does not do.
    Memory(DmaError),
    /// The table of flights is not empty, or too short.
    Flights {
        /// Places that the queue needs.
        needed: u16,
        /// Places that the table has.
        length: usize,
    },
    /// Indirect descriptors were not negotiated; each slot needs them.
    NoIndirect,
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(error) => error.fmt(f),
            Self::Flights { needed, length } => {
                write!(
                    f,
                    "the table of flights has {length} places, {needed} empty ones are needed"
                )
            }
            Self::NoIndirect => f.write_str("VIRTIO_F_INDIRECT_DESC was not negotiated"),
        }
    }
}

impl core::error::Error for QueueError {}

impl From<DmaError> for QueueError {
    fn from(error: DmaError) -> Self {
        Self::Memory(error)
    }
}

/// How the device says that it need not be told of new buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotificationHint {
    /// Without `EVENT_IDX`: the used ring's flags.
    Flags(u16),
    /// With `EVENT_IDX`: the index whose publication it wants to hear of.
    AvailEvent(u16),
}

/// Whether the device must be told that the available index went from `before`
/// to `now` (V40, V41; VIRTIO 1.3 §2.7.10).
///
/// ```
/// use virtio::split_queue::{NotificationHint, notification_needed};
///
/// assert!(notification_needed(NotificationHint::AvailEvent(7), 7, 8));
/// assert!(!notification_needed(NotificationHint::AvailEvent(7), 8, 9));
/// ```
#[inline]
#[must_use]
pub const fn notification_needed(hint: NotificationHint, before: u16, now: u16) -> bool {
    let published = now.wrapping_sub(before);
    match hint {
        NotificationHint::Flags(flags) => {
            published > 0 && flags & UsedF::NO_NOTIFY.bits().to_ne() == 0
        }
        // Whether the index was published since `before`.
        NotificationHint::AvailEvent(index) => index.wrapping_sub(before) < published,
    }
}

/// A request that the device has, as the driver remembers it.
#[derive(Debug)]
pub struct Flight<P> {
    slot: Slot,
    payload: P,
    writable: u32,
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

/// A split virtqueue. Each request has a payload `P` that comes back with it.
///
/// `T` is the table of flights, one place for each slot: memory of the
/// caller's, anything that dereferences to a slice, that the device can't
/// reach.
#[derive(Debug)]
pub struct SplitQueue<'m, T> {
    queue: u16,
    size: QueueSize,
    event_idx: bool,

    descriptors: DmaRing<'m, Desc>,
    avail_flags: DmaCell<'m, le16>,
    avail_idx: DmaCell<'m, le16>,
    avail_ring: DmaRing<'m, le16>,
    used_event: DmaCell<'m, le16>,
    used_flags: DmaCell<'m, le16>,
    used_idx: DmaCell<'m, le16>,
    used_ring: DmaRing<'m, UsedElem>,
    avail_event: DmaCell<'m, le16>,

    /// The available index.
    published: u16,
    /// The available index when a notification was last decided on.
    announced: u16,
    /// Used elements taken.
    taken: u16,
    /// The used index when it was last read: never more than `in_flight`
    /// ahead of `taken`.
    finished: u16,
    in_flight: u16,
    flights: T,
    fault: Option<RingFault>,
}

impl<'m, P, T> SplitQueue<'m, T>
where
    T: DerefMut<Target = [Option<Flight<P>>]>,
{
    /// Queue number `queue` with `size` descriptors, in zeroed `memory`, for a
    /// device with the features `accepted`. `flights` has a place for each slot,
    /// all empty.
    ///
    /// # Errors
    ///
    /// [`QueueError`].
    pub fn new(
        memory: &mut DmaMemory<'m>,
        queue: u16,
        size: QueueSize,
        accepted: F,
        flights: T,
    ) -> Result<Self, QueueError> {
        if flights.len() < usize::from(size.get()) || flights.iter().any(Option::is_some) {
            return Err(QueueError::Flights {
                needed: size.get(),
                length: flights.len(),
            });
        }
        if !accepted.contains(F::INDIRECT_DESC) {
            return Err(QueueError::NoIndirect);
        }

        // Each part on cache lines of its own; within a part the fields follow
        // each other without a gap (VIRTIO 1.3 §2.7.5, 2.7.6, 2.7.8). Zeroed
        // is what the driver starts with, used.flags included (V39).
        memory.next_line()?;
        let descriptors = memory.ring(size)?;
        memory.next_line()?;
        let avail_flags = memory.cell()?;
        let avail_idx = memory.cell()?;
        let avail_ring = memory.ring(size)?;
        let used_event = memory.cell()?;
        memory.next_line()?;
        let used_flags = memory.cell()?;
        let used_idx = memory.cell()?;
        let used_ring = memory.ring(size)?;
        let avail_event = memory.cell()?;

        Ok(Self {
            queue,
            size,
            event_idx: accepted.contains(F::EVENT_IDX),
            descriptors,
            avail_flags,
            avail_idx,
            avail_ring,
            used_event,
            used_flags,
            used_idx,
            used_ring,
            avail_event,
            published: 0,
            announced: 0,
            taken: 0,
            finished: 0,
            in_flight: 0,
            flights,
            fault: None,
        })
    }

    /// Where the device finds the ring.
    #[must_use]
    pub fn placement(&self) -> RingPlacement {
        RingPlacement {
            size: self.size,
            descriptors: self.descriptors.physical(0),
            available: self.avail_flags.physical(),
            used: self.used_flags.physical(),
        }
    }

    /// Requests that the device has.
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
    /// Ask [`Self::notification_needed`] after the last of a batch.
    ///
    /// The payload is made of `given` only once the request is admitted, so a
    /// caller can still answer the request itself if it is rejected.
    ///
    /// # Errors
    ///
    /// [`Rejected`] gives everything back.
    #[inline]
    pub fn publish<G>(
        &mut self,
        prepared: Prepared,
        given: G,
        payload: impl FnOnce(G) -> P,
    ) -> Result<(), Rejected<G>> {
        let index = prepared.slot.index();
        let place = match self.admit(&prepared) {
            Ok(place) => place,
            Err(reason) => {
                return Err(Rejected {
                    prepared,
                    given,
                    reason,
                });
            }
        };
        let payload = payload(given);

        let Prepared {
            slot,
            table,
            descriptors,
            writable,
        } = prepared;
        *place = Some(Flight {
            slot,
            payload,
            writable,
        });
        // Does not wrap: one for each of `flights` that is taken.
        self.in_flight = self.in_flight.wrapping_add(1);

        self.descriptors.write(
            index,
            Desc {
                addr: le64::from_ne(table),
                len: le32::from_ne(u32::from(descriptors).wrapping_mul(size_of::<Desc>() as u32)),
                flags: DescF::INDIRECT,
                next: le16::from_ne(0),
            },
        );
        self.avail_ring.write(self.published, le16::from_ne(index));
        // The device sees table, descriptor and ring entry no later than the
        // index that covers them (V42).
        fence(Ordering::Release);
        self.published = self.published.wrapping_add(1);
        self.avail_idx.write(le16::from_ne(self.published));
        Ok(())
    }

    /// The flight's place for a request that may be published.
    #[inline]
    fn admit(&mut self, prepared: &Prepared) -> Result<&mut Option<Flight<P>>, Rejection> {
        if let Some(fault) = self.fault {
            return Err(Rejection::Faulty(fault));
        }
        if prepared.descriptors == 0 || prepared.descriptors > self.size.get() {
            return Err(Rejection::ChainLength);
        }
        let index = prepared.slot.index();
        if prepared.slot.queue() != self.queue || index >= self.size.get() {
            return Err(Rejection::ForeignSlot);
        }
        self.flights
            .get_mut(usize::from(index))
            .filter(|place| place.is_none())
            .ok_or(Rejection::ForeignSlot)
    }

    /// Whether the device must be notified of what was published since the last
    /// call.
    #[inline]
    #[must_use]
    pub fn notification_needed(&mut self) -> bool {
        // The index is out before the hint is read; the device does the two in
        // the opposite order, so one of both sees the other (V43).
        fence(Ordering::SeqCst);
        let hint = if self.event_idx {
            NotificationHint::AvailEvent(self.avail_event.read().to_ne())
        } else {
            NotificationHint::Flags(self.used_flags.read().to_ne())
        };
        let before = core::mem::replace(&mut self.announced, self.published);
        notification_needed(hint, before, self.published)
    }

    /// The next request that the device has finished; `None` if there is none
    /// (yet). Under one hold of the lock it gives at most what was in flight.
    ///
    /// # Errors
    ///
    /// [`RingFault`]: the queue is latched, and this is all it answers from
    /// now on.
    #[inline]
    pub fn pop_used(&mut self) -> Result<Option<Used<P>>, RingFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if self.taken == self.finished && !self.look_for_used()? {
            return Ok(None);
        }

        let element = self.used_ring.read(self.taken);
        let flight = self.land(element.id.to_ne())?;
        self.taken = self.taken.wrapping_add(1);
        // Does not wrap: a flight was taken out.
        self.in_flight = self.in_flight.wrapping_sub(1);
        Ok(Some(Used {
            slot: flight.slot,
            payload: flight.payload,
            written: element.len.to_ne().min(flight.writable),
            writable: flight.writable,
        }))
    }

    /// Reads how far the device has come; whether there is anything new.
    #[inline]
    fn look_for_used(&mut self) -> Result<bool, RingFault> {
        let found = self.used_idx.read().to_ne();
        if found.wrapping_sub(self.taken) > self.in_flight {
            return Err(self.latch(RingFault::UsedIndex {
                found,
                taken: self.taken,
                in_flight: self.in_flight,
            }));
        }
        self.finished = found;
        // What the index covers, elements and data, is read after it.
        fence(Ordering::Acquire);
        Ok(found != self.taken)
    }

    /// Takes out the flight that a used element names.
    #[inline]
    fn land(&mut self, id: u32) -> Result<Flight<P>, RingFault> {
        let Some(id) = u16::try_from(id).ok().filter(|id| *id < self.size.get()) else {
            return Err(self.latch(RingFault::IdOutOfRange { id }));
        };
        let flight = self.flights.get_mut(usize::from(id)).and_then(Option::take);
        flight.ok_or_else(|| self.latch(RingFault::NotInFlight { id }))
    }

    #[cold]
    fn latch(&mut self, fault: RingFault) -> RingFault {
        *self.fault.get_or_insert(fault)
    }

    /// Takes a request back that the device returned without having finished it,
    /// and marks the queue faulty. The device may still write to its memory, so it
    /// is in flight again, until [`Self::reclaim`] returns it.
    pub fn take_back(&mut self, used: Used<P>) {
        let id = used.slot.index();
        if let Some(place) = self.flights.get_mut(usize::from(id)) {
            *place = Some(Flight {
                slot: used.slot,
                payload: used.payload,
                writable: used.writable,
            });
            // Does not wrap: it was counted before it was taken.
            self.in_flight = self.in_flight.wrapping_add(1);
        }
        self.latch(RingFault::NotFinished { id });
    }

    /// Checks the used index and takes nothing: it must not be ahead of what is
    /// in flight.
    ///
    /// Right after `DRIVER_OK`, when nothing is in flight, this finds a device
    /// that has filled the used ring before; on an idle queue, one that uses
    /// what it was not given. No interrupt may ever come for those.
    ///
    /// # Errors
    ///
    /// [`RingFault`], as for [`Self::pop_used`].
    pub fn check_used_index(&mut self) -> Result<(), RingFault> {
        match self.fault {
            Some(fault) => Err(fault),
            None => self.look_for_used().map(|_| ()),
        }
    }

    /// Asks the device for no interrupts while the driver drains the ring. A
    /// hint only: one may come all the same (V37).
    #[inline]
    pub fn suppress_interrupts(&mut self) {
        if self.event_idx {
            // As far off as an index can be (avail.flags stay 0: V36).
            let passed = self.taken.wrapping_sub(1);
            self.used_event.write(le16::from_ne(passed));
        } else {
            self.avail_flags.write(AvailF::NO_INTERRUPT.bits());
        }
    }

    /// Asks the device for an interrupt with the next request it finishes.
    /// Needed after every drain, suppressed or not: with `EVENT_IDX` one
    /// request makes for one interrupt.
    ///
    /// True if it has finished some already: drain again, no interrupt may
    /// come for them. False on a faulty queue, which [`Self::fault`] tells.
    #[inline]
    #[must_use = "what is finished already may raise no interrupt"]
    pub fn rearm_interrupts(&mut self) -> bool {
        if self.event_idx {
            self.used_event.write(le16::from_ne(self.taken));
        } else {
            self.avail_flags.write(AvailF::empty().bits());
        }
        // The wish is out before the index is read; the device does the two
        // in the opposite order.
        fence(Ordering::SeqCst);
        self.fault.is_none() && self.used_idx.read().to_ne() != self.taken
    }

    /// Takes a request out of the staged state, to publish it.
    ///
    /// # Errors
    ///
    /// [`Stale`]: a reset has reclaimed the request's slot since it was staged.
    /// The request must be answered in another way, and has no slot any more.
    #[inline]
    pub fn unstage(&mut self, slots: &SlotAllocator, staged: Staged) -> Result<Prepared, Stale> {
        if staged.queue() != self.queue {
            return Err(Stale);
        }
        slots.unstage(staged)
    }

    /// Returns all requests that were in flight to `each`, once each, and frees
    /// the slots of all staged requests: [`Self::unstage`] answers [`Stale`] for
    /// those. Makes the queue as new: empty and without fault, to be set up with
    /// the device again.
    ///
    /// A slot that is being built, and one that is staged while this runs, stays
    /// as it is: its request can be published after the reset.
    ///
    /// `slots` is this queue's allocator. `quiet` proves that the device can't
    /// reach the queue (V15).
    pub fn reclaim(
        &mut self,
        quiet: Quiet<'_>,
        slots: &SlotAllocator,
        mut each: impl FnMut(Slot, P),
    ) {
        let _: Quiet<'_> = quiet;
        for place in self.flights.iter_mut() {
            if let Some(flight) = place.take() {
                each(flight.slot, flight.payload);
            }
        }
        if slots.queue() == self.queue {
            slots.reclaim_staged();
        }
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
        self.published = 0;
        self.announced = 0;
        self.taken = 0;
        self.finished = 0;
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
                        notification_needed(NotificationHint::AvailEvent(event), before, now),
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
                            NotificationHint::AvailEvent(event),
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
            let hint = NotificationHint::Flags(flags);

            assert_eq!(notification_needed(hint, 65535, 0), flags & 1 == 0);
            assert!(!notification_needed(hint, 7, 7), "nothing was published");
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

    /// The ring as the device reaches it: the same addresses, carved in the
    /// same order.
    struct DeviceSide<'m> {
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

    fn memory(page: &mut Page) -> DmaMemory<'static> {
        let start = NonNull::from(&mut page.0).cast();
        // SAFETY: the page outlives the model; loom's cells are what is
        // accessed in its place.
        unsafe { DmaMemory::new(start, start.addr().get() as u64, page.0.len()) }.unwrap()
    }

    fn device_side(page: &mut Page) -> DeviceSide<'static> {
        let mut memory = memory(page);
        let descriptors = memory.ring(SIZE).unwrap();
        memory.next_line().unwrap();
        let avail_flags = memory.cell().unwrap();
        let avail_idx = memory.cell().unwrap();
        let avail_ring = memory.ring(SIZE).unwrap();
        let used_event = memory.cell().unwrap();
        memory.next_line().unwrap();
        DeviceSide {
            descriptors,
            avail_flags,
            avail_idx,
            avail_ring,
            used_event,
            used_flags: memory.cell().unwrap(),
            used_idx: memory.cell().unwrap(),
            used_ring: memory.ring(SIZE).unwrap(),
            avail_event: memory.cell().unwrap(),
        }
    }

    /// Runs a model: a queue and a request for it, and the device's side, to
    /// be taken to a thread of its own.
    fn model(
        features: F,
        run: impl Fn(SplitQueue<'static, Vec<Option<Flight<u32>>>>, Prepared, DeviceSide<'static>)
        + Sync
        + Send
        + 'static,
    ) {
        loom::model(move || {
            let mut page = std::boxed::Box::new(Page([0; RING]));
            word::prepare(page.0.as_ptr().addr(), RING);
            let device = device_side(&mut page);
            let flights = Vec::from([None, None]);
            let queue =
                SplitQueue::new(&mut memory(&mut page), 0, SIZE, features, flights).unwrap();
            let slots = SlotAllocator::new(0, SIZE);
            let _first = slots.reserve().unwrap();
            let prepared = Prepared {
                slot: slots.reserve().unwrap(),
                table: TABLE,
                descriptors: 2,
                writable: 1,
            };
            assert_eq!(prepared.slot.index(), SLOT);
            run(queue, prepared, device);
            word::forget();
        });
    }

    const FLAGS: F = F::INDIRECT_DESC;
    const EVENT_IDX: F = F::INDIRECT_DESC.union(F::EVENT_IDX);

    /// V42.
    #[test]
    fn a_device_that_sees_the_index_sees_what_it_covers() {
        model(FLAGS, |mut queue, prepared, device| {
            let device = thread::spawn(move || {
                if device.avail_idx.read().to_ne() == 1 {
                    fence(Ordering::Acquire);
                    assert_eq!(device.avail_ring.read(0).to_ne(), SLOT);
                    let descriptor = device.descriptors.read(SLOT);
                    assert_eq!(descriptor.addr.to_ne(), TABLE);
                    assert_eq!(descriptor.len.to_ne(), 32);
                }
            });
            queue.publish(prepared, 7, |payload| payload).unwrap();
            device.join().unwrap();
        });
    }

    /// V43.
    #[test]
    fn with_flags_no_notification_is_lost() {
        model(FLAGS, |mut queue, prepared, device| {
            device.used_flags.write(UsedF::NO_NOTIFY.bits());
            let device = thread::spawn(move || {
                // Goes to sleep: asks for notifications, and looks once more.
                device.used_flags.write(le16::from_ne(0));
                fence(Ordering::SeqCst);
                device.avail_idx.read().to_ne() == 1
            });
            queue.publish(prepared, 7, |payload| payload).unwrap();
            let notified = queue.notification_needed();
            let seen = device.join().unwrap();
            assert!(notified || seen, "the device sleeps with a request unseen");
        });
    }

    /// V43.
    #[test]
    fn with_event_idx_no_notification_is_lost() {
        model(EVENT_IDX, |mut queue, prepared, device| {
            device.avail_event.write(le16::from_ne(0x8000));
            let device = thread::spawn(move || {
                device.avail_event.write(le16::from_ne(0));
                fence(Ordering::SeqCst);
                device.avail_idx.read().to_ne() == 1
            });
            queue.publish(prepared, 7, |payload| payload).unwrap();
            let notified = queue.notification_needed();
            let seen = device.join().unwrap();
            assert!(notified || seen, "the device sleeps with a request unseen");
        });
    }

    fn finish(device: &DeviceSide<'_>) {
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
        model(FLAGS, |mut queue, prepared, device| {
            queue.publish(prepared, 7, |payload| payload).unwrap();
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
        model(EVENT_IDX, |mut queue, prepared, device| {
            queue.publish(prepared, 7, |payload| payload).unwrap();
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
        model(FLAGS, |mut queue, prepared, device| {
            queue.publish(prepared, 7, |payload| payload).unwrap();
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
        queues: [Mutex<SplitQueue<'static, Vec<Option<Flight<u32>>>>>; 2],
        /// Storport, between HwBuildIo and HwStartIo.
        staged: Mutex<Vec<Staged>>,
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
                let staged = slots.stage(Prepared {
                    slot,
                    table: TABLE,
                    descriptors: 2,
                    writable: 1,
                });
                self.staged.lock().unwrap().push(staged);
            }
        }

        /// HwStartIo for the request that was built first, if there is one.
        fn start(&self) -> bool {
            let staged = {
                let mut all = self.staged.lock().unwrap();
                if all.is_empty() {
                    return false;
                }
                all.remove(0)
            };
            let number = usize::from(staged.queue());
            let mut queue = self.queues[number].lock().unwrap();
            match queue.unstage(&self.slots[number], staged) {
                Ok(prepared) => {
                    self.areas[number].with(|_| ());
                    queue.publish(prepared, 7, |payload| payload).unwrap();
                }
                Err(Stale) => assert_eq!(number, 0, "queue 1 was never reset"),
            }
            true
        }

        /// A reset of queue 0.
        fn reset(&self) {
            let mut queue = self.queues[0].lock().unwrap();
            queue.reclaim(Quiet::assumed(), &self.slots[0], |slot, payload| {
                assert_eq!(payload, 7);
                self.slots[0].release(slot);
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
                let flights = Vec::from([None, None]);
                let queue =
                    SplitQueue::new(&mut memory(page), number, SIZE, FLAGS, flights).unwrap();
                number += 1;
                Mutex::new(queue)
            });
            let shared = Arc::new(Shared {
                slots: [0, 1].map(|number| SlotAllocator::new(number, QueueSize::ONE)),
                queues,
                staged: Mutex::default(),
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
