//! Requests and callbacks that Storport makes seldom: odd SRBs, functions that
//! fail, requests that are never started, other processors.

use std::time::Duration;

use testbed_devices::{BlkSettings, Operation};
use testbed_storport::{
    adapter::{
        AdapterSettings, FailingFunction, OptionalCallback, OptionalCallbacks, SrbChange, SrbShape,
        StartIoCpu,
    },
    request::{Address, Request},
};

use super::bench::*;

/// The SRB shapes.
const SHAPES: [SrbShape; 2] = [SrbShape::Storage, SrbShape::Scsi];

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_read_into_a_buffer_that_is_only_to_be_read_is_refused() {
    isolated(|| {
        for srb in SHAPES {
            let bench = start(AdapterSettings { srb, ..patient() });
            let buffer = bench.buffer(SECTOR as usize);
            for request in [read(1, &buffer), inquiry(&buffer), read_capacity(&buffer)] {
                assert!(buffer.write(0, &[0xA5; SECTOR as usize]));

                let opcode = request.cdb[0];
                let done = bench
                    .adapter
                    .execute_changed(request, direction(false, true));

                assert!(failed(&done), "{srb:?} {opcode:#04x}");
                let mut found = [0; SECTOR as usize];
                assert!(buffer.read(0, &mut found));
                assert_eq!(found, [0xA5; SECTOR as usize], "{srb:?} {opcode:#04x}");
            }
            bench.read(2);
            bench.check_without_storport();
            bench.stop();
        }
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_write_of_a_buffer_that_is_to_be_filled_is_refused() {
    isolated(|| {
        for srb in SHAPES {
            let bench = start(AdapterSettings { srb, ..patient() });
            let buffer = bench.buffer(SECTOR as usize);
            assert!(buffer.write(0, &[0xA5; SECTOR as usize]));
            let _ = bench.device.take_served();

            let request = write(1, &buffer, false);
            let done = bench
                .adapter
                .execute_changed(request, direction(true, false));

            assert!(failed(&done), "{srb:?}");
            assert_eq!(bench.device.take_served(), []);
            bench.read(1);
            bench.check_without_storport();
            bench.stop();
        }
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn data_of_an_unspecified_direction_are_transferred() {
    isolated(|| {
        for srb in SHAPES {
            let bench = start(AdapterSettings { srb, ..patient() });
            let buffer = bench.buffer(SECTOR as usize);
            let both = || direction(true, true);

            let done = bench.adapter.execute_changed(read(7, &buffer), both());
            assert_eq!((done.srb_status, done.transferred), (SUCCESS, SECTOR));
            assert_eq!(stamp(&buffer), 7);
            let done = bench.adapter.execute_changed(inquiry(&buffer), both());
            assert_eq!((done.srb_status, done.transferred), (SUCCESS, 36));
            let done = bench
                .adapter
                .execute_changed(write(8, &buffer, false), both());
            assert_eq!(done.srb_status, SUCCESS);
            let served = bench.device.take_served();
            let last = served.last().map(|served| served.operation);
            assert_eq!(last, Some(Operation::Write(8, 1)));
            bench.check_without_storport();
            bench.stop();
        }
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn an_answer_whose_buffer_is_not_mapped_is_no_short_success() {
    isolated(|| {
        const GET_SYSTEM_ADDRESS: u32 = 5;
        const UNSUCCESSFUL: u32 = 0xC100_0001;
        for after in [0, 2] {
            let bench = start(AdapterSettings {
                failing_function: Some(FailingFunction {
                    code: GET_SYSTEM_ADDRESS,
                    after,
                    status: UNSUCCESSFUL,
                }),
                ..patient()
            });
            let buffer = bench.buffer(SECTOR as usize);
            let requests: [fn(&_) -> Request; 2] = [inquiry, read_capacity];
            let ordinary = requests.iter().take(after as usize);
            for request in ordinary {
                let done = bench.within(SOON, request(&buffer)).expect("it ends");
                assert_eq!(done.srb_status, SUCCESS);
                assert!(done.transferred > 0);
            }
            for request in requests {
                // BUSY is tried again without an end.
                let done = bench.within(Duration::from_millis(500), request(&buffer));
                let retried = bench.adapter.report().retried > 0;
                assert!(done.as_ref().map_or(retried, failed), "{done:?}");
            }
            assert!(bench.adapter.report().violations.is_empty());
        }
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_device_extension_that_is_aligned_to_8_bytes_suffices() {
    isolated(|| {
        for extension_offset in [8, 0xFF8] {
            let bench = start(AdapterSettings {
                extension_offset,
                ..patient()
            });
            bench.read(1);
            bench.check_without_storport();
            bench.stop();
        }
    });
}

/// Lets HwBuildIo build as many requests as the queue holds, and drops them in Storport by `drop`,
/// until the driver has seen more requests than it has slots.
fn drop_built_requests(bench: &Bench, drop: impl Fn(&Bench)) {
    const REQUESTS: usize = 600;
    let buffer = bench.buffer(SECTOR as usize);
    let mut dropped = 0;
    while dropped < REQUESTS {
        let depth = bench.adapter.queue_depth(Address::default()) as usize;
        bench.adapter.hold_built(depth as u32);
        let waiting: Vec<_> = (0..depth).map(|_| bench.issue(read(1, &buffer))).collect();
        bench.wait(SOON, "all requests are built", |bench| {
            bench.adapter.held() == depth
        });

        drop(bench);

        for request in waiting {
            let done = request.recv_timeout(SOON).expect("Storport ends it");
            assert_eq!(done.srb_status, BUS_RESET);
        }
        dropped += depth;
        // With no free slot the driver completes a request as BUSY once.
        bench.read(1);
    }
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn requests_that_a_bus_reset_drops_before_hw_start_io_leave_the_disk_working() {
    isolated(|| {
        let bench = start(patient());
        drop_built_requests(&bench, |bench| bench.adapter.reset_bus());
        let ends = load(&bench, 1000, 128, SOON, || {}).expect("all requests end");
        assert_eq!(ends.get(&SUCCESS), Some(&2000), "{ends:?}");
        assert_eq!(bench.check().retried, 0);
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn requests_that_are_dropped_before_hw_start_io_without_a_reset_leave_the_disk_working() {
    isolated(|| {
        let bench = start(patient());
        let resets = bench.device.resets();
        drop_built_requests(&bench, |bench| bench.adapter.complete_held());
        let ends = load(&bench, 1000, 128, SOON, || {}).expect("all requests end");
        assert_eq!(ends.get(&SUCCESS), Some(&2000), "{ends:?}");
        assert_eq!(bench.device.resets(), resets);
        bench.check_without_storport();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn extended_srbs_that_contradict_themselves_are_refused() {
    isolated(|| {
        // A STORAGE_REQUEST_BLOCK has 128 bytes, its address and its extended
        // data follow at 128 and 144, and all has 184.
        let wild = [
            vec![SrbChange::AddressOffset(0x4000_0000)],
            vec![SrbChange::AddressOffset(u32::MAX)],
            vec![SrbChange::AddressOffset(u32::MAX - 7)],
            vec![SrbChange::AddressOffset(184)],
            vec![SrbChange::AddressOffset(180)],
            vec![SrbChange::SrbExDataOffset(0x4000_0000)],
            vec![SrbChange::SrbExDataOffset(u32::MAX)],
            vec![SrbChange::SrbExDataOffset(u32::MAX - 7)],
            vec![SrbChange::SrbExDataOffset(176)],
            vec![SrbChange::SrbExDataOffset(0)],
            vec![SrbChange::NumSrbExData(0)],
            vec![SrbChange::NumSrbExData(u32::MAX)],
            vec![SrbChange::SrbLength(0)],
            vec![SrbChange::SrbLength(8)],
            vec![SrbChange::SrbLength(127)],
            vec![SrbChange::SrbLength(150)],
        ];
        let bench = start(patient());
        let buffer = bench.buffer(SECTOR as usize);
        for changes in wild {
            // The message of a crash follows this line.
            eprintln!("{changes:?}");
            let done = bench
                .adapter
                .execute_changed(read(1, &buffer), changes.clone());
            assert!(failed(&done), "{changes:?}");
            bench.read(2);
        }
        bench.check_without_storport();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn requests_may_be_built_on_one_processor_and_started_on_another() {
    isolated(|| {
        let bench = start(AdapterSettings {
            start_io_cpu: StartIoCpu::Next,
            ..patient()
        });

        let ends = load(&bench, 5000, 16, 2 * SOON, || {}).expect("all requests end");

        assert_eq!(ends.get(&SUCCESS), Some(&10_000), "{ends:?}");
        bench.check_without_storport();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn optional_callbacks_may_come_at_any_time() {
    isolated(|| {
        let bench = Disk::new(BlkSettings::default()).start(AdapterSettings {
            optional_callbacks: OptionalCallbacks::BesideStart,
            ..patient()
        });
        let unit = Address::default();
        let calls = [
            OptionalCallback::Tracing(true),
            OptionalCallback::UnitStart(unit),
            OptionalCallback::Tracing(false),
        ];
        bench.adapter.restart().unwrap();

        let ends = load(&bench, 2000, 16, SOON, || {
            for call in calls {
                for _ in 0..100 {
                    bench.adapter.call_optional(call);
                }
            }
        });

        let ends = ends.expect("all requests end");
        assert_eq!(ends.get(&SUCCESS), Some(&4000), "{ends:?}");
        bench.check_without_storport();

        let removed = bench
            .adapter
            .call_optional(OptionalCallback::SurpriseRemoval);
        let buffer = bench.buffer(SECTOR as usize);
        let done = bench.within(SOON, read(1, &buffer)).expect("it ends");
        assert!(removed.is_none() || failed(&done), "{done:?}");
        bench.check_without_storport();
        bench.stop();
    });
}
