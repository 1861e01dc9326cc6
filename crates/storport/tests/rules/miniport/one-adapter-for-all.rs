//! A callback must work with any adapter. If it could require one particular lifetime,
//! locks of one adapter would open cells of another.
//! storport-rules.md Callbacks.

#![no_std]

use storport::{
    AdapterLimits, BuildIo, Configured, FindAdapter, Initialize, Interrupt, Interrupted, Miniport,
    NotFound, ResetBus, Restart, Srb, StartIo, Stop,
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

    #[cfg(wrong)]
    fn dpc(_: &(), _: &mut storport::Dpc<'_, 'static>) {}
    //~[wrong]^ ERROR: [E0308] method not compatible with trait

    #[cfg(right)]
    fn dpc<'a>(_: &(), _: &mut storport::Dpc<'_, 'a>) {}

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

    fn reset_bus<'a>(_: &Self::Adapter<'a>, _: &mut ResetBus<'_, 'a>) -> bool {
        true
    }

    fn stop<'a>(_: &Self::Adapter<'a>, _: &mut Stop<'_, 'a>) {}

    fn restart<'a>(_: &Self::Adapter<'a>, _: &mut Restart<'_, 'a>) -> bool {
        true
    }
}
