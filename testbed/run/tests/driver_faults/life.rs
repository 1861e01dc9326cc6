//! The device's life where several things go wrong at once: a reset beside
//! another, a clock that fails, a stop in a pause.

use std::{
    thread,
    time::{Duration, Instant},
};

use testbed_devices::{BlkSettings, Faults, Glitch, Operation};
use testbed_storport::{
    adapter::{
        AdapterSettings, Escalation, FailingExport, FailingFunction, SrbShape, StrayMessages,
    },
    control_request::{ControlRequest, PnpAction, Recipient},
    request::{Address, Direction, Request},
};

use super::{bench::*, durability::*};

const UNSUCCESSFUL: u32 = 0xC100_0001;
const INITIALIZE_PERF_OPTS: u32 = 14;
const LOG_SYSTEM_EVENT: u32 = 16;
const GET_ACTIVE_GROUP_COUNT: u32 = 18;
const GET_GROUP_AFFINITY: u32 = 19;
const QUERY_PERFORMANCE_COUNTER: u32 = 47;

fn failing(code: u32, after: u32) -> AdapterSettings {
    AdapterSettings {
        failing_function: Some(FailingFunction {
            code,
            after,
            status: UNSUCCESSFUL,
        }),
        ..patient()
    }
}

fn failing_export(export: FailingExport) -> AdapterSettings {
    AdapterSettings {
        failing_export: Some(export),
        ..patient()
    }
}

fn stalled(lba: u64) -> Faults {
    Faults {
        stalled: std::iter::once(lba..lba + 1).collect(),
        ..Faults::default()
    }
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_restart_that_fails_is_tried_again_without_a_clock() {
    isolated(|| {
        for after in [0, 3] {
            let bench = start(failing(QUERY_PERFORMANCE_COUNTER, after));
            bench.device.set_faults(Faults {
                refuse_features: true,
                ..Faults::default()
            });
            let before = bench.device.resets();
            bench.device.glitch(Glitch::Interrupt);
            bench.wait_for_reset(before);
            let buffer = bench.buffer(SECTOR as usize);
            let waiting = bench.issue(read(1, &buffer));
            thread::sleep(Duration::from_millis(200));

            bench.device.set_faults(Faults::default());

            let done = waiting.recv_timeout(2 * SOON).expect("the request ends");
            assert_eq!(done.srb_status, SUCCESS);
            bench.check_without_storport();
            bench.stop();
        }
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_reset_that_never_ends_is_given_up_without_a_clock() {
    isolated(|| {
        let bench = start(failing(QUERY_PERFORMANCE_COUNTER, 0));
        bench.device.slow_reset(0, u32::MAX);
        bench.device.set_needs_reset();
        // A read that came before the reset would stay with the driver.
        thread::sleep(Duration::from_millis(200));

        let buffer = bench.buffer(SECTOR as usize);
        let new = bench.within(6 * SOON, read(1, &buffer)).expect("it ends");

        assert!(failed(&new), "{new:?}");
        bench.check_without_storport();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_clock_that_fails_in_a_reset_does_not_cut_the_wait_short() {
    isolated(|| {
        let bench = start(failing(QUERY_PERFORMANCE_COUNTER, 5));
        bench.device.slow_reset(0, 60);
        bench.device.set_needs_reset();
        thread::sleep(Duration::from_millis(200));

        bench.read(1);

        let events = bench.driver_events();
        assert_eq!(events.len(), 2, "{events:?}");
        bench.check_without_storport();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_pause_does_not_outlast_a_stop() {
    isolated(|| {
        // Without a cache a stop needs no flush, and so does not wait for the
        // reset.
        let bench = Disk::new(BlkSettings {
            features: BlkSettings::FEATURES & !(1 << 9 | 1 << 11),
            ..BlkSettings::default()
        })
        .start(patient());
        bench.read(1);
        bench.device.slow_reset(0, u32::MAX);
        bench.device.set_needs_reset();
        thread::sleep(Duration::from_millis(200));

        bench.adapter.restart().unwrap();

        bench.read(2);
        bench.check_without_storport();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_restart_after_a_reset_that_never_ended_works() {
    isolated(|| {
        let bench = Disk::new(BlkSettings {
            features: BlkSettings::FEATURES & !(1 << 9 | 1 << 11),
            ..BlkSettings::default()
        })
        .start(patient());
        bench.device.slow_reset(0, u32::MAX);
        bench.device.set_needs_reset();
        thread::sleep(Duration::from_millis(200));
        let buffer = bench.buffer(SECTOR as usize);
        let new = bench.within(6 * SOON, read(1, &buffer)).expect("it ends");
        assert!(failed(&new));

        bench.adapter.restart().unwrap();
        bench.read(2);
        // And where the device needs its time after the restart.
        bench.device.slow_reset(0, 50);
        bench.adapter.restart().unwrap();
        bench.read(3);
        bench.check_without_storport();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_flush_of_a_forced_write_that_never_ends_is_reset() {
    isolated(|| {
        for escalation in [Escalation::Bus, Escalation::Tiers] {
            let bench = start(AdapterSettings {
                escalation,
                ..impatient()
            });
            let buffer = bench.buffer(SECTOR as usize);
            bench.device.set_faults(Faults {
                flush_stalls: true,
                ..Faults::default()
            });

            let done = bench
                .within(SOON, write(3, &buffer, true))
                .expect("the request ends");

            assert_eq!(done.srb_status, BUS_RESET, "{escalation:?}");
            bench.device.set_faults(Faults::default());
            let done = bench
                .within(SOON, write(3, &buffer, true))
                .expect("the request ends");
            assert_eq!(done.srb_status, SUCCESS);
            bench.check();
            bench.stop();
        }
    });
}

/// Issues forced writes from several threads until `meanwhile` is done: how they
/// ended.
fn forced_writes(bench: &Bench, meanwhile: impl FnOnce()) -> Vec<u8> {
    let mut ends = Vec::new();
    let mut waiting: Vec<_> = (0..32)
        .map(|lba| {
            let buffer = bench.buffer(SECTOR as usize);
            assert!(buffer.write(0, &u64::from(lba).to_le_bytes()));
            (lba, bench.issue(write(lba, &buffer, true)), buffer)
        })
        .collect();
    let mut meanwhile = Some(meanwhile);
    for round in 0..20 {
        if round == 2 {
            meanwhile.take().expect("once")();
        }
        waiting = waiting
            .into_iter()
            .map(|(lba, receiver, buffer)| {
                let done = receiver.recv_timeout(2 * SOON).expect("the write ends");
                ends.push(done.srb_status);
                (lba, bench.issue(write(lba, &buffer, true)), buffer)
            })
            .collect();
    }
    for (_, receiver, _) in waiting {
        let done = receiver.recv_timeout(2 * SOON).expect("the write ends");
        ends.push(done.srb_status);
    }
    ends
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn forced_writes_beside_resets_all_end() {
    isolated(|| {
        for kind in 0..5 {
            let bench = start(patient());
            let device = bench.device.clone();
            let ends = forced_writes(&bench, || match kind {
                0 => bench.adapter.reset_bus(),
                1 => device.glitch(Glitch::AtNextUsed),
                2 => {
                    device.slow_reset(0, 30);
                    device.set_needs_reset();
                }
                3 => {
                    let unit = Address::default();
                    assert_eq!(
                        bench.adapter.control(ControlRequest::ResetUnit(unit)),
                        SUCCESS
                    );
                }
                _ => {
                    device.slow_reset(0, 30);
                    bench.adapter.reset_bus();
                }
            });
            assert!(
                ends.iter().all(|end| [SUCCESS, BUS_RESET].contains(end)),
                "{kind} {ends:?}"
            );
            let resets = ends.iter().filter(|end| **end == BUS_RESET).count();
            assert!(resets <= 32, "{kind}: {resets}");
            bench.check();
            // No slot is lost.
            let ends = load(&bench, 600, 128, SOON, || {}).expect("all end");
            assert_eq!(ends.get(&SUCCESS), Some(&1200), "{ends:?}");
            assert_eq!(bench.adapter.outstanding(), 0);
            bench.stop();
        }
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_write_cache_that_is_on_is_never_said_to_be_off() {
    isolated(|| {
        let bench = start(patient());
        assert_eq!(set_write_cache(&bench, false), SUCCESS);
        bench.device.set_faults(Faults {
            flush_fails: true,
            ..Faults::default()
        });
        let status = set_write_cache(&bench, true);
        assert!(
            reports_write_cache(&bench) || !bench.device.writeback(),
            "{status:#x}"
        );

        // Off, with a flush that fails: what was cached may not be durable.
        bench.device.set_faults(Faults::default());
        let _ = set_write_cache(&bench, true);
        bench.device.set_faults(Faults {
            flush_fails: true,
            ..Faults::default()
        });
        assert_ne!(set_write_cache(&bench, false), SUCCESS);
        assert!(reports_write_cache(&bench));
        bench.check_without_storport();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_write_cache_switched_in_a_reset_is_what_it_is_said_to_be() {
    isolated(|| {
        for on in [false, true] {
            let bench = start(impatient());
            assert_eq!(set_write_cache(&bench, !on), SUCCESS);
            bench.device.set_faults(Faults {
                flush_stalls: true,
                ..Faults::default()
            });
            assert_ne!(set_write_cache(&bench, on), SUCCESS);
            bench.device.set_faults(Faults::default());
            bench.read(1);
            assert_eq!(reports_write_cache(&bench), bench.device.writeback());
            bench.check();
            bench.stop();
        }
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_write_cache_that_is_being_switched_on_is_said_to_be_on() {
    isolated(|| {
        let bench = start(patient());
        assert_eq!(set_write_cache(&bench, false), SUCCESS);
        bench.device.set_faults(Faults {
            flush_stalls: true,
            ..Faults::default()
        });
        thread::scope(|scope| {
            let switch = scope.spawn(|| set_write_cache(&bench, true));
            bench.wait(SOON, "the device caches writes", |bench| {
                bench.device.writeback()
            });

            assert!(reports_write_cache(&bench));

            bench.device.set_faults(Faults::default());
            bench.adapter.reset_bus();
            let _ = switch.join().unwrap();
        });
        bench.check();
        bench.stop();
    });
}

/// The resets of a start: before the device is asked what it is, after that, and after it is
/// asked for the disk's identity.
const RESETS_OF_FIND_ADAPTER: u32 = 3;

/// How many polls of the device status the driver makes while it waits in HwFindAdapter.
const POLLS: u32 = 1000;

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_device_that_may_use_the_memory_after_hw_find_adapter_is_kept() {
    isolated(|| {
        let disk = Disk::new(BlkSettings::default());
        disk.device
            .slow_reset(RESETS_OF_FIND_ADAPTER - 1, POLLS + 50);

        let bench = disk.start(patient());

        bench.read(1);
        assert_eq!(bench.device.resets(), u64::from(RESETS_OF_FIND_ADAPTER));
        assert_eq!(bench.driver_events(), Vec::<String>::new());
        bench.check_without_storport();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_device_that_may_use_the_memory_after_a_failed_start_is_kept() {
    isolated(|| {
        for polls in [POLLS + 50, u32::MAX] {
            let disk = Disk::new(BlkSettings {
                faults: Faults {
                    driver_ok_fails: Some(RESETS_OF_FIND_ADAPTER.into()),
                    ..Faults::default()
                },
                ..BlkSettings::default()
            });
            disk.device.slow_reset(RESETS_OF_FIND_ADAPTER, polls);

            let bench = disk.start(patient());

            bench.device.set_faults(Faults::default());
            if polls == u32::MAX {
                bench.device.finish_reset();
            }
            bench.read(1);
            bench.check_without_storport();
            bench.stop();
        }
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_glitch_in_the_passive_start_does_not_stop_the_disk() {
    isolated(|| {
        for glitch in [Glitch::AtQueueEnable, Glitch::AtDriverOk] {
            let disk = Disk::new(BlkSettings::default());
            // The first start asks for the disk's identity.
            disk.device.glitch_after(glitch, 1);

            let bench = disk.try_start(patient());

            let bench = bench.map_err(|failed| failed.error.to_string());
            let bench = bench.unwrap_or_else(|why| panic!("{glitch:?}: {why}"));
            bench.read(1);
            bench.check_without_storport();
            bench.stop();
        }
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn glitches_in_a_restart_are_followed_by_a_reset() {
    isolated(|| {
        for glitch in [Glitch::AtQueueEnable, Glitch::AtDriverOk] {
            let bench = start(patient());
            bench.device.glitch(glitch);
            bench.adapter.restart().unwrap();
            bench.read(1);
            bench.check_without_storport();
            bench.stop();
        }
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn routines_that_fail_do_not_stop_the_disk() {
    isolated(|| {
        for code in [
            INITIALIZE_PERF_OPTS,
            LOG_SYSTEM_EVENT,
            GET_ACTIVE_GROUP_COUNT,
            GET_GROUP_AFFINITY,
            QUERY_PERFORMANCE_COUNTER,
        ] {
            eprintln!("function {code}");
            let bench = start(failing(code, 0));
            let ends = load(&bench, 1000, 16, SOON, || {
                bench.device.glitch(Glitch::AtNextUsed);
            });
            let ends = ends.expect("all requests end");
            assert_eq!(ends.get(&SUCCESS), Some(&2000), "{ends:?}");
            bench.adapter.restart().unwrap();
            bench.read(1);
            bench.check_without_storport();
            bench.stop();
        }
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_pause_that_is_refused_and_a_timer_that_never_comes_hold_up_nothing() {
    isolated(|| {
        let bench = start(failing_export(FailingExport::Pause));
        bench.device.slow_reset(0, 20);
        bench.device.set_needs_reset();
        thread::sleep(Duration::from_millis(200));
        bench.read(1);
        bench.check_without_storport();
        bench.stop();

        // Requests come, and time out.
        let bench = start(AdapterSettings {
            failing_export: Some(FailingExport::RequestTimerCall),
            ..impatient()
        });
        bench.device.set_faults(stalled(30));
        let buffer = bench.buffer(SECTOR as usize);
        bench.device.slow_reset(0, 20);
        let done = bench.within(SOON, read(30, &buffer)).expect("it ends");
        assert_eq!(done.srb_status, BUS_RESET);
        bench.read(1);
        bench.check();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn requests_without_a_list_of_their_data_fail_and_keep_no_slot() {
    isolated(|| {
        let bench = start(failing_export(FailingExport::GetScatterGatherList));
        let buffer = bench.buffer(SECTOR as usize);
        for lba in 0..=255 {
            for request in [read(lba, &buffer), write(lba, &buffer, lba % 2 == 0)] {
                let done = bench.within(SOON, request).expect("it ends");
                assert!(failed(&done), "{done:?}");
            }
        }
        let done = bench.within(SOON, synchronize_cache()).expect("it ends");
        assert_eq!(done.srb_status, SUCCESS);
        bench.check_without_storport();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn fewer_messages_and_the_pin_serve_a_disk_that_glitches() {
    isolated(|| {
        for vectors in [0, 1, 2] {
            eprintln!("{vectors} vectors");
            let bench = Disk::new(BlkSettings {
                msix_vectors: vectors,
                ..BlkSettings::default()
            })
            .start(impatient());
            let before = bench.device.resets();
            let ends = load(&bench, 1000, 16, SOON, || {
                bench.device.glitch(Glitch::AtNextUsed);
            });
            let ends = ends.expect("all requests end");
            assert_eq!(ends.get(&SUCCESS), Some(&2000), "{ends:?}");
            assert!(bench.device.resets() > before);
            bench.device.slow_reset(0, 20);
            bench.device.set_needs_reset();
            let buffer = bench.buffer(SECTOR as usize);
            let done = bench.within(SOON, read(1, &buffer)).expect("it ends");
            assert!([SUCCESS, BUS_RESET].contains(&done.srb_status), "{done:?}");
            bench.read(2);
            bench.adapter.restart().unwrap();
            bench.read(3);
            bench.check();
            bench.stop();
        }
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_message_with_any_id_harms_nothing() {
    isolated(|| {
        let bench = start(AdapterSettings {
            stray_messages: StrayMessages::Delivered,
            ..patient()
        });
        bench.read(1);
        for (sent, id) in (1..).zip([0, 1, 2, 63, 64, 0x7FFF, 0xFFFF]) {
            let before = bench.adapter.report().interrupts;
            bench.device.send_message(id);
            bench.wait(SOON, "the message is delivered", |bench| {
                bench.adapter.report().interrupts > before
            });
            bench.read(sent);
        }
        bench.check();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn each_command_refuses_the_other_direction() {
    isolated(|| {
        let commands: &[(&str, &[u8], u32, Direction)] = &[
            ("READ(6)", &[0x08, 0, 0, 1, 1, 0], SECTOR, Direction::In),
            (
                "READ(10)",
                &[0x28, 0, 0, 0, 0, 1, 0, 0, 1, 0],
                SECTOR,
                Direction::In,
            ),
            (
                "READ(10) FUA",
                &[0x28, 8, 0, 0, 0, 1, 0, 0, 1, 0],
                SECTOR,
                Direction::In,
            ),
            (
                "READ(12)",
                &[0xA8, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0],
                SECTOR,
                Direction::In,
            ),
            (
                "READ(16)",
                &[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0],
                SECTOR,
                Direction::In,
            ),
            ("WRITE(6)", &[0x0A, 0, 0, 1, 1, 0], SECTOR, Direction::Out),
            (
                "WRITE(10)",
                &[0x2A, 0, 0, 0, 0, 1, 0, 0, 1, 0],
                SECTOR,
                Direction::Out,
            ),
            (
                "WRITE(10) FUA",
                &[0x2A, 8, 0, 0, 0, 1, 0, 0, 1, 0],
                SECTOR,
                Direction::Out,
            ),
            (
                "WRITE(12)",
                &[0xAA, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0],
                SECTOR,
                Direction::Out,
            ),
            (
                "WRITE(16)",
                &[0x8A, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0],
                SECTOR,
                Direction::Out,
            ),
            ("INQUIRY", &[0x12, 0, 0, 0, 36, 0], 36, Direction::In),
            ("INQUIRY 83h", &[0x12, 1, 0x83, 0, 64, 0], 64, Direction::In),
            ("REQUEST SENSE", &[0x03, 0, 0, 0, 18, 0], 18, Direction::In),
            (
                "MODE SENSE(6)",
                &[0x1A, 0, 0x3F, 0, 64, 0],
                64,
                Direction::In,
            ),
            (
                "MODE SENSE(10)",
                &[0x5A, 0, 0x3F, 0, 0, 0, 0, 0, 64, 0],
                64,
                Direction::In,
            ),
            (
                "MODE SELECT(6)",
                &[0x15, 0x10, 0, 0, 24, 0],
                24,
                Direction::Out,
            ),
            (
                "MODE SELECT(10)",
                &[0x55, 0x10, 0, 0, 0, 0, 0, 0, 28, 0],
                28,
                Direction::Out,
            ),
            (
                "REPORT LUNS",
                &[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0],
                16,
                Direction::In,
            ),
            (
                "READ CAPACITY(10)",
                &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                8,
                Direction::In,
            ),
            (
                "READ CAPACITY(16)",
                &[0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0],
                32,
                Direction::In,
            ),
        ];
        for srb in [SrbShape::Storage, SrbShape::Scsi] {
            let bench = start(AdapterSettings { srb, ..patient() });
            let buffer = bench.buffer(SECTOR as usize);
            for (name, cdb, bytes, way) in commands {
                for (data_in, data_out) in
                    [(false, false), (true, false), (false, true), (true, true)]
                {
                    assert!(buffer.write(0, &[0xA5; SECTOR as usize]));
                    let _ = bench.device.take_served();
                    let request = command(cdb, Some((*way, &buffer, *bytes)));
                    let done = bench
                        .adapter
                        .execute_changed(request, direction(data_in, data_out));
                    let right = match way {
                        Direction::In => data_in,
                        Direction::Out => data_out,
                    };
                    let what = format!("{srb:?} {name} in {data_in} out {data_out}: {done:?}");
                    let mut found = [0; SECTOR as usize];
                    assert!(buffer.read(0, &mut found));
                    let served = bench.device.take_served();
                    if right {
                        let select = name.starts_with("MODE SELECT");
                        assert!(select || !failed(&done), "{what}");
                    } else {
                        assert!(failed(&done), "{what}");
                        assert_eq!(found, [0xA5; SECTOR as usize], "{what}");
                        assert_eq!(served, [], "{what}");
                    }
                    if *way == Direction::Out {
                        assert_eq!(found, [0xA5; SECTOR as usize], "{what}");
                    }
                }
            }
            // Without data the flags mean nothing.
            for cdb in [
                &[0x28, 0, 0, 0, 0, 1, 0, 0, 0, 0][..],
                &[0x2A, 8, 0, 0, 0, 1, 0, 0, 0, 0],
                &[0x12, 0, 0, 0, 0, 0],
                &[0x00, 0, 0, 0, 0, 0],
                &[0x15, 0x10, 0, 0, 0, 0],
                &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ] {
                for (data_in, data_out) in
                    [(false, false), (true, false), (false, true), (true, true)]
                {
                    let done = bench
                        .adapter
                        .execute_changed(command(cdb, None), direction(data_in, data_out));
                    assert_eq!(done.srb_status, SUCCESS, "{cdb:02x?} {done:?}");
                }
            }
            // A command with data whose SRB has none.
            for (name, cdb, _, _) in commands {
                let done = bench.within(SOON, command(cdb, None)).expect("it ends");
                eprintln!("{name} without data: {:#x}", done.srb_status);
            }
            bench.read(2);
            bench.check_without_storport();
            bench.stop();
        }
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn understated_lengths_are_no_errors_of_any_request() {
    isolated(|| {
        for length in [0, 1, 2, 511, 512, 514, u32::MAX] {
            let bench = Disk::new(BlkSettings {
                faults: used_length(length),
                serial: "serial".to_owned(),
                ..BlkSettings::default()
            })
            .start(patient());
            let buffer = bench.buffer(SECTOR as usize);
            for _ in 0..3 {
                bench.read(1);
                let requests: [Request; 3] = [
                    write(2, &buffer, false),
                    write(3, &buffer, true),
                    synchronize_cache(),
                ];
                for request in requests {
                    let data = request.data.as_ref().map_or(0, |data| data.bytes);
                    let done = bench.within(SOON, request).expect("it ends");
                    assert_eq!((done.srb_status, done.transferred), (SUCCESS, data));
                }
                assert_eq!(set_write_cache(&bench, false), SUCCESS);
                assert_eq!(set_write_cache(&bench, true), SUCCESS);
            }
            bench.check_without_storport();
            bench.stop();
        }
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn reset_requests_at_once_are_all_answered() {
    isolated(|| {
        for slow in [0, 20] {
            let bench = start(patient());
            bench.device.set_faults(stalled(200));
            let buffer = bench.buffer(SECTOR as usize);
            let in_flight = bench.issue(read(200, &buffer));
            bench.wait(SOON, "it is in flight", |bench| {
                bench.adapter.outstanding() == 1
            });
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
            bench.check();
            bench.stop();
        }
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn resets_of_all_kinds_under_load_lose_nothing() {
    isolated(|| {
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
        bench.check();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_device_that_vanishes_in_any_stage_ends_all_requests() {
    isolated(|| {
        for stage in 0..5 {
            eprintln!("stage {stage}");
            // Without a cache a stop needs no flush.
            let bench = Disk::new(BlkSettings {
                features: BlkSettings::FEATURES & !(1 << 9 | 1 << 11),
                ..BlkSettings::default()
            })
            .start(impatient());
            bench.device.set_faults(stalled(30));
            let buffer = bench.buffer(SECTOR as usize);
            let first = bench.issue(read(30, &buffer));
            bench.wait(SOON, "it is in flight", |bench| {
                bench.adapter.outstanding() == 1
            });
            match stage {
                // In a reset.
                0 => {
                    bench.device.slow_reset(0, u32::MAX);
                    bench.device.set_needs_reset();
                }
                // In a reset that is overdue.
                1 => {
                    bench.device.slow_reset(0, u32::MAX);
                    bench.device.set_needs_reset();
                    thread::sleep(Duration::from_millis(10_500));
                }
                // Between two starts.
                2 => {
                    bench.device.set_faults(Faults {
                        refuse_features: true,
                        ..Faults::default()
                    });
                    bench.device.set_needs_reset();
                    thread::sleep(Duration::from_millis(150));
                }
                3 => {
                    bench.device.set_faults(Faults {
                        driver_ok_fails: Some(0),
                        ..Faults::default()
                    });
                    bench.device.set_needs_reset();
                    thread::sleep(Duration::from_millis(150));
                }
                _ => {}
            }
            bench.device.surprise_remove();
            let done = first.recv_timeout(SOON).expect("the first ends");
            assert!(failed(&done), "{done:?}");
            let other = bench.buffer(SECTOR as usize);
            let new = bench.within(2 * SOON, read(1, &other)).expect("it ends");
            assert!(failed(&new), "{new:?}");
            bench.check_stalls();
            bench.device.set_faults(Faults::default());
            bench.device.reinsert();
            let new = bench.within(2 * SOON, read(1, &other)).expect("it ends");
            eprintln!("back: {:#x}", new.srb_status);
            let _ = bench
                .adapter
                .control(ControlRequest::Pnp(Recipient::Adapter, PnpAction::Remove));
            bench
                .adapter
                .restart()
                .map_err(|why| eprintln!("{why}"))
                .ok();
            let new = bench.within(2 * SOON, read(1, &other)).expect("it ends");
            eprintln!("restarted: {:#x}", new.srb_status);
            assert_eq!(new.srb_status, SUCCESS);
            bench.stop();
        }
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_stop_in_a_recovery_leaves_the_device_reset() {
    isolated(|| {
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
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_reset_of_a_unit_that_does_not_exist_resets_nothing() {
    isolated(|| {
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
        bench.check_without_storport();
        bench.stop();
    });
}

/// What a dump stack makes of a fault: it must end, and write in the end.
fn dump_after(fault: impl FnOnce(&Bench), end: impl FnOnce(&Bench)) {
    let bench = start(patient());
    let stack = crash(&bench).expect("the dump stack starts");
    let buffer = bench.buffer(SECTOR as usize);
    let lba = |lba| read(lba, &buffer);
    let done = stack.execute(&lba(1)).expect("a read ends");
    assert_eq!(done.srb_status, SUCCESS);
    fault(&bench);
    let mut end = Some(end);
    for round in 0..50 {
        let begin = Instant::now();
        let done = stack.execute(&lba(2));
        eprintln!(
            "{round}: {:?} {:?}",
            done.as_ref().map(|done| done.srb_status),
            begin.elapsed()
        );
        if round == 2 {
            end.take().expect("once")(&bench);
        }
        if round > 2 && done.is_ok_and(|done| done.srb_status == SUCCESS) {
            let violations = stack.report().violations;
            assert!(violations.is_empty(), "{violations:?}");
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("no dump is written");
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_dump_stack_survives_a_glitch() {
    isolated(|| dump_after(|bench| bench.device.glitch(Glitch::AtNextUsed), |_| {}));
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_dump_stack_survives_a_glitch_while_idle() {
    isolated(|| dump_after(|bench| bench.device.glitch(Glitch::Silent), |_| {}));
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_dump_stack_survives_a_device_that_needs_a_reset() {
    isolated(|| dump_after(|bench| bench.device.set_needs_reset(), |_| {}));
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_dump_stack_survives_a_slow_reset() {
    isolated(|| {
        dump_after(
            |bench| {
                bench.device.slow_reset(0, 20);
                bench.device.set_needs_reset();
            },
            |_| {},
        );
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_dump_stack_survives_a_restart_that_fails() {
    isolated(|| {
        dump_after(
            |bench| {
                bench.device.set_faults(Faults {
                    refuse_features: true,
                    ..Faults::default()
                });
                bench.device.set_needs_reset();
            },
            |bench| bench.device.set_faults(Faults::default()),
        );
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn forced_writes_are_durable_with_the_cache_off_and_with_the_queue_full() {
    isolated(|| {
        let bench = start(patient());
        assert_eq!(set_write_cache(&bench, false), SUCCESS);
        let buffer = bench.buffer(SECTOR as usize);
        let _ = bench.device.take_served();
        let done = bench
            .within(SOON, write(1, &buffer, true))
            .expect("it ends");
        assert_eq!(done.srb_status, SUCCESS);
        let last = bench.device.take_served().last().map(|last| last.operation);
        assert_eq!(last, Some(Operation::Flush));
        assert_eq!(set_write_cache(&bench, true), SUCCESS);
        let _ = bench.device.take_served();

        bench.device.set_faults(Faults {
            latency: Duration::from_millis(100),
            ..Faults::default()
        });
        let waiting: Vec<_> = (0..=255)
            .map(|lba| bench.issue(write(lba, &buffer, true)))
            .collect();
        for done in waiting {
            let done = done.recv_timeout(2 * SOON).expect("it ends");
            assert_eq!((done.srb_status, done.transferred), (SUCCESS, SECTOR));
        }

        let served = bench.device.take_served();
        let flushes = served
            .iter()
            .filter(|served| served.operation == Operation::Flush);
        assert_eq!((served.len(), flushes.count()), (512, 256));
        bench.check_without_storport();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn mode_select_in_all_its_forms_switches_the_cache_or_is_refused() {
    isolated(|| {
        let bench = start(patient());
        let buffer = bench.buffer(SECTOR as usize);
        let page = |wce: u8| {
            let mut page = vec![0; 20];
            page[..3].copy_from_slice(&[0x08, 0x12, wce << 2]);
            page
        };
        let select = |cdb: &[u8], list: &[u8]| {
            assert!(buffer.write(0, list));
            let data = Some((Direction::Out, &buffer, list.len() as u32));
            let done = bench.within(SOON, command(cdb, data)).expect("it ends");
            done.srb_status
        };
        let six = |header: [u8; 4], wce| [header.to_vec(), page(wce)].concat();
        let ten = |wce| [vec![0; 8], page(wce)].concat();

        assert_eq!(
            select(&[0x55, 0x10, 0, 0, 0, 0, 0, 0, 28, 0], &ten(0)),
            SUCCESS
        );
        assert!(!bench.device.writeback() && !reports_write_cache(&bench));
        // WP and DPOFUA as MODE SENSE told them.
        assert_eq!(
            select(&[0x15, 0x10, 0, 0, 24, 0], &six([0, 0, 0x10, 0], 1)),
            SUCCESS
        );
        assert!(bench.device.writeback() && reports_write_cache(&bench));
        for (cdb, list) in [
            // Without PF, to be saved, to be reverted.
            ([0x15, 0x00, 0, 0, 24, 0], six([0; 4], 0)),
            ([0x15, 0x11, 0, 0, 24, 0], six([0; 4], 0)),
            ([0x15, 0x12, 0, 0, 24, 0], six([0; 4], 0)),
            // A list that is cut off, and one that is longer than its data.
            ([0x15, 0x10, 0, 0, 23, 0], six([0; 4], 0)),
            ([0x15, 0x10, 0, 0, 25, 0], six([0; 4], 0)),
            ([0x15, 0x10, 0, 0, 255, 0], six([0; 4], 0)),
            // A block descriptor that is none.
            ([0x15, 0x10, 0, 0, 24, 0], six([0, 0, 0, 8], 0)),
            ([0x15, 0x10, 0, 0, 24, 0], six([0, 0, 0, 255], 0)),
        ] {
            assert_ne!(select(&cdb, &list), SUCCESS, "{cdb:02x?}");
            assert!(bench.device.writeback() && reports_write_cache(&bench));
        }
        bench.check_without_storport();
        bench.stop();
    });
}
