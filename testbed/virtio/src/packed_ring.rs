//! The device's side of a packed ring, written from the device's sections of the specification
//! (VIRTIO 1.3 §2.8). It accesses the words of a descriptor as a whole, and so does the driver:
//! Miri does not support atomic accesses that overlap in part.

use std::ops::Deref;
use std::sync::atomic::{Ordering, fence};

use crate::{
    chain::{Chain, Descriptor, INDIRECT, NEXT, WRITE, check_descriptors},
    common_config::Ring,
    memory::Memory,
};

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// The flags of an event suppression structure.
const ENABLE: u16 = 0;
const DISABLE: u16 = 1;
const DESC: u16 = 2;

/// The wrap counter in an event suppression structure.
const WRAP: u16 = 1 << 15;

/// A place in the ring, and the wrap counter of this lap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The index of the descriptor.
    pub index: u16,
    /// The wrap counter.
    pub wrap: bool,
}

impl Place {
    const FIRST: Self = Self {
        index: 0,
        wrap: true,
    };

    /// The place `count` descriptors further in a ring of `size`.
    #[must_use]
    pub fn after(mut self, count: u16, size: u16) -> Self {
        for _ in 0..count {
            self.index += 1;
            if self.index == size {
                self.index = 0;
                self.wrap = !self.wrap;
            }
        }
        self
    }

    fn event(self) -> u16 {
        self.index | if self.wrap { WRAP } else { 0 }
    }

    fn used_flags(self) -> u16 {
        if self.wrap { AVAIL | USED } else { 0 }
    }
}

/// The device's side of one packed ring, in the memory that `M` refers to.
#[derive(Debug)]
pub struct PackedRingDevice<M> {
    /// The memory that the ring is in.
    pub memory: M,
    /// The size and the addresses of the ring.
    pub ring: Ring,
    /// The place of the next descriptor to take.
    pub next_avail: Place,
    /// The place of the next descriptor to write as used.
    pub next_used: Place,
}

impl<M: Deref<Target: Memory>> PackedRingDevice<M> {
    /// A device that has taken nothing yet.
    pub fn new(memory: M, ring: Ring) -> Self {
        Self {
            memory,
            ring,
            next_avail: Place::FIRST,
            next_used: Place::FIRST,
        }
    }

    fn at(&self, index: u16) -> u64 {
        self.ring.descriptors + 16 * u64::from(index)
    }

    /// The event suppression structure of the driver: the event and the flags.
    pub fn driver_events(&self) -> (u16, u16) {
        let events = self.memory.load32(self.ring.driver);
        (events as u16, (events >> 16) as u16)
    }

    /// Writes the event suppression structure of the device.
    pub fn set_device_events(&self, event: u16, flags: u16) {
        let events = u32::from(event) | u32::from(flags) << 16;
        self.memory.store32(self.ring.device, events);
    }

    /// The flags of the descriptor at `place`, and whether the driver has made it available.
    fn flags(&self, place: Place) -> (u16, bool) {
        let flags = (self.memory.load64(self.at(place.index) + 8) >> 48) as u16;
        let [avail, used] = [AVAIL, USED].map(|bit| flags & bit != 0);
        fence(Ordering::Acquire);
        (flags, avail == place.wrap && used != place.wrap)
    }

    /// Whether no descriptor is available or used yet.
    pub fn is_zeroed(&self) -> bool {
        let mut words = (0..self.ring.size).map(|index| self.memory.load64(self.at(index) + 8));
        words.all(|word| word >> 48 == 0)
    }

    /// Whether a request is available.
    pub fn is_available(&self) -> bool {
        self.flags(self.next_avail).1
    }

    /// Reads the descriptor at the address `at`, and its buffer id.
    fn descriptor(&self, at: u64) -> (Descriptor, u16) {
        let rest = self.memory.load64(at + 8);
        let descriptor = Descriptor {
            address: self.memory.load64(at),
            length: rest as u32,
            flags: (rest >> 48) as u16,
            next: 0,
        };
        (descriptor, (rest >> 32) as u16)
    }

    /// Takes the next available request.
    ///
    /// # Errors
    /// What the driver did wrong.
    pub fn take(&mut self) -> Result<Option<Chain>, String> {
        if !self.is_available() {
            return Ok(None);
        }
        let (first, id) = self.descriptor(self.at(self.next_avail.index));
        let chain = if first.flags & INDIRECT != 0 {
            self.table(first, id)?
        } else {
            self.list()?
        };
        check_descriptors(&chain.descriptors)?;
        self.next_avail = self.next_avail.after(chain.in_ring, self.ring.size);
        Ok(Some(chain))
    }

    /// The request behind a descriptor with INDIRECT (VIRTIO 1.3 §2.8.19).
    fn table(&self, first: Descriptor, id: u16) -> Result<Chain, String> {
        let entries = first.length / 16;
        if first.flags & NEXT != 0 || !first.length.is_multiple_of(16) || entries == 0 {
            return Err(format!(
                "an indirect table of {} bytes has flags {:#x} (VIRTIO 1.3 §2.8.19)",
                first.length, first.flags
            ));
        }
        if entries > self.ring.size.into() {
            return Err(format!(
                "an indirect table of {entries} descriptors is longer than the queue of {} (VIRTIO \
                 1.3 §2.8.17)",
                self.ring.size
            ));
        }
        if !self.memory.contains(first.address, first.length.into()) {
            return Err(format!(
                "an indirect table at {:#x} is not completely in memory",
                first.address
            ));
        }
        let table = (0..u64::from(entries)).map(|number| {
            let (descriptor, _) = self.descriptor(first.address + 16 * number);
            match descriptor.flags & !WRITE {
                0 => Ok(descriptor),
                other => Err(format!(
                    "a descriptor of an indirect table has flags {other:#x} (VIRTIO 1.3 §2.8.19)"
                )),
            }
        });
        Ok(Chain {
            id,
            in_ring: 1,
            table: Some(first.address),
            descriptors: table.collect::<Result<_, _>>()?,
        })
    }

    /// The request in the ring itself: a list of descriptors with NEXT, the last of which has
    /// the buffer id (VIRTIO 1.3 §2.8.6).
    fn list(&self) -> Result<Chain, String> {
        let mut place = self.next_avail;
        let mut descriptors = Vec::new();
        loop {
            let (flags, available) = self.flags(place);
            if !available || flags & INDIRECT != 0 {
                return Err(format!(
                    "descriptor {} of a list has flags {flags:#x} (VIRTIO 1.3 §2.8.17, 2.8.19)",
                    descriptors.len()
                ));
            }
            let (descriptor, id) = self.descriptor(self.at(place.index));
            descriptors.push(descriptor);
            if flags & NEXT == 0 {
                return Ok(Chain {
                    id,
                    in_ring: descriptors.len() as u16,
                    table: None,
                    descriptors,
                });
            }
            if descriptors.len() >= self.ring.size.into() {
                return Err("a list is longer than the queue (VIRTIO 1.3 §2.8.17)".into());
            }
            place = place.after(1, self.ring.size);
        }
    }

    /// Returns a request to the driver.
    pub fn finish(&mut self, chain: &Chain, written: u32) {
        self.finish_as(chain.id, chain.in_ring, written);
    }

    /// Writes any used descriptor, and goes on by `in_ring` descriptors.
    pub fn finish_as(&mut self, id: u16, in_ring: u16, written: u32) {
        self.write_used(id, written);
        self.next_used = self.next_used.after(in_ring, self.ring.size);
    }

    /// Writes a used descriptor at the next place, without going on.
    pub fn write_used(&self, id: u16, written: u32) {
        let at = self.at(self.next_used.index);
        let flags = self.next_used.used_flags() | if written > 0 { WRITE } else { 0 };
        let rest = u64::from(written) | u64::from(id) << 32 | u64::from(flags) << 48;
        fence(Ordering::Release);
        self.memory.store64(at + 8, rest);
    }

    /// Marks the descriptor at the next place as used, whatever it contains, without going on.
    pub fn mark_used(&self) {
        let at = self.at(self.next_used.index) + 8;
        let unmarked = self.memory.load64(at) & !(u64::from(AVAIL | USED) << 48);
        let flags = u64::from(self.next_used.used_flags()) << 48;
        self.memory.store64(at, unmarked | flags);
    }

    /// Asks the driver for a notification of the next request. Returns whether there is one
    /// already, of which the driver may have sent none.
    pub fn enable_notifications(&self, event_idx: bool) -> bool {
        if event_idx {
            self.set_device_events(self.next_avail.event(), DESC);
        } else {
            self.set_device_events(0, ENABLE);
        }
        fence(Ordering::SeqCst);
        self.is_available()
    }

    /// Asks the driver for no notifications.
    pub fn disable_notifications(&self) {
        self.set_device_events(0, DISABLE);
    }

    /// Whether the driver wants no interrupt.
    pub fn are_interrupts_disabled(&self) -> bool {
        fence(Ordering::SeqCst);
        self.driver_events().1 == DISABLE
    }

    /// Whether the driver wants an interrupt for the used descriptors since `before`.
    ///
    /// # Errors
    /// The driver's event suppression structure is not valid.
    pub fn interrupt_wanted(&self, event_idx: bool, before: Place) -> Result<bool, String> {
        fence(Ordering::SeqCst);
        match self.driver_events() {
            (_, ENABLE) => Ok(before != self.next_used),
            (_, DISABLE) => Ok(false),
            (event, DESC) if event_idx && event & !WRAP < self.ring.size => {
                let mut place = before;
                while place != self.next_used {
                    if place.event() == event {
                        return Ok(true);
                    }
                    place = place.after(1, self.ring.size);
                }
                Ok(false)
            }
            (event, flags) => Err(format!(
                "the driver's event suppression is {event:#x} with flags {flags:#x}, with \
                 EVENT_IDX {event_idx} (VIRTIO 1.3 §2.8.10)"
            )),
        }
    }
}
