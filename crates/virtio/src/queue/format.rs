//! The format and the shape of a queue: which kind of ring it has, and how its descriptors are
//! divided among the slots.
//!
//! With `INDIRECT_DESC` a request has one descriptor in the ring, which points to the table in
//! the slot's area. Without it a request has a chain of descriptors there, copied from the
//! table.

use virtio_spec::F;

use crate::queue_size::QueueSize;

/// The format of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFormat {
    /// Whether the ring is packed (VIRTIO 1.3 §2.8), and not split (§2.7).
    pub is_packed: bool,
    /// Whether each request has one descriptor in the ring, which points to its table.
    pub is_indirect: bool,
    /// Whether driver and device suppress notifications by a position in the ring.
    pub event_idx: bool,
}

impl QueueFormat {
    /// Whether each entry of a request's table names the next one: only the indirect tables of a
    /// split ring do.
    pub(crate) fn has_linked_tables(self) -> bool {
        self.is_indirect && !self.is_packed
    }

    /// The format for a device with the features `accepted`.
    #[must_use]
    pub fn of(accepted: F) -> Self {
        Self {
            is_packed: accepted.contains(F::RING_PACKED),
            is_indirect: accepted.contains(F::INDIRECT_DESC),
            event_idx: accepted.contains(F::EVENT_IDX),
        }
    }
}

/// The shape of a queue: its format, the size of its ring, and the ring's division into slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingShape {
    format: QueueFormat,
    size: QueueSize,
    slots: QueueSize,
    descriptors_per_slot: QueueSize,
}

impl RingShape {
    /// The shape of a ring of `size` descriptors for at most `slots` requests in flight.
    ///
    /// With indirect descriptors a slot has one descriptor of the ring. Without them it has the
    /// square root of `size`, rounded up to a power of two. This balances two costs: with few
    /// descriptors in a slot, the same data needs many requests; with few slots, the device may
    /// have nothing to do.
    ///
    /// A slot has more descriptors if a request of `shortest` descriptors needs them, or if
    /// `slots` limits the number of slots. It never has more than 256, or more than `size`. If
    /// `shortest` exceeds that, [`Self::longest_chain`] is below it.
    #[must_use]
    pub fn new(format: QueueFormat, size: QueueSize, slots: QueueSize, shortest: u16) -> Self {
        let descriptors_per_slot = if format.is_indirect {
            QueueSize::ONE
        } else {
            let root = QueueSize::power(size.log().div_ceil(2));
            let shortest = shortest.checked_next_power_of_two();
            let shortest = shortest.and_then(QueueSize::new).unwrap_or(size);
            let most = size.min(QueueSize::Q256);
            root.max(shortest).max(size.divided_by(slots)).min(most)
        };
        let slots = size.divided_by(descriptors_per_slot).min(slots);
        Self {
            format,
            // Without indirect descriptors, the rest of the ring would never be used.
            size: if format.is_indirect {
                size
            } else {
                QueueSize::power(slots.log().wrapping_add(descriptors_per_slot.log()))
            },
            slots,
            descriptors_per_slot,
        }
    }

    /// The format.
    #[must_use]
    pub fn format(self) -> QueueFormat {
        self.format
    }

    /// The number of descriptors of the ring.
    #[must_use]
    pub fn size(self) -> QueueSize {
        self.size
    }

    /// How many requests can be in flight.
    #[must_use]
    pub fn slots(self) -> QueueSize {
        self.slots
    }

    /// How many descriptors of the ring belong to each slot.
    #[must_use]
    pub fn descriptors_per_slot(self) -> QueueSize {
        self.descriptors_per_slot
    }

    /// The maximum number of descriptors of a request (V33, V53).
    #[must_use]
    pub fn longest_chain(self) -> u16 {
        if self.format.is_indirect {
            self.size.get()
        } else {
            self.descriptors_per_slot.get()
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn format(is_indirect: bool) -> QueueFormat {
        QueueFormat {
            is_packed: false,
            is_indirect,
            event_idx: false,
        }
    }

    fn size(log: u32) -> QueueSize {
        QueueSize::new(1 << log).unwrap()
    }

    #[test]
    fn without_indirect_descriptors_segments_are_traded_for_slots() {
        let traded = (0..16).map(|log| {
            let shape = RingShape::new(format(false), size(log), QueueSize::Q256, 4);
            (shape.slots().get(), shape.longest_chain())
        });

        let expected = [
            (1, 1),
            (1, 2),
            (1, 4),
            (2, 4),
            (4, 4),
            (4, 8),
            (8, 8),
            (8, 16),
            (16, 16),
            (16, 32),
            (32, 32),
            (32, 64),
            (64, 64),
            (64, 128),
            (128, 128),
            (128, 256),
        ];
        assert!(traded.eq(expected));
    }

    #[test]
    fn one_slot_has_the_whole_ring() {
        for is_indirect in [false, true] {
            let shape = RingShape::new(format(is_indirect), size(5), QueueSize::ONE, 4);

            assert_eq!((shape.slots().get(), shape.longest_chain()), (1, 32));
        }
    }

    proptest! {
        #![proptest_config(crate::proptest_config(4096))]

        #[test]
        fn the_descriptors_of_all_slots_fit_the_ring(
            is_indirect in any::<bool>(),
            [log, slots] in [0..16_u32, 0..9],
            shortest in any::<u16>(),
        ) {
            let shape = RingShape::new(format(is_indirect), size(log), size(slots), shortest);

            let used = u32::from(shape.slots().get()) * u32::from(shape.descriptors_per_slot().get());
            prop_assert!(used <= shape.size().get().into());
            prop_assert!(shape.size() <= size(log));
            prop_assert!(is_indirect || used == u32::from(shape.size().get()));
            prop_assert!(shape.slots() <= size(slots));
            prop_assert!(u32::from(shape.longest_chain()) <= 1 << log, "V33, V53");
            let possible = u32::from(shortest) <= 1 << log && (is_indirect || shortest <= 256);
            prop_assert!(!possible || shape.longest_chain() >= shortest);
            prop_assert!(is_indirect || shape.longest_chain() <= 256);
        }
    }

    #[test]
    fn each_feature_decides_one_property() {
        for (feature, packed, indirect, event_idx) in [
            (F::RING_PACKED, true, false, false),
            (F::INDIRECT_DESC, false, true, false),
            (F::EVENT_IDX, false, false, true),
        ] {
            let expected = QueueFormat {
                is_packed: packed,
                is_indirect: indirect,
                event_idx,
            };
            assert_eq!(QueueFormat::of(F::VERSION_1.union(feature)), expected);
        }
    }
}
