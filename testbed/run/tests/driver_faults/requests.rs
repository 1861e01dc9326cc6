//! Rare requests and callbacks: odd SRBs, functions that fail, requests that are never started,
//! other processors.

use std::time::Duration;

use testbed_devices::Operation;
use testbed_storport::{
    adapter::{
        AdapterSettings, OptionalCallback, OptionalCallbacks, SrbChange, SrbShape, StartIoCpu,
    },
    request::{Address, Direction, Request},
};

use super::bench::*;

scenarios! {
    an_answer_whose_buffer_is_not_mapped_is_no_short_success
    a_device_extension_that_is_aligned_to_8_bytes_suffices
    requests_that_a_bus_reset_drops_before_hw_start_io_leave_the_disk_working
    requests_that_are_dropped_before_hw_start_io_without_a_reset_leave_the_disk_working
    extended_srbs_that_contradict_themselves_are_refused
    requests_may_be_built_on_one_processor_and_started_on_another
    optional_callbacks_may_come_at_any_time
    each_command_refuses_the_other_direction
}

/// Commands for block 1: the way of their data, its bytes, and the CDB.
const COMMANDS: &str = "\
READ(6)           in  512  08 00 00 01 01 00
READ(10)          in  512  28 00 00 00 00 01 00 00 01 00
READ(10)+FUA      in  512  28 08 00 00 00 01 00 00 01 00
READ(12)          in  512  a8 00 00 00 00 01 00 00 00 01 00 00
READ(16)          in  512  88 00 00 00 00 00 00 00 00 01 00 00 00 01 00 00
WRITE(6)          out 512  0a 00 00 01 01 00
WRITE(10)         out 512  2a 00 00 00 00 01 00 00 01 00
WRITE(10)+FUA     out 512  2a 08 00 00 00 01 00 00 01 00
WRITE(12)         out 512  aa 00 00 00 00 01 00 00 00 01 00 00
WRITE(16)         out 512  8a 00 00 00 00 00 00 00 00 01 00 00 00 01 00 00
INQUIRY           in  36   12 00 00 00 24 00
INQUIRY-83h       in  4    12 01 83 00 04 00
REQUEST-SENSE     in  18   03 00 00 00 12 00
MODE-SENSE(6)     in  24   1a 00 3f 00 18 00
MODE-SENSE(10)    in  28   5a 00 3f 00 00 00 00 00 1c 00
MODE-SELECT(6)    out 24   15 10 00 00 18 00
MODE-SELECT(10)   out 28   55 10 00 00 00 00 00 00 1c 00
REPORT-LUNS       in  16   a0 00 00 00 00 00 00 00 00 10 00 00
READ-CAPACITY(10) in  8    25 00 00 00 00 00 00 00 00 00
READ-CAPACITY(16) in  32   9e 10 00 00 00 00 00 00 00 00 00 00 00 20 00 00
";

/// Commands without data.
const WITHOUT_DATA: [&[u8]; 6] = [
    &[0x28, 0, 0, 0, 0, 1, 0, 0, 0, 0],
    &[0x2A, 8, 0, 0, 0, 1, 0, 0, 0, 0],
    &[0x12, 0, 0, 0, 0, 0],
    &[0x00, 0, 0, 0, 0, 0],
    &[0x15, 0x10, 0, 0, 0, 0],
    &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0],
];

fn each_command_refuses_the_other_direction() {
    const FILLED: [u8; SECTOR as usize] = [0xA5; SECTOR as usize];
    let ways = [(false, false), (true, false), (false, true), (true, true)];
    for srb in [SrbShape::Storage, SrbShape::Scsi] {
        let bench = start(AdapterSettings { srb, ..patient() });
        let buffer = sector();
        for line in COMMANDS.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let bytes: u32 = words[2].parse().unwrap();
            let cdb = words[3..].iter().map(|byte| u8::from_str_radix(byte, 16));
            let cdb: Vec<u8> = cdb.collect::<Result<_, _>>().unwrap();
            let way = match words[1] {
                "in" => Direction::In,
                _ => Direction::Out,
            };
            for (data_in, data_out) in ways {
                assert!(buffer.write(0, &FILLED));
                let _ = bench.device.take_served();
                let request = command(&cdb, Some((way, &buffer, bytes)));
                let flags = direction(data_in, data_out);
                let done = bench.adapter.execute_changed(request, flags);
                let what = format!("{srb:?} {line} in {data_in} out {data_out}: {done:?}");
                let mut found = [0; SECTOR as usize];
                assert!(buffer.read(0, &mut found));
                let served = bench.device.take_served();
                match (way, data_in, data_out) {
                    (Direction::In, true, _) => {
                        let ended = (done.srb_status, done.transferred);
                        assert_eq!(ended, (SUCCESS, bytes), "{what}");
                        assert_ne!(found, FILLED, "{what}");
                        assert!(bytes < SECTOR || stamp(&buffer) == 1, "{what}");
                    }
                    (Direction::Out, _, true) if bytes == SECTOR => {
                        assert_eq!(done.srb_status, SUCCESS, "{what}");
                        assert_eq!(served[0].operation, Operation::Write(1, 1), "{what}");
                        // Its number again, for the reads.
                        assert!(buffer.write(0, &1_u64.to_le_bytes()));
                        let done = bench.run(write(1, &buffer, false));
                        assert_eq!(done.srb_status, SUCCESS);
                    }
                    // The data are not mode pages.
                    (Direction::Out, _, true) => {}
                    _ => {
                        assert!(failed(&done), "{what}");
                        assert_eq!(found, FILLED, "{what}");
                        assert_eq!(served, [], "{what}");
                    }
                }
            }
            // An SRB without the command's data.
            bench.run(command(&cdb, None));
        }
        // Without data the flags mean nothing.
        for cdb in WITHOUT_DATA {
            for (data_in, data_out) in ways {
                let flags = direction(data_in, data_out);
                let done = bench.adapter.execute_changed(command(cdb, None), flags);
                assert_eq!(done.srb_status, SUCCESS, "{cdb:02x?} {done:?}");
            }
        }
        bench.read(2);
        bench.finish_without_storport();
    }
}

fn an_answer_whose_buffer_is_not_mapped_is_no_short_success() {
    for after in [0, 2] {
        let bench = start(failing_function(GET_SYSTEM_ADDRESS, after));
        let buffer = sector();
        let requests: [fn(&_) -> Request; 2] = [inquiry, read_capacity];
        let ordinary = requests.iter().take(after as usize);
        for request in ordinary {
            let done = bench.run(request(&buffer));
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
}

fn a_device_extension_that_is_aligned_to_8_bytes_suffices() {
    for extension_offset in [8, 0xFF8] {
        let bench = start(AdapterSettings {
            extension_offset,
            ..patient()
        });
        bench.read(1);
        bench.finish_without_storport();
    }
}

/// Lets HwBuildIo build as many requests as the queue holds, and drops them in Storport by `drop`,
/// until the driver has seen more requests than it has slots.
fn drop_built_requests(bench: &Bench, drop: impl Fn(&Bench)) {
    const REQUESTS: usize = 600;
    let buffer = sector();
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

fn requests_that_a_bus_reset_drops_before_hw_start_io_leave_the_disk_working() {
    let bench = start(patient());
    drop_built_requests(&bench, |bench| bench.adapter.reset_bus());
    bench.serve(1000, 128, SOON, || {});
    assert_eq!(bench.check().retried, 0);
    bench.stop();
}

fn requests_that_are_dropped_before_hw_start_io_without_a_reset_leave_the_disk_working() {
    let bench = start(patient());
    let resets = bench.device.resets();
    drop_built_requests(&bench, |bench| bench.adapter.complete_held());
    bench.serve(1000, 128, SOON, || {});
    assert_eq!(bench.device.resets(), resets);
    bench.finish_without_storport();
}

fn extended_srbs_that_contradict_themselves_are_refused() {
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
    let buffer = sector();
    for changes in wild {
        // The message of a crash follows this line.
        eprintln!("{changes:?}");
        let done = bench
            .adapter
            .execute_changed(read(1, &buffer), changes.clone());
        assert!(failed(&done), "{changes:?}");
        bench.read(2);
    }
    bench.finish_without_storport();
}

fn requests_may_be_built_on_one_processor_and_started_on_another() {
    let bench = start(AdapterSettings {
        start_io_cpu: StartIoCpu::Next,
        ..patient()
    });

    let ends = load(&bench, 5000, 16, 2 * SOON, || {}).expect("all requests end");

    assert_eq!(ends.get(&SUCCESS), Some(&10_000), "{ends:?}");
    bench.finish_without_storport();
}

fn optional_callbacks_may_come_at_any_time() {
    let bench = Disk::new(device()).start(AdapterSettings {
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
    let buffer = sector();
    let done = bench.run(read(1, &buffer));
    assert!(removed.is_none() || failed(&done), "{done:?}");
    bench.finish_without_storport();
}
