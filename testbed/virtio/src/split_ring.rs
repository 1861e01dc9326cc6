//! The device's side of a split ring, written from the specification. It can also write invalid
//! values.

use std::sync::atomic::{Ordering, fence};

use crate::{
    chain::{Chain, Descriptor, INDIRECT, NEXT, check_descriptors},
    common_config::Ring,
    memory::{GuestMemory, Memory},
};

/// The device's side of one ring.
#[derive(Debug)]
pub struct RingDevice<'m, M = GuestMemory> {
    /// The memory that the ring is in.
    pub memory: &'m M,
    /// The size and the addresses of the ring.
    pub ring: Ring,
    /// How many available entries the device has taken.
    taken: u16,
    /// The used index.
    pub used: u16,
}

impl<'m, M: Memory> RingDevice<'m, M> {
    /// A device that has taken nothing yet.
    pub fn new(memory: &'m M, ring: Ring) -> Self {
        Self {
            memory,
            ring,
            taken: 0,
            used: 0,
        }
    }

    fn size(&self) -> u64 {
        self.ring.size.into()
    }

    fn index(&self, position: u16) -> u64 {
        u64::from(position) % self.size()
    }

    /// The flags of the available ring.
    pub fn avail_flags(&self) -> u16 {
        self.memory.load16(self.ring.driver)
    }

    /// The index of the available ring.
    pub fn avail_idx(&self) -> u16 {
        self.memory.load16(self.ring.driver + 2)
    }

    /// The used event, by which the driver asks for an interrupt.
    pub fn used_event(&self) -> u16 {
        self.memory.load16(self.ring.driver + 4 + 2 * self.size())
    }

    /// Writes the flags of the used ring.
    pub fn set_used_flags(&self, flags: u16) {
        self.memory.store16(self.ring.device, flags);
    }

    /// Writes the index of the used ring.
    pub fn set_used_idx(&self, index: u16) {
        self.memory.store16(self.ring.device + 2, index);
    }

    /// Writes the available event, by which the device asks for a notification.
    pub fn set_avail_event(&self, index: u16) {
        self.memory
            .store16(self.ring.device + 4 + 8 * self.size(), index);
    }

    /// Writes a used element at `position`, without advancing the index.
    pub fn write_used(&self, position: u16, id: u32, length: u32) {
        let element = self.ring.device + 4 + 8 * self.index(position);
        self.memory.store32(element, id);
        self.memory.store32(element + 4, length);
    }

    /// Reads the descriptor at the address `at`.
    pub fn descriptor(&self, at: u64) -> Descriptor {
        let rest = self.memory.load64(at + 8);
        Descriptor {
            address: self.memory.load64(at),
            length: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        }
    }

    /// Writes the descriptor at the address `at`.
    pub fn write_descriptor(&self, at: u64, it: Descriptor) {
        let rest = u64::from(it.length) | u64::from(it.flags) << 32 | u64::from(it.next) << 48;
        self.memory.store64(at, it.address);
        self.memory.store64(at + 8, rest);
    }

    /// How many available entries the device has not taken.
    pub fn available(&self) -> u16 {
        self.avail_idx().wrapping_sub(self.taken)
    }

    /// Skips entries that the driver has overwritten. This happens only to a device that finished
    /// requests before it took them.
    pub fn catch_up(&mut self) {
        if u64::from(self.available()) > self.size() {
            self.taken = self.avail_idx().wrapping_sub(self.ring.size);
        }
    }

    /// Takes the next available request.
    ///
    /// # Panics
    /// If the driver violates the specification.
    pub fn take(&mut self) -> Option<Chain> {
        if self.available() == 0 {
            return None;
        }
        assert!(
            u64::from(self.available()) <= self.size(),
            "V35: the available index ran away"
        );
        fence(Ordering::Acquire);
        let entry = self.ring.driver + 4 + 2 * self.index(self.taken);
        let head = self.memory.load16(entry);
        self.taken = self.taken.wrapping_add(1);
        Some(self.chain(head))
    }

    /// Reads the chain of `head`: one indirect table, or descriptors of the ring.
    fn chain(&self, head: u16) -> Chain {
        assert!(u64::from(head) < self.size(), "a head outside the queue");
        let first = self.descriptor(self.ring.descriptors + 16 * u64::from(head));
        let chain = if first.flags & INDIRECT != 0 {
            assert_eq!(first.flags, INDIRECT, "V33: INDIRECT alone");
            assert_eq!(first.length % 16, 0, "whole descriptors");
            let entries = u64::from(first.length / 16);
            assert!((1..=self.size()).contains(&entries), "V33: the length");
            let descriptors = self.linked(first.address, 0, entries);
            assert_eq!(descriptors.len() as u64, entries, "unused descriptors");
            Chain {
                id: head,
                in_ring: 1,
                table: Some(first.address),
                descriptors,
            }
        } else {
            let descriptors = self.linked(self.ring.descriptors, head, self.size());
            Chain {
                id: head,
                in_ring: descriptors.len() as u16,
                table: None,
                descriptors,
            }
        };
        check_descriptors(&chain.descriptors).expect("a valid chain");
        chain
    }

    /// The descriptors from number `first` on, of those of the table at `table`, which has
    /// `entries`.
    fn linked(&self, table: u64, first: u16, entries: u64) -> Vec<Descriptor> {
        let mut descriptors = Vec::new();
        let mut index = u64::from(first);
        loop {
            assert!(index < entries, "V32: a chain that leaves its table");
            let it = self.descriptor(table + 16 * index);
            assert_eq!(it.flags & INDIRECT, 0, "V33: no nesting");
            descriptors.push(it);
            if it.flags & NEXT == 0 {
                return descriptors;
            }
            assert_eq!(u64::from(it.next), index + 1, "descriptors are in order");
            index += 1;
        }
    }

    /// Asks the driver for a notification of the next request. Returns whether a request is
    /// available already, for which the driver may have sent no notification.
    pub fn enable_notifications(&self, event_idx: bool) -> bool {
        if event_idx {
            self.set_avail_event(self.taken);
        } else {
            self.set_used_flags(0);
        }
        fence(Ordering::SeqCst);
        self.available() > 0
    }

    /// Whether the driver wants an interrupt for the used elements since the used index was
    /// `before`.
    pub fn interrupt_wanted(&self, event_idx: bool, before: u16) -> bool {
        fence(Ordering::SeqCst);
        if event_idx {
            self.used_event().wrapping_sub(before) < self.used.wrapping_sub(before)
        } else {
            self.avail_flags() & 1 == 0 && self.used != before
        }
    }

    /// Returns a request to the driver.
    pub fn finish(&mut self, chain: &Chain, written: u32) {
        self.finish_as(chain.id.into(), written);
    }

    /// Writes any used element and advances the index.
    pub fn finish_as(&mut self, id: u32, length: u32) {
        self.write_used(self.used, id, length);
        fence(Ordering::Release);
        self.used = self.used.wrapping_add(1);
        self.set_used_idx(self.used);
    }
}
