//! Writes that must reach the medium: FUA, flushes, and the write cache's mode.

use std::time::Duration;

use testbed_devices::{BlkSettings, Faults, Operation, Served};
use testbed_storport::request::{Direction, Request};

use super::bench::*;

/// Feature bits.
const FLUSH: u64 = 1 << 9;
const CONFIG_WCE: u64 = 1 << 11;

const CACHING_PAGE: u8 = 0x08;
/// WCE in byte 2 of the page.
const WRITE_CACHE_ENABLE: u8 = 0x04;

fn served(operation: Operation) -> Served {
    Served {
        operation,
        status: 0,
        waiting: 0,
    }
}

fn without(features: u64) -> Bench {
    Disk::new(BlkSettings {
        features: BlkSettings::FEATURES & !features,
        ..BlkSettings::default()
    })
    .start(patient())
}

fn run(bench: &Bench, request: Request) -> u8 {
    let done = bench.within(SOON, request).expect("the request ends");
    done.srb_status
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_forced_write_is_a_write_and_then_a_flush() {
    isolated(|| {
        let bench = start(patient());
        let buffer = bench.buffer(SECTOR as usize);
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
        bench.check_without_storport();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_forced_write_fails_if_either_half_fails() {
    isolated(|| {
        let bench = start(patient());
        let buffer = bench.buffer(SECTOR as usize);
        let request = || write(3, &buffer, true);
        assert_eq!(run(&bench, request()), SUCCESS);

        for faults in [
            Faults {
                unwritable: std::iter::once(3..4).collect(),
                ..Faults::default()
            },
            Faults {
                flush_fails: true,
                ..Faults::default()
            },
        ] {
            bench.device.set_faults(faults.clone());
            let done = bench.within(SOON, request()).expect("the request ends");
            assert!(failed(&done), "{faults:?}");
            // A medium error, or another that the class driver takes for one.
            assert!([0x3, 0x4].contains(&sense(&done).0), "{done:?}");
        }
        bench.device.set_faults(Faults::default());
        assert_eq!(run(&bench, request()), SUCCESS);
        bench.check_without_storport();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_flush_that_fails_is_an_error() {
    isolated(|| {
        let bench = start(patient());
        assert_eq!(run(&bench, synchronize_cache()), SUCCESS);
        bench.device.set_faults(Faults {
            flush_fails: true,
            ..Faults::default()
        });

        assert_ne!(run(&bench, synchronize_cache()), SUCCESS);

        bench.check_without_storport();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn no_flush_goes_to_a_device_without_one() {
    isolated(|| {
        let bench = without(FLUSH | CONFIG_WCE);
        let buffer = bench.buffer(SECTOR as usize);
        let _ = bench.device.take_served();

        assert_eq!(run(&bench, write(3, &buffer, true)), SUCCESS);
        assert_eq!(run(&bench, synchronize_cache()), SUCCESS);

        assert_eq!(bench.device.take_served(), [served(Operation::Write(3, 1))]);
        bench.check_without_storport();
        bench.stop();
    });
}

/// The current caching page, as the parameter list that MODE SELECT(6) takes.
fn caching_page(bench: &Bench) -> Vec<u8> {
    const NO_BLOCK_DESCRIPTORS: u8 = 0x08;
    const PARAMETERS_SAVEABLE: u8 = 0x80;
    let buffer = bench.buffer(SECTOR as usize);
    let data = Some((Direction::In, &buffer, 24));
    let cdb = [0x1A, NO_BLOCK_DESCRIPTORS, CACHING_PAGE, 0, 24, 0];
    let done = bench.within(SOON, command(&cdb, data)).expect("it ends");
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

/// MODE SELECT(6) of the caching page.
pub fn set_write_cache(bench: &Bench, enabled: bool) -> u8 {
    const PAGE_FORMAT: u8 = 0x10;
    let mut list = caching_page(bench);
    list[6] &= !WRITE_CACHE_ENABLE;
    if enabled {
        list[6] |= WRITE_CACHE_ENABLE;
    }
    let buffer = bench.buffer(SECTOR as usize);
    assert!(buffer.write(0, &list));
    let data = Some((Direction::Out, &buffer, 24));
    run(bench, command(&[0x15, PAGE_FORMAT, 0, 0, 24, 0], data))
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn the_write_cache_can_be_turned_off_and_stays_off() {
    isolated(|| {
        let bench = start(patient());
        assert!(reports_write_cache(&bench) && bench.device.writeback());

        assert_eq!(set_write_cache(&bench, false), SUCCESS);

        assert!(!reports_write_cache(&bench) && !bench.device.writeback());
        bench.adapter.reset_bus();
        bench.read(1);
        assert!(!reports_write_cache(&bench) && !bench.device.writeback());
        bench.adapter.restart().unwrap();
        bench.read(2);
        assert!(!reports_write_cache(&bench) && !bench.device.writeback());

        assert_eq!(set_write_cache(&bench, true), SUCCESS);
        assert!(reports_write_cache(&bench) && bench.device.writeback());
        bench.check();
        bench.stop();
    });
}

#[test]
#[ignore = "needs a built driver: cargo xtask test"]
fn a_write_cache_without_a_switch_is_not_said_to_be_off() {
    isolated(|| {
        let bench = without(CONFIG_WCE);
        assert!(reports_write_cache(&bench));

        assert_ne!(set_write_cache(&bench, false), SUCCESS);

        assert!(reports_write_cache(&bench) && bench.device.writeback());
        bench.check_without_storport();
        bench.stop();
    });
}
