//! Errors of the disk, power cycles, and removals of the adapter.

use std::sync::Arc;

use testbed_devices::{BlkSettings, Faults};
use testbed_machine::{pci::PciFunction, trap};
use testbed_storport::{
    adapter::{Adapter, AdapterSettings, ControlCalls, Resume, SrbShape},
    control_request::{ControlRequest, PnpAction, Recipient},
    request::{Address, Direction},
};

use super::bench::*;

scenarios! {
    faults_of_the_disk_are_reported_and_survived
    data_and_requests_survive_sleeps_however_they_are_made
    the_removal_of_an_adapter_that_was_never_found_is_answered
}

fn faults_of_the_disk_are_reported_and_survived() {
    let faults = Faults {
        unreadable: only(10),
        unwritable: only(20),
        stalled: only(30),
        ..Faults::default()
    };
    let settings = BlkSettings { faults, ..device() };
    let bench = Disk::new(settings).start(impatient());
    let buffer = sector();
    // READ(10) of the first block beyond the disk.
    let beyond = Some((Direction::In, &buffer, SECTOR));
    let beyond = command(&[0x28, 0, 0, 0, 0x20, 0, 0, 0, 1, 0], beyond);

    for (request, key, code) in [
        (read(10, &buffer), 0x3, 0x11),
        (write(20, &buffer, false), 0x3, 0x0C),
        (beyond, 0x5, 0x21),
    ] {
        let done = bench.adapter.execute(request);
        assert_eq!((done.srb_status, done.transferred), (ERROR, 0));
        assert_eq!((sense(&done).0, sense(&done).1), (key, code));
    }

    // The time-out of a request that the disk keeps resets the adapter, which completes the
    // request and goes on.
    let stalled = bench.adapter.execute(read(30, &buffer));
    assert_eq!(stalled.srb_status, BUS_RESET);
    assert!(buffer.write(0, &[0xA5; SECTOR as usize]));
    let written = bench.adapter.execute(write(40, &buffer, false));
    assert!(buffer.write(0, &[0; SECTOR as usize]));
    let read = bench.adapter.execute(read(40, &buffer));
    assert_eq!((written.srb_status, read.srb_status), (SUCCESS, SUCCESS));
    let mut found = [0; SECTOR as usize];
    assert!(buffer.read(0, &mut found));
    assert_eq!(found, [0xA5; SECTOR as usize]);

    bench.adapter.stop().unwrap();
    let report = bench.check();
    assert_eq!(report.resets.len(), 1);
    assert!(report.resets[0].accepted);
}

/// Bit of the device status.
const FAILED: u8 = 0x80;

/// Bytes of a transfer over several pages: 128 sectors.
const BYTES: u32 = 128 * SECTOR;

/// READ(10) or WRITE(10) of [`BYTES`] at block 8.
fn transfer(bench: &Bench, direction: Direction, data: &mut [u8]) {
    let opcode = match direction {
        Direction::In => 0x28,
        Direction::Out => 0x2A,
    };
    let buffer = buffer(BYTES as usize);
    assert!(buffer.write(0, data));
    let cdb = [opcode, 0, 0, 0, 0, 8, 0, 0, 128, 0];
    let request = command(&cdb, Some((direction, &buffer, BYTES)));
    let done = bench.adapter.execute(request);
    assert_eq!(done.srb_status, SUCCESS, "{done:?}");
    assert!(buffer.read(0, data));
}

/// The device loses its state, whichever page of the documentation holds for the way in which
/// it is stopped and restarted.
fn data_and_requests_survive_sleeps_however_they_are_made() {
    for (control_calls, resume, srb) in [
        (ControlCalls::Strict, Resume::Restart, SrbShape::Storage),
        (ControlCalls::Strict, Resume::Restart, SrbShape::Scsi),
        (
            ControlCalls::UnderInterruptLock,
            Resume::Restart,
            SrbShape::Storage,
        ),
        (ControlCalls::Passive, Resume::Restart, SrbShape::Storage),
        (ControlCalls::Strict, Resume::FindAdapter, SrbShape::Storage),
    ] {
        let bench = start(AdapterSettings {
            control_calls,
            resume,
            srb,
            ..AdapterSettings::default()
        });
        for time in 1..=3 {
            transfer(&bench, Direction::Out, &mut [time; BYTES as usize]);
            bench.adapter.restart().unwrap();
            let mut found = [0; BYTES as usize];
            transfer(&bench, Direction::In, &mut found);
            let unchanged = found == [time; BYTES as usize];
            assert!(unchanged, "{control_calls:?}, {resume:?}, sleep {time}");
        }

        let unit = Recipient::Unit(Address::default());
        for removal in [
            ControlRequest::Flush(Address::default()),
            ControlRequest::Pnp(unit, PnpAction::Remove),
            ControlRequest::Pnp(Recipient::Adapter, PnpAction::Remove),
        ] {
            assert_eq!(bench.adapter.control(removal), SUCCESS);
        }
        bench.adapter.stop().unwrap();
        bench.check_without_storport();
        let writes = bench.device.status_writes();
        let has_failed = writes.iter().any(|status| status & FAILED != 0);
        assert!(!has_failed, "{writes:02x?}");
        assert_eq!(trap::driver_errors(), [""; 0]);
    }
}

fn the_removal_of_an_adapter_that_was_never_found_is_answered() {
    let disk = Disk::new(device());
    let function: Arc<dyn PciFunction> = disk.device.clone();
    let image = image("FERROSTOR_DRIVER");
    trap::watch(&image);

    let settings = AdapterSettings::default();
    let (status, report) =
        Adapter::remove_unstarted(machine(), &image, &function, settings).unwrap();

    assert_eq!(status, Some(SUCCESS));
    assert!(report.violations.is_empty(), "{:?}", report.violations);
}
