//! The configuration of a disk, read from devices that change it or truncate it.

use block::{
    Alignment, BlockSize, Blocks, CachePolicy, Capacity, Lba, Sector, Sectors, Topology, WriteCache,
};
use testbed_virtio::blk_config::BlkConfig;
use testbed_virtio::function::Structure;
use virtio::Error;
use virtio::blk::{CacheMode, CacheModeRefused, Config, choose_features};
use virtio::spec::{F, blk};
use virtio::transport::{Device, Negotiated};

use crate::pci_device::{OFFERED, PciDevice, Window};

fn disk_features() -> F {
    OFFERED
        | F::from(
            blk::F::SIZE_MAX
                | blk::F::SEG_MAX
                | blk::F::BLK_SIZE
                | blk::F::FLUSH
                | blk::F::TOPOLOGY
                | blk::F::CONFIG_WCE
                | blk::F::RO,
        )
}

fn capacity(sectors: u64, block_size: u32) -> Capacity {
    let block_size = BlockSize::new(block_size).expect("a power of two");
    Capacity::new(Sectors(sectors), block_size).expect("below 2^64 bytes")
}

/// The configuration of a disk with this capacity and 4096-byte blocks.
fn config_space(capacity: u64) -> BlkConfig {
    BlkConfig {
        capacity,
        size_max: 65536,
        seg_max: 126,
        blk_size: 4096,
        physical_block_exp: 2,
        alignment_offset: 1,
        min_io_size: 8,
        opt_io_size: 256,
        writeback: true,
        num_queues: 1,
    }
}

fn device(features: F, config: BlkConfig) -> PciDevice {
    let pci = PciDevice::new();
    pci.offer(features);
    pci.function.borrow_mut().config = config;
    pci
}

fn negotiated(pci: &PciDevice) -> Device<Window<'_>, Negotiated> {
    let device = pci.reset_device().acknowledge().expect("a device");
    let features = choose_features(device.offered());
    device.accept(features).expect("features")
}

fn read(pci: &PciDevice) -> Result<Config, Error> {
    let device = negotiated(pci);
    Config::read(device.config(), device.accepted())
}

#[test]
fn the_fields_of_accepted_features_are_read() {
    let pci = device(disk_features(), config_space(8 * 1000));

    let config = read(&pci).unwrap();

    assert_eq!(config.capacity, capacity(8000, 4096));
    assert_eq!(config.size_max, Some(65536));
    assert_eq!(config.seg_max, Some(126));
    let topology = Topology {
        alignment: Alignment::new(2, 1).unwrap(),
        granularity: Blocks(8),
        optimal: Blocks(256),
    };
    assert_eq!(config.topology, topology);
    let write_back = WriteCache::Switchable(CachePolicy::WriteBack);
    assert_eq!(config.write_cache, write_back);
    assert!(config.has_flush() && config.read_only);
    let extent = config.capacity.extent(Lba(3), Blocks(2)).unwrap();
    assert_eq!(extent.sector(), Sector(24));
}

/// V09.
#[test]
fn a_field_without_its_feature_is_not_read() {
    let pci = device(OFFERED, config_space(100));

    let config = read(&pci).unwrap();

    let expected = Config {
        capacity: capacity(100, 512),
        size_max: None,
        seg_max: None,
        topology: Topology::default(),
        write_cache: WriteCache::Absent,
        read_only: false,
        queues: 1,
    };
    assert_eq!(config, expected);
    let trace = pci.trace.borrow();
    let reads = trace.iter().filter(|it| it.structure == Structure::Device);
    assert_eq!(reads.map(|it| it.offset).collect::<Vec<_>>(), [0, 4]);
}

/// V81: the configuration is read only after FEATURES_OK.
#[test]
fn the_configuration_is_read_after_features_ok() {
    let pci = device(disk_features(), config_space(8));

    read(&pci).unwrap();

    let trace = pci.trace.borrow();
    let features_ok = trace
        .iter()
        .position(|it| it.offset == 0x14 && it.written.is_some_and(|it| it & 8 != 0));
    let first = trace
        .iter()
        .position(|it| it.structure == Structure::Device);
    assert!(features_ok < first);
}

/// V10.
#[test]
fn a_configuration_longer_than_the_known_fields_is_accepted() {
    let pci = device(disk_features(), config_space(8000));
    pci.config_length.set(4096);

    assert!(read(&pci).is_ok());
}

#[test]
fn a_configuration_without_a_field_of_an_accepted_feature_is_refused() {
    for (length, offset) in [
        (4, 0x00),
        (8, 0x08),
        (0x10, 0x14),
        (0x1C, 0x18),
        (0x20, 0x20),
    ] {
        let pci = device(disk_features(), config_space(8000));
        pci.config_length.set(length);

        assert_eq!(read(&pci), Err(Error::FieldMissing { offset }));
    }
}

/// A30.
#[test]
fn a_generation_that_never_stops_changing_is_an_error() {
    let pci = device(disk_features(), config_space(8000));
    pci.function.borrow_mut().common.faults.generation_runs = true;

    let result = read(&pci);

    assert_eq!(result, Err(Error::ConfigUnstable));
    assert!(pci.config_reads.get() < 64 * 16, "bounded");
}

/// The halves of a number, and all fields of a configuration, are values of the same moment.
#[test]
fn a_configuration_that_changes_between_two_reads_is_read_consistently() {
    let old = config_space(0x1_0000_0008);
    let new = BlkConfig {
        blk_size: 512,
        ..config_space(0x2_0000_0000 - 8)
    };
    for after in 1..=9 {
        let pci = device(disk_features(), old);
        pci.config_change.set(Some((after, new)));

        let config = read(&pci).unwrap();

        let seen = config.capacity;
        let moments = [
            capacity(0x1_0000_0008, 4096),
            capacity(0x2_0000_0000 - 8, 512),
        ];
        assert!(moments.contains(&seen), "{seen:x?} after {after} reads");
    }
}

#[test]
fn the_configuration_of_a_removed_disk_is_refused() {
    let pci = device(disk_features(), config_space(8000));
    let live = negotiated(&pci).start().unwrap();

    pci.gone.set(true);

    assert_eq!(
        Config::read(live.config(), live.accepted()),
        Err(Error::BlockSize { bytes: u32::MAX })
    );
}

/// VIRTIO 1.3 §5.2.5, 5.2.6.
#[test]
fn the_cache_mode_is_switched_by_one_byte_and_read_back() {
    let pci = device(disk_features(), config_space(8000));
    let live = negotiated(&pci).start().unwrap();
    let mode = CacheMode::new(&live).unwrap();
    assert_eq!(mode.get(), CachePolicy::WriteBack);
    let before = pci.trace.borrow().len();

    assert_eq!(mode.set(CachePolicy::WriteThrough), Ok(()));

    let accesses: Vec<_> = pci.trace.borrow()[before..]
        .iter()
        .map(|it| (it.structure, it.offset, it.written))
        .collect();
    let field = |written| (Structure::Device, 0x20, written);
    assert_eq!(accesses, [field(Some(0)), field(None)]);
    assert_eq!(mode.get(), CachePolicy::WriteThrough);
    assert_eq!(mode.clone().set(CachePolicy::WriteBack), Ok(()));
    assert!(pci.function.borrow().config.writeback);
}

#[test]
fn a_cache_mode_that_the_disk_does_not_keep_is_an_error() {
    let pci = device(disk_features(), config_space(8000));
    pci.function.borrow_mut().keeps_writeback = true;
    let live = negotiated(&pci).start().unwrap();
    let mode = CacheMode::new(&live).unwrap();

    let refused = mode.set(CachePolicy::WriteThrough);
    assert_eq!(refused, Err(CacheModeRefused { found: 1 }));

    pci.gone.set(true);
    for wanted in [CachePolicy::WriteThrough, CachePolicy::WriteBack] {
        assert_eq!(mode.set(wanted), Err(CacheModeRefused { found: 0xFF }));
    }
}

/// VIRTIO 1.3 §5.2.5, 5.2.6: the field is accessed only if CONFIG_WCE was negotiated.
#[test]
fn without_config_wce_the_cache_mode_is_not_switched() {
    let wce = F::from(blk::F::CONFIG_WCE);
    let pci = device(disk_features().difference(wce), config_space(8000));
    let live = negotiated(&pci).start().unwrap();
    assert!(CacheMode::new(&live).is_none());
    let config = Config::read(live.config(), live.accepted()).unwrap();
    let fixed = WriteCache::Fixed(CachePolicy::WriteBack);
    assert_eq!(config.write_cache, fixed);

    let pci = device(disk_features(), config_space(8000));
    pci.config_length.set(0x20);
    let live = negotiated(&pci).start().unwrap();
    assert!(CacheMode::new(&live).is_none());
}
