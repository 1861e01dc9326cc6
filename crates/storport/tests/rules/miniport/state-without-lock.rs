//! State that callbacks share and change must be in a cell or atomic, because callbacks
//! run at the same time.
//! storport-rules.md HwBuildIo, X10.

#![no_std]

use storport::{
    AdapterLimits, BuildIo, Configured, Dpc, FindAdapter, Initialize, Interrupt, Interrupted,
    Miniport, NotFound, ResetBus, Restart, Srb, StartIo, Stop,
};

#[cfg(wrong)]
type NextId = core::cell::Cell<u32>;
#[cfg(right)]
type NextId = core::sync::atomic::AtomicU32;

pub struct Disk;

const LIMITS: AdapterLimits = AdapterLimits {
    transfer_bytes: 65_536,
    physical_breaks: 16,
    requests: 32,
    alignment_mask: 0,
    targets: 1,
    logical_units: 1,
    caches_data: false,
};

impl Miniport for Disk {
    type Adapter<'a> = NextId;
    //~[wrong]^ ERROR: [E0277] `Cell<u32>` cannot be shared between threads safely
    type Request<'a> = ();

    fn find_adapter<'a>(
        cx: &mut FindAdapter<'_, 'a>,
    ) -> Result<(Configured<'a>, NextId), NotFound> {
        let configured = cx.configure(&LIMITS).map_err(|_| NotFound::Unusable)?;
        Ok((configured, NextId::new(0)))
    }

    fn initialize<'a>(_: &Self::Adapter<'a>, _: &mut Initialize<'_, 'a>) -> bool {
        true
    }

    fn build_io<'a>(
        _: &Self::Adapter<'a>,
        _: &mut BuildIo<'_, 'a>,
        srb: Srb<'a>,
    ) -> Option<(Srb<'a>, ())> {
        Some((srb, ()))
    }

    fn start_io<'a>(_: &Self::Adapter<'a>, _: &mut StartIo<'_, 'a>, srb: Srb<'a>, (): ()) {
        srb.succeed(0);
    }

    fn interrupt<'a>(_: &Self::Adapter<'a>, _: &mut Interrupt<'_, 'a>) -> Interrupted {
        Interrupted::NotOurs
    }

    fn dpc<'a>(_: &Self::Adapter<'a>, _: &mut Dpc<'_, 'a>) {}

    fn reset_bus<'a>(_: &Self::Adapter<'a>, _: &mut ResetBus<'_, 'a>) -> bool {
        true
    }

    fn stop<'a>(_: &Self::Adapter<'a>, _: &mut Stop<'_, 'a>) {}

    fn restart<'a>(_: &Self::Adapter<'a>, _: &mut Restart<'_, 'a>) -> bool {
        true
    }
}
