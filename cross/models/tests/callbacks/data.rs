//! A request's data, and SRBs with inconsistent fields.

use ferrostor_models::port::{Adapter as Port, Buffer, Driver, Field, Machine, Request, Shape};
use storport::{
    BuildIo, Configured, DataError, Direction, FindAdapter, Miniport, NotFound, Srb, StartIo,
    StartIoLocked,
};

use crate::{
    miniport::{Keeper, LIMITS, idle, opcode},
    requests::scsi,
};

fn status(done: u32) -> Option<u8> {
    Some(done as u8)
}

/// A miniport that keeps its first request, and accesses the data of both when the second
/// arrives.
struct Mirror;

storport::registered!(Mirror);

impl Miniport for Mirror {
    type Adapter<'a> = StartIoLocked<'a, Option<Srb<'a>>>;
    type Request<'a> = ();

    idle!();

    fn find_adapter<'a>(
        cx: &mut FindAdapter<'_, 'a>,
    ) -> Result<(Configured<'a>, Self::Adapter<'a>), NotFound> {
        let configured = cx.configure(&LIMITS).map_err(|_| NotFound::Unusable)?;
        Ok((configured, cx.start_io_locked(None)))
    }

    fn build_io<'a>(
        adapter: &Self::Adapter<'a>,
        cx: &mut BuildIo<'_, 'a>,
        mut second: Srb<'a>,
    ) -> Option<(Srb<'a>, ())> {
        let Some(mut first) = adapter.with(cx, |first| first.take()) else {
            adapter.with(cx, |first| **first = Some(second));
            return None;
        };
        let mut one = cx.data_in(&mut first).expect("mapped");
        let other = cx.data_out(&mut second).expect("mapped");
        let mut byte = [0];
        assert_eq!(other.read(1, &mut byte), 1);
        assert_eq!(one.write(1, &[!byte[0]]), 1);
        let mut again = [0];
        assert_eq!(other.read(1, &mut again), 1);
        assert_eq!(again[0], !byte[0]);
        // Accesses end at the end of the buffer.
        assert_eq!((one.length(), one.write(3, &[4; 9])), (5, 2));
        assert_eq!(other.read(usize::MAX, &mut byte), 0);
        first.succeed(5);
        second.succeed(5);
        None
    }

    fn start_io<'a>(_: &Self::Adapter<'a>, _: &mut StartIo<'_, 'a>, _: Srb<'a>, (): ()) {}
}

#[test]
fn two_requests_have_views_of_one_buffer() {
    let port = Port::new(&Driver::load::<Mirror>(), Machine::LINE);
    port.start();
    let buffer = Buffer::new(&[9, 9, 9, 8, 8]);
    let [first, second] = [wdk_sys::SRB_FLAGS_DATA_IN, wdk_sys::SRB_FLAGS_DATA_OUT].map(|flags| {
        let request = Request {
            flags,
            buffer: Some(buffer.clone()),
            ..scsi(Shape::Storage, 0, 0)
        };
        port.send(0, &request)
    });
    for done in [first, second] {
        assert_eq!(
            done.get().map(|done| &*done.data),
            Some(&[9, !9, 9, 4, 4][..])
        );
    }
}

fn keeper() -> Port {
    let port = Port::new(&Driver::load::<Keeper>(), Machine::LINE);
    port.start();
    port
}

#[test]
fn data_of_the_wrong_direction_or_not_mapped_is_not_accessed() {
    assert!(!Direction::Out.allows(Direction::In));
    assert_ne!(
        DataError::Direction(Direction::Out),
        DataError::Direction(Direction::None)
    );
    let port = keeper();
    let error = status(wdk_sys::SRB_STATUS_ERROR);
    for shape in [Shape::Scsi, Shape::Storage] {
        let asks = scsi(shape, opcode::ADDRESS, 0);
        let wrong = Request {
            flags: wdk_sys::SRB_FLAGS_DATA_OUT,
            ..asks.clone()
        };
        let done = port.send(0, &wrong);
        assert_eq!(done.get().map(|done| done.status), error);
        // Without a direction there is no data: the view is empty.
        let none = Request {
            flags: 0,
            ..asks.clone()
        };
        let done = port.send(0, &none);
        assert_eq!(done.get().map(|done| done.length), Some(0));
        port.map_nothing(true);
        let done = port.send(0, &asks);
        assert_eq!(
            done.get().map(|done| (done.status, done.length)),
            error.zip(Some(0))
        );
        port.map_nothing(false);
        let done = port.send(0, &asks);
        assert_eq!(done.get().map(|done| done.length), Some(3));
    }
}

#[test]
fn an_srb_with_offsets_outside_itself_is_refused() {
    let port = keeper();
    let invalid = status(wdk_sys::SRB_STATUS_INVALID_REQUEST);
    let fields = [
        (Field::AddressOffset, 0),
        (Field::AddressOffset, 1),
        (Field::AddressOffset, 0x4000_0000),
        (Field::AddressOffset, u32::MAX),
        (Field::NumSrbExData, 9),
        (Field::NumSrbExData, u32::MAX),
        (Field::SrbLength, 0),
        (Field::SrbLength, 8),
    ];
    for field in fields {
        let request = Request {
            wrong_fields: vec![field],
            ..scsi(Shape::Storage, opcode::ADDRESS, 0)
        };
        let done = port.send(0, &request);
        assert_eq!(done.get().map(|done| done.status), invalid, "{field:?}");
    }
}

#[test]
fn an_srb_with_an_invalid_cdb_offset_has_no_cdb() {
    let port = keeper();
    for field in [
        (Field::SrbExDataOffset, 0),
        (Field::SrbExDataOffset, 4),
        (Field::SrbExDataOffset, 0x7FFF_FFF8),
        (Field::SrbExDataOffset, u32::MAX),
        (Field::Type, 0),
        (Field::Type, u32::MAX),
        (Field::NumSrbExData, 0),
        (Field::CdbLength, 0),
    ] {
        let request = Request {
            wrong_fields: vec![field],
            // A request without a CDB is treated as opcode 0, which is queued.
            ..scsi(Shape::Storage, opcode::REFUSED, 1)
        };
        let done = port.send(0, &request);
        assert!(done.get().is_none(), "{field:?}");
        assert!(port.reset_bus());
        assert!(done.get().is_some(), "{field:?}");
    }
    // More CDBs than there are offsets, and a CDB longer than its array: the crate reads only
    // memory inside the SRB.
    for field in [
        (Field::NumSrbExData, 2),
        (Field::NumSrbExData, 8),
        (Field::CdbLength, 255),
        (Field::SrbFunction, wdk_sys::SRB_FUNCTION_PNP),
        (Field::SrbFunction, u32::MAX),
    ] {
        let request = Request {
            wrong_fields: vec![field],
            ..scsi(Shape::Storage, opcode::ADDRESS, 0)
        };
        let done = port.send(0, &request);
        assert!(done.get().is_some(), "{field:?}");
    }
}
