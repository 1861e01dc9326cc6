//! Safe code that misuses `crates/storport`. It must not cause undefined behaviour.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use ferrostor_models::port::{Adapter, Driver, Machine, Shape};
use storport::{
    BuildIo, Configured, DpcLocked, FindAdapter, LimitsError, Miniport, NotFound, Srb, StartIo,
    ThreadedDpc, Tracing, callback,
};

use crate::{
    miniport::{LIMITS, idle},
    requests::scsi,
};

/// The opcodes of requests.
mod opcode {
    /// The request is kept.
    pub const KEPT: u8 = 1;
    /// The request is completed at once, and HwBuildIo returns the kept request instead.
    pub const EXCHANGED: u8 = 2;
}

struct Misuser;

struct State<'a> {
    kept: DpcLocked<'a, Option<Srb<'a>>>,
}

storport::registered!(Misuser: ThreadedDpc, Tracing);

/// An [`opcode::EXCHANGED`] request is completed, and HwBuildIo has not returned yet.
static COMPLETED: AtomicBool = AtomicBool::new(false);
/// How often HwFindAdapter was called. Every second call makes its DPC a threaded one.
static FINDS: AtomicUsize = AtomicUsize::new(0);
/// How often HwBuildIo returned a different request than it got.
static EXCHANGES: AtomicUsize = AtomicUsize::new(0);

impl Miniport for Misuser {
    type Adapter<'a> = State<'a>;
    type Request<'a> = u64;

    idle!();

    fn find_adapter<'a>(
        cx: &mut FindAdapter<'_, 'a>,
    ) -> Result<(Configured<'a>, State<'a>), NotFound> {
        let configured = cx.configure(&LIMITS).expect("limits");
        let kept = match FINDS.fetch_add(1, Ordering::Relaxed) % 2 {
            0 => cx.dpc_locked(None),
            _ => cx.threaded_dpc_locked::<Self, _>(None),
        };
        let kept = kept.ok_or(NotFound::Unusable)?;
        Ok((configured, State { kept }))
    }

    fn build_io<'a>(
        adapter: &State<'a>,
        cx: &mut BuildIo<'_, 'a>,
        srb: Srb<'a>,
    ) -> Option<(Srb<'a>, u64)> {
        if srb.cdb().first() == Some(&opcode::KEPT) {
            adapter.kept.with(cx, |kept| **kept = Some(srb));
            return None;
        }
        srb.succeed(0);
        COMPLETED.store(true, Ordering::Release);
        loop {
            if let Some(other) = adapter.kept.with(cx, |kept| kept.take()) {
                EXCHANGES.fetch_add(1, Ordering::Relaxed);
                return Some((other, 0));
            }
            thread::yield_now();
        }
    }

    fn start_io<'a>(_: &State<'a>, _: &mut StartIo<'_, 'a>, srb: Srb<'a>, _: u64) {
        srb.succeed(0);
    }
}

impl callback::ThreadedDpc for Misuser {
    fn threaded_dpc<'a>(_: &State<'a>, _: &mut ThreadedDpc<'_, 'a>) {}
}

impl callback::Tracing for Misuser {
    fn tracing<'a>(adapter: &State<'a>, cx: &mut Tracing<'_, 'a>) {
        adapter.kept.issue(cx);
    }
}

fn adapter() -> Adapter {
    Adapter::new(&Driver::load::<Misuser>(), Machine::LINE)
}

/// The kept request is sent when the memory of the exchanged one is free, so both may have the
/// same address.
fn requests_are_exchanged() {
    FINDS.store(0, Ordering::Relaxed);
    let adapter = adapter();
    adapter.start();
    let rounds = 8;
    for _ in 0..rounds {
        COMPLETED.store(false, Ordering::Relaxed);
        thread::scope(|scope| {
            scope.spawn(|| adapter.send(0, &scsi(Shape::Scsi, opcode::EXCHANGED, 0)));
            while !COMPLETED.load(Ordering::Acquire) {
                thread::yield_now();
            }
            adapter.send(1, &scsi(Shape::Scsi, opcode::KEPT, 0));
        });
    }
    assert_eq!(EXCHANGES.load(Ordering::Relaxed), rounds);
    assert_eq!(adapter.outstanding(), 0);
}

fn a_queued_dpc_does_not_change_its_kind() {
    FINDS.store(0, Ordering::Relaxed);
    let adapter = adapter();
    adapter.start();
    adapter.tracing(true);
    assert!(adapter.stop());
    // The DPC object would be initialised again while it is queued.
    assert!(!adapter.find());
    adapter.start();
    assert_eq!(adapter.run_dpcs(), 1);
}

#[test]
fn a_miniport_that_confuses_requests_and_dpcs_causes_no_undefined_behaviour() {
    requests_are_exchanged();
    a_queued_dpc_does_not_change_its_kind();
}

/// A miniport whose HwFindAdapter asks for what it cannot have.
struct Greedy;

storport::registered!(Greedy);

impl Miniport for Greedy {
    type Adapter<'a> = ();
    type Request<'a> = ();

    idle!();

    fn find_adapter<'a>(cx: &mut FindAdapter<'_, 'a>) -> Result<(Configured<'a>, ()), NotFound> {
        // The greatest value means "not set" to Storport.
        for (error, value) in [
            (LimitsError::TransferBytes(0), 0),
            (LimitsError::TransferBytes(511), 511),
            (LimitsError::TransferBytes(u32::MAX), u32::MAX),
            (LimitsError::PhysicalBreaks, 0),
            (LimitsError::PhysicalBreaks, u32::MAX),
            (LimitsError::Requests, 0),
            (LimitsError::AlignmentMask(4), 4),
            (LimitsError::AlignmentMask(u32::MAX), u32::MAX),
            (LimitsError::Targets, 0),
            (LimitsError::LogicalUnits, 0),
        ] {
            let mut limits = LIMITS;
            match error {
                LimitsError::TransferBytes(_) => limits.transfer_bytes = value,
                LimitsError::PhysicalBreaks => limits.physical_breaks = value,
                LimitsError::Requests => limits.requests = value,
                LimitsError::AlignmentMask(_) => limits.alignment_mask = value,
                LimitsError::Targets => limits.targets = value as u8,
                LimitsError::LogicalUnits => limits.logical_units = value as u8,
            }
            assert_eq!(cx.configure(&limits).err(), Some(error));
        }
        let configured = cx.configure(&LIMITS).map_err(|_| NotFound::Unusable)?;
        // A second value would have access to the same memory.
        let taken = [(); 2].map(|()| cx.uncached_extension(&configured, 64).is_some());
        assert_eq!(taken, [true, false]);
        Ok((configured, ()))
    }

    fn build_io<'a>(_: &(), _: &mut BuildIo<'_, 'a>, srb: Srb<'a>) -> Option<(Srb<'a>, ())> {
        Some((srb, ()))
    }

    fn start_io<'a>(_: &(), _: &mut StartIo<'_, 'a>, _: Srb<'a>, (): ()) {}
}

#[test]
fn limits_that_no_adapter_can_have_and_a_second_uncached_extension_are_refused() {
    let adapter = Adapter::new(&Driver::load::<Greedy>(), Machine::LINE);
    assert!(adapter.find());
}
