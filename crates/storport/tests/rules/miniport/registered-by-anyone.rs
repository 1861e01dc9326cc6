//! `driver_entry!` registers the miniport. Other code can do it only with `unsafe`.
//! storport-rules.md StorPortInitialize.

#![no_std]

use storport::{
    AdapterLimits, BuildIo, Configured, Dpc, FindAdapter, Initialize, Interrupt, Interrupted,
    Miniport, NotFound, ResetBus, Restart, Srb, StartIo, Stop,
};

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
    type Adapter<'a> = ();
    type Request<'a> = ();

    fn find_adapter<'a>(cx: &mut FindAdapter<'_, 'a>) -> Result<(Configured<'a>, ()), NotFound> {
        let configured = cx.configure(&LIMITS).map_err(|_| NotFound::Unusable)?;
        Ok((configured, ()))
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

storport::driver_entry!(Disk);

#[cfg(wrong)]
pub fn again() -> i32 {
    storport::register::<Disk>(core::ptr::null_mut(), core::ptr::null())
    //~[wrong]^ ERROR: [E0133] call to unsafe function `register` is unsafe and requires unsafe block
}
