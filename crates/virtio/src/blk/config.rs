//! A disk's configuration, checked once. Impossible values are errors. Advice that is not
//! valid is ignored.
//!
//! | field | interpretation |
//! |---|---|
//! | `capacity` | 512-byte sectors, below 2^55; otherwise an error, because it overflows in bytes |
//! | `blk_size` | a power of two in 512..=4096; otherwise an error |
//! | `size_max` | at least 512; otherwise an error, because a sector would not fit a segment |
//! | `seg_max` | 0 counts as 1; [`limits`](super::limits()) bounds it above |
//! | `topology` | advice: an alignment with an exponent over 15 or an offset beyond the physical block is ignored |
//! | `num_queues` | 0 counts as 1 |
//! | `writeback` | 0 is write-through, any other value write-back: a wrong value costs a flush at most |

use block::{
    Alignment, BlockSize, Blocks, CachePolicy, Capacity, Sector, Sectors, Topology, WriteCache,
};
use virtio_spec::F;
use virtio_spec::blk;

use crate::error::Error;
use crate::registers::Registers;
use crate::transport::{self, ConfigSpace, Device, Live};

/// Offsets into the configuration (VIRTIO 1.3 §5.2.4). virtio-spec has the structure, but
/// accesses its fields only through pointers. A test compares the two.
mod field {
    pub(super) const CAPACITY: usize = 0x00;
    pub(super) const SIZE_MAX: usize = 0x08;
    pub(super) const SEG_MAX: usize = 0x0C;
    pub(super) const BLK_SIZE: usize = 0x14;
    pub(super) const PHYSICAL_BLOCK_EXP: usize = 0x18;
    pub(super) const ALIGNMENT_OFFSET: usize = 0x19;
    pub(super) const MIN_IO_SIZE: usize = 0x1A;
    pub(super) const OPT_IO_SIZE: usize = 0x1C;
    pub(super) const WRITEBACK: usize = 0x20;
    pub(super) const NUM_QUEUES: usize = 0x22;
}

/// The virtio-blk features that this crate uses.
const WANTED: blk::F = blk::F::SIZE_MAX
    .union(blk::F::SEG_MAX)
    .union(blk::F::RO)
    .union(blk::F::BLK_SIZE)
    .union(blk::F::FLUSH)
    .union(blk::F::TOPOLOGY)
    .union(blk::F::CONFIG_WCE)
    .union(blk::F::MQ);

/// Chooses the features to accept: those of `offered` that this crate uses, and whose
/// prerequisites are offered too (V04). A missing feature is no error here:
/// [`Device::accept`](transport::Device::accept) refuses a device without VERSION_1.
#[must_use]
pub fn choose_features(offered: F) -> F {
    let chosen = offered.intersection(transport::SUPPORTED.union(F::from(WANTED)));
    // A disk that offers CONFIG_WCE has to offer FLUSH too (VIRTIO 1.3 §5.2.5.2). A
    // write-back cache that cannot be flushed must not be switched on.
    if chosen.contains(F::from(blk::F::FLUSH)) {
        chosen
    } else {
        chosen.difference(F::from(blk::F::CONFIG_WCE))
    }
}

/// A disk's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The disk's capacity when it was read. It can change while the disk is in use.
    pub capacity: Capacity,
    /// The maximum length of a segment in bytes, at least 512.
    pub size_max: Option<u32>,
    /// The maximum number of data segments of a request, at least 1.
    pub seg_max: Option<u32>,
    /// The disk's advice on transfers, as far as it is valid.
    pub topology: Topology,
    /// The disk's write cache. [`CacheMode`] switches it if it is switchable.
    pub write_cache: WriteCache,
    /// Whether the disk is read-only (V85).
    pub read_only: bool,
    /// The number of request queues, at least 1.
    pub queues: u16,
}

/// The fields as the disk reports them. A field is 0 if no accepted feature includes it.
#[derive(Clone, Copy, Debug, Default)]
struct Raw {
    capacity: u64,
    size_max: u32,
    seg_max: u32,
    blk_size: u32,
    topology: RawTopology,
    writeback: u8,
    num_queues: u16,
}

#[derive(Clone, Copy, Debug, Default)]
struct RawTopology {
    physical_block_exp: u8,
    alignment_offset: u8,
    min_io_size: u16,
    opt_io_size: u32,
}

impl Config {
    /// Reads the configuration of a disk with the features `accepted`. It reads only the
    /// fields that these features imply (V09), all in one state of the configuration (V08).
    /// The device must have confirmed the features before, because `writeback` may be read
    /// only then (V81).
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn read<R: Registers>(space: ConfigSpace<'_, R>, accepted: F) -> Result<Self, Error> {
        let accepted = blk::F::from(accepted);
        let raw = space.consistent(|space| Raw::read(space, accepted))??;
        Self::check(raw, accepted)
    }

    fn check(raw: Raw, accepted: blk::F) -> Result<Self, Error> {
        let given = |feature| accepted.contains(feature);
        let block_size = if given(blk::F::BLK_SIZE) {
            BlockSize::new(raw.blk_size).ok_or(Error::BlockSize {
                bytes: raw.blk_size,
            })?
        } else {
            BlockSize::SECTOR
        };
        let sectors = raw.capacity;
        let capacity = Capacity::new(Sectors(sectors), block_size);
        let size_max = match raw.size_max {
            _ if !given(blk::F::SIZE_MAX) => None,
            bytes if bytes < Sector::BYTES => return Err(Error::SegmentSize { bytes }),
            bytes => Some(bytes),
        };
        Ok(Self {
            capacity: capacity.ok_or(Error::Capacity { sectors })?,
            size_max,
            seg_max: given(blk::F::SEG_MAX).then_some(raw.seg_max.max(1)),
            topology: if given(blk::F::TOPOLOGY) {
                raw.topology.check()
            } else {
                Topology::default()
            },
            write_cache: write_cache(accepted, raw.writeback),
            read_only: given(blk::F::RO),
            queues: raw.num_queues.max(1),
        })
    }

    /// Whether the disk supports flushes.
    #[must_use]
    pub fn has_flush(&self) -> bool {
        self.write_cache != WriteCache::Absent
    }
}

/// The write cache: switchable if there is a `writeback` field, otherwise write-back if
/// there is a flush (V80).
fn write_cache(accepted: blk::F, writeback: u8) -> WriteCache {
    if accepted.contains(blk::F::CONFIG_WCE) {
        WriteCache::Switchable(cache_policy(writeback))
    } else if accepted.contains(blk::F::FLUSH) {
        WriteCache::Fixed(CachePolicy::WriteBack)
    } else {
        WriteCache::Absent
    }
}

fn cache_policy(writeback: u8) -> CachePolicy {
    match writeback {
        0 => CachePolicy::WriteThrough,
        _ => CachePolicy::WriteBack,
    }
}

/// The disk's `writeback` field, which switches its write cache on and off
/// (VIRTIO 1.3 §5.2.5). A method makes one or two register accesses, and runs at any IRQL.
#[derive(Clone, Debug)]
pub struct CacheMode<R> {
    config: R,
}

/// The disk did not keep the cache mode that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the disk refuses the cache mode: writeback reads back {found:#x}")]
pub struct CacheModeRefused {
    /// The value of `writeback` that was read back. FFh if the device is gone.
    pub found: u8,
}

impl<R: Registers + Clone> CacheMode<R> {
    /// The field of a live disk. Returns `None` unless `CONFIG_WCE` was negotiated: without
    /// it the driver may not access the field (VIRTIO 1.3 §5.2.5, 5.2.6).
    #[must_use]
    pub fn new(device: &Device<R, Live>) -> Option<Self> {
        let config = device.config_window();
        let negotiated = device.accepted().contains(F::from(blk::F::CONFIG_WCE));
        (negotiated && config.length() > field::WRITEBACK).then(|| Self {
            config: config.clone(),
        })
    }
}

impl<R: Registers> CacheMode<R> {
    /// Reads the mode.
    #[must_use]
    pub fn get(&self) -> CachePolicy {
        cache_policy(self.config.read_u8(field::WRITEBACK))
    }

    /// Switches the write cache and reads the mode back.
    ///
    /// Write-through applies to later writes only. Data that is in the cache already
    /// becomes durable by a later flush (VIRTIO 1.3 §5.2.5, 5.2.6).
    ///
    /// # Errors
    ///
    /// [`CacheModeRefused`].
    pub fn set(&self, policy: CachePolicy) -> Result<(), CacheModeRefused> {
        let wanted = u8::from(policy == CachePolicy::WriteBack);
        self.config.write_u8(field::WRITEBACK, wanted);
        match self.config.read_u8(field::WRITEBACK) {
            found if found == wanted => Ok(()),
            found => Err(CacheModeRefused { found }),
        }
    }
}

impl Raw {
    fn read<R: Registers>(space: &ConfigSpace<'_, R>, accepted: blk::F) -> Result<Self, Error> {
        let missing = |offset| Error::FieldMissing { offset };
        let given = |feature| accepted.contains(feature);
        let u32_if = |feature, offset| match given(feature) {
            true => space.u32(offset).ok_or(missing(offset)),
            false => Ok(0),
        };
        Ok(Self {
            capacity: space.u64(field::CAPACITY).ok_or(missing(field::CAPACITY))?,
            size_max: u32_if(blk::F::SIZE_MAX, field::SIZE_MAX)?,
            seg_max: u32_if(blk::F::SEG_MAX, field::SEG_MAX)?,
            blk_size: u32_if(blk::F::BLK_SIZE, field::BLK_SIZE)?,
            topology: if given(blk::F::TOPOLOGY) {
                RawTopology::read(space).ok_or(missing(field::PHYSICAL_BLOCK_EXP))?
            } else {
                RawTopology::default()
            },
            writeback: if given(blk::F::CONFIG_WCE) {
                space
                    .u8(field::WRITEBACK)
                    .ok_or(missing(field::WRITEBACK))?
            } else {
                0
            },
            num_queues: if given(blk::F::MQ) {
                space
                    .u16(field::NUM_QUEUES)
                    .ok_or(missing(field::NUM_QUEUES))?
            } else {
                1
            },
        })
    }
}

impl RawTopology {
    fn read<R: Registers>(space: &ConfigSpace<'_, R>) -> Option<Self> {
        Some(Self {
            physical_block_exp: space.u8(field::PHYSICAL_BLOCK_EXP)?,
            alignment_offset: space.u8(field::ALIGNMENT_OFFSET)?,
            min_io_size: space.u16(field::MIN_IO_SIZE)?,
            opt_io_size: space.u32(field::OPT_IO_SIZE)?,
        })
    }

    fn check(self) -> Topology {
        let lowest_aligned = self.alignment_offset.into();
        Topology {
            alignment: Alignment::new(self.physical_block_exp, lowest_aligned).unwrap_or_default(),
            granularity: Blocks(self.min_io_size.into()),
            optimal: Blocks(self.opt_io_size.into()),
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    #![expect(unsafe_code, reason = "virtio-spec names fields by pointers only")]

    use core::ptr::NonNull;

    use proptest::prelude::*;
    use virtio_spec::blk::{ConfigVolatileFieldAccess, TopologyVolatileFieldAccess};
    use virtio_spec::le128;
    use volatile::VolatilePtr;

    use super::*;

    fn disk() -> Raw {
        Raw {
            capacity: 2048,
            size_max: 4096,
            seg_max: 126,
            blk_size: 512,
            topology: RawTopology::default(),
            writeback: 1,
            num_queues: 4,
        }
    }

    fn check(change: impl FnOnce(&mut Raw)) -> Result<Config, Error> {
        let mut raw = disk();
        change(&mut raw);
        Config::check(raw, WANTED)
    }

    #[test]
    fn the_configuration_has_the_layout_of_the_virtio_spec_crate() {
        let mut memory = [0_u32; size_of::<blk::Config>() / 4];
        let start = NonNull::from(&mut memory).cast::<blk::Config>();
        // SAFETY: The memory has this size and alignment, and is not read.
        let fields = unsafe { VolatilePtr::new(start) };
        let base = start.addr().get();
        let offset = |field: NonNull<()>| field.addr().get() - base;

        macro_rules! same {
            ($($($field:ident).+: $ours:ident),* $(,)?) => {$(
                assert_eq!(
                    offset(fields.$($field()).+.as_raw_ptr().cast()),
                    field::$ours,
                    stringify!($($field).+)
                );
            )*};
        }
        same! {
            capacity: CAPACITY,
            size_max: SIZE_MAX,
            seg_max: SEG_MAX,
            blk_size: BLK_SIZE,
            topology.physical_block_exp: PHYSICAL_BLOCK_EXP,
            topology.alignment_offset: ALIGNMENT_OFFSET,
            topology.min_io_size: MIN_IO_SIZE,
            topology.opt_io_size: OPT_IO_SIZE,
            writeback: WRITEBACK,
            num_queues: NUM_QUEUES,
        }
    }

    /// A24.
    #[test]
    fn a_capacity_that_overflows_in_bytes_is_refused() {
        for sectors in [u64::MAX, u64::MAX / 512 + 1] {
            assert_eq!(
                check(|raw| raw.capacity = sectors),
                Err(Error::Capacity { sectors })
            );
        }
    }

    /// A25.
    #[test]
    fn invalid_block_sizes_are_refused() {
        for bytes in [0, 1, 256, 511, 513, 520, 1536, 8192, 1 << 31, u32::MAX] {
            assert_eq!(
                check(|raw| raw.blk_size = bytes),
                Err(Error::BlockSize { bytes })
            );
        }
        for bytes in [512, 1024, 2048, 4096] {
            assert_eq!(
                check(|raw| raw.blk_size = bytes)
                    .unwrap()
                    .capacity
                    .block_size(),
                BlockSize::new(bytes).unwrap()
            );
        }
    }

    /// A26.
    #[test]
    fn segments_too_small_for_a_sector_are_refused_and_seg_max_0_means_1() {
        for bytes in [0, 1, 511] {
            assert_eq!(
                check(|raw| raw.size_max = bytes),
                Err(Error::SegmentSize { bytes })
            );
        }
        let smallest = check(|raw| raw.size_max = 512).unwrap();
        assert_eq!(smallest.size_max, Some(512));
        assert_eq!(check(|raw| raw.seg_max = 0).unwrap().seg_max, Some(1));
    }

    #[test]
    fn fields_whose_feature_is_not_accepted_are_ignored() {
        let raw = Raw {
            size_max: 1,
            seg_max: 7,
            blk_size: 3,
            ..disk()
        };
        let config = Config::check(raw, blk::F::empty()).unwrap();

        assert_eq!((config.size_max, config.seg_max), (None, None));
        assert_eq!(config.capacity.block_size(), BlockSize::SECTOR);
        assert!(!config.has_flush() && !config.read_only);
        assert!(check(|_| ()).unwrap().has_flush());
    }

    /// A29.
    #[test]
    fn an_invalid_topology_is_ignored() {
        for (exponent, offset, alignment) in [
            (16, 0, None),
            (31, 0, None),
            (32, 0, None),
            (64, 0, None),
            (255, 0, None),
            (3, 8, None),
            (3, 7, Alignment::new(3, 7)),
        ] {
            let config = check(|raw| {
                raw.topology.physical_block_exp = exponent;
                raw.topology.alignment_offset = offset;
            });
            let expected = alignment.unwrap_or_default();
            assert_eq!(config.unwrap().topology.alignment, expected);
        }
    }

    /// V80.
    #[test]
    fn the_write_cache_follows_from_the_features() {
        let flush = blk::F::FLUSH;
        let both = blk::F::FLUSH | blk::F::CONFIG_WCE;
        for (features, writeback, cache) in [
            (blk::F::empty(), 1, WriteCache::Absent),
            (flush, 0, WriteCache::Fixed(CachePolicy::WriteBack)),
            (both, 0, WriteCache::Switchable(CachePolicy::WriteThrough)),
            (both, 1, WriteCache::Switchable(CachePolicy::WriteBack)),
            (both, 0xFF, WriteCache::Switchable(CachePolicy::WriteBack)),
        ] {
            assert_eq!(write_cache(features, writeback), cache);
        }
    }

    #[test]
    fn config_wce_is_not_accepted_without_flush() {
        let wce = F::from(blk::F::CONFIG_WCE);
        assert!(!choose_features(wce).contains(wce));

        let flush = F::from(blk::F::FLUSH);
        assert!(choose_features(wce | flush).contains(wce));
    }

    proptest! {
        #![proptest_config(crate::proptest_config(1024))]

        /// V04, V06.
        #[test]
        fn only_offered_and_known_features_are_chosen(bits in any::<u128>()) {
            let offered = F::from_bits_retain(le128::from_ne(bits));

            let chosen = choose_features(offered);

            prop_assert!(offered.contains(chosen));
            prop_assert!((transport::SUPPORTED | F::from(WANTED)).contains(chosen));
            prop_assert!(!chosen.contains(F::from(blk::F::ZONED)), "V82");
        }

        #[test]
        fn an_accepted_configuration_is_consistent(
            capacity in any::<u64>(),
            numbers in any::<[u32; 4]>(),
            bytes in any::<[u8; 3]>(),
            features in any::<u16>(),
        ) {
            let raw = Raw {
                capacity: capacity >> (numbers[3] % 64),
                size_max: numbers[0] >> (bytes[0] % 32),
                seg_max: numbers[1],
                blk_size: 1_u32.rotate_left(numbers[2]),
                topology: RawTopology {
                    physical_block_exp: bytes[0],
                    alignment_offset: bytes[1],
                    min_io_size: features,
                    opt_io_size: numbers[2],
                },
                writeback: bytes[2],
                num_queues: features,
            };
            let accepted = blk::F::from_bits_retain(le128::from_ne(features.into()));

            if let Ok(config) = Config::check(raw, accepted) {
                let block_size = u128::from(config.capacity.block_size().bytes());
                let capacity = u128::from(config.capacity.blocks().0) * block_size;
                prop_assert!(capacity <= u128::from(raw.capacity) * 512, "V84");
                prop_assert!(capacity < 1 << 64);
                prop_assert!(config.size_max.is_none_or(|size| size >= 512));
                prop_assert!(config.seg_max.is_none_or(|segments| segments >= 1));
            }
        }
    }
}
