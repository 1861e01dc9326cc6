//! From power-up to reset and stop: discovery, initialisation, stalled requests, and a device
//! that stopped.

use std::time::{Duration, Instant};

use testbed_devices::{BlkSettings, DeviceId, Faults};
use testbed_machine::pci::{BarKind, PciFunction};

use crate::driver::{COMMON, DEVICE, Driver, EVENT_IDX, FLUSH, IN, ISR, NOTIFY, OK, OUT, Setup};

fn config<const N: usize>(driver: &Driver, offset: u16) -> [u8; N] {
    let mut data = [0; N];
    driver.disk.config_read(offset, &mut data);
    data
}

#[test]
fn a_driver_finds_the_structures_by_the_capabilities() {
    let driver = Driver::powered_up(256, BlkSettings::default());

    let mut found = Vec::new();
    let [mut at] = config(&driver, 0x34);
    while at != 0 && found.len() < 48 {
        let [id, next, bytes, kind, bar] = config(&driver, at.into());
        let word = |offset| u32::from_le_bytes(config(&driver, u16::from(at) + offset));
        found.push((at, id, bytes, kind, bar, word(8), word(12)));
        at = next;
    }

    // The places and the order are those of QEMU.
    assert_eq!(
        found,
        [
            (0x98, 0x11, 1, 0, 1, 0x801, 0),
            (0x84, 9, 20, 5, 0, 0, 0),
            (0x70, 9, 20, 2, 4, NOTIFY as u32, 0x1000),
            (0x60, 9, 16, 4, 4, DEVICE as u32, 0x1000),
            (0x50, 9, 16, 3, 4, ISR as u32, 0x1000),
            (0x40, 9, 16, 1, 4, COMMON as u32, 0x1000),
        ]
    );
    let bar = driver.disk.bar(4).expect("a BAR");
    assert_eq!((bar.kind, bar.bytes), (BarKind::Memory, 0x4000));
    assert!(bar.address > u64::from(u32::MAX) && bar.address.is_multiple_of(bar.bytes));
}

#[test]
fn a_transitional_disk_works_through_the_modern_interface() {
    let mut driver = Driver::of(|settings, _| settings.device_id = DeviceId::Transitional);

    assert_eq!(driver.call(IN, 1, &[0; 512]).0, OK);
}

#[test]
fn a_reset_device_can_be_set_up_again_in_another_way() {
    let mut driver = Driver::default_ready();
    assert_eq!(driver.call(OUT, 0, &[1; 512]).0, OK);

    driver.initialise(Setup {
        features: 0,
        msix: false,
        queue_size: 8,
        queue: true,
    });

    assert_eq!(driver.call(IN, 0, &[0; 512]).1, [1; 512]);
}

#[test]
fn after_a_reset_the_rings_are_left_alone() {
    let mut driver = Driver::default_ready();
    driver.call(IN, 0, &[0; 512]);
    let used = driver.ring.used;
    let (pieces, buffer, _) = driver.request(IN, 9, &[0xee; 512]);
    driver.enqueue(&pieces);

    driver.reset();
    // The device may have served the request before the reset.
    driver.write(buffer, &[0xee; 512]);
    driver.write(used, &[0xee; 64]);
    driver.notify_queue();
    driver.disk.stop();

    assert_eq!(driver.read(used, 64), [0xee; 64]);
    assert_eq!(driver.read(buffer, 512), [0xee; 512]);
    assert!(driver.driver_error().contains("before DRIVER_OK"));
}

/// V13.
#[test]
fn a_notification_before_driver_ok_is_a_driver_error_and_serves_nothing() {
    let mut driver = Driver::powered_up(256, BlkSettings::default());
    driver.negotiate(Setup::default());
    driver.enable_queue(Setup::default());
    let (pieces, buffer, status) = driver.request(IN, 9, &[0xee; 512]);
    driver.enqueue(&pieces);

    driver.notify_queue();
    assert!(driver.driver_error().contains("before DRIVER_OK"));
    assert_eq!(driver.used_index(), 0);
    assert_eq!(driver.read(buffer, 512), [0xee; 512]);

    driver.set::<1>(COMMON + 0x14, 0x0f);
    driver.notify_queue();
    driver.wait_used();
    assert_eq!(driver.read(status, 1), [OK]);
}

#[test]
fn a_stalled_request_delays_no_other_and_is_dropped_by_a_reset() {
    let mut driver = Driver::of(|settings, _| settings.faults.stalled.push(50..60));
    let (pieces, buffer, status) = driver.request(IN, 59, &[0xee; 512]);
    driver.start(&pieces);

    assert_eq!(driver.call(IN, 60, &[0; 512]).0, OK);
    assert_eq!(driver.call(IN, 49, &[0; 512]).0, OK);
    assert_eq!(driver.read(status, 1), [0xff]);

    driver.disk.set_faults(Faults::default());
    driver.initialise(Setup::default());
    assert_eq!(driver.call(IN, 59, &[0; 512]).0, OK);
    assert_eq!(driver.read(status, 1), [0xff]);
    assert_eq!(driver.read(buffer, 512), [0xee; 512]);
}

#[test]
fn a_stopped_device_announces_its_requests_and_works_again_after_a_reset() {
    let mut driver = Driver::default_ready();
    let (good, _, status) = driver.request(IN, 0, &[0; 512]);
    let (mut bad, _, _) = driver.request(IN, 0, &[0; 512]);
    bad[1].1 = 0;
    driver.enqueue(&good);
    driver.start(&bad);

    driver.receiver.wait(|seen| seen.messages == [1, 0]);
    assert_eq!(driver.used_index(), 1);
    assert_eq!(driver.read(status, 1), [OK]);
    // It takes no requests, and the driver's next one is no driver error.
    driver.wait_needs_reset();
    driver.notify_queue();
    assert_eq!(driver.used_index(), 1);

    driver.initialise(Setup::default());
    assert_eq!(driver.call(IN, 0, &[0; 512]).0, OK);
    assert!(driver.driver_error().contains("length 0"));
}

#[test]
fn a_reset_leaves_undone_what_was_not_begun() {
    let mut driver = Driver::of(|settings, setup| {
        settings.faults.latency = Duration::from_millis(100);
        setup.features = !EVENT_IDX;
    });
    let (pieces, buffer, _) = driver.request(IN, 3, &[0xee; 512]);
    driver.start(&pieces);
    // The thread is awake once it suppresses notifications.
    let used_flags = driver.ring.used;
    driver.wait_until("it is awake", || driver.load(used_flags) != 0);

    driver.reset();

    assert_eq!(driver.disk.counters().requests, 0);
    assert_eq!(driver.read(buffer, 512), [0xee; 512]);
}

#[test]
fn a_reset_waits_for_the_request_at_hand() {
    // Without VIRTIO_BLK_F_FLUSH each write is durable before it completes, which is slow.
    let setup = Setup::without(FLUSH);
    let mut driver = Driver::powered_up(256, BlkSettings::default());

    // Only a reset during a request shows whether the device waits for it.
    for round in 1..=50 {
        driver.initialise(setup);
        let (pieces, _, status) = driver.request(OUT, 0, &[round; 65536]);
        driver.start(&pieces);
        driver.wait_until("the write begins", || driver.image(0, 1) == [round]);

        driver.reset();

        assert_eq!(driver.read(status, 1), [OK]);
    }
}

#[test]
fn a_delayed_request_takes_as_long_as_asked() {
    let delay = Duration::from_millis(30);
    let mut driver = Driver::of(|settings, _| settings.faults.latency = delay);
    let start = Instant::now();

    assert_eq!(driver.call(IN, 0, &[0; 512]).0, OK);

    assert!(start.elapsed() >= delay);
}

#[test]
fn a_power_cycle_keeps_only_the_sectors() {
    let mut driver = Driver::default_ready();
    assert_eq!(driver.call(OUT, 3, &[0x5A; 512]).0, OK);
    let placed = driver.disk.bar(4).expect("a BAR");

    driver.disk.power_cycle();

    assert_eq!(driver.disk.bar(4).expect("a BAR").address, 0);
    // Memory decoding is off, so reads return ones and are driver errors.
    assert_eq!(driver.status(), 0xff);
    assert!(driver.driver_error().contains("memory decoding off"));
    driver
        .disk
        .config_write(0x20, &placed.address.to_le_bytes());
    driver.command(0x6);
    assert_eq!(driver.disk.bar(4), Some(placed));
    assert_eq!(driver.status(), 0);
    assert_eq!(driver.image(3, 512), [0x5A; 512]);
}
