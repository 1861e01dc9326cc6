//! Devices that break the protocol, stop, vanish or lose interrupts.

use std::{
    thread,
    time::{Duration, Instant},
};

use testbed_devices::{BlkSettings, Faults, Glitch};
use testbed_machine::pci::PciFunction as _;
use testbed_storport::adapter::{AdapterSettings, Escalation, PausedTimeOuts};

use super::bench::*;

/// Requests in flight on each CPU.
const DEPTH: usize = 16;

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_glitch_while_idle_is_followed_by_the_drivers_own_reset() {
    isolated(|| {
        let bench = start(patient());
        bench.read(1);
        let before = bench.device.resets();

        bench.device.glitch(Glitch::Interrupt);

        bench.wait_for_reset(before);
        bench.read(2);
        bench.check_without_storport();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_request_beside_a_glitch_while_idle_waits_for_the_reset() {
    isolated(|| {
        let bench = start(patient());
        bench.read(1);

        bench.device.glitch(Glitch::Interrupt);
        // At once: it arrives before, within or after the recovery.
        let ends = load(&bench, 200, 1, SOON, || {}).expect("all requests end");

        assert_eq!(ends.get(&SUCCESS), Some(&400), "{ends:?}");
        let in_flight = ends.get(&BUS_RESET).copied().unwrap_or(0);
        assert!(in_flight <= 2 && ends.len() <= 2, "{ends:?}");
        bench.check_without_storport();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_silent_glitch_while_idle_does_not_stop_service() {
    isolated(|| {
        let bench = start(patient());
        bench.read(1);

        bench.device.glitch(Glitch::Silent);

        let ends = load(&bench, 100, 1, SOON, || {}).expect("all requests end");
        assert_eq!(ends.get(&SUCCESS), Some(&200), "{ends:?}");
        bench.check_without_storport();
        bench.stop();
    });
}

/// A glitch under load: requests in flight may come back by a reset, and
/// nothing else may happen to any.
fn glitch_under_load(settings: AdapterSettings, slow: u32) {
    let bench = start(settings);
    let before = bench.device.resets();
    let device = bench.device.clone();
    if slow > 0 {
        device.slow_reset(0, slow);
    }

    let ends = load(&bench, 2000, DEPTH, 2 * SOON, || {
        bench.wait(SOON, "a load", |_| device.counters().requests > 1000);
        device.glitch(Glitch::AtNextUsed);
    })
    .expect("all requests end");

    let count = |status| ends.get(&status).copied().unwrap_or(0);
    assert_eq!(count(SUCCESS) + count(ERROR), 4000, "{ends:?}");
    assert!(count(ERROR) <= 1, "{ends:?}");
    assert!(count(BUS_RESET) as usize <= 2 * DEPTH, "{ends:?}");
    assert!(bench.device.resets() > before);
    bench.check_without_storport();
    bench.stop();
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_glitch_under_load_loses_no_request() {
    isolated(|| glitch_under_load(patient(), 0));
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_glitch_and_a_slow_reset_under_load_lose_no_request() {
    isolated(|| glitch_under_load(patient(), 20));
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_glitch_under_load_loses_no_request_where_pauses_stop_time_outs() {
    isolated(|| {
        let settings = AdapterSettings {
            paused_time_outs: PausedTimeOuts::Stop,
            ..patient()
        };
        glitch_under_load(settings, 20);
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_glitch_right_after_a_reset_is_followed_by_another_reset() {
    isolated(|| {
        let bench = start(patient());
        bench.device.glitch(Glitch::AtDriverOk);
        let before = bench.device.resets();

        bench.adapter.reset_bus();

        bench.wait_for_reset(before + 1);
        bench.read(1);
        bench.check();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_glitch_before_driver_ok_does_not_stop_service() {
    isolated(|| {
        let bench = start(patient());
        bench.device.glitch(Glitch::AtQueueEnable);

        bench.adapter.reset_bus();

        let ends = load(&bench, 100, 1, SOON, || {}).expect("all requests end");
        assert_eq!(ends.get(&SUCCESS), Some(&200), "{ends:?}");
        bench.check();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_glitch_before_the_first_driver_ok_does_not_hold_up_the_start() {
    isolated(|| {
        let disk = Disk::new(BlkSettings::default());
        disk.device.glitch(Glitch::AtQueueEnable);
        let begin = Instant::now();

        let bench = disk.start(patient());

        let took = begin.elapsed();
        assert!(took < Duration::from_millis(900), "{took:?}");
        bench.read(1);
        bench.check_without_storport();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_device_that_is_faulty_from_the_start_is_refused_at_once() {
    isolated(|| {
        let disk = Disk::new(BlkSettings {
            faults: Faults {
                used_id: Some(900),
                ..Faults::default()
            },
            ..BlkSettings::default()
        });
        let begin = Instant::now();

        assert!(disk.try_start(patient()).is_err());

        let took = begin.elapsed();
        assert!(took < Duration::from_millis(900), "{took:?}");
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn used_ids_that_are_not_in_flight_are_followed_by_a_reset() {
    isolated(|| {
        for id in [77, 900, 0x1_0000, u32::MAX] {
            let bench = start(patient());
            let buffer = bench.buffer(SECTOR as usize);
            let before = bench.device.resets();
            bench.device.set_faults(Faults {
                used_id: Some(id),
                ..Faults::default()
            });

            let first = bench.issue(read(1, &buffer));
            bench.wait_for_reset(before);
            bench.device.set_faults(Faults::default());

            let first = first.recv_timeout(SOON).expect("the request ends");
            assert_eq!(first.srb_status, BUS_RESET);
            bench.read(2);
            bench.check_without_storport();
            bench.stop();
        }
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_restart_that_fails_is_tried_again() {
    isolated(|| {
        let bench = start(patient());
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
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_restart_that_fails_in_a_bus_reset_is_tried_again() {
    isolated(|| {
        let bench = start(patient());
        bench.device.set_faults(Faults {
            refuse_features: true,
            ..Faults::default()
        });
        bench.adapter.reset_bus();
        let buffer = bench.buffer(SECTOR as usize);
        let waiting = bench.issue(read(1, &buffer));
        thread::sleep(Duration::from_millis(200));

        bench.device.set_faults(Faults::default());

        let done = waiting.recv_timeout(2 * SOON).expect("the request ends");
        assert_eq!(done.srb_status, SUCCESS);
        bench.check();
        bench.stop();
    });
}

/// A reset that never ends, begun by `begin` while a request is in flight.
fn endless_reset(begin: impl FnOnce(&Bench)) {
    const STALLED: u8 = 30;
    let bench = start(patient());
    bench.device.set_faults(Faults {
        stalled: std::iter::once(STALLED.into()..u64::from(STALLED) + 1).collect(),
        ..Faults::default()
    });
    let buffer = bench.buffer(SECTOR as usize);
    let in_flight = bench.issue(read(STALLED, &buffer));
    bench.wait(SOON, "the request is in flight", |bench| {
        bench.adapter.outstanding() == 1
    });
    bench.device.slow_reset(0, u32::MAX);

    begin(&bench);

    // The driver gives the adapter up: what is new ends, and not as a success.
    let other = bench.buffer(SECTOR as usize);
    let new = bench
        .within(6 * SOON, read(1, &other))
        .expect("a new request ends");
    assert!(failed(&new), "{new:?}");
    // The device may still write to the buffer of what it has.
    assert!(in_flight.try_recv().is_err());
    assert!(!bench.driver_events().is_empty());
    bench.check();
    bench.stop();
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_reset_of_the_driver_that_never_ends_keeps_what_is_in_flight() {
    isolated(|| endless_reset(|bench| bench.device.glitch(Glitch::Interrupt)));
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_bus_reset_that_never_ends_keeps_what_is_in_flight() {
    isolated(|| endless_reset(|bench| bench.adapter.reset_bus()));
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_bus_reset_does_not_wait_for_a_slow_device() {
    isolated(|| {
        let bench = start(patient());
        bench.device.slow_reset(0, 50);

        bench.adapter.reset_bus();

        bench.read(1);
        bench.check();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_device_that_vanishes_fails_requests() {
    isolated(|| {
        let bench = start(impatient());
        bench.device.set_faults(Faults {
            stalled: std::iter::once(30..31).collect(),
            ..Faults::default()
        });
        let buffers = [bench.buffer(SECTOR as usize), bench.buffer(SECTOR as usize)];
        let in_flight = bench.issue(read(30, &buffers[0]));
        bench.wait(SOON, "the request is in flight", |bench| {
            bench.adapter.outstanding() == 1
        });

        bench.device.surprise_remove();

        // A device that is gone writes nothing: what it had can be given back.
        let first = in_flight.recv_timeout(SOON).expect("it ends");
        assert!(failed(&first), "{first:?}");
        for lba in 1..4 {
            let new = bench
                .within(2 * SOON, read(lba, &buffers[1]))
                .expect("a new request ends");
            assert!(![SUCCESS, BUS_RESET].contains(&new.srb_status), "{new:?}");
        }
        bench.check();

        // Whatever the driver makes of its return, requests end.
        bench.device.reinsert();
        bench
            .within(2 * SOON, read(5, &buffers[1]))
            .expect("a request ends");
        bench.check_stalls();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_device_that_needs_a_reset_gets_one() {
    isolated(|| {
        let bench = start(patient());
        bench.read(1);
        let before = bench.device.resets();

        bench.device.set_needs_reset();

        bench.wait_for_reset(before);
        bench.read(2);
        bench.check_without_storport();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_request_whose_interrupt_was_lost_succeeds() {
    isolated(|| {
        let bench = start(impatient());
        bench.read(1);

        bench.device.lose_messages(1);
        bench.read(2);

        bench.read(3);
        bench.check();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_device_that_glitches_again_and_again_is_given_up() {
    isolated(|| {
        const MOST: u32 = 200;
        let bench = start(patient());
        let buffer = bench.buffer(SECTOR as usize);
        let mut served = 0;

        let last = loop {
            assert!(served < MOST, "the driver recovers for ever");
            bench.device.glitch(Glitch::Interrupt);
            let done = bench
                .within(SOON, read(1, &buffer))
                .expect("the request ends");
            match done.srb_status {
                SUCCESS => served += 1,
                BUS_RESET => {}
                other => break other,
            }
        };

        assert!(served >= 3, "given up after {served}: {last:#04x}");
        assert!(!bench.driver_events().is_empty());
        let again = bench.within(SOON, read(2, &buffer)).expect("it ends");
        assert!(failed(&again), "{again:?}");
        bench.check();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_time_out_is_survived_whichever_reset_comes_first() {
    isolated(|| {
        for escalation in [Escalation::Bus, Escalation::Tiers] {
            let bench = start(AdapterSettings {
                escalation,
                ..impatient()
            });
            bench.device.set_faults(Faults {
                stalled: std::iter::once(30..31).collect(),
                ..Faults::default()
            });
            let buffer = bench.buffer(SECTOR as usize);

            let stalled = bench
                .within(SOON, read(30, &buffer))
                .expect("the request ends");

            assert_eq!(stalled.srb_status, BUS_RESET, "{escalation:?}");
            bench.read(1);
            bench.check();
            bench.stop();
        }
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_used_length_of_0_or_1_is_no_short_read() {
    isolated(|| {
        let bench = start(patient());
        for length in [0, 1] {
            bench.device.set_faults(used_length(length));
            for lba in 0..10 {
                bench.read(lba);
            }
        }
        bench.check_without_storport();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_used_length_of_0_or_1_does_not_hinder_the_start() {
    isolated(|| {
        for length in [0, 1] {
            let bench = Disk::new(BlkSettings {
                faults: used_length(length),
                ..BlkSettings::default()
            })
            .start(patient());
            bench.read(1);
            bench.check_without_storport();
            bench.stop();
        }
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_request_without_a_status_byte_is_no_success() {
    isolated(|| {
        for length in [None, Some(0), Some(1)] {
            let bench = start(patient());
            let buffer = bench.buffer(SECTOR as usize);
            // The slot's status byte must not be that of the request before.
            bench.read(1);
            bench.device.set_faults(Faults {
                no_status: true,
                used_length: length,
                ..Faults::default()
            });
            for request in [
                read(1, &buffer),
                write(2, &buffer, false),
                synchronize_cache(),
            ] {
                let done = bench.within(SOON, request).expect("the request ends");
                assert!(failed(&done), "{done:?}");
            }
            bench.device.set_faults(Faults::default());
            bench.read(3);
            bench.check();
            bench.stop();
        }
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn an_ordinary_life_never_sets_failed() {
    isolated(|| {
        const FAILED: u8 = 0x80;
        let bench = start(patient());
        bench.read(1);
        bench.adapter.restart().unwrap();
        bench.read(2);
        bench.adapter.stop().unwrap();

        let writes = bench.device.status_writes();
        assert!(
            writes.iter().all(|status| status & FAILED == 0),
            "{writes:02x?}"
        );
        bench.check_without_storport();
    });
}
