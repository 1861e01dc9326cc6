//! Writes that must reach the medium: FUA, flushes, and the write cache's mode.

use std::{thread, time::Duration};

use testbed_devices::{BlkSettings, Faults, Glitch, Operation, Served};
use testbed_storport::{
    adapter::{AdapterSettings, Escalation},
    control_request::ControlRequest,
    request::{Address, Direction, Request},
};

use super::bench::*;

scenarios! {
    a_forced_write_is_a_write_and_then_a_flush
    a_forced_write_fails_if_either_half_fails
    no_flush_goes_to_a_device_without_one
    the_write_cache_can_be_turned_off_and_stays_off
    a_write_cache_without_a_switch_is_not_said_to_be_off
    a_request_that_never_ends_is_reset
    forced_writes_beside_resets_all_end
    a_write_cache_that_is_on_is_never_said_to_be_off
    a_write_cache_switched_in_a_reset_is_what_it_is_said_to_be
    a_write_cache_that_is_being_switched_on_is_said_to_be_on
    forced_writes_are_durable_with_the_cache_off_and_with_the_queue_full
}

/// Feature bits.
const FLUSH: u64 = 1 << 9;
const CONFIG_WCE: u64 = 1 << 11;

const CACHING_PAGE: u8 = 0x08;
const PAGE_FORMAT: u8 = 0x10;
/// WCE in byte 2 of the page.
const WRITE_CACHE_ENABLE: u8 = 0x04;

fn served(operation: Operation) -> Served {
    Served {
        operation,
        status: 0,
        waiting: 0,
    }
}

fn failing_flushes() -> Faults {
    Faults {
        flush_fails: true,
        ..Faults::default()
    }
}

fn stalling_flushes() -> Faults {
    Faults {
        flush_stalls: true,
        ..Faults::default()
    }
}

fn without(features: u64) -> Bench {
    Disk::new(BlkSettings {
        features: BlkSettings::FEATURES & !features,
        ..device()
    })
    .start(patient())
}

fn run(bench: &Bench, request: Request) -> u8 {
    let done = bench.run(request);
    done.srb_status
}

fn a_forced_write_is_a_write_and_then_a_flush() {
    let bench = start(patient());
    let buffer = sector();
    bench.device.set_faults(Faults {
        // Time for a flush that does not wait for the write.
        latency: Duration::from_millis(20),
        ..Faults::default()
    });
    let _ = bench.device.take_served();

    assert_eq!(run(&bench, write(3, &buffer, true)), SUCCESS);

    // Nothing waited when the write was done: the flush came after.
    assert_eq!(
        bench.device.take_served(),
        [served(Operation::Write(3, 1)), served(Operation::Flush)]
    );
    assert_eq!(run(&bench, write(4, &buffer, false)), SUCCESS);
    assert_eq!(bench.device.take_served(), [served(Operation::Write(4, 1))]);
    bench.finish_without_storport();
}

fn a_forced_write_fails_if_either_half_fails() {
    let bench = start(patient());
    let buffer = sector();
    let request = || write(3, &buffer, true);
    assert_eq!(run(&bench, request()), SUCCESS);

    for faults in [
        Faults {
            unwritable: only(3),
            ..Faults::default()
        },
        failing_flushes(),
    ] {
        bench.device.set_faults(faults.clone());
        let done = bench.run(request());
        assert!(failed(&done), "{faults:?}");
        // A medium error, or another that the class driver takes for one.
        assert!([0x3, 0x4].contains(&sense(&done).0), "{done:?}");
    }
    assert_ne!(run(&bench, synchronize_cache()), SUCCESS);
    bench.device.set_faults(Faults::default());
    assert_eq!(run(&bench, request()), SUCCESS);
    assert_eq!(run(&bench, synchronize_cache()), SUCCESS);
    bench.finish_without_storport();
}

/// V80.
fn no_flush_goes_to_a_device_without_one() {
    let bench = without(FLUSH | CONFIG_WCE);
    let buffer = sector();
    let _ = bench.device.take_served();

    assert_eq!(run(&bench, write(3, &buffer, true)), SUCCESS);
    assert_eq!(run(&bench, synchronize_cache()), SUCCESS);

    assert_eq!(bench.device.take_served(), [served(Operation::Write(3, 1))]);
    bench.finish_without_storport();
}

/// The current caching page, as the parameter list that MODE SELECT(6) takes.
fn caching_page(bench: &Bench) -> Vec<u8> {
    const NO_BLOCK_DESCRIPTORS: u8 = 0x08;
    const PARAMETERS_SAVEABLE: u8 = 0x80;
    let buffer = sector();
    let data = Some((Direction::In, &buffer, 24));
    let cdb = [0x1A, NO_BLOCK_DESCRIPTORS, CACHING_PAGE, 0, 24, 0];
    let done = bench.run(command(&cdb, data));
    assert_eq!(done.srb_status, SUCCESS);
    let mut list = vec![0; 24];
    assert!(buffer.read(0, &mut list));
    assert_eq!(list[4] & !PARAMETERS_SAVEABLE, CACHING_PAGE, "{list:02x?}");
    // Reserved in a parameter list: the length, WP and DPOFUA, PS.
    list[..3].fill(0);
    list[4] &= !PARAMETERS_SAVEABLE;
    list
}

pub fn reports_write_cache(bench: &Bench) -> bool {
    caching_page(bench)[6] & WRITE_CACHE_ENABLE != 0
}

/// The current caching page with the write cache on or off, as the parameter list.
fn cache_list(bench: &Bench, enabled: bool) -> Vec<u8> {
    let mut list = caching_page(bench);
    list[6] &= !WRITE_CACHE_ENABLE;
    if enabled {
        list[6] |= WRITE_CACHE_ENABLE;
    }
    list
}

/// A command with `list` as its data.
fn select(bench: &Bench, cdb: &[u8], list: &[u8]) -> u8 {
    let buffer = sector();
    assert!(buffer.write(0, list));
    let data = Some((Direction::Out, &buffer, list.len() as u32));
    run(bench, command(cdb, data))
}

/// MODE SELECT(6) of the caching page.
pub fn set_write_cache(bench: &Bench, enabled: bool) -> u8 {
    let list = cache_list(bench, enabled);
    select(bench, &[0x15, PAGE_FORMAT, 0, 0, 24, 0], &list)
}

fn the_write_cache_can_be_turned_off_and_stays_off() {
    let bench = start(patient());
    assert!(reports_write_cache(&bench) && bench.device.writeback());

    assert_eq!(set_write_cache(&bench, false), SUCCESS);

    assert!(!reports_write_cache(&bench) && !bench.device.writeback());
    // Parameter lists that are longer than their data. Memory behind the data is 0, as the last
    // byte of the page.
    let list = cache_list(&bench, true);
    for (bytes, length) in [(24, 25), (23, 24)] {
        let cdb = [0x15, PAGE_FORMAT, 0, 0, length, 0];
        assert_ne!(select(&bench, &cdb, &list[..bytes]), SUCCESS);
    }
    bench.adapter.reset_bus();
    bench.read(1);
    assert!(!reports_write_cache(&bench) && !bench.device.writeback());
    bench.adapter.restart().unwrap();
    bench.read(2);
    assert!(!reports_write_cache(&bench) && !bench.device.writeback());

    // MODE SELECT(10) has a header of 4 bytes more.
    let list = [vec![0; 4], list].concat();
    let cdb = [0x55, PAGE_FORMAT, 0, 0, 0, 0, 0, 0, 28, 0];
    assert_eq!(select(&bench, &cdb, &list), SUCCESS);
    assert!(reports_write_cache(&bench) && bench.device.writeback());
    bench.finish();
}

/// V80.
fn a_write_cache_without_a_switch_is_not_said_to_be_off() {
    let bench = without(CONFIG_WCE);
    assert!(reports_write_cache(&bench));

    assert_ne!(set_write_cache(&bench, false), SUCCESS);

    assert!(reports_write_cache(&bench) && bench.device.writeback());
    bench.finish_without_storport();
}

fn a_request_that_never_ends_is_reset() {
    for escalation in [Escalation::Bus, Escalation::Tiers] {
        let bench = start(AdapterSettings {
            escalation,
            ..impatient()
        });
        let buffer = sector();
        let stalled_read = (stalled(), read(STALLED, &buffer));
        let stalled_flush = (stalling_flushes(), write(3, &buffer, true));
        for (faults, request) in [stalled_read, stalled_flush] {
            bench.device.set_faults(faults);
            assert_eq!(run(&bench, request.clone()), BUS_RESET, "{escalation:?}");
            bench.device.set_faults(Faults::default());
            assert_eq!(run(&bench, request), SUCCESS);
        }
        bench.finish();
    }
}

/// Issues forced writes from several threads until `meanwhile` is done: how they
/// ended.
fn forced_writes(bench: &Bench, meanwhile: impl FnOnce()) -> Vec<u8> {
    let mut ends = Vec::new();
    let mut waiting: Vec<_> = (0..32)
        .map(|lba| {
            let buffer = sector();
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

fn forced_writes_beside_resets_all_end() {
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
        bench.serve(600, 128, SOON, || {});
        assert_eq!(bench.adapter.outstanding(), 0);
        bench.stop();
    }
}

fn a_write_cache_that_is_on_is_never_said_to_be_off() {
    let bench = start(patient());
    assert_eq!(set_write_cache(&bench, false), SUCCESS);
    bench.device.set_faults(failing_flushes());
    let status = set_write_cache(&bench, true);
    assert!(
        reports_write_cache(&bench) || !bench.device.writeback(),
        "{status:#x}"
    );

    // Off, with a flush that fails: what was cached may not be durable.
    bench.device.set_faults(Faults::default());
    let _ = set_write_cache(&bench, true);
    bench.device.set_faults(failing_flushes());
    assert_ne!(set_write_cache(&bench, false), SUCCESS);
    assert!(reports_write_cache(&bench));
    bench.finish_without_storport();
}

fn a_write_cache_switched_in_a_reset_is_what_it_is_said_to_be() {
    for on in [false, true] {
        let bench = start(impatient());
        assert_eq!(set_write_cache(&bench, !on), SUCCESS);
        bench.device.set_faults(stalling_flushes());
        assert_ne!(set_write_cache(&bench, on), SUCCESS);
        bench.device.set_faults(Faults::default());
        bench.read(1);
        assert_eq!(reports_write_cache(&bench), bench.device.writeback());
        bench.finish();
    }
}

fn a_write_cache_that_is_being_switched_on_is_said_to_be_on() {
    let bench = start(patient());
    assert_eq!(set_write_cache(&bench, false), SUCCESS);
    bench.device.set_faults(stalling_flushes());
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
    bench.finish();
}

/// V90.
fn forced_writes_are_durable_with_the_cache_off_and_with_the_queue_full() {
    let bench = start(patient());
    assert_eq!(set_write_cache(&bench, false), SUCCESS);
    let buffer = sector();
    let _ = bench.device.take_served();
    assert_eq!(run(&bench, write(1, &buffer, true)), SUCCESS);
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
    bench.finish_without_storport();
}
