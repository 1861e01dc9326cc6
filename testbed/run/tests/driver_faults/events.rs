//! Each event of the driver, caused with the driver file: its code, and its text with the strings
//! that the driver passes.

#[path = "../../../../src/events.rs"]
#[expect(dead_code, reason = "a test of xtask compares causes with the page")]
mod list;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use testbed_devices::{BlkSettings, DeviceId, Faults, Glitch};
use testbed_machine::pci::PciFunction as _;
use testbed_storport::{
    adapter::{AdapterSettings, FailingExport},
    report::Report,
};

use self::list::Event;
use super::{bench::*, durability::set_write_cache};

/// What Windows inserts for `%1`.
const DISK: &str = r"\Device\RaidPort0";

/// STOR_LOG_EVENT_DETAILS has room for three strings of this length.
const LONGEST_INSERT: usize = 24;

/// Status bit.
const FAILED: u8 = 0x80;

/// Feature bits.
const SIZE_MAX: u64 = 1 << 1;
const VERSION_1: u64 = 1 << 32;

/// Registers of the common configuration.
const CONFIG_MSIX_VECTOR: u64 = 0x10;
const NUM_QUEUES: u64 = 0x12;
const DEVICE_STATUS: u64 = 0x14;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_MSIX_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_NOTIFY_OFF: u64 = 0x1e;

/// Fields of the device configuration.
const CAPACITY_HIGH: u64 = 4;
const SIZE_MAX_FIELD: u64 = 8;
const BLK_SIZE: u64 = 20;
const WRITEBACK: u64 = 32;

/// The vendor capabilities of the structures, and fields of each.
const COMMON: u16 = 0x40;
const ISR: u16 = 0x50;
const DEVICE: u16 = 0x60;
const NOTIFY: u16 = 0x70;
const CAP_NEXT: u16 = 1;
const CAP_LEN: u16 = 2;
const CFG_TYPE: u16 = 3;
const BAR: u16 = 4;
const OFFSET: u16 = 8;
const LENGTH: u16 = 12;

scenarios! {
    devices_whose_structures_are_unusable
    devices_whose_features_or_fields_are_unusable
    devices_whose_queues_or_limits_are_unusable
    a_device_that_is_absent
    a_reset_at_start_that_never_ends
    an_uncached_extension_that_is_refused
    a_configuration_vector_that_is_refused
    a_used_ring_that_is_wrong_at_start
    a_device_that_needs_a_reset
    a_used_ring_that_is_wrong
    a_used_index_that_is_wrong_while_idle
    a_bus_reset
    a_device_that_is_faulty_after_each_reset
    a_device_that_seems_gone_each_time
    a_device_that_vanishes
    a_device_status_of_ones
    a_reset_that_never_ends
    a_restart_that_fails_each_time
    a_used_length_that_is_short
    a_write_cache_that_does_not_switch
    a_write_cache_that_does_not_stay_off
}

/// Each event is in a statement that checks the log.
#[test]
fn every_event_is_in_a_scenario() {
    const CHECKS: [&str; 3] = ["refused(", "check_events(", "logged("];
    let lines = include_str!("events.rs").lines();
    let code: String = lines
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(str::split_whitespace)
        .collect();
    let is_check = |statement: &&str| CHECKS.iter().any(|check| statement.contains(check));
    let checks: Vec<&str> = code.split(';').filter(is_check).collect();
    for event in Event::ALL {
        let name = match event {
            // Functions build what is expected.
            Event::DeviceReset => "[reset(",
            Event::ProtocolViolation => "[violation(",
            Event::DeviceVanished => "[vanished(",
            Event::DeviceFailed => "[given_up(",
            _ => &format!("Event::{event:?},"),
        };
        assert!(checks.iter().any(|check| check.contains(name)), "{name}");
    }
}

/// Checks that these events were logged and no other: their codes, which have the
/// severity and the number, and their texts.
fn check_events(report: &Report, expected: &[(Event, String)]) {
    let logged: Vec<(u32, String)> = report
        .system_events
        .iter()
        .map(|event| (event.error_code, event.sentence.clone().unwrap_or_default()))
        .collect();
    let expected: Vec<(u32, String)> = expected
        .iter()
        .map(|(event, text)| (event.code(), format!("{text} {}", event.remedy())))
        .collect();
    assert_eq!(logged, expected);
    for event in &report.system_events {
        assert!(event.strings.len() <= 3, "{event:?}");
        let is_short = |insert: &String| insert.len() <= LONGEST_INSERT;
        assert!(event.strings.iter().all(is_short), "{event:?}");
    }
}

/// Starts the driver on a disk that it must refuse, and gives the report. Checks that
/// it leaves the device reset or failed, and nothing behind.
fn refuse(disk: Disk, settings: AdapterSettings) -> Report {
    let device = disk.device.clone();
    let failed = disk.try_start(settings).err().expect("the driver refuses");
    let report = *failed.report;
    assert!(report.violations.is_empty(), "{:?}", report.violations);
    assert_eq!(report.leaks, [""; 0]);
    assert_eq!(device.driver_errors(), [""; 0]);
    let writes = device.status_writes();
    let is_stopped = |status: &u8| *status == 0 || status & FAILED != 0;
    assert!(writes.last().is_none_or(is_stopped), "{writes:02x?}");
    report
}

/// [`refuse`], with one event.
fn refused(event: Event, why: &str, disk: Disk, settings: AdapterSettings) {
    eprintln!("{why}");
    let report = refuse(disk, settings);
    check_events(&report, &[(event, format!("{DISK} cannot start: {why}."))]);
}

/// The disk whose faults the events describe: with a split ring.
fn split() -> Disk {
    Disk::new(BlkSettings::default())
}

fn faulty(faults: Faults) -> BlkSettings {
    BlkSettings {
        faults,
        ..BlkSettings::default()
    }
}

/// Checks the events and the rules of a run, and stops it.
fn logged(bench: Bench, expected: &[(Event, String)]) {
    check_events(&bench.check(), expected);
    bench.stop();
}

fn pci_reads(reads: &[(u16, u8)]) -> Faults {
    Faults {
        pci_reads: reads.to_vec(),
        ..Faults::default()
    }
}

fn common_reads(register: u64, value: u32) -> Faults {
    Faults {
        common_reads: vec![(register, value)],
        ..Faults::default()
    }
}

fn device_reads(field: u64, value: u32) -> Faults {
    Faults {
        device_reads: vec![(field, value)],
        ..Faults::default()
    }
}

/// The event of a reset.
fn reset(number: u32, in_flight: u32) -> (Event, String) {
    let text = format!(
        "The driver resets the device of {DISK} (reset {number} since its start). Requests in \
         flight: {in_flight}."
    );
    (Event::DeviceReset, text)
}

const UNREADABLE: &str = "the device's PCI configuration space could not be read";

fn devices_whose_structures_are_unusable() {
    const STATUS: u16 = 0x06;
    let disk = || Disk::new(BlkSettings::default());
    let export = failing_export(FailingExport::GetBusData);
    refused(
        Event::ConfigurationSpaceUnreadable,
        UNREADABLE,
        disk(),
        export,
    );
    let export = failing_export(FailingExport::GetDeviceBase);
    let why = "Windows did not map BAR 4 of the device (4096 bytes)";
    refused(Event::BarNotMapped, why, disk(), export);

    let refused = |event, why: &str, disk| refused(event, why, Disk::new(disk), patient());
    let no_list = faulty(pci_reads(&[(STATUS, 0)]));
    let why = "the device has no PCI capability list";
    refused(Event::StructureMissing, why, no_list);
    for (capability, name) in [
        (COMMON, "common configuration"),
        (NOTIFY, "notification structure"),
        (ISR, "interrupt status"),
        (DEVICE, "device configuration"),
    ] {
        let why = format!("the device has no {name}");
        let disk = faulty(pci_reads(&[(capability + CFG_TYPE, 0)]));
        refused(Event::StructureMissing, &why, disk);
    }
    let list = "PCI capability list";
    let common = "common configuration";
    for (structure, what, reads) in [
        (list, "it loops", &[(COMMON + CAP_NEXT, NOTIFY as u8)][..]),
        (list, "link below 0x40", &[(COMMON + CAP_NEXT, 0x20)]),
        (common, "capability too short", &[(COMMON + CAP_LEN, 15)]),
        (common, "reserved BAR number", &[(COMMON + BAR, 6)]),
        (common, "upper half of a BAR", &[(COMMON + BAR, 5)]),
        (common, "BAR of I/O ports", &[(COMMON + BAR, 0)]),
        (common, "BAR without an address", &[(COMMON + BAR, 2)]),
        (common, "offset not aligned", &[(COMMON + OFFSET, 2)]),
        (common, "structure too short", &[(COMMON + LENGTH + 1, 0)]),
        (common, "end beyond 2^32", &BEYOND),
        (
            "notification structure",
            "not inside its BAR",
            &[(NOTIFY + OFFSET + 1, 0x40)],
        ),
        ("device configuration", "too short", &SHORT),
    ] {
        let disk = BlkSettings {
            // It has a BAR of I/O ports.
            device_id: DeviceId::Transitional,
            ..faulty(pci_reads(reads))
        };
        let why = format!("the device's {structure} cannot be used ({what})");
        refused(Event::StructureUnusable, &why, disk);
    }
}

/// V05, V08, V14, V18.
fn devices_whose_features_or_fields_are_unusable() {
    const UNKNOWN: u64 = 1 << 40;
    let settings = BlkSettings::default;
    let refused = |event, why: &str, disk| refused(event, why, Disk::new(disk), patient());
    let with = |features| BlkSettings {
        features,
        ..settings()
    };
    let all = BlkSettings::FEATURES;
    let offered = all & !VERSION_1;
    let why =
        format!("the device does not offer VIRTIO_F_VERSION_1 (features offered: 0x{offered:X})");
    refused(Event::VersionMissing, &why, with(offered));
    let offered = all | UNKNOWN;
    let why = format!(
        "the device does not accept the features 0x{all:X} (features offered: 0x{offered:X})"
    );
    let disk = BlkSettings {
        faults: refusing_features(),
        ..with(offered)
    };
    refused(Event::FeaturesRefused, &why, disk);

    let unstable = faulty(Faults {
        unstable_config: true,
        ..Faults::default()
    });
    let why = "the device's configuration changed during each attempt to read it";
    refused(Event::ConfigurationUnstable, why, unstable);
    for (name, field, value, shown) in [
        ("blk_size", BLK_SIZE, 0, 0_u64),
        ("blk_size", BLK_SIZE, 520, 520),
        ("blk_size", BLK_SIZE, 8192, 8192),
        ("size_max", SIZE_MAX_FIELD, 511, 511),
        ("capacity", CAPACITY_HIGH, 0x0080_0000, (1 << 55) + 8192),
    ] {
        let disk = BlkSettings {
            faults: device_reads(field, value),
            ..with(all | SIZE_MAX)
        };
        let why = format!(
            "the field {name} of the device's configuration has the value {shown}, which the \
             driver cannot use"
        );
        refused(Event::ConfigurationInvalid, &why, disk);
    }
}

fn devices_whose_queues_or_limits_are_unusable() {
    const NO_VECTOR: u32 = 0xffff;
    let settings = BlkSettings::default;
    let refused = |event, why: &str, disk| refused(event, why, Disk::new(disk), patient());
    for (register, value, what) in [
        (NUM_QUEUES, 0, "num_queues is 0"),
        (QUEUE_SIZE, 0, "queue_size is 0"),
        (QUEUE_SIZE, 255, "queue_size is 255"),
        (QUEUE_ENABLE, 1, "queue_enable is 1"),
        (QUEUE_ENABLE, 0, "queue_enable is 0"),
        // Each queue's is four bytes from that of the one before.
        (QUEUE_NOTIFY_OFF, 1024, "notification offset is 4096"),
    ] {
        let why = format!("request queue 0 cannot be used: {what}");
        refused(
            Event::QueueUnusable,
            &why,
            faulty(common_reads(register, value)),
        );
    }
    let (mut short, mut narrow, mut tiny) = (settings(), settings(), settings());
    short.seg_max = 1;
    narrow.features |= SIZE_MAX;
    (narrow.size_max, narrow.seg_max) = (512, 15);
    tiny.queue_size = 2;
    for (what, needed, disk) in [
        ("seg_max is 1", 2, short),
        ("seg_max is 15", 16, narrow),
        ("queue_size is 2", 4, tiny),
    ] {
        let why = format!("the device's {what}, and the driver needs at least {needed}");
        refused(Event::LimitTooSmall, &why, disk);
    }
    let why = "the device refused MSI-X vector 0 for queue 0";
    refused(
        Event::VectorRefused,
        why,
        faulty(common_reads(QUEUE_MSIX_VECTOR, NO_VECTOR)),
    );
    let failing = faulty(Faults {
        driver_ok_fails: Some(0),
        ..Faults::default()
    });
    let why = "the device reports a failure at the end of its start (DEVICE_NEEDS_RESET)";
    refused(Event::StartRejected, why, failing);
}

/// The common configuration ends beyond 4 GiB, and the device configuration is short.
const BEYOND: [(u16, u8); 3] = [
    (COMMON + OFFSET + 1, 0xf8),
    (COMMON + OFFSET + 2, 0xff),
    (COMMON + OFFSET + 3, 0xff),
];
const SHORT: [(u16, u8); 2] = [(DEVICE + LENGTH, 0x10), (DEVICE + LENGTH + 1, 0)];

fn a_device_that_is_absent() {
    let disk = Disk::new(BlkSettings::default());
    disk.device.surprise_remove();
    refused(
        Event::ConfigurationSpaceUnreadable,
        UNREADABLE,
        disk,
        patient(),
    );
}

fn a_reset_at_start_that_never_ends() {
    // After the device was asked what it is. It has no memory of the driver yet.
    let disk = Disk::new(BlkSettings::default());
    disk.device.slow_reset(1, u32::MAX);
    let why = "the device did not confirm its reset within 1000 ms (device status 0xB)";
    refused(Event::StartResetUnconfirmed, why, disk, patient());
}

fn an_uncached_extension_that_is_refused() {
    let disk = Disk::new(BlkSettings::default());
    let report = refuse(disk, failing_export(FailingExport::GetUncachedExtension));
    let bytes: u64 = report.system_events[0].strings[0]
        .parse()
        .expect("a number");
    // A quarter of the 256 slots has a table of 256 descriptors.
    assert!(bytes > 64 * 256 * 16, "{bytes}");
    let text = format!(
        "{DISK} cannot start: Windows did not provide {bytes} bytes of contiguous memory for the \
         queues and their requests."
    );
    check_events(&report, &[(Event::OutOfMemory, text)]);
}

/// V70: the driver can do without it.
fn a_configuration_vector_that_is_refused() {
    let disk = faulty(common_reads(CONFIG_MSIX_VECTOR, 0xffff));
    let bench = Disk::new(disk).start(patient());
    bench.read(1);
    logged(bench, &[]);
}

fn a_used_ring_that_is_wrong_at_start() {
    for (id, what) in [
        (900, "used id out of range (900)"),
        (7, "used id not in flight (7)"),
    ] {
        let disk = Disk::new(faulty(Faults {
            used_id: Some(id),
            ..Faults::default()
        }));
        let why =
            format!("the device broke the virtio protocol in queue 0 while it was started: {what}");
        let begin = Instant::now();
        refused(Event::StartViolation, &why, disk, patient());
        let took = begin.elapsed();
        assert!(took < Duration::from_millis(900), "{took:?}");
    }
}

/// V03.
fn a_device_that_needs_a_reset() {
    let bench = split().start(patient());
    let before = bench.device.resets();

    bench.device.set_needs_reset();

    bench.wait_for_reset(before);
    bench.read(1);
    bench.check_without_storport();
    let text = format!(
        "{DISK} asks to be reset (DEVICE_NEEDS_RESET). The driver resets the device, and Windows \
         retries its requests."
    );
    logged(bench, &[(Event::ResetRequested, text), reset(1, 0)]);
}

/// The event of a protocol violation.
fn violation(queue: u16, what: &str) -> (Event, String) {
    let text = format!(
        "{DISK} broke the virtio protocol in queue {queue}: {what}. The driver resets the device, and Windows \
         retries its requests."
    );
    (Event::ProtocolViolation, text)
}

fn a_used_ring_that_is_wrong() {
    let used_id = |id| Faults {
        used_id: Some(id),
        ..Faults::default()
    };
    let no_status = Faults {
        no_status: true,
        ..Faults::default()
    };
    for (faults, what) in [
        (used_id(u32::MAX), "used id out of range (4294967295)"),
        (used_id(0x1_0000), "used id out of range (65536)"),
        (used_id(900), "used id out of range (900)"),
        (used_id(77), "used id not in flight (77)"),
        (no_status, "no status in slot (0)"),
    ] {
        // Each CPU has a queue of its own.
        for queue in [0, 1] {
            let bench = Disk::new("num-queues=2".parse().unwrap()).start(patient());
            bench.device.set_faults(Faults {
                queue: Some(queue),
                until_reset: true,
                ..faults.clone()
            });
            let done = bench.adapter.execute_on(queue.into(), read(1, &sector()));
            assert_eq!(done.srb_status, BUS_RESET);
            bench.read(1);
            bench.check_without_storport();
            logged(bench, &[violation(queue, what), reset(1, 1)]);
        }
    }
}

fn a_used_index_that_is_wrong_while_idle() {
    let bench = split().start(patient());
    bench.read(1);
    let before = bench.device.resets();

    bench.device.glitch(Glitch::Interrupt);

    bench.wait_for_reset(before);
    bench.read(2);
    bench.check_without_storport();
    let what = "used index out of range (2)";
    logged(bench, &[violation(0, what), reset(1, 0)]);
}

fn a_bus_reset() {
    let bench = split().start(patient());
    let in_flight = bench.keep_in_flight();

    bench.adapter.reset_bus();

    let done = in_flight.recv_timeout(SOON).expect("the read ends");
    assert_eq!(done.srb_status, BUS_RESET);
    bench.read(1);
    logged(bench, &[reset(1, 1)]);
}

/// How many resets within a minute the driver decides on itself.
const MOST: u32 = 8;

/// The event of a device that needed more resets.
fn given_up() -> (Event, String) {
    let text = format!(
        "{DISK} was given up after more than {MOST} resets within 60 seconds. All its requests fail until \
         the device is restarted."
    );
    (Event::DeviceFailed, text)
}

fn a_device_that_is_faulty_after_each_reset() {
    let bench = split().start(patient());
    let mut expected = Vec::new();
    for number in 1..=MOST + 1 {
        // Service between the faults does not forgive them.
        bench.read(1);
        let before = bench.device.resets();
        bench.device.glitch(Glitch::Interrupt);
        bench.wait_for_reset(before);
        let what = "used index out of range (2)";
        expected.push(violation(0, what));
        expected.push(reset(number, 0));
        bench.wait(SOON, "the events are logged", |bench| {
            bench.adapter.report().system_events.len() >= expected.len()
        });
    }
    bench.wait(SOON, "the last event is logged", |bench| {
        bench.adapter.report().system_events.len() > expected.len()
    });
    let done = bench.run(read(2, &sector()));
    assert!(failed(&done), "{done:?}");
    bench.check_without_storport();
    logged(bench, &[&expected[..], &[given_up()]].concat());
}

/// The status reads as all ones, as that of a removed device does, and then the device confirms its
/// reset.
fn a_device_that_seems_gone_each_time() {
    let disk = split();
    let reads_ones = Arc::new(AtomicBool::new(false));
    let (device, ones) = (disk.device.clone(), reads_ones.clone());
    let function = Arc::new(Intercepted {
        function: disk.device.clone(),
        before_read: Box::new(move |bar, offset| {
            if (bar, offset) == (4, DEVICE_STATUS) {
                let is_due = ones.swap(false, Ordering::SeqCst);
                device.set_faults(if is_due {
                    common_reads(DEVICE_STATUS, 0xff)
                } else {
                    Faults::default()
                });
            }
        }),
        before_write: Box::new(|_, _, _| true),
    });
    let bench = disk.try_start_as(function, patient()).expect("a start");
    let mut expected = Vec::new();
    for number in 1..=MOST + 1 {
        bench.read(1);
        let before = bench.device.resets();
        reads_ones.store(true, Ordering::SeqCst);
        // The interrupt makes the driver read the status.
        bench.device.resize(4 << 20).expect("a size");
        bench.wait_for_reset(before);
        expected.push(reset(number, 0));
        bench.wait(SOON, "the event is logged", |bench| {
            bench.adapter.report().system_events.len() >= expected.len()
        });
    }
    bench.wait(SOON, "the last event is logged", |bench| {
        bench.adapter.report().system_events.len() > expected.len()
    });
    logged(bench, &[&expected[..], &[given_up()]].concat());
}

/// The event of a device that is gone.
fn vanished() -> (Event, String) {
    let text = format!("{DISK} no longer answers: its register device_status reads as all ones.");
    (Event::DeviceVanished, text)
}

fn a_device_that_vanishes() {
    let bench = split().start(patient());
    bench.read(1);

    bench.device.surprise_remove();
    bench.adapter.reset_bus();

    logged(bench, &[vanished()]);
}

fn a_device_status_of_ones() {
    let disk = Disk::new(faulty(common_reads(DEVICE_STATUS, 0xff)));
    let report = refuse(disk, patient());
    check_events(&report, &[vanished()]);
}

/// V07.
fn a_reset_that_never_ends() {
    let bench = split().start(patient());
    bench.device.slow_reset(0, u32::MAX);

    bench.adapter.reset_bus();

    bench.wait(4 * SOON, "the driver reports it", |bench| {
        bench.adapter.report().system_events.len() == 2
    });
    let report = bench.check();
    let milliseconds: u64 = report.system_events[1].strings[0]
        .parse()
        .expect("a number");
    assert!((10_000..15_000).contains(&milliseconds), "{milliseconds}");
    let text = format!(
        "{DISK} has not confirmed a reset for {milliseconds} ms (device status 0xF). The driver \
         keeps the requests, because the device may still write to their memory."
    );
    check_events(&report, &[reset(1, 0), (Event::ResetUnconfirmed, text)]);
    bench.stop();
}

fn a_restart_that_fails_each_time() {
    let bench = split().start(patient());
    bench.device.set_faults(refusing_features());

    bench.adapter.reset_bus();

    // Eight attempts, with pauses that double from 0.1 s.
    bench.wait(Duration::from_secs(30), "the driver gives up", |bench| {
        bench.adapter.report().system_events.len() == 2
    });
    let text = format!(
        "{DISK} could not be started again after a reset: features refused. All its requests \
         fail until the device is restarted."
    );
    logged(bench, &[reset(1, 0), (Event::RestartFailed, text)]);
}

fn a_used_length_that_is_short() {
    let bench = split().start(patient());
    bench.device.set_faults(used_length(1));
    for lba in 0..10 {
        bench.read(lba);
    }
    // The data and the status byte.
    let text = format!(
        "{DISK} reports that it wrote 1 bytes for a request of 513 bytes that succeeded. The \
         driver relies on the status alone. This is logged once."
    );
    logged(bench, &[(Event::UsedLengthShort, text)]);
}

fn a_write_cache_that_does_not_switch() {
    for (on, what) in [(false, "off"), (true, "on")] {
        let bench = Disk::new(faulty(device_reads(WRITEBACK, u32::from(!on)))).start(patient());

        assert_eq!(set_write_cache(&bench, on), ERROR);

        let text = format!("{DISK} did not turn its write cache {what}.");
        logged(bench, &[(Event::CacheModeUnchanged, text)]);
    }
}

fn a_write_cache_that_does_not_stay_off() {
    let bench = split().start(patient());
    assert_eq!(set_write_cache(&bench, false), SUCCESS);
    bench.device.set_faults(device_reads(WRITEBACK, 1));

    bench.adapter.reset_bus();

    let text = format!("{DISK} did not turn its write cache off.");
    logged(bench, &[reset(1, 0), (Event::CacheModeUnchanged, text)]);
}
