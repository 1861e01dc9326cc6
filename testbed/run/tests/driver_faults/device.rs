//! Devices that break the protocol, stop, vanish or lose interrupts.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use testbed_devices::{BlkSettings, Faults, Glitch};
use testbed_machine::pci::PciFunction as _;
use testbed_storport::{
    adapter::{AdapterSettings, PausedTimeOuts, StrayMessages},
    control_request::{ControlRequest, PnpAction, Recipient},
    request::Direction,
};

use super::{bench::*, durability::set_write_cache};

scenarios! {
    a_request_beside_a_glitch_while_idle_waits_for_the_reset
    a_glitch_under_load_loses_no_request
    a_glitch_before_the_first_driver_ok_does_not_hold_up_the_start
    a_glitch_in_any_later_initialization_does_not_stop_service
    a_restart_that_fails_is_tried_again
    a_reset_that_never_ends_keeps_what_is_in_flight
    a_reset_that_never_ended_is_over_after_a_restart
    a_bus_reset_does_not_wait_for_a_slow_device
    a_device_that_vanishes_in_any_stage_ends_all_requests
    a_request_whose_interrupt_was_lost_succeeds
    fewer_messages_and_the_pin_serve_a_disk_that_glitches
    a_device_with_resources_for_one_message_serves
    a_message_with_any_id_harms_nothing
    a_request_without_a_status_byte_is_no_success
    understated_lengths_are_no_errors_of_any_request
}

/// Requests in flight on each CPU.
const DEPTH: usize = 16;

fn a_request_beside_a_glitch_while_idle_waits_for_the_reset() {
    for glitch in [Glitch::Interrupt, Glitch::Silent] {
        let bench = start(patient());
        bench.read(1);

        bench.device.glitch(glitch);
        // At once: it arrives before, within or after the recovery.
        let ends = load(&bench, 200, 1, SOON, || {}).expect("all requests end");

        assert_eq!(ends.get(&SUCCESS), Some(&400), "{glitch:?}: {ends:?}");
        let in_flight = ends.get(&BUS_RESET).copied().unwrap_or(0);
        assert!(in_flight <= 2 && ends.len() <= 2, "{glitch:?}: {ends:?}");
        bench.finish_without_storport();
    }
}

/// Requests in flight may come back by a reset, and nothing else may happen to any.
fn a_glitch_under_load_loses_no_request() {
    let stopping = AdapterSettings {
        paused_time_outs: PausedTimeOuts::Stop,
        ..patient()
    };
    for (settings, slow) in [(patient(), 0), (patient(), 20), (stopping, 20)] {
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
        bench.finish_without_storport();
    }
}

fn a_glitch_before_the_first_driver_ok_does_not_hold_up_the_start() {
    let disk = Disk::new(BlkSettings {
        serial: "serial".to_owned(),
        faults: Faults {
            // Time to see the glitch before the answer to the request for the identity.
            latency: Duration::from_millis(20),
            ..Faults::default()
        },
        ..device()
    });
    disk.device.glitch(Glitch::AtQueueEnable);
    let begin = Instant::now();

    let bench = disk.start(patient());

    let took = begin.elapsed();
    assert!(took < Duration::from_millis(900), "{took:?}");
    // The glitch was not taken for the answer.
    assert_eq!(serial_number(&bench), b"serial");
    bench.finish_without_storport();
}

/// The data of VPD page 80h.
fn serial_number(bench: &Bench) -> Vec<u8> {
    let buffer = sector();
    let data = Some((Direction::In, &buffer, 36));
    let done = bench.run(command(&[0x12, 1, 0x80, 0, 36, 0], data));
    assert!(!failed(&done), "{done:?}");
    let mut page = [0; 36];
    assert!(buffer.read(0, &mut page));
    page[4..][..page[3].into()].to_vec()
}

fn a_glitch_in_any_later_initialization_does_not_stop_service() {
    for glitch in [Glitch::AtQueueEnable, Glitch::AtDriverOk] {
        eprintln!("{glitch:?}");
        let disk = Disk::new(device());
        // The first start asks for the disk's identity.
        disk.device.glitch_after(0, glitch, 1);
        let bench = disk.start(patient());
        bench.read(1);

        bench.device.glitch(glitch);
        bench.adapter.restart().unwrap();
        bench.read(2);
        bench.check_without_storport();

        bench.device.glitch(glitch);
        let before = bench.device.resets();
        bench.adapter.reset_bus();
        bench.wait_for_reset(before + u64::from(glitch == Glitch::AtDriverOk));
        bench.serve(100, 1, SOON, || {});
        bench.finish();
    }
}

fn a_restart_that_fails_is_tried_again() {
    for (settings, is_bus_reset) in [
        (patient(), false),
        (patient(), true),
        (without_clock(0), false),
        (without_clock(3), false),
    ] {
        let bench = start(settings);
        bench.device.set_faults(refusing_features());
        let before = bench.device.resets();
        if is_bus_reset {
            bench.adapter.reset_bus();
        } else {
            bench.device.glitch(Glitch::Interrupt);
        }
        bench.wait_for_reset(before);
        let waiting = bench.issue(read(1, &sector()));
        thread::sleep(Duration::from_millis(200));

        bench.device.set_faults(Faults::default());

        let done = waiting.recv_timeout(2 * SOON).expect("the request ends");
        assert_eq!(done.srb_status, SUCCESS);
        assert_eq!(bench.check().resets.is_empty(), !is_bus_reset);
        bench.stop();
    }
}

/// V15.
fn a_reset_that_never_ends_keeps_what_is_in_flight() {
    for is_bus_reset in [false, true] {
        let bench = start(patient());
        let in_flight = bench.keep_in_flight();
        bench.device.slow_reset(0, u32::MAX);

        if is_bus_reset {
            bench.adapter.reset_bus();
        } else {
            bench.device.glitch(Glitch::Interrupt);
        }

        // The driver gives the adapter up: what is new ends, and not as a success.
        let new = bench.within(6 * SOON, read(1, &sector()));
        let new = new.expect("a new request ends");
        assert!(failed(&new), "{new:?}");
        // The device may still write to the buffer of what it has.
        assert!(in_flight.try_recv().is_err());
        assert!(!bench.driver_events().is_empty());
        bench.finish();
    }
}

fn a_reset_that_never_ended_is_over_after_a_restart() {
    for (settings, is_given_up) in [
        (patient(), false),
        (patient(), true),
        (without_clock(0), true),
    ] {
        let bench = without_cache().start(settings);
        bench.device.slow_reset(0, u32::MAX);
        bench.device.set_needs_reset();
        // A read that came before the reset would stay with the driver.
        thread::sleep(Duration::from_millis(200));
        if is_given_up {
            let new = bench.within(6 * SOON, read(1, &sector()));
            let new = new.expect("a new request ends");
            assert!(failed(&new), "{new:?}");
        }

        bench.adapter.restart().unwrap();

        bench.read(2);
        // And where the device needs its time after the restart.
        bench.device.slow_reset(0, 50);
        bench.adapter.restart().unwrap();
        bench.read(3);
        bench.finish_without_storport();
    }
}

fn a_bus_reset_does_not_wait_for_a_slow_device() {
    let bench = start(patient());
    bench.device.slow_reset(0, 50);

    bench.adapter.reset_bus();

    bench.read(1);
    bench.finish();
}

fn a_device_that_vanishes_in_any_stage_ends_all_requests() {
    let starting_fails = Faults {
        driver_ok_fails: Some(0),
        ..Faults::default()
    };
    let none = Faults::default;
    for (stage, reset_polls, faults, reset_for) in [
        ("with a write cache", 0, none(), None),
        ("without a reset", 0, none(), None),
        ("in a reset", u32::MAX, none(), Some(0)),
        ("in an overdue reset", u32::MAX, none(), Some(10_500)),
        ("between two starts", 0, refusing_features(), Some(150)),
        ("after a failed start", 0, starting_fails, Some(150)),
    ] {
        eprintln!("{stage}");
        let has_cache = stage == "with a write cache";
        let bench = if has_cache {
            start(impatient())
        } else {
            without_cache().start(impatient())
        };
        let first = bench.keep_in_flight();
        if let Some(milliseconds) = reset_for {
            if reset_polls > 0 {
                bench.device.slow_reset(0, reset_polls);
            } else {
                bench.device.set_faults(faults);
            }
            bench.device.set_needs_reset();
            thread::sleep(Duration::from_millis(milliseconds));
        }

        bench.device.surprise_remove();

        // A device that is gone writes nothing: what it had can be given back.
        let done = first.recv_timeout(SOON).expect("the first ends");
        assert!(failed(&done), "{done:?}");
        for lba in 1..4 {
            let new = bench.within(2 * SOON, read(lba, &sector()));
            let new = new.expect("a new request ends");
            assert!(failed(&new), "{new:?}");
            // A reset that was under way may end the first.
            let may_be_reset = lba == 1 && reset_for.is_some();
            assert!(may_be_reset || new.srb_status != BUS_RESET, "{new:?}");
        }
        bench.check();

        // Whatever the driver makes of its return, requests end.
        bench.device.set_faults(none());
        bench.device.reinsert();
        let again = bench.within(2 * SOON, read(1, &sector()));
        again.expect("a request ends");
        let removal = ControlRequest::Pnp(Recipient::Adapter, PnpAction::Remove);
        let _ = bench.adapter.control(removal);
        // Storport does not restart a disk whose write cache it cannot flush.
        if !has_cache {
            let _ = bench.adapter.restart();
            bench.read(1);
        }
        bench.check_stalls();
        bench.stop();
    }
}

fn a_request_whose_interrupt_was_lost_succeeds() {
    let bench = start(impatient());
    bench.read(1);

    bench.device.lose_messages(1);
    bench.read(2);

    bench.read(3);
    bench.finish();
}

/// V70: the device has resources for one vector, whichever register asks for it first.
fn a_device_with_resources_for_one_message_serves() {
    const CONFIG_VECTOR: u64 = 0x10;
    const STATUS: u64 = 0x14;
    const QUEUE_VECTOR: u64 = 0x1a;
    let disk = Disk::new(BlkSettings::default());
    let owner = Mutex::new(None);
    let function = Arc::new(Intercepted {
        function: disk.device.clone(),
        before_read: Box::new(|_, _| {}),
        before_write: Box::new(move |bar, offset, data| {
            let mut owner = owner.lock().expect("no panic");
            match (bar, offset) {
                (4, STATUS) if data == [0] => {
                    *owner = None;
                    true
                }
                (4, CONFIG_VECTOR | QUEUE_VECTOR) => *owner.get_or_insert(offset) == offset,
                _ => true,
            }
        }),
    });

    let bench = disk.try_start_as(function, patient()).expect("a start");

    bench.read(1);
    bench.finish();
}

/// V03, V70.
fn fewer_messages_and_the_pin_serve_a_disk_that_glitches() {
    for vectors in [0, 1, 2] {
        eprintln!("{vectors} vectors");
        let bench = Disk::new(BlkSettings {
            msix_vectors: vectors,
            ..device()
        })
        .start(impatient());
        let before = bench.device.resets();
        bench.serve(1000, 16, SOON, || bench.device.glitch(Glitch::AtNextUsed));
        assert!(bench.device.resets() > before);
        bench.device.slow_reset(0, 20);
        bench.device.set_needs_reset();
        let done = bench.run(read(1, &sector()));
        assert!([SUCCESS, BUS_RESET].contains(&done.srb_status), "{done:?}");
        bench.read(2);
        bench.adapter.restart().unwrap();
        bench.read(3);
        bench.finish();
    }
}

/// V37.
fn a_message_with_any_id_harms_nothing() {
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
    bench.finish();
}

fn a_request_without_a_status_byte_is_no_success() {
    for length in [None, Some(0), Some(1)] {
        let bench = start(patient());
        let buffer = sector();
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
            let done = bench.run(request);
            assert!(failed(&done), "{done:?}");
        }
        bench.device.set_faults(Faults::default());
        bench.read(3);
        bench.finish();
    }
}

fn understated_lengths_are_no_errors_of_any_request() {
    for length in [0, 1, 2, 511, 512, 514, u32::MAX] {
        let bench = Disk::new(BlkSettings {
            faults: used_length(length),
            serial: "serial".to_owned(),
            ..device()
        })
        .start(patient());
        let buffer = sector();
        for _ in 0..3 {
            bench.read(1);
            for request in [
                write(2, &buffer, false),
                write(3, &buffer, true),
                synchronize_cache(),
            ] {
                let data = request.data.as_ref().map_or(0, |data| data.bytes);
                let done = bench.run(request);
                assert_eq!((done.srb_status, done.transferred), (SUCCESS, data));
            }
            assert_eq!(set_write_cache(&bench, false), SUCCESS);
            assert_eq!(set_write_cache(&bench, true), SUCCESS);
        }
        bench.finish_without_storport();
    }
}
