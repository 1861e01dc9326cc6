//! The device's side of a packed ring, written from the device's sections of the specification
//! (VIRTIO 1.3 §2.8). It accesses the words of a descriptor as a whole, and so does the driver:
//! Miri does not support atomic accesses that overlap in part.

use std::collections::BTreeSet;
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
    /// Both words of each descriptor, as the device took it.
    words: Vec<[u64; 2]>,
    /// The buffer ids of the requests that were taken and not returned.
    ids: BTreeSet<u16>,
}

impl<M: Deref<Target: Memory>> PackedRingDevice<M> {
    /// A device that has taken nothing yet.
    pub fn new(memory: M, ring: Ring) -> Self {
        Self {
            memory,
            ring,
            next_avail: Place::FIRST,
            next_used: Place::FIRST,
            words: vec![[0; 2]; ring.size.into()],
            ids: BTreeSet::new(),
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

    /// Both words of the descriptor at `index`.
    fn words(&self, index: u16) -> [u64; 2] {
        [0, 8].map(|offset| self.memory.load64(self.at(index) + offset))
    }

    /// How many descriptors of the ring the device has not taken or has written as used.
    fn room(&self) -> u16 {
        let lap = if self.next_avail.wrap == self.next_used.wrap {
            0
        } else {
            self.ring.size
        };
        let taken = (lap + self.next_avail.index).saturating_sub(self.next_used.index);
        self.ring.size.saturating_sub(taken)
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
        // V51, V53.
        if chain.in_ring > self.room() {
            return Err(format!(
                "a request of {} descriptors was made available in a ring with room for {} (VIRTIO \
                 1.3 §2.8.16, 2.8.17)",
                chain.in_ring,
                self.room()
            ));
        }
        // V58.
        if !self.ids.insert(chain.id) {
            return Err(format!(
                "buffer id {} was made available again while the device had it (VIRTIO 1.3 \
                 §2.8.21.1)",
                chain.id
            ));
        }
        for _ in 0..chain.in_ring {
            let index = self.next_avail.index;
            self.words[usize::from(index)] = self.words(index);
            self.next_avail = self.next_avail.after(1, self.ring.size);
        }
        Ok(Some(chain))
    }

    /// Checks that the driver has not written what the device still has: the table of `chain`,
    /// and the descriptors that the device writes next to return `chain`, which may be those of
    /// another request.
    ///
    /// # Errors
    /// What the driver did wrong.
    pub fn check_unchanged(&self, chain: &Chain) -> Result<(), String> {
        let is_changed = chain.table.is_some_and(|table| {
            let mut entries = (table..).step_by(16).zip(&chain.descriptors);
            entries.any(|(at, it)| self.descriptor(at).0 != *it)
        });
        // V15.
        if is_changed {
            return Err(format!(
                "the indirect table of buffer id {} was written while the device had it (VIRTIO 1.3 \
                 §3.3.1)",
                chain.id
            ));
        }
        for number in 0..chain.in_ring {
            let index = self.next_used.after(number, self.ring.size).index;
            // V51.
            if self.words(index) != self.words[usize::from(index)] {
                return Err(format!(
                    "descriptor {index} was written while the device had it (VIRTIO 1.3 §2.8.16)"
                ));
            }
        }
        Ok(())
    }

    /// The request behind a descriptor with INDIRECT (VIRTIO 1.3 §2.8.19).
    fn table(&self, first: Descriptor, id: u16) -> Result<Chain, String> {
        let entries = first.length / 16;
        // V53, V54.
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
                // V54.
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
            // V53, V54.
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
            // V53.
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
        self.ids.remove(&id);
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
    pub fn mark_used(&mut self) {
        let at = self.at(self.next_used.index) + 8;
        let unmarked = self.memory.load64(at) & !(u64::from(AVAIL | USED) << 48);
        let flags = u64::from(self.next_used.used_flags()) << 48;
        self.memory.store64(at, unmarked | flags);
        let index = self.next_used.index;
        self.words[usize::from(index)] = self.words(index);
    }

    /// Asks the driver for a notification of the next request. Returns whether a request is
    /// available already, for which the driver may have sent no notification.
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
            // V59.
            (event, flags) => Err(format!(
                "the driver's event suppression is {event:#x} with flags {flags:#x}, with \
                 EVENT_IDX {event_idx} (VIRTIO 1.3 §2.8.10, 2.8.14)"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{GuestMemory, PHYSICAL};

    const SIZE: u16 = 4;
    const TABLE: u64 = PHYSICAL + 0x800;
    const BUFFER: u64 = PHYSICAL + 0xC00;

    type Device<'m> = PackedRingDevice<&'m GuestMemory>;

    fn device(memory: &GuestMemory) -> Device<'_> {
        for at in (0..0x1000).step_by(8) {
            memory.store64(PHYSICAL + at, 0);
        }
        let ring = Ring {
            size: SIZE,
            descriptors: PHYSICAL,
            driver: PHYSICAL + 0x400,
            device: PHYSICAL + 0x404,
        };
        Device::new(memory, ring)
    }

    fn describe(memory: &GuestMemory, at: u64, address: u64, bytes: u32, id: u16, flags: u16) {
        memory.store64(at, address);
        let rest = u64::from(bytes) | u64::from(id) << 32 | u64::from(flags) << 48;
        memory.store64(at + 8, rest);
    }

    /// Makes a descriptor available at position `number`, which counts on after the last index.
    fn publish(device: &Device<'_>, number: u16, id: u16, flags: u16) {
        let lap = if number < SIZE { AVAIL } else { USED };
        let (address, bytes) = if flags & INDIRECT != 0 {
            (TABLE, 32)
        } else {
            (BUFFER, 16)
        };
        let at = device.at(number % SIZE);
        describe(device.memory, at, address, bytes, id, flags | lap);
    }

    fn taken(device: &mut Device<'_>) -> Chain {
        device.take().expect("no error").expect("a request")
    }

    /// The error of taking what `publish` made available.
    fn error(publish: impl FnOnce(&mut Device<'_>)) -> String {
        let memory = GuestMemory::new(0x1000);
        let mut device = device(&memory);
        publish(&mut device);
        device.take().expect_err("a driver error")
    }

    #[test]
    fn requests_that_return_in_any_order_are_no_driver_error() {
        let memory = GuestMemory::new(0x1000);
        let mut device = device(&memory);
        // Positions 0 to 4: the fifth is in the second lap.
        publish(&device, 0, 7, NEXT);
        publish(&device, 1, 7, 0);
        publish(&device, 2, 0, 0);
        let [first, second] = [(); 2].map(|()| taken(&mut device));
        for chain in [&second, &first] {
            assert_eq!(device.check_unchanged(chain), Ok(()));
            device.finish(chain, 0);
        }
        publish(&device, 3, 7, NEXT);
        publish(&device, 4, 7, 0);

        let again = taken(&mut device);

        assert_eq!((first.id, second.id, again.id), (7, 0, 7));
        assert_eq!(device.check_unchanged(&again), Ok(()));
    }

    /// V31, V53, V54.
    #[test]
    fn a_list_that_is_not_valid_is_a_driver_error() {
        // The flags of the descriptors from the first on, and the error.
        for (flags, text) in [
            (&[NEXT][..], "descriptor 1 of a list has flags 0x0"),
            (&[NEXT, INDIRECT], "descriptor 1 of a list has flags 0x84"),
            (&[NEXT; 4], "a list is longer than the queue"),
            (&[NEXT | WRITE, 0], "a readable descriptor follows"),
            (
                &[INDIRECT | NEXT],
                "an indirect table of 32 bytes has flags",
            ),
        ] {
            let error = error(|device| {
                for (number, flags) in (0..).zip(flags) {
                    publish(device, number, 0, *flags);
                }
            });
            assert!(error.contains(text), "{error} is not {text}");
        }
    }

    /// V32, V53, V54.
    #[test]
    fn a_table_that_is_not_valid_is_a_driver_error() {
        const MOST: u32 = u32::MAX;
        // The bytes of the table, the flags of its second descriptor and its length, the error.
        for (bytes, flags, length, text) in [
            (40, 0, 16, "an indirect table of 40 bytes"),
            (0, 0, 16, "an indirect table of 0 bytes"),
            (80, 0, 16, "5 descriptors is longer than the queue of 4"),
            (32, NEXT, 16, "indirect table has flags 0x1"),
            (32, INDIRECT, 16, "indirect table has flags 0x4"),
            (32, 0, 0, "a descriptor of length 0"),
            (32, 0, MOST, "4294967311 bytes in a request"),
        ] {
            let error = error(|device| {
                describe(device.memory, TABLE, BUFFER, 16, 0, 0);
                describe(device.memory, TABLE + 16, BUFFER, length, 0, flags);
                describe(
                    device.memory,
                    device.at(0),
                    TABLE,
                    bytes,
                    0,
                    INDIRECT | AVAIL,
                );
            });
            assert!(error.contains(text), "{error} is not {text}");
        }
    }

    /// V51, V53: the ring is full, and the driver goes on with the next lap.
    #[test]
    fn more_descriptors_than_the_ring_has_room_for_are_a_driver_error() {
        for returned in 0..2 {
            let error = error(|device| {
                for number in 0..SIZE {
                    publish(device, number, number, 0);
                }
                let chains = [(); SIZE as usize].map(|()| taken(device));
                for chain in &chains[..returned] {
                    device.finish(chain, 0);
                }
                publish(device, SIZE, 8, if returned == 0 { 0 } else { NEXT });
                publish(device, SIZE + 1, 8, 0);
            });
            let text = format!("{} descriptors was made available", returned + 1);
            assert!(error.contains(&text), "{error}");
            assert!(error.contains(&format!("room for {returned}")), "{error}");
        }
    }

    /// V58.
    #[test]
    fn a_buffer_id_that_the_device_has_is_a_driver_error() {
        let error = error(|device| {
            publish(device, 0, 3, 0);
            publish(device, 1, 3, 0);
            taken(device);
        });
        assert!(error.starts_with("buffer id 3 was made available again"));
    }

    /// V15, V51: a descriptor of the request, one of another request, and a table.
    #[test]
    fn what_the_driver_writes_while_the_device_has_it_is_a_driver_error() {
        for (written, text) in [
            (PHYSICAL, "descriptor 0 was written"),
            (PHYSICAL + 8, "descriptor 0 was written"),
            (PHYSICAL + 16, ""),
            (TABLE + 24, "the indirect table of buffer id 1"),
        ] {
            let memory = GuestMemory::new(0x1000);
            let mut device = device(&memory);
            for at in [TABLE, TABLE + 16] {
                describe(&memory, at, BUFFER, 16, 0, 0);
            }
            publish(&device, 0, 0, 0);
            publish(&device, 1, 1, INDIRECT);
            let [_, second] = [(); 2].map(|()| taken(&mut device));
            assert_eq!(device.check_unchanged(&second), Ok(()));

            memory.store64(written, memory.load64(written) ^ 1);

            let error = device.check_unchanged(&second).err().unwrap_or_default();
            assert_eq!(error.is_empty(), text.is_empty(), "{error}");
            assert!(error.starts_with(text), "{error}");
        }
    }

    /// V59.
    #[test]
    fn event_suppression_that_is_not_valid_is_a_driver_error() {
        for (event_idx, event, flags) in [(false, 0, DESC), (true, SIZE, DESC), (true, 0, 3)] {
            let memory = GuestMemory::new(0x1000);
            let device = device(&memory);
            let at = device.ring.driver;
            memory.store32(at, u32::from(event) | u32::from(flags) << 16);

            let found = device.interrupt_wanted(event_idx, Place::FIRST);

            let error = found.expect_err("a driver error");
            assert!(error.starts_with("the driver's event suppression"));
        }
    }
}
