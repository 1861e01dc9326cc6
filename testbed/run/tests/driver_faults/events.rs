//! Each event of the driver, provoked on the driver file: its code, and its text with
//! what the driver inserts.

#[path = "../../../../src/events.rs"]
#[expect(dead_code, reason = "a test of xtask compares causes with the page")]
mod list;

use std::time::Duration;

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
const INDIRECT_DESC: u64 = 1 << 28;
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

/// Makes a test of each scenario, which is given the event that it must provoke.
macro_rules! provoked {
    ($($event:ident: $($scenario:ident)+;)*) => {
        mod provoked {
            $($(
                #[test]
                #[ignore = "needs a built driver: cargo xtask test"]
                fn $scenario() {
                    super::isolated(|| super::$scenario(super::Event::$event));
                }
            )+)*
        }

        #[test]
        fn every_event_has_a_scenario() {
            assert_eq!([$(Event::$event),*], *Event::ALL);
        }
    };
}

provoked! {
    ConfigurationSpaceUnreadable: a_configuration_space_that_is_cut_off a_device_that_is_absent;
    StructureMissing: no_capability_list a_structure_without_a_capability;
    StructureUnusable: structures_that_cannot_be_used;
    BarNotMapped: a_bar_that_is_not_mapped;
    StartResetUnconfirmed: a_reset_at_start_that_never_ends;
    VersionMissing: a_device_without_version_1;
    FeatureMissing: a_device_without_indirect_descriptors;
    FeaturesRefused: features_that_are_refused;
    ConfigurationUnstable: a_configuration_that_never_settles;
    ConfigurationInvalid: fields_that_make_no_sense;
    QueueUnusable: queues_that_cannot_be_used;
    LimitTooSmall: limits_without_room_for_a_page;
    OutOfMemory: an_uncached_extension_that_is_refused;
    VectorRefused: vectors_that_are_refused;
    StartRejected: a_device_that_needs_a_reset_at_driver_ok;
    StartViolation: a_used_ring_that_is_wrong_at_start;
    ResetRequested: a_device_that_needs_a_reset;
    ProtocolViolation: a_used_ring_that_is_wrong;
    DeviceReset: a_bus_reset;
    DeviceFailed: a_device_that_is_faulty_after_each_reset;
    DeviceVanished: a_device_that_vanishes a_device_status_of_ones;
    ResetUnconfirmed: a_reset_that_never_ends;
    RestartFailed: a_restart_that_fails_each_time;
    UsedLengthShort: a_used_length_that_is_short;
    CacheModeUnchanged: a_write_cache_that_does_not_switch
        a_write_cache_that_does_not_stay_off;
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
    let report = refuse(disk, settings);
    check_events(&report, &[(event, format!("{DISK} cannot start: {why}."))]);
}

fn faulty(faults: Faults) -> Disk {
    Disk::new(BlkSettings {
        faults,
        ..BlkSettings::default()
    })
}

fn failing(export: FailingExport) -> AdapterSettings {
    AdapterSettings {
        failing_export: Some(export),
        ..patient()
    }
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

fn a_configuration_space_that_is_cut_off(event: Event) {
    let disk = Disk::new(BlkSettings::default());
    refused(event, UNREADABLE, disk, failing(FailingExport::GetBusData));
}

fn a_device_that_is_absent(event: Event) {
    let disk = Disk::new(BlkSettings::default());
    disk.device.surprise_remove();
    refused(event, UNREADABLE, disk, patient());
}

fn no_capability_list(event: Event) {
    const STATUS: u16 = 0x06;
    let disk = faulty(pci_reads(&[(STATUS, 0)]));
    let why = "the device has no PCI capability list";
    refused(event, why, disk, patient());
}

fn a_structure_without_a_capability(event: Event) {
    for (capability, name) in [
        (COMMON, "common configuration"),
        (NOTIFY, "notification structure"),
        (ISR, "interrupt status"),
        (DEVICE, "device configuration"),
    ] {
        let disk = faulty(pci_reads(&[(capability + CFG_TYPE, 0)]));
        let why = format!("the device has no {name}");
        refused(event, &why, disk, patient());
    }
}

fn structures_that_cannot_be_used(event: Event) {
    const LIST: &str = "PCI capability list";
    const COMMON_NAME: &str = "common configuration";
    let cases = [
        (LIST, "it loops", vec![(COMMON + CAP_NEXT, NOTIFY as u8)]),
        (LIST, "link below 0x40", vec![(COMMON + CAP_NEXT, 0x20)]),
        (
            COMMON_NAME,
            "capability too short",
            vec![(COMMON + CAP_LEN, 15)],
        ),
        (COMMON_NAME, "reserved BAR number", vec![(COMMON + BAR, 6)]),
        (COMMON_NAME, "upper half of a BAR", vec![(COMMON + BAR, 5)]),
        (COMMON_NAME, "BAR of I/O ports", vec![(COMMON + BAR, 0)]),
        (
            COMMON_NAME,
            "BAR without an address",
            vec![(COMMON + BAR, 2)],
        ),
        (
            COMMON_NAME,
            "offset not aligned",
            vec![(COMMON + OFFSET, 2)],
        ),
        (
            COMMON_NAME,
            "structure too short",
            vec![(COMMON + LENGTH + 1, 0)],
        ),
        (
            COMMON_NAME,
            "end beyond 2^32",
            vec![
                (COMMON + OFFSET + 1, 0xf8),
                (COMMON + OFFSET + 2, 0xff),
                (COMMON + OFFSET + 3, 0xff),
            ],
        ),
        (
            "notification structure",
            "not inside its BAR",
            vec![(NOTIFY + OFFSET + 1, 0x40)],
        ),
        (
            "device configuration",
            "too short",
            vec![(DEVICE + LENGTH, 0x10), (DEVICE + LENGTH + 1, 0)],
        ),
    ];
    for (structure, what, reads) in cases {
        let disk = Disk::new(BlkSettings {
            // It has a BAR of I/O ports.
            device_id: DeviceId::Transitional,
            faults: pci_reads(&reads),
            ..BlkSettings::default()
        });
        let why = format!("the device's {structure} cannot be used ({what})");
        refused(event, &why, disk, patient());
    }
}

fn a_bar_that_is_not_mapped(event: Event) {
    let disk = Disk::new(BlkSettings::default());
    let why = "Windows did not map BAR 4 of the device (4096 bytes)";
    refused(event, why, disk, failing(FailingExport::GetDeviceBase));
}

fn a_reset_at_start_that_never_ends(event: Event) {
    // After the device was asked what it is. It has no memory of the driver yet.
    let disk = Disk::new(BlkSettings::default());
    disk.device.slow_reset(1, u32::MAX);
    let why = "the device did not confirm its reset within 1000 ms (device status 0xB)";
    refused(event, why, disk, patient());
}

fn a_device_without_version_1(event: Event) {
    let features = BlkSettings::FEATURES & !VERSION_1;
    let disk = Disk::new(BlkSettings {
        features,
        ..BlkSettings::default()
    });
    let why =
        format!("the device does not offer VIRTIO_F_VERSION_1 (features offered: 0x{features:X})");
    refused(event, &why, disk, patient());
}

fn a_device_without_indirect_descriptors(event: Event) {
    let features = BlkSettings::FEATURES & !INDIRECT_DESC;
    let disk = Disk::new(BlkSettings {
        features,
        ..BlkSettings::default()
    });
    let why = format!(
        "the device does not offer VIRTIO_F_INDIRECT_DESC, which the driver needs (features \
         offered: 0x{features:X})"
    );
    refused(event, &why, disk, patient());
}

fn features_that_are_refused(event: Event) {
    const UNKNOWN: u64 = 1 << 40;
    let disk = Disk::new(BlkSettings {
        features: BlkSettings::FEATURES | UNKNOWN,
        faults: Faults {
            refuse_features: true,
            ..Faults::default()
        },
        ..BlkSettings::default()
    });
    let (chosen, offered) = (BlkSettings::FEATURES, BlkSettings::FEATURES | UNKNOWN);
    let why = format!(
        "the device does not accept the features 0x{chosen:X} (features offered: 0x{offered:X})"
    );
    refused(event, &why, disk, patient());
}

fn a_configuration_that_never_settles(event: Event) {
    let disk = faulty(Faults {
        unstable_config: true,
        ..Faults::default()
    });
    let why = "the device's configuration changed during each attempt to read it";
    refused(event, why, disk, patient());
}

fn fields_that_make_no_sense(event: Event) {
    for (name, field, value, shown) in [
        ("blk_size", BLK_SIZE, 0, 0),
        ("blk_size", BLK_SIZE, 520, 520),
        ("blk_size", BLK_SIZE, 8192, 8192),
        ("size_max", SIZE_MAX_FIELD, 511, 511),
        ("capacity", CAPACITY_HIGH, 0x0080_0000, (1 << 55) + 8192),
    ] {
        let disk = Disk::new(BlkSettings {
            features: BlkSettings::FEATURES | SIZE_MAX,
            faults: device_reads(field, value),
            ..BlkSettings::default()
        });
        let why = format!(
            "the field {name} of the device's configuration has the value {shown}, which the \
             driver cannot use"
        );
        let _: u64 = shown;
        refused(event, &why, disk, patient());
    }
}

fn queues_that_cannot_be_used(event: Event) {
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
        let disk = faulty(common_reads(register, value));
        refused(event, &why, disk, patient());
    }
}

fn limits_without_room_for_a_page(event: Event) {
    let settings = BlkSettings::default;
    for (what, needed, settings) in [
        (
            "seg_max is 1",
            2,
            BlkSettings {
                seg_max: 1,
                ..settings()
            },
        ),
        (
            "seg_max is 15",
            16,
            BlkSettings {
                features: BlkSettings::FEATURES | SIZE_MAX,
                size_max: 512,
                seg_max: 15,
                ..settings()
            },
        ),
        (
            "queue_size is 2",
            4,
            BlkSettings {
                queue_size: 2,
                ..settings()
            },
        ),
    ] {
        let why = format!("the device's {what}, and the driver needs at least {needed}");
        refused(event, &why, Disk::new(settings), patient());
    }
}

fn an_uncached_extension_that_is_refused(event: Event) {
    let disk = Disk::new(BlkSettings::default());
    let report = refuse(disk, failing(FailingExport::GetUncachedExtension));
    let bytes: u64 = report.system_events[0].strings[0]
        .parse()
        .expect("a number");
    // 256 descriptor tables of 256 descriptors.
    assert!(bytes > 256 * 256 * 16, "{bytes}");
    let text = format!(
        "{DISK} cannot start: Windows did not provide {bytes} bytes of contiguous memory for the \
         queue and its requests."
    );
    check_events(&report, &[(event, text)]);
}

fn vectors_that_are_refused(event: Event) {
    const NO_VECTOR: u32 = 0xffff;
    let why = "the device refused MSI-X vector 0 for queue 0";
    let disk = faulty(common_reads(QUEUE_MSIX_VECTOR, NO_VECTOR));
    refused(event, why, disk, patient());

    // It can do without the other one (VIRTIO 1.3 §4.1.5.1.2.2).
    let bench = faulty(common_reads(CONFIG_MSIX_VECTOR, NO_VECTOR)).start(patient());
    bench.read(1);
    check_events(&bench.adapter.report(), &[]);
    bench.stop();
}

fn a_device_that_needs_a_reset_at_driver_ok(event: Event) {
    let disk = faulty(Faults {
        driver_ok_fails: Some(0),
        ..Faults::default()
    });
    let why = "the device reports a failure at the end of its start (DEVICE_NEEDS_RESET)";
    refused(event, why, disk, patient());
}

fn a_used_ring_that_is_wrong_at_start(event: Event) {
    for (id, what) in [
        (900, "used id out of range (900)"),
        (77, "used id not in flight (77)"),
    ] {
        let disk = faulty(Faults {
            used_id: Some(id),
            ..Faults::default()
        });
        let why = format!("the device broke the virtio protocol while it was started: {what}");
        refused(event, &why, disk, patient());
    }
}

fn a_device_that_needs_a_reset(event: Event) {
    let bench = start(patient());
    let before = bench.device.resets();

    bench.device.set_needs_reset();

    bench.wait_for_reset(before);
    bench.read(1);
    let text = format!(
        "{DISK} asks to be reset (DEVICE_NEEDS_RESET). The driver resets the device, and Windows \
         retries its requests."
    );
    check_events(&bench.check(), &[(event, text), reset(1, 0)]);
    bench.stop();
}

/// The event of a protocol violation.
fn violation(event: Event, what: &str) -> (Event, String) {
    let text = format!(
        "{DISK} broke the virtio protocol: {what}. The driver resets the device, and Windows \
         retries its requests."
    );
    (event, text)
}

fn a_used_ring_that_is_wrong(event: Event) {
    let with = |faults: Faults, what: &str| {
        let bench = start(patient());
        let buffer = bench.buffer(SECTOR as usize);
        bench.device.set_faults(faults);
        let done = bench
            .within(SOON, read(1, &buffer))
            .expect("the request ends");
        assert_eq!(done.srb_status, BUS_RESET);
        bench.device.set_faults(Faults::default());
        bench.read(1);
        check_events(&bench.check(), &[violation(event, what), reset(1, 1)]);
        bench.stop();
    };
    let used_id = |id| Faults {
        used_id: Some(id),
        ..Faults::default()
    };
    with(used_id(u32::MAX), "used id out of range (4294967295)");
    with(used_id(77), "used id not in flight (77)");
    let no_status = Faults {
        no_status: true,
        ..Faults::default()
    };
    with(no_status, "no status for used id (0)");

    let bench = start(patient());
    bench.read(1);
    let before = bench.device.resets();
    bench.device.glitch(Glitch::Interrupt);
    bench.wait_for_reset(before);
    bench.read(2);
    let what = "used index out of range (2)";
    check_events(&bench.check(), &[violation(event, what), reset(1, 0)]);
    bench.stop();
}

fn a_bus_reset(event: Event) {
    const STALLED: u8 = 30;
    let bench = start(impatient());
    bench.device.set_faults(Faults {
        stalled: std::iter::once(STALLED.into()..u64::from(STALLED) + 1).collect(),
        ..Faults::default()
    });
    let buffer = bench.buffer(SECTOR as usize);

    let stalled = bench
        .within(SOON, read(STALLED, &buffer))
        .expect("the request ends");

    assert_eq!(stalled.srb_status, BUS_RESET);
    bench.read(1);
    let (reset, text) = reset(1, 1);
    assert_eq!(reset, event);
    check_events(&bench.check(), &[(event, text)]);
    bench.stop();
}

fn a_device_that_is_faulty_after_each_reset(event: Event) {
    const MOST: u32 = 8;
    let bench = start(patient());
    let mut expected = Vec::new();
    for number in 1..=MOST + 1 {
        let before = bench.device.resets();
        bench.device.glitch(Glitch::Interrupt);
        bench.wait_for_reset(before);
        let what = "used index out of range (1)";
        expected.push(violation(Event::ProtocolViolation, what));
        expected.push(reset(number, 0));
        bench.wait(SOON, "the events are logged", |bench| {
            bench.adapter.report().system_events.len() >= expected.len()
        });
    }
    let text = format!(
        "{DISK} was given up after more than {MOST} resets within 60 seconds. All its requests fail until \
         the device is restarted."
    );
    expected.push((event, text));
    bench.wait(SOON, "the last event is logged", |bench| {
        bench.adapter.report().system_events.len() >= expected.len()
    });
    check_events(&bench.check(), &expected);
    bench.stop();
}

/// The event of a device that is gone.
fn vanished(event: Event) -> (Event, String) {
    let text = format!("{DISK} no longer answers: its register device_status reads as all ones.");
    (event, text)
}

fn a_device_that_vanishes(event: Event) {
    let bench = start(patient());
    bench.read(1);

    bench.device.surprise_remove();
    bench.adapter.reset_bus();

    check_events(&bench.check(), &[vanished(event)]);
    bench.stop();
}

fn a_device_status_of_ones(event: Event) {
    let disk = faulty(common_reads(DEVICE_STATUS, 0xff));
    let report = refuse(disk, patient());
    check_events(&report, &[vanished(event)]);
}

fn a_reset_that_never_ends(event: Event) {
    let bench = start(patient());
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
    check_events(&report, &[reset(1, 0), (event, text)]);
    bench.stop();
}

fn a_restart_that_fails_each_time(event: Event) {
    let bench = start(patient());
    bench.device.set_faults(Faults {
        refuse_features: true,
        ..Faults::default()
    });

    bench.adapter.reset_bus();

    // Eight attempts, with pauses that double from 0.1 s.
    bench.wait(Duration::from_secs(30), "the driver gives up", |bench| {
        bench.adapter.report().system_events.len() == 2
    });
    let text = format!(
        "{DISK} could not be started again after a reset: features refused. All its requests \
         fail until the device is restarted."
    );
    check_events(&bench.check(), &[reset(1, 0), (event, text)]);
    bench.stop();
}

fn a_used_length_that_is_short(event: Event) {
    let bench = start(patient());
    bench.device.set_faults(used_length(1));
    for lba in 0..10 {
        bench.read(lba);
    }
    // The data and the status byte.
    let text = format!(
        "{DISK} reports that it wrote 1 bytes for a request of 513 bytes that succeeded. The \
         driver relies on the status alone. This is logged once."
    );
    check_events(&bench.check(), &[(event, text)]);
    bench.stop();
}

fn a_write_cache_that_does_not_switch(event: Event) {
    for (on, what) in [(false, "off"), (true, "on")] {
        let bench = faulty(device_reads(WRITEBACK, u32::from(!on))).start(patient());

        assert_eq!(set_write_cache(&bench, on), ERROR);

        let text = format!("{DISK} did not turn its write cache {what}.");
        check_events(&bench.check(), &[(event, text)]);
        bench.stop();
    }
}

fn a_write_cache_that_does_not_stay_off(event: Event) {
    let bench = start(patient());
    assert_eq!(set_write_cache(&bench, false), SUCCESS);
    bench.device.set_faults(device_reads(WRITEBACK, 1));

    bench.adapter.reset_bus();

    let text = format!("{DISK} did not turn its write cache off.");
    check_events(&bench.check(), &[reset(1, 0), (event, text)]);
    bench.stop();
}
