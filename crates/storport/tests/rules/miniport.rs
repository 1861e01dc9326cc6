//! What a miniport implements and registers. The wrong code of `Disk` breaks several rules.

use storport::*;

/// A miniport. The parameter makes several of it.
struct Disk<const N: u8>;

const LIMITS: AdapterLimits = AdapterLimits {
    transfer_bytes: 65_536,
    physical_breaks: 16,
    requests: 32,
    alignment_mask: 0,
    targets: 1,
    logical_units: 1,
    caches_data: false,
};

#[cfg(wrong)]
mod given {
    pub type NextId = core::cell::Cell<u32>;
    pub type Request<'a> = Option<&'a core::cell::Cell<u32>>;
    pub type Interrupt<'c, 'a> = storport::Dpc<'c, 'a>;
    pub type Started = bool;
}
#[cfg(right)]
mod given {
    pub type NextId = core::sync::atomic::AtomicU32;
    pub type Request<'a> = Option<&'a core::sync::atomic::AtomicU32>;
    pub type Interrupt<'c, 'a> = storport::Interrupt<'c, 'a>;
    pub type Started = ();
}

impl<const N: u8> Miniport for Disk<N> {
    /// State that callbacks share and change must be in a cell or atomic, because callbacks run at
    /// the same time.
    /// storport-rules.md HwBuildIo, X10.
    type Adapter<'a> = given::NextId;
    //~ E0277 `Cell<u32>` cannot be shared between threads safely

    /// The value that HwBuildIo passes to HwStartIo must be `Send`, because HwStartIo may run on
    /// another processor.
    /// storport-rules.md HwBuildIo.
    type Request<'a> = given::Request<'a>;
    //~ E0277 `Cell<u32>` cannot be shared between threads safely

    /// HwFindAdapter returns one of the documented reasons why there is no adapter. It may return
    /// an adapter only after it has told Storport the limits, and that the adapter is full duplex.
    /// storport-rules.md HwFindAdapter, SpReturnValue, SynchronizationModel, StorPortFindAdapter,
    /// SpDuplex, StorPortVirtualDevice.
    fn find_adapter<'a>(
        cx: &mut FindAdapter<'_, 'a>,
    ) -> Result<(Configured<'a>, Self::Adapter<'a>), NotFound> {
        #[cfg(wrong)]
        match cx.is_dump() {
            true => Err(4),
            //~ E0308
            false => Ok(given::NextId::new(0)),
            //~ E0308
        }
        #[cfg(right)]
        {
            let configured = cx.configure(&LIMITS).map_err(|_| NotFound::Unusable)?;
            Ok((configured, given::NextId::new(0)))
        }
    }

    fn initialize<'a>(_: &Self::Adapter<'a>, _: &mut Initialize<'_, 'a>) -> bool {
        true
    }

    fn build_io<'a>(
        _: &Self::Adapter<'a>,
        _: &mut BuildIo<'_, 'a>,
        srb: Srb<'a>,
    ) -> Option<(Srb<'a>, Self::Request<'a>)> {
        Some((srb, None))
    }

    /// HwStartIo has no result, because the meaning of FALSE is not documented. A request that
    /// cannot be started is completed, as BUSY if Storport may send it again.
    /// storport-rules.md S5, S6.
    fn start_io<'a>(
        _: &Self::Adapter<'a>,
        _: &mut StartIo<'_, 'a>,
        srb: Srb<'a>,
        _: Self::Request<'a>,
    ) -> given::Started {
        //~ E0053
        srb.busy();
        given::Started::default()
    }

    /// A callback gets its own context, not that of another callback.
    /// storport-rules.md Callbacks.
    fn interrupt<'a>(_: &Self::Adapter<'a>, _: &mut given::Interrupt<'_, 'a>) -> Interrupted {
        //~ E0053
        Interrupted::NotOurs
    }

    /// A callback must work with any adapter. If it could require one particular lifetime, locks of
    /// one adapter would open cells of another.
    /// storport-rules.md Callbacks.
    #[cfg(wrong)]
    fn dpc(_: &given::NextId, _: &mut Dpc<'_, 'static>) {}
    //~ E0308
    #[cfg(right)]
    fn dpc<'a>(_: &given::NextId, _: &mut Dpc<'_, 'a>) {}

    fn reset_bus<'a>(_: &Self::Adapter<'a>, _: &mut ResetBus<'_, 'a>) -> bool {
        true
    }

    fn stop<'a>(_: &Self::Adapter<'a>, _: &mut Stop<'_, 'a>) {}

    fn restart<'a>(_: &Self::Adapter<'a>, _: &mut Restart<'_, 'a>) -> bool {
        true
    }
}

/// A miniport must name the optional callbacks that it implements. Otherwise Storport would not
/// call them.
/// storport-rules.md DriverEntry.
mod callback_not_named {
    use super::*;

    impl callback::Timer for Disk<1> {
        //~ E0277 add the callback's name where the driver registers
        fn timer<'a>(_: &Self::Adapter<'a>, _: &mut Timer<'_, 'a>) {}
    }
    #[cfg(wrong)]
    driver_entry!(Disk<1>);
    #[cfg(right)]
    driver_entry!(Disk<1>: Timer);
}

/// A miniport may only name optional callbacks that it implements.
/// storport-rules.md DriverEntry.
mod callback_not_implemented {
    use super::*;

    #[cfg(right)]
    impl callback::Timer for Disk<2> {
        fn timer<'a>(_: &Self::Adapter<'a>, _: &mut Timer<'_, 'a>) {}
    }
    driver_entry!(Disk<2>: Timer);
    //~ E0277 names the optional callback
}

/// `driver_entry!` registers the miniport. Other code can do it only with `unsafe`.
/// storport-rules.md StorPortInitialize, DriverEntry.
mod registered_by_anyone {
    use super::*;

    #[cfg(wrong)]
    impl callback::Registered for Disk<3> {
        //~ E0200
        const OPTIONAL: callback::Optional = callback::Optional::NONE;
    }
    #[cfg(right)]
    driver_entry!(Disk<3>);

    #[cfg(wrong)]
    fn again() -> i32 {
        register::<Disk<3>>(core::ptr::null_mut(), core::ptr::null())
        //~ E0133
    }
}

/// A routine that leads to a callback may only be called by a miniport that has the callback.
/// Without the callback, the object of a threaded DPC and its lock would never be initialised.
/// storport-rules.md C1, L6, DriverEntry, StorPortTimer, HwStateChange, HwRegistryNotification.
mod callback_missing {
    use super::*;

    const BUS: Changed = Changed::Bus(Address {
        path: 0,
        target: 0,
        lun: 0,
    });

    /// A miniport without optional callbacks.
    #[cfg(wrong)]
    type Plain = Disk<3>;

    #[cfg(wrong)]
    fn calls(cx: &mut Work<'_, '_>, found: &mut FindAdapter<'_, '_>) {
        let _ = cx.request_timer::<Plain>(core::num::NonZero::<u32>::MIN);
        //~ E0277 does not implement the optional callback that this call needs
        cx.cancel_timer::<Plain>();
        //~ E0277 does not implement the optional callback that this call needs
        let _ = cx.queue_work::<Plain>(0);
        //~ E0277 does not implement the optional callback that this call needs
        let _ = cx.report_change::<Plain>(BUS);
        //~ E0277 does not implement the optional callback that this call needs
        let _ = cx.watch_registry::<Plain>();
        //~ E0277 does not implement the optional callback that this call needs
        let _ = cx.is_traced::<Plain>();
        //~ E0277 does not implement the optional callback that this call needs
        let _ = found.threaded_dpc_locked::<Plain, u32>(0);
        //~ E0277 does not implement the optional callback that this call needs
    }

    #[cfg(right)]
    fn calls<Has>(cx: &mut Work<'_, '_>, found: &mut FindAdapter<'_, '_>)
    where
        Has: callback::Timer + callback::Work + callback::StateChange + callback::RegistryChange,
        Has: callback::Tracing + callback::ThreadedDpc,
    {
        let _ = cx.request_timer::<Has>(core::num::NonZero::<u32>::MIN);
        cx.cancel_timer::<Has>();
        let _ = cx.queue_work::<Has>(0);
        let _ = cx.report_change::<Has>(BUS);
        let _ = cx.watch_registry::<Has>();
        let _ = cx.is_traced::<Has>();
        let _ = found.threaded_dpc_locked::<Has, u32>(0);
    }
}
