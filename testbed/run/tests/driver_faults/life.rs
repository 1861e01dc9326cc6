//! The life cycle of the device when several things fail at once: overlapping resets, a failing
//! clock, a stop in a pause.

use std::{
    thread,
    time::{Duration, Instant},
};

use testbed_devices::{BlkSettings, Faults, Glitch};
use testbed_storport::{
    adapter::{AdapterSettings, FailingExport, Resume},
    control_request::ControlRequest,
    request::Address,
};

use super::bench::*;

scenarios! {
    a_clock_that_fails_in_a_reset_does_not_cut_the_wait_short
    a_start_that_lacks_memory_gives_none_to_the_device
    a_hw_find_adapter_that_fails_after_a_sleep_leaves_nothing_running
    a_device_that_may_use_the_memory_after_hw_find_adapter_is_kept
    a_device_that_may_use_the_memory_after_a_failed_start_is_kept
    routines_that_fail_do_not_stop_the_disk
    a_pause_that_is_refused_and_a_timer_that_never_comes_hold_up_nothing
    requests_without_a_list_of_their_data_fail_and_keep_no_slot
    reset_requests_at_once_are_all_answered
    resets_of_all_kinds_under_load_lose_nothing
    a_stop_in_a_recovery_leaves_the_device_reset
    a_reset_of_a_unit_that_does_not_exist_resets_nothing
}

const INITIALIZE_PERF_OPTS: u32 = 14;
const LOG_SYSTEM_EVENT: u32 = 16;
const GET_ACTIVE_GROUP_COUNT: u32 = 18;
const GET_GROUP_AFFINITY: u32 = 19;

fn a_clock_that_fails_in_a_reset_does_not_cut_the_wait_short() {
    let bench = start(failing_function(QUERY_PERFORMANCE_COUNTER, 5));
    bench.device.slow_reset(0, 60);
    bench.device.set_needs_reset();
    thread::sleep(Duration::from_millis(200));

    bench.read(1);

    let events = bench.driver_events();
    assert_eq!(events.len(), 2, "{events:?}");
    bench.finish_without_storport();
}

/// The resets of a start: before the device is asked what it is, after that, and after it is
/// asked for the disk's identity.
const RESETS_OF_FIND_ADAPTER: u32 = 3;

/// How many polls of the device status the driver makes while it waits in HwFindAdapter.
const POLLS: u32 = 1000;

/// Bits of the device status.
const DRIVER_OK: u8 = 4;
const FAILED: u8 = 0x80;

/// HwFindAdapter fails before the device is started for the disk's identity. After that Windows
/// could free memory that the device accesses.
fn a_start_that_lacks_memory_gives_none_to_the_device() {
    let disk = Disk::new(device());
    let device = disk.device.clone();

    let failed = disk.try_start(failing_export(FailingExport::GetUncachedExtension));

    let report = failed.err().expect("the driver refuses").report;
    assert!(report.violations.is_empty(), "{:?}", report.violations);
    let writes = device.status_writes();
    let is_started = writes.iter().any(|status| status & DRIVER_OK != 0);
    assert!(!is_started && writes.last() == Some(&0), "{writes:02x?}");
}

fn a_hw_find_adapter_that_fails_after_a_sleep_leaves_nothing_running() {
    let bench = start(AdapterSettings {
        resume: Resume::FindAdapter,
        ..patient()
    });
    bench.read(1);
    bench.device.set_faults(refusing_features());

    assert!(bench.adapter.restart().is_err());

    let writes = bench.device.status_writes();
    let is_failed = writes.last().is_some_and(|status| status & FAILED != 0);
    assert!(is_failed, "{writes:02x?}");
    // A message that is still on its way reaches no state of the driver.
    bench.device.send_message(0);
    bench.check_without_storport();
    bench.stop();
}

/// V07, V15.
fn a_device_that_may_use_the_memory_after_hw_find_adapter_is_kept() {
    let disk = Disk::new(device());
    disk.device
        .slow_reset(RESETS_OF_FIND_ADAPTER - 1, POLLS + 50);

    let bench = disk.start(patient());

    bench.read(1);
    assert_eq!(bench.device.resets(), u64::from(RESETS_OF_FIND_ADAPTER));
    assert_eq!(bench.driver_events(), Vec::<String>::new());
    bench.finish_without_storport();
}

/// V15.
fn a_device_that_may_use_the_memory_after_a_failed_start_is_kept() {
    for polls in [POLLS + 50, u32::MAX] {
        let disk = Disk::new(BlkSettings {
            faults: Faults {
                driver_ok_fails: Some(RESETS_OF_FIND_ADAPTER.into()),
                ..Faults::default()
            },
            ..device()
        });
        disk.device.slow_reset(RESETS_OF_FIND_ADAPTER, polls);

        let bench = disk.start(patient());

        bench.device.set_faults(Faults::default());
        if polls == u32::MAX {
            bench.device.finish_reset();
        }
        bench.read(1);
        bench.finish_without_storport();
    }
}

fn routines_that_fail_do_not_stop_the_disk() {
    for code in [
        INITIALIZE_PERF_OPTS,
        LOG_SYSTEM_EVENT,
        GET_ACTIVE_GROUP_COUNT,
        GET_GROUP_AFFINITY,
        QUERY_PERFORMANCE_COUNTER,
    ] {
        eprintln!("function {code}");
        let bench = start(failing_function(code, 0));
        bench.serve(1000, 16, SOON, || bench.device.glitch(Glitch::AtNextUsed));
        bench.adapter.restart().unwrap();
        bench.read(1);
        bench.finish_without_storport();
    }
}

fn a_pause_that_is_refused_and_a_timer_that_never_comes_hold_up_nothing() {
    let bench = start(failing_export(FailingExport::Pause));
    bench.device.slow_reset(0, 20);
    bench.device.set_needs_reset();
    thread::sleep(Duration::from_millis(200));
    bench.read(1);
    bench.finish_without_storport();

    // Requests come, and time out.
    let bench = start(AdapterSettings {
        failing_export: Some(FailingExport::RequestTimerCall),
        ..impatient()
    });
    bench.device.set_faults(stalled());
    bench.device.slow_reset(0, 20);
    let done = bench.run(read(STALLED, &sector()));
    assert_eq!(done.srb_status, BUS_RESET);
    bench.read(1);
    bench.finish();
}

fn requests_without_a_list_of_their_data_fail_and_keep_no_slot() {
    let bench = start(failing_export(FailingExport::GetScatterGatherList));
    let buffer = sector();
    for lba in 0..=255 {
        for request in [read(lba, &buffer), write(lba, &buffer, lba % 2 == 0)] {
            let done = bench.run(request);
            assert!(failed(&done), "{done:?}");
        }
    }
    let done = bench.run(synchronize_cache());
    assert_eq!(done.srb_status, SUCCESS);
    bench.finish_without_storport();
}

fn reset_requests_at_once_are_all_answered() {
    for slow in [0, 20] {
        let bench = start(patient());
        let in_flight = bench.keep_in_flight();
        if slow > 0 {
            bench.device.slow_reset(0, slow);
        }
        let unit = Address::default();
        let other = Address { lun: 3, ..unit };
        let requests: Vec<_> = [
            ControlRequest::ResetUnit(unit),
            ControlRequest::ResetDevice(unit),
            ControlRequest::ResetUnit(unit),
            ControlRequest::ResetUnit(other),
            ControlRequest::ResetDevice(other),
            ControlRequest::ResetUnit(unit),
        ]
        .into_iter()
        .map(|request| {
            let adapter = bench.adapter.clone();
            thread::spawn(move || (request, adapter.control(request)))
        })
        .collect();
        bench.adapter.reset_bus();
        for request in requests {
            let begin = Instant::now();
            while !request.is_finished() {
                assert!(begin.elapsed() < SOON, "{slow}: a reset hangs");
                thread::sleep(Duration::from_millis(1));
            }
            let (request, status) = request.join().unwrap();
            eprintln!("{slow} {request:?}: {status:#x}");
        }
        let done = in_flight.recv_timeout(SOON).expect("it ends");
        assert_eq!(done.srb_status, BUS_RESET);
        bench.read(1);
        bench.finish();
    }
}

fn resets_of_all_kinds_under_load_lose_nothing() {
    let bench = start(patient());
    let unit = Address::default();
    let ends = load(&bench, 20_000, 64, 6 * SOON, || {
        for round in 0..40 {
            match round % 5 {
                0 => bench.adapter.reset_bus(),
                1 => {
                    let _ = bench.adapter.control(ControlRequest::ResetUnit(unit));
                }
                2 => {
                    bench.device.slow_reset(0, 5);
                    bench.adapter.reset_bus();
                }
                3 => {
                    bench.device.slow_reset(0, 3);
                    let _ = bench.adapter.control(ControlRequest::ResetDevice(unit));
                    bench.adapter.reset_bus();
                }
                _ => {
                    if round < 30 {
                        bench.device.glitch(Glitch::AtNextUsed);
                    }
                }
            }
        }
    })
    .expect("all requests end");
    assert_eq!(ends.get(&SUCCESS), Some(&40_000), "{ends:?}");
    assert!(ends.len() <= 2, "{ends:?}");
    bench.finish();
}

fn a_stop_in_a_recovery_leaves_the_device_reset() {
    for slow in [0, 3, u32::MAX] {
        for wait in [0, 1, 5, 20] {
            let bench = start(patient());
            if slow > 0 {
                bench.device.slow_reset(0, slow);
            }
            bench.device.set_needs_reset();
            thread::sleep(Duration::from_millis(wait));
            bench.adapter.stop().unwrap();
            let writes = bench.device.status_writes();
            assert_eq!(writes.last(), Some(&0), "{writes:02x?}");
            // The stop may come between two register writes of the recovery,
            // which the device records as a driver error.
            let report = bench.adapter.report();
            assert!(report.violations.is_empty(), "{:?}", report.violations);
            assert!(report.resets.is_empty(), "{:?}", report.resets);
        }
    }
}

fn a_reset_of_a_unit_that_does_not_exist_resets_nothing() {
    let bench = start(patient());
    let before = bench.device.resets();
    let unit = Address::default();
    let other_lun = Address { lun: 3, ..unit };
    let other_target = Address { target: 2, ..unit };

    for request in [
        ControlRequest::ResetUnit(other_lun),
        ControlRequest::ResetUnit(other_target),
        ControlRequest::ResetDevice(other_target),
    ] {
        assert_ne!(bench.adapter.control(request), SUCCESS);
    }

    assert_eq!(bench.device.resets(), before);
    bench.finish_without_storport();
}
