//! Violations by the driver, and the device's reaction. The order of initialisation is tested
//! beside the registers.

use testbed_devices::{BlkSettings, DeviceId};
use testbed_machine::pci::PciFunction;

use crate::driver::{
    COMMON, DEVICE, Driver, EVENT_IDX, FLUSH, FLUSH_REQUEST, GET_ID, HOLE, IN, INDIRECT, IOERR,
    ISR, NOTIFY, OK, OUT, Piece, SEG_MAX, SIZE_MAX, Setup, UNSUPP,
};

/// The driver error for a chain that the device cannot answer.
fn error_that_stops_the_device(pieces: impl Fn(&mut Driver) -> Vec<Piece>) -> String {
    let mut driver = Driver::default_ready();
    let pieces = pieces(&mut driver);
    let head = driver.direct(0, &pieces);
    driver.publish(0, head);
    driver.notify_if_wanted(0);
    driver.wait_needs_reset();
    assert_eq!(driver.used_index(0), 0);
    let error = driver.driver_error();
    assert!(
        error.ends_with("the device stops until it is reset"),
        "{error}"
    );
    error
}

/// The driver error for a queue that is enabled with these addresses.
fn enabling(desc: u64, avail: u64, used: u64) -> String {
    let mut driver = Driver::powered_up(256, BlkSettings::default());
    driver.negotiate(Setup::default());
    driver.prepare_queue(0, Setup::default());
    for (offset, address) in [(0x20, desc), (0x28, avail), (0x30, used)] {
        driver.set::<4>(COMMON + offset, address & 0xffff_ffff);
        driver.set::<4>(COMMON + offset + 4, address >> 32);
    }
    driver.set::<2>(COMMON + 0x1c, 1);
    assert_eq!(driver.get::<2>(COMMON + 0x1c), 0);
    driver.driver_error()
}

const GOOD: u64 = crate::driver::MEMORY;

#[test]
fn rings_outside_memory_are_refused() {
    for (desc, avail, used) in [
        (HOLE, GOOD + 0x1000, GOOD + 0x2000),
        (GOOD, HOLE, GOOD + 0x2000),
        (GOOD, GOOD + 0x1000, HOLE - 16),
        (0, 0, 0),
        (!0xf, GOOD + 0x1000, GOOD + 0x2000),
    ] {
        assert!(enabling(desc, avail, used).contains("rings that are not completely in memory"));
    }
}

#[test]
fn misaligned_rings_are_refused() {
    for (desc, avail, used) in [
        (GOOD + 8, GOOD + 0x1000, GOOD + 0x2000),
        (GOOD, GOOD + 0x1001, GOOD + 0x2000),
        (GOOD, GOOD + 0x1000, GOOD + 0x2002),
    ] {
        assert!(enabling(desc, avail, used).contains("align"));
    }
}

#[test]
fn a_used_ring_that_is_not_zeroed_is_a_driver_error() {
    let mut driver = Driver::powered_up(256, BlkSettings::default());
    driver.negotiate(Setup::default());
    let ring = driver.prepare_queue(0, Setup::default());
    driver.write(ring.used, &[1]);
    for (offset, address) in [(0x20, ring.desc), (0x28, ring.avail), (0x30, ring.used)] {
        driver.set::<4>(COMMON + offset, address & 0xffff_ffff);
        driver.set::<4>(COMMON + offset + 4, address >> 32);
    }

    driver.set::<2>(COMMON + 0x1c, 1);

    assert!(driver.driver_error().contains("not zeroed"));
}

#[test]
fn a_descriptor_of_length_0_stops_the_device() {
    let error = error_that_stops_the_device(|driver| {
        let (mut pieces, _, _) = driver.request(IN, 0, &[0; 512]);
        pieces[1].1 = 0;
        pieces
    });

    assert!(error.contains("length 0"));
}

#[test]
fn a_readable_descriptor_after_a_writable_one_stops_the_device() {
    let error = error_that_stops_the_device(|driver| {
        let (mut pieces, _, _) = driver.request(IN, 0, &[0; 512]);
        pieces.swap(0, 1);
        pieces
    });

    assert!(error.contains("a readable descriptor follows a writable one"));
}

#[test]
fn a_request_without_status_byte_stops_the_device() {
    let error = error_that_stops_the_device(|driver| {
        let (mut pieces, _, _) = driver.request(OUT, 0, &[0; 512]);
        pieces.pop();
        pieces
    });

    assert!(error.contains("no writable byte for its status"));
}

#[test]
fn a_short_header_stops_the_device() {
    let error = error_that_stops_the_device(|driver| {
        let (mut pieces, _, _) = driver.request(IN, 0, &[0; 512]);
        pieces[0].1 = 15;
        pieces
    });

    assert!(error.contains("15 readable bytes, less than the 16"));
}

#[test]
fn a_buffer_outside_memory_stops_the_device() {
    for address in [HOLE, HOLE - 511, 0, u64::MAX - 511] {
        let error = error_that_stops_the_device(|driver| {
            let (mut pieces, _, _) = driver.request(IN, 0, &[0; 512]);
            pieces[1].0 = address;
            pieces
        });

        assert!(
            error.contains("which are not completely in memory"),
            "{error}"
        );
    }
}

#[test]
fn a_chain_that_loops_stops_the_device() {
    let mut driver = Driver::default_ready();
    let (pieces, _, _) = driver.request(IN, 0, &[0; 512]);
    let table = driver.rings[0].desc;
    driver.describe(table, 0, pieces[0], 1, 1);
    driver.describe(table, 1, pieces[0], 1, 0);

    driver.publish(0, 0);
    driver.notify_if_wanted(0);

    driver.wait_needs_reset();
    assert!(
        driver
            .driver_error()
            .contains("breaks off after 64 descriptors")
    );
}

#[test]
fn a_head_that_is_not_in_the_table_stops_the_device() {
    let mut driver = Driver::default_ready();

    driver.publish(0, 64);
    driver.notify_if_wanted(0);

    driver.wait_needs_reset();
    assert!(
        driver
            .driver_error()
            .contains("breaks off after 0 descriptors")
    );
}

#[test]
fn a_next_that_is_not_in_the_table_stops_the_device() {
    let mut driver = Driver::default_ready();
    let (pieces, _, _) = driver.request(IN, 0, &[0; 512]);
    driver.describe(driver.rings[0].desc, 0, pieces[0], 1, 64);

    driver.publish(0, 0);
    driver.notify_if_wanted(0);

    driver.wait_needs_reset();
    assert!(
        driver
            .driver_error()
            .contains("breaks off after 1 descriptors")
    );
}

#[test]
fn a_nested_indirect_table_stops_the_device() {
    let mut driver = Driver::default_ready();
    let inner = driver.buffer(&[0; 32]);
    let outer = driver.buffer(&[0; 32]);
    driver.describe(outer, 0, (inner, 32, false), 4, 0);
    driver.describe(driver.rings[0].desc, 0, (outer, 32, false), 4, 0);

    driver.publish(0, 0);
    driver.notify_if_wanted(0);

    driver.wait_needs_reset();
    assert!(driver.driver_error().contains("nests indirect tables"));
}

#[test]
fn an_indirect_table_of_odd_length_stops_the_device() {
    let mut driver = Driver::default_ready();
    let table = driver.buffer(&[0; 64]);
    driver.describe(driver.rings[0].desc, 0, (table, 40, false), 4, 0);

    driver.publish(0, 0);
    driver.notify_if_wanted(0);

    driver.wait_needs_reset();
    assert!(driver.driver_error().contains("breaks off"));
}

#[test]
fn an_available_index_that_goes_back_stops_the_device() {
    let mut driver = Driver::default_ready();
    for _ in 0..3 {
        driver.call(IN, 0, &[0; 512]);
    }

    driver.rings[0].next_avail = 1;
    driver.publish(0, 0);
    driver.notify_queue(0);

    driver.wait_needs_reset();
    assert!(driver.driver_error().contains("available index went back"));
}

#[test]
fn an_available_index_beyond_the_queue_stops_the_device() {
    let mut driver = Driver::default_ready();

    driver.rings[0].next_avail = 64;
    driver.publish(0, 0);
    driver.notify_queue(0);

    driver.wait_needs_reset();
    assert!(driver.driver_error().contains("more than the queue holds"));
}

#[test]
fn indirect_without_the_feature_is_served_and_a_driver_error() {
    let setup = Setup {
        features: !INDIRECT,
        ..Setup::default()
    };
    let mut driver = Driver::ready(BlkSettings::default(), setup);
    let (pieces, _, status) = driver.request(IN, 0, &[0; 512]);

    let head = driver.indirect(0, &pieces);
    driver.publish(0, head);
    driver.notify_if_wanted(0);
    driver.wait_used(0);

    assert_eq!(driver.read(status, 1), [OK]);
    assert!(
        driver
            .driver_error()
            .contains("without VIRTIO_F_INDIRECT_DESC")
    );
}

#[test]
fn indirect_with_next_is_a_driver_error() {
    let mut driver = Driver::default_ready();
    let (pieces, _, status) = driver.request(IN, 0, &[0; 512]);
    let head = driver.indirect(0, &pieces);
    let ring = driver.rings[0].desc;
    // INDIRECT | NEXT.
    driver.write(ring + 16 * u64::from(head) + 12, &[5, 0]);

    driver.publish(0, head);
    driver.notify_if_wanted(0);
    driver.wait_used(0);

    assert_eq!(driver.read(status, 1), [OK]);
    assert!(driver.driver_error().contains("both INDIRECT and NEXT"));
}

#[test]
fn a_chain_longer_than_the_queue_is_a_driver_error() {
    let setup = Setup {
        queue_size: 4,
        ..Setup::default()
    };
    let mut driver = Driver::ready(BlkSettings::default(), setup);
    let header = driver.header(IN, 0);
    let data = driver.buffer(&[0; 512]);
    let status = driver.buffer(&[0xff]);
    let mut pieces = vec![(header, 16, false)];
    pieces.extend((0..4).map(|piece| (data + piece * 128, 128, true)));
    pieces.push((status, 1, true));

    let head = driver.indirect(0, &pieces);
    driver.publish(0, head);
    driver.notify_if_wanted(0);
    driver.wait_used(0);

    assert_eq!(driver.read(status, 1), [OK]);
    assert!(
        driver
            .driver_error()
            .contains("a chain of 6 descriptors in a queue of 4")
    );
}

#[test]
fn more_segments_than_seg_max_are_driver_errors() {
    let settings = BlkSettings {
        seg_max: 2,
        ..BlkSettings::default()
    };
    for (segments, driver_errors) in [(2_u64, 0), (3, 1)] {
        let mut driver = Driver::ready(settings.clone(), Setup::default());
        assert_ne!(driver.features & SEG_MAX, 0);
        let header = driver.header(IN, 0);
        let data = driver.buffer(&[0; 1536]);
        let status = driver.buffer(&[0xff]);
        let mut pieces = vec![(header, 16, false)];
        pieces.extend((0..segments).map(|piece| (data + piece * 512, 512, true)));
        pieces.push((status, 1, true));

        driver.run(&pieces);

        assert_eq!(driver.read(status, 1), [OK]);
        assert_eq!(driver.disk.counters().driver_errors, driver_errors);
    }
}

#[test]
fn a_longer_segment_than_size_max_is_a_driver_error() {
    let settings = BlkSettings {
        features: BlkSettings::FEATURES | SIZE_MAX,
        size_max: 512,
        ..BlkSettings::default()
    };
    let mut driver = Driver::ready(settings, Setup::default());
    driver.call(IN, 0, &[0; 512]);
    driver.nothing_wrong();

    assert_eq!(driver.call(IN, 0, &[0; 1024]).0, OK);

    assert!(
        driver
            .driver_error()
            .contains("a data segment of 1024 bytes")
    );
}

#[test]
fn requests_beyond_the_capacity_fail() {
    for (kind, sector, bytes) in [
        (IN, 256, 512),
        (OUT, 255, 1024),
        (IN, u64::MAX, 512),
        (OUT, 1 << 55, 512),
    ] {
        let mut driver = Driver::default_ready();

        let (status, _, _) = driver.call(kind, sector, &vec![0; bytes]);

        assert_eq!(status, IOERR);
        assert!(driver.driver_error().contains("beyond the capacity of 256"));
        assert_eq!(driver.disk.image().bytes(), 256 * 512);
        assert_eq!(driver.image(255, 512), [255; 512]);
    }
}

#[test]
fn data_of_no_or_half_a_sector_fails() {
    for (kind, bytes) in [(IN, 100), (OUT, 513), (IN, 0), (OUT, 0)] {
        let mut driver = Driver::default_ready();

        assert_eq!(driver.call(kind, 0, &vec![0; bytes]).0, IOERR);

        assert!(driver.driver_error().contains("no multiple of 512"));
        assert_eq!(driver.image(0, 512), [0; 512]);
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
    assert!(driver.driver_error().contains("in the other direction"));
}

#[test]
fn a_flush_with_a_sector_is_a_driver_error_and_one_with_data_is_not() {
    let mut driver = Driver::default_ready();
    assert_eq!(driver.call(FLUSH_REQUEST, 1, &[]).0, OK);
    assert!(
        driver
            .driver_error()
            .contains("flush request with sector 1")
    );

    let mut driver = Driver::default_ready();
    assert_eq!(driver.call(FLUSH_REQUEST, 0, &[0; 512]).0, OK);
    assert_eq!(driver.disk.driver_errors(), [""; 0]);
}

#[test]
fn a_flush_without_the_feature_is_unsupported() {
    let setup = Setup {
        features: !FLUSH,
        ..Setup::default()
    };
    let mut driver = Driver::ready(BlkSettings::default(), setup);

    assert_eq!(driver.call(FLUSH_REQUEST, 0, &[]).0, UNSUPP);

    assert!(driver.driver_error().contains("without VIRTIO_BLK_F_FLUSH"));
}

#[test]
fn a_get_id_of_another_length_is_a_driver_error_and_filled() {
    for bytes in [8, 64] {
        let settings = BlkSettings {
            serial: "serial-number".into(),
            ..BlkSettings::default()
        };
        let mut driver = Driver::ready(settings, Setup::default());

        let (status, data, length) = driver.call(GET_ID, 0, &vec![0xee; bytes]);

        assert_eq!((status, length), (OK, bytes as u32 + 1));
        let mut expected = b"serial-number".to_vec();
        expected.resize(bytes, 0);
        assert_eq!(data, expected);
        assert!(driver.driver_error().contains("it must be 20"));
    }
}

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

        assert!(
            driver.driver_error().contains(error),
            "{}",
            driver.driver_error()
        );
    }
}

#[test]
fn a_notification_for_a_queue_that_is_not_enabled_is_a_driver_error() {
    let settings = BlkSettings {
        queues: 2,
        ..BlkSettings::default()
    };
    let driver = Driver::ready(settings, Setup::default());

    driver.notify_queue(1);

    assert!(
        driver
            .driver_error()
            .contains("queue 1, which is not enabled")
    );
}

#[test]
fn avail_flags_must_be_what_the_features_allow() {
    for (features, flags, text) in [
        (u64::MAX, 1, "0x1 with EVENT_IDX"),
        (!EVENT_IDX, 2, "0x2 without EVENT_IDX"),
    ] {
        let mut driver = Driver::ready(
            BlkSettings::default(),
            Setup {
                features,
                ..Setup::default()
            },
        );
        driver.set_avail_flags(0, flags);

        driver.call(IN, 0, &[0; 512]);
        driver.receiver.wait(|seen| !seen.messages.is_empty());

        assert!(
            driver.driver_error().contains(text),
            "{}",
            driver.driver_error()
        );
    }
}

#[test]
fn registers_are_absent_without_memory_decoding() {
    let driver = Driver::powered_up(256, BlkSettings::default());
    driver.command(0);

    assert_eq!(driver.get::<4>(DEVICE), 0xffff_ffff);

    assert!(driver.driver_error().contains("memory decoding off"));
}

#[test]
fn nothing_is_served_without_bus_mastering() {
    let mut driver = Driver::default_ready();
    driver.command(0x0002);
    let (pieces, _, _) = driver.request(IN, 0, &[0; 512]);
    let head = driver.direct(0, &pieces);
    driver.publish(0, head);

    driver.notify_queue(0);
    assert!(driver.driver_error().contains("bus mastering off"));
    assert_eq!(driver.used_index(0), 0);

    driver.command(0x0006);
    driver.notify_queue(0);
    driver.wait_used(0);
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
    let settings = BlkSettings {
        device_id: DeviceId::Transitional,
        ..BlkSettings::default()
    };
    let driver = Driver::powered_up(256, settings);
    let mut data = [0; 4];

    driver.disk.bar_read(0, 0, &mut data);

    assert_eq!(data, [0xff; 4]);
    assert!(driver.driver_error().contains("legacy interface"));
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

    driver.command(0x0006);
    driver.set_msix_control(0);
    driver.initialise(Setup::default());
    assert_eq!(driver.call(IN, 5, &[0; 512]).1, [5; 512]);
}
