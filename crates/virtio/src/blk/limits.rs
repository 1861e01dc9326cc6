//! The limits of requests, as one pure function of the disk's configuration, the queue's format
//! and size, and the room that the driver has for requests.

use super::config::Config;
use crate::error::Error;
use crate::queue::format::{QueueFormat, RingShape};
use crate::queue_size::QueueSize;
use crate::slots::SlotAllocator;

/// Bytes of a page. At worst, each page of a buffer is a segment of its own.
pub const PAGE: u32 = 4096;

/// The descriptors of a request that are not for data: the header's and the status's.
pub(super) const FRAME: u16 = 2;

/// The limits of one request. A request within them is never refused as
/// [`TooScattered`](super::Refusal::TooScattered) in a slot that is
/// [`Large`](crate::slots::SlotSize::Large), if the queue has any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The shape of the queue. The number of its slots is the maximum number of requests in
    /// flight.
    pub shape: RingShape,
    /// The maximum number of physically contiguous segments of a transfer, at least 2.
    pub max_segments: u16,
    /// The maximum length of a transfer in bytes: a multiple of the page size, and at least
    /// one page. A buffer of this length, wherever it begins, lies in at most `max_segments`
    /// pages.
    pub max_transfer: u32,
    /// The maximum number of data descriptors of a request, at least 2.
    pub(super) data_descriptors: u16,
    /// The maximum length of a data descriptor in bytes.
    pub(super) size_max: u32,
}

impl Limits {
    /// The number of descriptors in a request's table: data, header and status.
    #[must_use]
    pub fn table_entries(&self) -> u16 {
        // Does not saturate: `limits` has subtracted `FRAME` before.
        self.data_descriptors.saturating_add(FRAME)
    }

    /// The number of large slots: a quarter of all. Returns `None` if all slots have the same size.
    /// That is so if they are few, if no request is long, if a page takes several descriptors, or
    /// without indirect descriptors.
    pub(super) fn large_slots(&self) -> Option<QueueSize> {
        let slots = self.shape.slots();
        let is_mixed = self.shape.format().is_indirect
            && slots.get() >= MIXED_FROM
            && self.size_max >= PAGE
            && self.table_entries() > SMALL_TABLE;
        is_mixed.then(|| slots.divided_by(QueueSize::power(2)))
    }

    /// Makes the allocator of the slots of queue number `queue`.
    #[must_use]
    pub fn slot_allocator(&self, queue: u16) -> SlotAllocator {
        let large = self.large_slots().map_or(0, QueueSize::get);
        SlotAllocator::new(queue, self.shape.slots(), large)
    }

    /// The number of descriptors in the table of a small slot.
    pub(super) fn small_table_entries(&self) -> u16 {
        match self.large_slots() {
            None => self.table_entries(),
            Some(_) => SMALL_TABLE,
        }
    }

    /// The maximum length of a transfer in a small slot, in bytes.
    pub(super) fn small_bytes(&self) -> u32 {
        match self.large_slots() {
            None => u32::MAX,
            Some(_) => SMALL_BYTES,
        }
    }
}

/// The maximum length of a transfer in a small slot, if there are large slots.
const SMALL_BYTES: u32 = 128 << 10;

/// The number of descriptors in the table of a small slot, if there are large slots. A transfer of
/// [`SMALL_BYTES`] needs 35 of them, wherever its buffer begins. The area of such a slot fills 10
/// cache lines.
const SMALL_TABLE: u16 = 37;

const _: () = assert!(SMALL_BYTES / PAGE + 1 + FRAME as u32 <= SMALL_TABLE as u32);

/// The minimum number of slots of a queue with both sizes of slot.
const MIXED_FROM: u16 = 16;

/// The maximum number of slots that up to 32 queues have together, with [`Room::of_each`].
pub const TOTAL_SLOTS: u16 = 512;

/// The driver's room for the requests of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The maximum number of requests in flight, at most [`MAX_SLOTS`](crate::slots::MAX_SLOTS).
    pub slots: QueueSize,
    /// The maximum number of descriptors of a request.
    pub table_entries: u16,
}

impl Room {
    /// The room in each of `queues` queues: 16 to 256 slots, a power of two. Up to 32 queues have
    /// at most [`TOTAL_SLOTS`] slots together, whose areas take at most about 850 KiB.
    #[must_use]
    pub fn of_each(queues: u16) -> Self {
        let slots = TOTAL_SLOTS.checked_div(queues).unwrap_or(TOTAL_SLOTS);
        let slots = slots.clamp(16, 256);
        Self {
            slots: QueueSize::at_most(slots).unwrap_or(QueueSize::ONE),
            table_entries: 256,
        }
    }
}

/// The limits of requests to a disk with `config`, on a queue of `queue_size` in `format`.
///
/// A descriptor chain is no longer than the queue (V33). It has at most `seg_max` data
/// descriptors of at most `size_max` bytes each (V92).
///
/// # Errors
///
/// [`Error::LimitTooSmall`].
pub fn limits(
    config: &Config,
    format: QueueFormat,
    queue_size: QueueSize,
    room: Room,
) -> Result<Limits, Error> {
    // The number of descriptors that a page of data takes. If `size_max` is a page or more,
    // it is 1: a segment then takes no more descriptors than it has pages.
    let size_max = config.size_max.unwrap_or(u32::MAX);
    // At most 8, because `size_max` is at least a sector.
    let a_page = u16::try_from(PAGE.div_ceil(size_max.max(1))).unwrap_or(u16::MAX);
    let two_pages = a_page.saturating_mul(2);
    let shortest = two_pages.saturating_add(FRAME);
    let shape = RingShape::new(format, queue_size, room.slots, shortest);
    let chain = shape.longest_chain().min(room.table_entries);
    let by_chain = chain.saturating_sub(FRAME);
    let data_descriptors = match config.seg_max {
        Some(most) => u16::try_from(most).unwrap_or(u16::MAX).min(by_chain),
        None => by_chain,
    };
    let max_segments = data_descriptors.checked_div(a_page).unwrap_or(0);
    // A buffer that begins inside a page touches one page more than its length has.
    match u32::from(max_segments).checked_sub(1) {
        Some(pages) if pages > 0 => Ok(Limits {
            shape,
            max_segments,
            // Does not wrap: a product of 16 and 13 bits.
            max_transfer: pages.wrapping_mul(PAGE),
            data_descriptors,
            size_max,
        }),
        _ if config.seg_max == Some(data_descriptors.into()) => Err(Error::LimitTooSmall {
            limit: "seg_max",
            value: data_descriptors,
            needed: two_pages,
        }),
        _ => Err(Error::LimitTooSmall {
            limit: "queue_size",
            value: queue_size.get(),
            needed: shortest,
        }),
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use block::{BlockSize, Capacity, Sectors, Topology, WriteCache};

    fn config(size_max: Option<u32>, seg_max: Option<u32>) -> Config {
        Config {
            capacity: Capacity::new(Sectors(2048), BlockSize::SECTOR).unwrap(),
            size_max,
            seg_max,
            topology: Topology::default(),
            write_cache: WriteCache::Absent,
            read_only: false,
            queues: 1,
        }
    }

    const INDIRECT: QueueFormat = QueueFormat {
        is_packed: false,
        is_indirect: true,
        event_idx: false,
    };
    const DIRECT: QueueFormat = QueueFormat {
        is_indirect: false,
        ..INDIRECT
    };

    fn room(table_entries: u16) -> Room {
        Room {
            slots: QueueSize::Q256,
            table_entries,
        }
    }

    /// The limits with indirect descriptors.
    fn of(config: &Config, size: u16, table_entries: u16) -> Result<Limits, Error> {
        let size = QueueSize::new(size).unwrap();
        limits(config, INDIRECT, size, room(table_entries))
    }

    #[test]
    fn a_plain_disk_is_limited_by_its_queue() {
        let limits = of(&config(None, None), 256, 1024).unwrap();

        assert_eq!(limits.table_entries(), 256, "V33");
        assert_eq!(limits.max_segments, 254);
        assert_eq!(limits.max_transfer, 253 * 4096);
        assert_eq!(limits.shape.slots(), QueueSize::Q256);
    }

    #[test]
    fn seg_max_and_the_table_limit_a_request_too() {
        let by_disk = of(&config(None, Some(126)), 256, 1024).unwrap();
        let by_table = of(&config(None, Some(126)), 256, 34).unwrap();

        assert_eq!(by_disk.max_segments, 126);
        assert_eq!(by_table.max_segments, 32);
        assert_eq!(by_table.max_transfer, 31 * 4096);
    }

    /// Only a quarter of the slots has a table for the longest request.
    #[test]
    fn a_quarter_of_many_slots_is_large() {
        let large = |size_max, format, size: u16, table_entries| {
            let size = QueueSize::new(size).unwrap();
            let limits = limits(&config(size_max, None), format, size, room(table_entries));
            let limits = limits.unwrap();
            (
                limits.large_slots().map(QueueSize::get),
                limits.small_table_entries(),
                limits.small_bytes(),
            )
        };

        assert_eq!(large(None, INDIRECT, 256, 256), (Some(64), 37, 128 << 10));
        assert_eq!(
            large(Some(4096), INDIRECT, 64, 256),
            (Some(16), 37, 128 << 10)
        );
        let all = u32::MAX;
        assert_eq!(
            large(None, INDIRECT, 32, 256),
            (None, 32, all),
            "no request is long"
        );
        assert_eq!(large(None, INDIRECT, 256, 37), (None, 37, all));
        assert_eq!(large(Some(2048), INDIRECT, 256, 256), (None, 256, all));
        assert_eq!(large(None, DIRECT, 4096, 256), (None, 64, all));
    }

    /// V33: a chain without indirect descriptors has only the descriptors of its slot.
    #[test]
    fn without_indirect_descriptors_transfers_are_shorter_and_slots_fewer() {
        let size = QueueSize::Q256;
        let usual = limits(&config(None, None), DIRECT, size, room(256)).unwrap();
        let tiny_segments = limits(&config(Some(512), None), DIRECT, size, room(256)).unwrap();

        assert_eq!((usual.shape.slots().get(), usual.max_segments), (16, 14));
        assert_eq!(usual.max_transfer, 13 * 4096);
        assert_eq!(
            tiny_segments.shape.slots().get(),
            8,
            "18 descriptors for two pages"
        );
        assert_eq!(tiny_segments.max_segments, 3);
    }

    /// A26.
    #[test]
    fn a_small_size_max_costs_descriptors_and_a_large_one_costs_none() {
        let tiny = of(&config(Some(512), Some(u32::MAX)), 128, 1024).unwrap();
        let huge = of(&config(Some(u32::MAX), Some(u32::MAX)), 128, 1024).unwrap();

        assert_eq!(tiny.max_segments, 126 / 8);
        assert_eq!(huge.max_segments, 126);
    }

    /// A26.
    #[test]
    fn limits_too_small_for_a_page_are_refused_with_the_needed_value() {
        for seg_max in [1, 0] {
            assert_eq!(
                of(&config(None, Some(seg_max)), 128, 1024),
                Err(Error::LimitTooSmall {
                    limit: "seg_max",
                    value: u16::try_from(seg_max).unwrap(),
                    needed: 2
                })
            );
        }
        assert_eq!(
            of(&config(None, None), 2, 1024),
            Err(Error::LimitTooSmall {
                limit: "queue_size",
                value: 2,
                needed: 4
            })
        );
    }

    proptest! {
        #![proptest_config(crate::proptest_config(4096))]

        #[test]
        fn every_request_within_the_limits_fits_the_queue_and_the_device(
            size_max in prop::option::of(prop_oneof![512..20_000_u32, any::<u32>().prop_map(|x| x.max(512))]),
            seg_max in prop::option::of(prop_oneof![0..300_u32, any::<u32>()]),
            [log, slots] in [0..16_u32, 0..9],
            table_entries in any::<u16>(),
            format in prop::sample::select(&[INDIRECT, DIRECT][..]),
        ) {
            let [size, slots] = [log, slots].map(|log| QueueSize::new(1 << log).unwrap());
            let room = Room { slots, table_entries };
            let config = config(size_max, seg_max);
            let found = limits(&config, format, size, room);
            // Two pages, header and status.
            let needed = 2 * PAGE.div_ceil(size_max.unwrap_or(u32::MAX)) + 2;
            let possible = needed <= 1 << log
                && needed <= table_entries.into()
                && seg_max.is_none_or(|most| needed - 2 <= most);
            prop_assert_eq!(found.is_ok(), possible);
            if let Ok(limits) = found {
                prop_assert!(limits.table_entries() <= limits.shape.longest_chain());
                prop_assert!(limits.shape.slots() <= slots);
                prop_assert!(limits.table_entries() <= table_entries);
                prop_assert!(seg_max.is_none_or(|most| u32::from(limits.data_descriptors) <= most));
                prop_assert!(limits.max_segments >= 2);
                prop_assert!(limits.max_transfer >= PAGE);
                prop_assert_eq!(limits.max_transfer % PAGE, 0);
                // A buffer that begins with a page's last byte.
                let pages = limits.max_transfer / PAGE + 1;
                prop_assert!(pages <= u32::from(limits.max_segments));
                let per_page = PAGE.div_ceil(size_max.unwrap_or(u32::MAX));
                prop_assert!(pages * per_page <= u32::from(limits.data_descriptors));
            }
        }
    }
}
