//! Violations by the driver, and the device's reaction. The order of initialisation is tested
//! beside the registers.

use testbed_devices::{BlkSettings, DeviceId};
use testbed_machine::pci::PciFunction;

use crate::driver::{
    COMMON, DEVICE, Driver, EVENT_IDX, FLUSH, FLUSH_REQUEST, GET_ID, HOLE, IN, INDIRECT, IOERR,
    ISR, MEMORY, NOTIFY, OK, OUT, PACKED, Piece, SEG_MAX, SIZE_MAX, Setup, UNSUPP,
};

/// A device at FEATURES_OK, with queue 0 selected.
fn negotiated() -> Driver {
    negotiated_with(0)
}

/// [`negotiated`], with `features` too.
fn negotiated_with(features: u64) -> Driver {
    let settings = BlkSettings {
        features: BlkSettings::FEATURES | features,
        ..BlkSettings::default()
    };
    let mut driver = Driver::powered_up(256, settings);
    driver.negotiate(Setup {
        features: Setup::default().features | features,
        ..Setup::default()
    });
    driver
}

/// Checks that the only driver error contains `text`.
fn expect_error(driver: &Driver, text: &str) {
    let error = driver.driver_error();
    assert!(error.contains(text), "{error} is not {text}");
}

/// V30, V50.
#[test]
fn rings_outside_memory_or_misaligned_are_refused() {
    const DESC: u64 = MEMORY;
    const AVAIL: u64 = MEMORY + 0x1000;
    const USED: u64 = MEMORY + 0x2000;
    for (features, parts, error) in [
        (0, [HOLE, AVAIL, USED], "not completely in memory"),
        (0, [DESC, HOLE, USED], "not completely in memory"),
        (0, [DESC, AVAIL, HOLE - 16], "not completely in memory"),
        (0, [0, 0, 0], "not completely in memory"),
        (0, [!0xf, AVAIL, USED], "not completely in memory"),
        (0, [DESC + 8, AVAIL, USED], "align"),
        (0, [DESC, AVAIL + 1, USED], "align"),
        (0, [DESC, AVAIL, USED + 2], "align"),
        (PACKED, [HOLE, AVAIL, USED], "not completely in memory"),
        (PACKED, [DESC + 8, AVAIL, USED], "align"),
        (PACKED, [DESC, AVAIL + 2, USED], "align"),
        (PACKED, [DESC, AVAIL, USED + 2], "align"),
    ] {
        let driver = negotiated_with(features);
        driver.prepare_queue(Setup::default());

        driver.enable_at(parts);

        assert_eq!(driver.get::<2>(COMMON + 0x1c), 0, "{parts:x?}");
        expect_error(&driver, error);
    }
}

/// V39.
#[test]
fn a_used_ring_that_is_not_zeroed_is_a_driver_error() {
    let driver = negotiated();
    let ring = driver.prepare_queue(Setup::default());
    driver.write(ring.used, &[1]);

    driver.enable_at([ring.desc, ring.avail, ring.used]);

    expect_error(&driver, "not zeroed");
}

/// V19, V31.
#[test]
fn a_request_that_cannot_be_answered_stops_the_device() {
    let outside = "which are not completely in memory";
    // The change to a read, and the error.
    type Case = (fn(&mut Vec<Piece>), &'static str);
    let cases: [Case; 8] = [
        (|read| read[1].1 = 0, "length 0"),
        (
            |read| read.swap(0, 1),
            "a readable descriptor follows a writable one",
        ),
        (|read| read.truncate(1), "no writable byte for its status"),
        (|read| read[0].1 = 15, "15 readable bytes, less than the 16"),
        (|read| read[1].0 = HOLE, outside),
        (|read| read[1].0 = HOLE - 511, outside),
        (|read| read[1].0 = 0, outside),
        (|read| read[1].0 = u64::MAX - 511, outside),
    ];
    for (change, error) in cases {
        let mut driver = Driver::default_ready();
        let (mut read, _, _) = driver.request(IN, 0, &[0; 512]);
        change(&mut read);

        driver.start(&read);

        driver.wait_needs_reset();
        assert_eq!(driver.used_index(), 0);
        expect_error(&driver, error);
        expect_error(&driver, "; the device stops until it is reset");
    }
}

/// V32, V33, V35.
#[test]
fn a_chain_or_an_index_that_is_not_valid_stops_the_device() {
    fn describe(driver: &Driver, index: u16, bytes: u32, flags: u16, next: u16) {
        let piece = (MEMORY, bytes, false);
        driver.describe(driver.ring.desc, index, piece, flags, next);
    }
    // What the driver does before it makes a head available, the head, and the error.
    type Case = (fn(&mut Driver), u16, &'static str);
    let cases: [Case; 7] = [
        (
            |driver| {
                describe(driver, 0, 16, 1, 1);
                describe(driver, 1, 16, 1, 0);
            },
            0,
            "breaks off after 64 descriptors",
        ),
        (|_| {}, 64, "breaks off after 0 descriptors"),
        (
            |driver| describe(driver, 0, 16, 1, 64),
            0,
            "breaks off after 1 descriptors",
        ),
        (
            |driver| {
                let inner = driver.buffer(&[0; 32]);
                driver.describe(MEMORY, 0, (inner, 32, false), 4, 0);
                describe(driver, 1, 32, 4, 0);
            },
            1,
            "nests indirect tables",
        ),
        (|driver| describe(driver, 0, 40, 4, 0), 0, "breaks off"),
        (
            |driver| {
                for _ in 0..3 {
                    driver.call(IN, 0, &[0; 512]);
                }
                driver.ring.next_avail = 1;
            },
            0,
            "available index went back",
        ),
        (
            |driver| driver.ring.next_avail = 64,
            0,
            "more than the queue holds",
        ),
    ];
    for (prepare, head, error) in cases {
        let mut driver = Driver::default_ready();
        prepare(&mut driver);

        driver.publish(head);
        driver.notify_queue();

        driver.wait_needs_reset();
        expect_error(&driver, error);
    }
}

/// Runs a read of 512 bytes in an indirect table of queue 0, which must succeed.
fn read_indirectly(driver: &mut Driver, pieces: u64, flags: u8) {
    let header = driver.header(IN, 0);
    let data = driver.buffer(&[0; 512]);
    let status = driver.buffer(&[0xff]);
    let mut chain = vec![(header, 16, false)];
    let bytes = 512 / pieces;
    chain.extend((0..pieces).map(|piece| (data + piece * bytes, bytes as u32, true)));
    chain.push((status, 1, true));
    let head = driver.indirect(&chain);
    let descriptor = driver.ring.desc + 16 * u64::from(head);
    driver.write(descriptor + 12, &[flags, 0]);

    driver.publish(head);
    driver.notify_if_wanted();
    driver.wait_used();

    assert_eq!(driver.read(status, 1), [OK]);
}

/// V33.
#[test]
fn a_wrong_use_of_indirect_tables_is_served_and_a_driver_error() {
    let small = Setup {
        queue_size: 4,
        ..Setup::default()
    };
    // The number of data descriptors, and the flags of the descriptor of the table.
    for (setup, pieces, flags, error) in [
        (
            Setup::without(INDIRECT),
            1,
            4,
            "without VIRTIO_F_INDIRECT_DESC",
        ),
        (Setup::default(), 1, 5, "both INDIRECT and NEXT"),
        (small, 4, 4, "a chain of 6 descriptors in a queue of 4"),
    ] {
        let mut driver = Driver::with(setup);

        read_indirectly(&mut driver, pieces, flags);

        expect_error(&driver, error);
    }
}

/// V92.
#[test]
fn more_segments_than_seg_max_are_driver_errors() {
    let mut driver = Driver::of(|settings, _| settings.seg_max = 2);
    assert_ne!(driver.features & SEG_MAX, 0);

    read_indirectly(&mut driver, 2, 4);
    assert_eq!(driver.driver_errors(), [""; 0]);
    read_indirectly(&mut driver, 4, 4);

    expect_error(&driver, "a request of 4 data segments");
}

/// V92.
#[test]
fn a_longer_segment_than_size_max_is_a_driver_error() {
    let mut driver = Driver::of(|settings, _| {
        settings.features |= SIZE_MAX;
        settings.size_max = 512;
    });
    driver.call(IN, 0, &[0; 512]);
    assert_eq!(driver.driver_errors(), [""; 0]);

    assert_eq!(driver.call(IN, 0, &[0; 1024]).0, OK);

    expect_error(&driver, "a data segment of 1024 bytes");
}

/// V15.
#[test]
fn a_chain_that_the_device_has_is_a_driver_error_if_it_is_made_available_again() {
    let mut driver = Driver::of(|settings, _| settings.faults.stalled.push(50..51));
    let (pieces, _, _) = driver.request(IN, 50, &[0; 512]);
    let head = driver.start(&pieces);
    assert_eq!(driver.call(IN, 0, &[0; 512]).0, OK);

    driver.publish(head);
    driver.notify_if_wanted();
    assert_eq!(driver.call(IN, 0, &[0; 512]).0, OK);

    expect_error(&driver, "made available again while the device had it");
}

/// V84, V87.
#[test]
fn requests_with_a_wrong_range_or_length_fail() {
    let beyond = "beyond the capacity of 256";
    for (kind, sector, bytes, error) in [
        (IN, 256, 512, beyond),
        (OUT, 255, 1024, beyond),
        (IN, u64::MAX, 512, beyond),
        (OUT, 1 << 55, 512, beyond),
        (IN, 255, 100, "no multiple of 512"),
        (OUT, 255, 513, "no multiple of 512"),
        (IN, 255, 0, "no multiple of 512"),
        (OUT, 255, 0, "no multiple of 512"),
    ] {
        let mut driver = Driver::default_ready();

        let (status, _, _) = driver.call(kind, sector, &vec![0; bytes]);

        assert_eq!(status, IOERR);
        expect_error(&driver, error);
        assert_eq!(driver.disk.image().bytes(), 256 * 512);
        assert_eq!(driver.image(255, 512), [255; 512]);
    }
}

#[test]
fn data_in_the_wrong_direction_is_a_driver_error() {
    let mut driver = Driver::default_ready();
    let (mut pieces, _, status) = driver.request(OUT, 1, &[0xaa; 512]);
    let extra = driver.buffer(&[0xee; 512]);
    pieces.insert(2, (extra, 512, true));

    assert_eq!(driver.run(&pieces), 513);

    assert_eq!(driver.read(status, 1), [OK]);
    assert_eq!(driver.read(extra, 512), [0; 512]);
    assert_eq!(driver.image(1, 512), [0xaa; 512]);
    expect_error(&driver, "in the other direction");
}

/// V80, V86.
#[test]
fn a_flush_with_a_sector_or_without_the_feature_is_a_driver_error() {
    for (setup, sector, status, error) in [
        (Setup::default(), 1, OK, "flush request with sector 1"),
        (
            Setup::without(FLUSH),
            0,
            UNSUPP,
            "without VIRTIO_BLK_F_FLUSH",
        ),
    ] {
        let mut driver = Driver::with(setup);

        assert_eq!(driver.call(FLUSH_REQUEST, sector, &[]).0, status);

        expect_error(&driver, error);
    }
    // Useless data is allowed.
    assert_eq!(
        Driver::default_ready().call(FLUSH_REQUEST, 0, &[0; 512]).0,
        OK
    );
}

/// V89.
#[test]
fn a_get_id_of_another_length_is_a_driver_error_and_filled() {
    for bytes in [8, 64] {
        let mut driver = Driver::of(|settings, _| settings.serial = "serial-number".into());

        let (status, data, length) = driver.call(GET_ID, 0, &vec![0xee; bytes]);

        assert_eq!((status, length), (OK, bytes as u32 + 1));
        let mut expected = b"serial-number".to_vec();
        expected.resize(bytes, 0);
        assert_eq!(data, expected);
        expect_error(&driver, "it must be 20");
    }
}

#[test]
fn a_notification_for_a_queue_that_is_not_enabled_is_a_driver_error() {
    let driver = Driver::of(|_, setup| setup.queue = false);

    driver.notify_queue();

    expect_error(&driver, "queue 0, which is not enabled");
}

/// V71.
#[test]
fn notifications_must_be_16_bits_with_the_queues_index_at_its_address() {
    for (offset, data, error) in [
        (0, &[0; 4][..], "of 4 bytes; it must have 2"),
        (0, &[0], "of 1 bytes; it must have 2"),
        (0, &[3, 0], "queue 0 with the value 3"),
        (2, &[0, 0], "no queue's address"),
        (4, &[1, 0], "no queue's address"),
    ] {
        let driver = Driver::default_ready();

        driver.disk.bar_write(4, NOTIFY + offset, data);

        expect_error(&driver, error);
    }
}

/// V36.
#[test]
fn avail_flags_must_be_what_the_features_allow() {
    for (setup, flags, text) in [
        (Setup::default(), 1, "0x1 with EVENT_IDX"),
        (Setup::without(EVENT_IDX), 2, "0x2 without EVENT_IDX"),
    ] {
        let mut driver = Driver::with(setup);
        driver.set_avail_flags(flags);

        driver.call(IN, 0, &[0; 512]);
        driver.receiver.wait(|seen| !seen.messages.is_empty());

        expect_error(&driver, text);
    }
}

#[test]
fn registers_are_absent_without_memory_decoding() {
    let driver = Driver::powered_up(256, BlkSettings::default());
    driver.command(0);

    assert_eq!(driver.get::<4>(DEVICE), 0xffff_ffff);

    expect_error(&driver, "memory decoding off");
}

#[test]
fn nothing_is_served_without_bus_mastering() {
    let mut driver = Driver::default_ready();
    driver.command(0x0002);
    let (pieces, _, _) = driver.request(IN, 0, &[0; 512]);
    driver.enqueue(&pieces);

    driver.notify_queue();
    expect_error(&driver, "bus mastering off");
    assert_eq!(driver.used_index(), 0);

    driver.command(0x0006);
    driver.notify_queue();
    driver.wait_used();
}

#[test]
fn accesses_outside_the_structures_are_driver_errors() {
    let wrong: [&dyn Fn(&Driver); 9] = [
        &|driver| driver.disk.bar_read(4, 0x4000, &mut [0; 4]),
        &|driver| driver.disk.bar_write(4, u64::MAX - 1, &[0; 4]),
        &|driver| driver.disk.bar_read(1, 0x1000, &mut [0; 4]),
        &|driver| driver.disk.bar_read(0, 0, &mut [0; 4]),
        &|driver| driver.disk.bar_read(7, 0, &mut [0; 4]),
        &|driver| driver.disk.bar_read(4, NOTIFY, &mut [0; 2]),
        &|driver| driver.disk.bar_read(4, ISR, &mut [0; 4]),
        &|driver| driver.disk.bar_read(4, ISR + 1, &mut [0; 1]),
        &|driver| driver.disk.bar_write(4, ISR, &[0]),
    ];
    for access in wrong {
        let driver = Driver::default_ready();

        access(&driver);

        driver.driver_error();
    }
}

#[test]
fn the_legacy_interface_reads_ones() {
    let driver = Driver::of(|settings, _| settings.device_id = DeviceId::Transitional);
    let mut data = [0; 4];

    driver.disk.bar_read(0, 0, &mut data);

    assert_eq!(data, [0xff; 4]);
    expect_error(&driver, "legacy interface");
}

#[test]
fn accesses_of_any_width_and_place_never_panic() {
    let mut driver = Driver::default_ready();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };

    for _ in 0..200_000 {
        let width = [1, 2, 4, 8][next() as usize % 4];
        let bar = [0, 1, 4][next() as usize % 3];
        let offset = next() % 0x4010;
        let data = next().to_le_bytes();
        match next() % 4 {
            0 => driver.disk.bar_read(bar, offset, &mut [0; 8][..width]),
            1 => driver.disk.bar_write(bar, offset, &data[..width]),
            2 => driver
                .disk
                .config_read(offset as u16 % 260, &mut [0; 8][..width]),
            _ => driver
                .disk
                .config_write(offset as u16 % 260, &data[..width]),
        }
    }
    assert_ne!(driver.driver_errors(), [""; 0]);

    driver.command(0x0006);
    driver.set_msix_control(0);
    driver.initialise(Setup::default());
    assert_eq!(driver.call(IN, 5, &[0; 512]).1, [5; 512]);
}
