//! The limits of one request, as one pure function of the disk's configuration, the queue's
//! size, and the number of descriptors that a slot has room for.

use super::config::Config;
use crate::error::Error;
use crate::queue_size::QueueSize;

/// Bytes of a page. At worst, each page of a buffer is a segment of its own.
pub const PAGE: u32 = 4096;

/// The descriptors of a request that are not for data: the header's and the status's.
pub(super) const FRAME: u16 = 2;

/// The limits of one request. A request within them is never refused as
/// [`TooScattered`](super::Refusal::TooScattered).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The maximum number of requests in flight.
    pub queue_depth: u16,
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
}

/// The limits of requests to a disk with `config`, on a queue of `queue_size`,
/// with room for `table_entries` descriptors in each slot.
///
/// A descriptor chain is no longer than the queue (V33). It has at most `seg_max` data
/// descriptors of at most `size_max` bytes each (V92).
///
/// # Errors
///
/// [`Error::LimitTooSmall`].
pub fn limits(config: &Config, queue_size: QueueSize, table_entries: u16) -> Result<Limits, Error> {
    let chain = queue_size.get().min(table_entries);
    let by_chain = chain.saturating_sub(FRAME);
    let data_descriptors = match config.seg_max {
        Some(most) => u16::try_from(most).unwrap_or(u16::MAX).min(by_chain),
        None => by_chain,
    };
    // The number of descriptors that a page of data takes. If `size_max` is a page or more,
    // it is 1: a segment then takes no more descriptors than it has pages.
    let size_max = config.size_max.unwrap_or(u32::MAX);
    // At most 8, because `size_max` is at least a sector.
    let a_page = u16::try_from(PAGE.div_ceil(size_max.max(1))).unwrap_or(u16::MAX);
    let max_segments = data_descriptors.checked_div(a_page).unwrap_or(0);
    // A buffer that begins inside a page touches one page more than its length has.
    match u32::from(max_segments).checked_sub(1) {
        Some(pages) if pages > 0 => Ok(Limits {
            queue_depth: queue_size.get().min(crate::slots::MAX_SLOTS),
            max_segments,
            // Does not wrap: a product of 16 and 13 bits.
            max_transfer: pages.wrapping_mul(PAGE),
            data_descriptors,
            size_max,
        }),
        _ => Err(too_small(config, queue_size, data_descriptors, a_page)),
    }
}

/// Names the limit that leaves a request only `descriptors` data descriptors, of which
/// two pages need twice `a_page`.
fn too_small(config: &Config, queue_size: QueueSize, descriptors: u16, a_page: u16) -> Error {
    let needed = a_page.saturating_mul(2);
    if config.seg_max == Some(descriptors.into()) {
        Error::LimitTooSmall {
            limit: "seg_max",
            value: descriptors,
            needed,
        }
    } else {
        Error::LimitTooSmall {
            limit: "queue_size",
            value: queue_size.get(),
            needed: needed.saturating_add(FRAME),
        }
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
        }
    }

    fn queue(size: u16) -> QueueSize {
        QueueSize::new(size).unwrap()
    }

    #[test]
    fn a_plain_disk_is_limited_by_its_queue() {
        let limits = limits(&config(None, None), queue(256), 1024).unwrap();

        assert_eq!(limits.table_entries(), 256, "V33");
        assert_eq!(limits.max_segments, 254);
        assert_eq!(limits.max_transfer, 253 * 4096);
        assert_eq!(limits.queue_depth, 256);
    }

    #[test]
    fn seg_max_and_the_table_limit_a_request_too() {
        let by_disk = limits(&config(None, Some(126)), queue(256), 1024).unwrap();
        let by_table = limits(&config(None, Some(126)), queue(256), 34).unwrap();

        assert_eq!(by_disk.max_segments, 126);
        assert_eq!(by_table.max_segments, 32);
        assert_eq!(by_table.max_transfer, 31 * 4096);
    }

    /// A26.
    #[test]
    fn a_small_size_max_costs_descriptors_and_a_large_one_costs_none() {
        let tiny = limits(&config(Some(512), Some(u32::MAX)), queue(128), 1024).unwrap();
        let huge = limits(&config(Some(u32::MAX), Some(u32::MAX)), queue(128), 1024).unwrap();

        assert_eq!(tiny.max_segments, 126 / 8);
        assert_eq!(huge.max_segments, 126);
    }

    /// A26.
    #[test]
    fn limits_too_small_for_a_page_are_refused_with_the_needed_value() {
        for seg_max in [1, 0] {
            assert_eq!(
                limits(&config(None, Some(seg_max)), queue(128), 1024),
                Err(Error::LimitTooSmall {
                    limit: "seg_max",
                    value: u16::try_from(seg_max).unwrap(),
                    needed: 2
                })
            );
        }
        assert_eq!(
            limits(&config(None, None), queue(2), 1024),
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
            log in 0..=15_u32,
            table_entries in any::<u16>(),
        ) {
            let size = queue(1 << log);
            if let Ok(limits) = limits(&config(size_max, seg_max), size, table_entries) {
                prop_assert!(limits.table_entries() <= size.get());
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
