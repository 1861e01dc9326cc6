//! One request at a time, with both layouts of an SRB.

use ferrostor_models::port::{Adapter, Done, Driver, Machine, Request, Shape};

use crate::miniport::{Keeper, opcode};

const SHAPES: [Shape; 2] = [Shape::Scsi, Shape::Storage];

fn started() -> Adapter {
    let adapter = Adapter::new(&Driver::load::<Keeper>(), Machine::LINE);
    adapter.start();
    adapter
}

/// A SCSI request with a CDB of `opcode`, and 5 bytes of data in 2 pieces.
pub fn scsi(shape: Shape, opcode: u8, queue: u8) -> Request {
    Request {
        shape,
        function: wdk_sys::SRB_FUNCTION_EXECUTE_SCSI,
        address: [1, 2, 3],
        cdb: vec![opcode, queue, 0, 0, 0, 0],
        flags: wdk_sys::SRB_FLAGS_DATA_IN,
        data: vec![vec![9; 3], vec![8; 2]],
        buffer: None,
        wrong_fields: Vec::new(),
    }
}

fn other(shape: Shape, function: u32) -> Request {
    Request {
        function,
        cdb: Vec::new(),
        data: Vec::new(),
        ..scsi(shape, 0, 0)
    }
}

fn done(status: u32) -> Done {
    Done {
        status: status as u8,
        scsi_status: 0,
        length: 0,
        sense: Vec::new(),
        data: Vec::new(),
    }
}

#[test]
fn hw_build_io_accesses_only_the_fields_and_buffers_of_its_srb() {
    let adapter = started();
    for shape in SHAPES {
        let answer = adapter.send(0, &scsi(shape, opcode::ADDRESS, 0));
        let expected = Done {
            length: 3,
            data: vec![1, 2, 3],
            ..done(wdk_sys::SRB_STATUS_DATA_OVERRUN)
        };
        assert_eq!(answer.get(), Some(&expected));
        let answer = adapter.send(0, &scsi(shape, opcode::LENGTH, 0));
        let expected = Done {
            length: 5,
            data: vec![9, 9, 9, 8, 8],
            ..done(wdk_sys::SRB_STATUS_SUCCESS)
        };
        assert_eq!(answer.get(), Some(&expected));
    }
}

#[test]
fn a_refused_request_returns_sense_data_and_a_dropped_one_an_error() {
    let adapter = started();
    for shape in SHAPES {
        let answer = adapter.send(0, &scsi(shape, opcode::REFUSED, 0));
        let status = wdk_sys::SRB_STATUS_ERROR | wdk_sys::SRB_STATUS_AUTOSENSE_VALID;
        let expected = Done {
            scsi_status: wdk_sys::SCSISTAT_CHECK_CONDITION as u8,
            sense: vec![0x70, 0, 5],
            ..done(status)
        };
        assert_eq!(answer.get(), Some(&expected));
        let answer = adapter.send(0, &scsi(shape, opcode::FORGOTTEN, 0));
        assert_eq!(answer.get(), Some(&done(wdk_sys::SRB_STATUS_ERROR)));
    }
}

#[test]
fn requests_for_a_full_queue_are_busy_and_a_dpc_empties_it() {
    let adapter = started();
    let answers: Vec<_> = SHAPES
        .iter()
        .chain(&SHAPES)
        .map(|shape| adapter.send(0, &scsi(*shape, opcode::QUEUED, 1)))
        .collect();
    assert!(answers[..2].iter().all(|answer| answer.get().is_none()));
    for answer in &answers[2..] {
        // The length does not change (storport-rules.md S5).
        let seen = answer.get().map(|done| (done.status, done.length));
        assert_eq!(seen, Some((wdk_sys::SRB_STATUS_BUSY as u8, 5)));
    }
    assert!(adapter.interrupt());
    assert_ne!(adapter.run_dpcs(), 0);
    for answer in &answers[..2] {
        let status = answer.get().map(|done| (done.status, done.length));
        assert_eq!(status, Some((wdk_sys::SRB_STATUS_SUCCESS as u8, 5)));
    }
}

#[test]
fn a_bus_reset_completes_all_queued_requests() {
    let adapter = started();
    let answers: Vec<_> = [0, 1]
        .map(|queue| adapter.send(0, &scsi(Shape::Storage, opcode::QUEUED, queue)))
        .into();
    assert!(adapter.reset_bus());
    for answer in answers {
        assert_eq!(answer.get(), Some(&done(wdk_sys::SRB_STATUS_BUS_RESET)));
    }
}

#[test]
fn requests_without_a_cdb_are_completed() {
    let adapter = started();
    for shape in SHAPES {
        let flush = adapter.send(0, &other(shape, wdk_sys::SRB_FUNCTION_FLUSH));
        assert_eq!(flush.get(), Some(&done(wdk_sys::SRB_STATUS_SUCCESS)));
        let pnp = adapter.send(0, &other(shape, wdk_sys::SRB_FUNCTION_PNP));
        assert_eq!(pnp.get(), Some(&done(wdk_sys::SRB_STATUS_INVALID_REQUEST)));
    }
    // Each flush has freed the memory of the one before it.
    assert_eq!(adapter.allocations(), 1);
    adapter.send(0, &scsi(Shape::Scsi, opcode::FREE, 0));
    assert_eq!(adapter.allocations(), 0);
}

#[test]
fn requests_before_hw_find_adapter_are_completed() {
    let adapter = Adapter::new(&Driver::load::<Keeper>(), Machine::LINE);
    for shape in SHAPES {
        // The data of some requests is Storport's answer already (STOR_DEVICE_CAPABILITIES).
        let power = Request {
            data: vec![vec![7; 4]],
            ..other(shape, wdk_sys::SRB_FUNCTION_POWER)
        };
        let answer = adapter.send(0, &power);
        let expected = Done {
            length: 4,
            data: vec![7; 4],
            ..done(wdk_sys::SRB_STATUS_SUCCESS)
        };
        assert_eq!(answer.get(), Some(&expected));
        let scsi = adapter.send(0, &scsi(shape, opcode::QUEUED, 0));
        assert_eq!(
            scsi.get().map(|done| done.status),
            Some(wdk_sys::SRB_STATUS_NO_HBA as u8)
        );
    }
    assert!(!adapter.interrupt());
}

#[test]
fn an_adapter_is_stopped_restarted_and_found_again() {
    let adapter = started();
    assert_eq!(adapter.supported_controls(4), [true, true, true, false]);
    for _ in 0..2 {
        let answer = adapter.send(0, &scsi(Shape::Storage, opcode::QUEUED, 0));
        adapter.interrupt();
        adapter.run_dpcs();
        assert!(answer.get().is_some());
        assert!(adapter.stop());
        assert!(adapter.restart());
    }
    assert!(adapter.find());
    assert!(!adapter.restart());
    assert!(adapter.initialize() && adapter.passive_initialize());
    let answer = adapter.send(0, &scsi(Shape::Scsi, opcode::LENGTH, 0));
    assert_eq!(answer.get().map(|done| done.length), Some(5));
}
