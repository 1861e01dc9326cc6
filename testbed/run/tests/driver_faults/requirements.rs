//! Requirements of VIRTIO that no check of the device can see: whether the driver accepts what a
//! device may offer, and does without what it need not do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use testbed_devices::{BlkSettings, Faults};
use testbed_machine::pci::PciFunction as _;

use super::bench::*;

scenarios! {
    a_device_that_offers_every_feature_gets_those_of_the_table
    longer_capabilities_and_structures_serve
    capabilities_that_a_driver_must_ignore_are_ignored
    a_capacity_that_changes_while_it_is_read_is_read_again
    one_interrupt_can_mean_used_buffers_and_a_change
    the_isr_status_is_read_for_the_pin_alone
    no_notification_is_sent_that_the_device_does_not_want
}

/// The BAR of the virtio structures, and where two of them are in it.
const BAR: usize = 4;
const ISR: u64 = 0x1000;
const CAPACITY: u64 = 0x2000;

/// Starts the driver on `disk`, and calls `before_read` with each offset that it reads in
/// [`BAR`].
fn start_observed(disk: Disk, before_read: impl Fn(u64) + Send + Sync + 'static) -> Bench {
    let function = Arc::new(Intercepted {
        function: disk.device.clone(),
        before_read: Box::new(move |bar, offset| {
            if bar == BAR {
                before_read(offset);
            }
        }),
        before_write: Box::new(|_, _, _| true),
    });
    let started = disk.try_start_as(function, patient());
    started.expect("the driver starts")
}

/// The features that the table in docs/conformance.md says are accepted.
fn accepted_in_the_table() -> u64 {
    let page = include_str!("../../../../docs/conformance.md");
    let (_, table) = page.split_once("| Bit | Feature |").expect("the table");
    let rows = table.lines().filter_map(|line| {
        let cells: Vec<_> = line.split(" | ").collect();
        let bit: u32 = cells[0].trim_start_matches("| ").parse().ok()?;
        (cells[2] == "yes").then_some(1 << bit)
    });
    rows.sum()
}

/// V04, V06, V18, V20, V85.
fn a_device_that_offers_every_feature_gets_those_of_the_table() {
    let disk = Disk::new(BlkSettings {
        features: u64::MAX,
        ..device()
    });

    let bench = disk.start(patient());

    let (accepted, expected) = (bench.device.accepted_features(), accepted_in_the_table());
    assert_eq!(accepted, expected, "{accepted:#x} is not {expected:#x}");
    bench.read(1);
    assert!(failed(&bench.run(write(1, &sector(), false))), "read-only");
    bench.finish_without_storport();
}

/// V10, V62: each capability and each structure is longer than the driver knows.
fn longer_capabilities_and_structures_serve() {
    const CAPABILITIES: [u16; 4] = [0x40, 0x50, 0x60, 0x70];
    const CAP_LEN: u16 = 2;
    const LENGTH: u16 = 12;
    let longer = CAPABILITIES.map(|at| [(at + CAP_LEN, 0x60), (at + LENGTH + 1, 0x10)]);
    let bench = Disk::new(BlkSettings {
        faults: Faults {
            pci_reads: longer.concat(),
            ..Faults::default()
        },
        ..device()
    })
    .start(patient());

    bench.read(1);

    bench.finish_without_storport();
}

/// V62, V63: before the capabilities of the device come one with a reserved BAR, one of a reserved
/// type, and two of types that the driver does not use. After them comes a second one of a
/// structure that was found, at another place.
fn capabilities_that_a_driver_must_ignore_are_ignored() {
    const HEAD: u16 = 0x34;
    const NEXT: u16 = 1;
    const COMMON: u8 = 1;
    const PCI: u8 = 5;
    const VENDOR: u8 = 9;
    const RESERVED: u8 = 0x7f;
    // Where each is, its type, its BAR, and the second byte of its offset.
    let capabilities = [
        (0xb0, COMMON, 6, 0),
        (0xc0, RESERVED, 4, 0),
        (0xd0, PCI, 0, 0),
        (0xe0, VENDOR, 0, 0),
        (0xf0, COMMON, 4, 0x20),
    ];
    let disk = Disk::new(device());
    let mut byte = [0];
    disk.device.config_read(HEAD, &mut byte);
    let [first] = byte;
    // The last of the device's capabilities links to nothing.
    let mut last = u16::from(first);
    loop {
        disk.device.config_read(last + NEXT, &mut byte);
        match byte {
            [0] => break,
            [next] => last = next.into(),
        }
    }
    let mut reads = vec![(HEAD, 0xb0), (last + NEXT, 0xf0)];
    for (at, kind, bar, offset) in capabilities {
        let next = match at {
            0xe0 => first,
            0xf0 => 0,
            _ => at as u8 + 0x10,
        };
        let bytes = [
            9, next, 16, kind, bar, 0, 0, 0, 0, offset, 0, 0, 0, 0x10, 0, 0,
        ];
        reads.extend((at..).zip(bytes));
    }
    disk.device.set_faults(Faults {
        pci_reads: reads,
        ..Faults::default()
    });

    let bench = disk.start(patient());

    bench.read(1);
    bench.finish_without_storport();
}

/// V08: the disk grows between the reads of the two halves.
fn a_capacity_that_changes_while_it_is_read_is_read_again() {
    const GROWN: u64 = 8 << 20;
    let disk = Disk::new(device());
    let device = disk.device.clone();
    let reads = AtomicU64::new(0);
    let bench = start_observed(disk, move |offset| {
        let is_half = (CAPACITY..CAPACITY + 8).contains(&offset);
        if is_half && reads.fetch_add(1, Ordering::Relaxed) == 1 {
            device.resize(GROWN).unwrap();
        }
    });
    let buffer = sector();

    let done = bench.run(read_capacity(&buffer));

    assert_eq!(done.srb_status, SUCCESS);
    let mut last = [0; 4];
    assert!(buffer.read(0, &mut last));
    let sectors = u64::from(u32::from_be_bytes(last)) + 1;
    assert_eq!(sectors * u64::from(SECTOR), GROWN);
    bench.finish_without_storport();
}

/// V37, V72: with the pin, and the configuration changes all the time.
fn one_interrupt_can_mean_used_buffers_and_a_change() {
    for vectors in [0, 1] {
        let bench = Disk::new(BlkSettings {
            msix_vectors: vectors,
            ..device()
        })
        .start(patient());
        bench.serve(500, 8, SOON, || {
            for _ in 0..100 {
                bench.device.resize(4 << 20).unwrap();
            }
        });
        bench.finish_without_storport();
    }
}

/// V68.
fn the_isr_status_is_read_for_the_pin_alone() {
    for (vectors, is_read) in [(2, false), (1, false), (0, true)] {
        let disk = Disk::new(BlkSettings {
            msix_vectors: vectors,
            ..device()
        });
        let reads = Arc::<AtomicU64>::default();
        let counter = reads.clone();
        let bench = start_observed(disk, move |offset| {
            counter.fetch_add((offset == ISR).into(), Ordering::Relaxed);
        });
        bench.serve(100, 4, SOON, || {});

        let reads = reads.load(Ordering::Relaxed);

        assert_eq!(reads > 0, is_read, "{vectors} vectors: {reads} reads");
        bench.finish_without_storport();
    }
}

/// V40, V41: the device has a request and asks for no notification while it sleeps.
fn no_notification_is_sent_that_the_device_does_not_want() {
    for property in [
        "event_idx=on",
        "event_idx=off",
        "packed=on,event_idx=on",
        "packed=on,event_idx=off",
    ] {
        let disk = Disk::new(BlkSettings {
            faults: Faults {
                latency: Duration::from_millis(500),
                ..Faults::default()
            },
            ..property.parse().unwrap()
        });
        let bench = disk.start(patient());
        let sent = || bench.device.counters().notifications;
        let before = sent();
        let buffers = [(); 4].map(|()| sector());

        let first = bench.issue(read(1, &buffers[0]));
        bench.wait(SOON, "the first is notified", |_| sent() > before);
        // The device has suppressed notifications, and serves nothing yet.
        thread::sleep(Duration::from_millis(100));
        let others = [1, 2, 3].map(|at| bench.issue(read(1, &buffers[at])));
        bench.wait(SOON, "all are in flight", |bench| {
            bench.adapter.outstanding() == 4
        });
        assert_eq!(sent(), before + 1, "{property}");

        for done in [first].into_iter().chain(others) {
            let done = done.recv_timeout(SOON).expect("it ends");
            assert_eq!(done.srb_status, SUCCESS, "{property}");
        }
        bench.finish_without_storport();
    }
}
