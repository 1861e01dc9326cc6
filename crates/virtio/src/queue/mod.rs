//! A virtqueue, driver side: the requests in flight and the ring that they are in. There are
//! two kinds of ring, split and packed, and each works with and without indirect descriptors
//! ([`format`]).
//!
//! The caller holds the queue's lock, so every method that changes the queue takes
//! `&mut self`. The driver keeps its own state in its own memory: the positions in the ring,
//! and the table of requests in flight. Each value that the device writes is read once. A
//! protocol violation marks the queue faulty. From then on `pop_used` does not read the ring,
//! and only [`VirtQueue::reclaim`] after a reset clears the fault.

use core::ops::DerefMut;

use self::format::RingShape;
use self::packed::PackedRing;
use self::split::SplitRing;
use crate::dma::{DmaMemory, DmaTables};
use crate::error::Error;
use crate::slots::{Prepared, Slot, SlotAllocator, Stale};
use crate::transport::{Quiet, RingPlacement};

pub mod format;
#[cfg(test)]
#[cfg(loom)]
mod models;
pub mod notification;
mod packed;
mod split;
pub mod table;

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

/// A request that was not published. Its slot is released, unless the request belongs to
/// another queue.
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
    /// The queue is faulty until [`VirtQueue::reclaim`] clears the fault, after a reset of the
    /// device.
    Faulty(RingFault),
    /// The slot was freed after the request was prepared, by a reset or by
    /// [`VirtQueue::discard_prepared`]. Or the request belongs to another queue, which
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
    /// The used index of a split ring went backwards, or is further ahead than requests are in
    /// flight.
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
    /// A used id is not the number of a descriptor.
    #[error("used id {id} exceeds the queue size: reset the device")]
    IdOutOfRange {
        /// The id, with all its 32 bits.
        id: u32,
    },
    /// A used id names a request that is not in flight: it was never published, was returned
    /// before, or is not the head of a chain.
    #[error("used id {id} is not in flight: reset the device")]
    NotInFlight {
        /// The used id.
        id: u16,
    },
    /// The device returned a request that it has not finished: it wrote no status.
    #[error("slot {slot}: the device returned the request without a status; reset the device")]
    NotFinished {
        /// The index of the request's slot.
        slot: u16,
    },
}

/// Returns how many bytes of memory a ring needs, whatever the alignment of the memory.
#[must_use]
pub fn memory_needed(shape: RingShape) -> usize {
    if shape.format().is_packed {
        packed::memory_needed(shape.size())
    } else {
        split::memory_needed(shape.size())
    }
}

/// A request in the ring that the device has returned.
struct Returned {
    /// The index of its slot. It is not checked yet.
    slot: u16,
    /// Its id as the device wrote it.
    id: u16,
    written: u32,
}

/// The operations of a ring. `each!` compiles every operation once for each kind, so a queue
/// tests its kind once per operation.
trait Ring {
    /// The physical addresses of the ring, for the device.
    fn placement(&self) -> RingPlacement;

    /// Zeroes what either side reads before the other has written it, and resets the driver's
    /// positions.
    fn clear(&mut self);

    /// Makes a request available.
    fn publish(&mut self, prepared: &Prepared);

    /// Whether the device needs a notification for what was published since the last call.
    fn notification_needed(&mut self) -> bool;

    /// Takes the next request that the device has returned. Returns `None` if there is none, or
    /// if the device broke the protocol, which sets `fault`.
    fn pop_used(&mut self, in_flight: u16, fault: &mut Option<RingFault>) -> Option<Returned>;

    /// Whether the device has returned requests that were not taken yet. Reads the ring again.
    fn check_used(&mut self, in_flight: u16) -> Result<bool, RingFault>;

    /// Asks the device for no interrupt.
    fn suppress_interrupts(&mut self);

    /// Asks the device for an interrupt for the next request.
    fn rearm_interrupts(&mut self);
}

/// A ring of either kind.
#[derive(Debug)]
enum AnyRing<'m> {
    Split(SplitRing<'m>),
    Packed(PackedRing<'m>),
}

/// Runs `call` with the ring, compiled for each kind.
macro_rules! each {
    ($any:expr, $ring:ident => $call:expr) => {
        match $any {
            AnyRing::Split($ring) => $call,
            AnyRing::Packed($ring) => $call,
        }
    };
}

/// A virtqueue. Each request has a payload `P`, which the queue returns with it.
///
/// `T` is the table of requests in flight, with one entry for each slot. It is memory of
/// the caller that dereferences to a slice, and that the device cannot reach.
#[derive(Debug)]
pub struct VirtQueue<'m, T> {
    ring: AnyRing<'m>,
    requests: InFlightRequests<T>,
}

/// The requests in flight.
#[derive(Debug)]
struct InFlightRequests<T> {
    queue: u16,
    /// How many slots the ring has room for.
    slots: u16,
    /// The maximum number of descriptors of a request.
    longest_chain: u16,
    /// How many requests are in flight.
    in_flight: u16,
    /// The payloads, each at the index of its slot.
    table: T,
    fault: Option<RingFault>,
}

impl<P, T> InFlightRequests<T>
where
    T: DerefMut<Target = [Option<P>]>,
{
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
        let fits =
            (1..=self.longest_chain).contains(&prepared.descriptors) && slot.index() < self.slots;
        let place = self.table.get_mut(usize::from(slot.index()));
        match (self.fault, place) {
            (None, Some(place)) if fits && place.is_none() => Ok(place),
            (fault, _) => {
                slots.release(slot);
                Err(fault.map_or(Rejection::Unfit, Rejection::Faulty))
            }
        }
    }

    /// Returns whether the device has returned requests that were not taken yet.
    #[inline(always)]
    fn check_used(&mut self, ring: &mut impl Ring) -> Result<bool, RingFault> {
        match self.fault {
            Some(fault) => Err(fault),
            None => ring
                .check_used(self.in_flight)
                .map_err(|fault| self.mark_faulty(fault)),
        }
    }

    #[cold]
    fn mark_faulty(&mut self, fault: RingFault) -> RingFault {
        *self.fault.get_or_insert(fault)
    }
}

impl<'m, P, T> VirtQueue<'m, T>
where
    T: DerefMut<Target = [Option<P>]>,
{
    /// Makes queue number `queue`. The ring is carved out of `memory` and zeroed.
    /// `descriptor_tables` are those of the slots' areas. `in_flight` is the table of requests in
    /// flight, with one empty entry for each slot that is used.
    ///
    /// # Errors
    ///
    /// [`Error::TableInUse`], [`Error::MemoryShort`], [`Error::MemoryMisaligned`].
    pub fn new(
        memory: &mut DmaMemory<'m>,
        queue: u16,
        shape: RingShape,
        descriptor_tables: DmaTables<'m>,
        in_flight: T,
    ) -> Result<Self, Error> {
        if in_flight.iter().any(Option::is_some) {
            return Err(Error::TableInUse);
        }
        let longest_chain = if shape.format().is_indirect {
            // The tables of large slots are longer than those that are copied.
            shape.longest_chain()
        } else {
            shape.longest_chain().min(descriptor_tables.entries())
        };
        Ok(Self {
            ring: if shape.format().is_packed {
                AnyRing::Packed(PackedRing::new(memory, shape, descriptor_tables)?)
            } else {
                AnyRing::Split(SplitRing::new(memory, shape, descriptor_tables)?)
            },
            requests: InFlightRequests {
                queue,
                slots: shape.slots().get(),
                longest_chain,
                in_flight: 0,
                table: in_flight,
                fault: None,
            },
        })
    }

    /// The physical addresses of the ring, for the device.
    #[must_use]
    pub fn placement(&self) -> RingPlacement {
        each!(&self.ring, ring => ring.placement())
    }

    /// How many requests are in flight.
    #[inline]
    #[must_use]
    pub fn in_flight(&self) -> u16 {
        self.requests.in_flight
    }

    /// The protocol violation that marked the queue faulty, if one did.
    #[inline]
    #[must_use]
    pub fn fault(&self) -> Option<RingFault> {
        self.requests.fault
    }

    /// Makes a request available to the device, which may process it at once. After the
    /// last request of a batch, call [`Self::notification_needed`].
    ///
    /// `payload` makes the payload of `given`. It is called only when the request can no
    /// longer be rejected. So a caller whose request is rejected still has `given`.
    ///
    /// # Errors
    ///
    /// [`NotPublished`] returns `given`. The slot is released, unless the request belongs to
    /// another queue.
    #[inline]
    pub fn publish<G>(
        &mut self,
        slots: &SlotAllocator,
        prepared: Prepared,
        given: G,
        payload: impl FnOnce(G) -> P,
    ) -> Result<(), NotPublished<G>> {
        let place = match self.requests.admit(slots, &prepared) {
            Ok(place) => place,
            Err(reason) => return Err(NotPublished { given, reason }),
        };
        *place = Some(payload(given));
        // Does not wrap: it counts the occupied entries of the table.
        self.requests.in_flight = self.requests.in_flight.wrapping_add(1);
        each!(&mut self.ring, ring => ring.publish(&prepared));
        Ok(())
    }

    /// Returns whether the device needs a notification for the requests that were
    /// published since the last call.
    #[inline]
    #[must_use]
    pub fn notification_needed(&mut self) -> bool {
        each!(&mut self.ring, ring => ring.notification_needed())
    }

    /// Takes the next request that the device has returned. Returns `None` if there is
    /// none now. While the caller holds the lock and publishes nothing, it returns at most
    /// as many requests as were in flight.
    ///
    /// # Errors
    ///
    /// [`RingFault`] if the queue is faulty. Until [`Self::reclaim`], every later call
    /// returns the same.
    #[inline(always)]
    pub fn pop_used(&mut self) -> Result<Option<Used<P>>, RingFault> {
        let requests = &mut self.requests;
        if let Some(fault) = requests.fault {
            return Err(fault);
        }
        // Each kind returns only these three numbers. The payload is taken below, in code that
        // both share.
        let returned = each!(&mut self.ring, ring => {
            ring.pop_used(requests.in_flight, &mut requests.fault)
        });
        let Some(Returned { slot, id, written }) = returned else {
            return requests.fault.map_or(Ok(None), Err);
        };
        let place = requests.table.get_mut(usize::from(slot));
        let Some(payload) = place.and_then(Option::take) else {
            return Err(requests.mark_faulty(RingFault::NotInFlight { id }));
        };
        // Does not wrap: it counted the request that was taken out of the table.
        requests.in_flight = requests.in_flight.wrapping_sub(1);
        Ok(Some(Used {
            // The cast keeps the number: `admit` fills only the first 256 entries of the table.
            slot: Slot::returned(requests.queue, slot as u8),
            payload,
            written,
        }))
    }

    /// Releases a slot, so that another request can use it.
    #[inline]
    pub fn release(&mut self, slots: &SlotAllocator, slot: Slot) {
        slots.release(slot);
    }

    /// Discards a prepared request and releases its slot. Does nothing if the request is
    /// stale, because its slot is free already.
    pub fn cancel(&mut self, slots: &SlotAllocator, prepared: Prepared) {
        if prepared.queue == self.requests.queue
            && let Ok(slot) = slots.unstage(&prepared)
        {
            slots.release(slot);
        }
    }

    /// Puts back a request that the device returned before it finished it, and marks the
    /// queue faulty. The device may still write to the request's memory, so the request
    /// stays in flight until [`Self::reclaim`] returns it.
    pub fn take_back(&mut self, used: Used<P>) {
        let slot = used.slot.index();
        if let Some(place) = self.requests.table.get_mut(usize::from(slot)) {
            *place = Some(used.payload);
            // Does not wrap: the request was counted before `pop_used` took it.
            self.requests.in_flight = self.requests.in_flight.wrapping_add(1);
        }
        self.requests.mark_faulty(RingFault::NotFinished { slot });
    }

    /// Checks that the device has returned no more requests than are in flight, and takes
    /// none.
    ///
    /// Right after `DRIVER_OK`, when nothing is in flight, this detects a device that has
    /// filled the ring already. On an idle queue it detects a device that uses
    /// buffers which it was not given. Such a device may never send an interrupt.
    ///
    /// # Errors
    ///
    /// [`RingFault`], as for [`Self::pop_used`].
    pub fn check_used(&mut self) -> Result<(), RingFault> {
        each!(&mut self.ring, ring => self.requests.check_used(ring)).map(|_| ())
    }

    /// Asks the device not to interrupt while the driver drains the ring. The device may
    /// interrupt nevertheless (V37).
    #[inline]
    pub fn suppress_interrupts(&mut self) {
        each!(&mut self.ring, ring => ring.suppress_interrupts());
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
    #[inline(always)]
    #[must_use = "requests that are finished already may raise no interrupt"]
    pub fn rearm_interrupts(&mut self) -> Result<bool, RingFault> {
        each!(&mut self.ring, ring => {
            ring.rearm_interrupts();
            self.requests.check_used(ring)
        })
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
        let requests = &mut self.requests;
        for (index, place) in (0..=u8::MAX).zip(requests.table.iter_mut()) {
            if let Some(payload) = place.take() {
                slots.release(Slot::returned(requests.queue, index));
                // Does not wrap: it counted the request that was taken out of the table.
                requests.in_flight = requests.in_flight.wrapping_sub(1);
                return Some(payload);
            }
        }
        self.discard_prepared(slots);
        each!(&mut self.ring, ring => ring.clear());
        self.requests.in_flight = 0;
        self.requests.fault = None;
        None
    }

    /// Frees the slots of all prepared requests. [`Self::publish`] finds these requests stale.
    /// `slots` is this queue's allocator.
    pub fn discard_prepared(&mut self, slots: &SlotAllocator) {
        if slots.queue() == self.requests.queue {
            slots.reclaim_prepared();
        }
    }
}
