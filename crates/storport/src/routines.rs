//! Storport's routines, as methods of the contexts that may call them
//! (storport-rules.md Callbacks, Routines, IRQL).
//!
//! Each group below names the contexts that may call its routines, and those that may not. The
//! latter have the methods too, hidden and with a bound that they cannot meet. So a call there
//! does not compile, and the compiler's message says where to make the call instead. The traits of
//! the bounds have no other purpose.
//!
//! In a dump stack most routines are unavailable. There they return
//! [`StorStatus::NOT_IMPLEMENTED`], `None` or `false` (storport-rules.md D3, D6).
#![expect(unsafe_code, reason = "the methods call storport.sys")]

use core::{ffi::CStr, num::NonZero, ptr, sync::atomic::Ordering};

use wdk_sys::{
    LARGE_INTEGER, PROCESSOR_NUMBER, PVOID, STATE_CHANGE_BUS, STATE_CHANGE_LUN,
    STATE_CHANGE_TARGET, STOR_ADDR_BTL8, ULONG,
};

use crate::{
    callback,
    context::{
        AdapterPower, BuildIo, Changed, Concurrent, Dpc, Initialize, Interrupt, MessageInterrupt,
        PassiveInitialize, RegistryChange, ResetBus, Restart, Serial, StartIo, StateChange, Stop,
        SurpriseRemoval, ThreadedDpc, Timer, Tracing, UnitControl, UnitPower, Work,
    },
    data::{DataError, DataIn, DataOut},
    event::Event,
    extension::Header,
    find_adapter::FindAdapter,
    performance::{MessageTarget, Performance, StartIoParameters},
    pool::Pool,
    port,
    srb::{Address, Direction, NotStarted, ScatterGather, Srb},
    status::StorStatus,
};

/// The callback may wait while it occupies the processor.
#[diagnostic::on_unimplemented(
    message = "waiting is not allowed in `{Self}`",
    label = "StorPortStallExecution may not be called in this callback (storport-rules.md L7, \
             SpNoWait)",
    note = "wait in HwFindAdapter, HwInitialize, HwPassiveInitialize, HwResetBus, ScsiStopAdapter, \
            ScsiRestartAdapter or a work item; in other callbacks, request a timer \
            (`request_timer`)"
)]
pub trait MayStall {}

/// The callback runs at DISPATCH_LEVEL or below.
#[diagnostic::on_unimplemented(
    message = "`{Self}` may run above DISPATCH_LEVEL",
    label = "this routine may only be called at DISPATCH_LEVEL or below (storport-rules.md I3)",
    note = "in an interrupt routine, issue a DPC (`DpcLocked::issue`) and call the routine in \
            `Miniport::dpc`",
    note = "instead of HwInitialize, use HwFindAdapter or HwPassiveInitialize",
    note = "ScsiStopAdapter and ScsiRestartAdapter may run at DIRQL (storport-rules.md X1)"
)]
pub trait AtMostDispatch {}

/// The callback may allocate and free pool.
#[diagnostic::on_unimplemented(
    message = "pool memory and work items are not available in `{Self}`",
    label = "this needs DISPATCH_LEVEL or below, and is not allowed in HwStartIo \
             (storport-rules.md I3, HwStartIo)",
    note = "allocate memory in HwFindAdapter, HwPassiveInitialize or HwBuildIo; queue work items \
            in HwBuildIo or a DPC",
    note = "free memory when the adapter is removed: HwBuildIo gets `Function::Pnp` with \
            `PnpAction::Remove`"
)]
pub trait MayAllocate {}

/// The callback runs at PASSIVE_LEVEL.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not run at PASSIVE_LEVEL",
    label = "this routine may only be called at PASSIVE_LEVEL (storport-rules.md I1)",
    note = "call it in HwFindAdapter or HwPassiveInitialize; once the adapter runs, call it in a \
            work item (`queue_work`)"
)]
pub trait AtPassive {}

/// The adapter is ready: timers, work items and state changes may be requested. Their callbacks may
/// run at any time from then on.
#[diagnostic::on_unimplemented(
    message = "the adapter is not ready in `{Self}`",
    label = "this call could take effect before the adapter is ready, or after it is stopped \
             (storport-rules.md C1)",
    note = "call it in HwBuildIo, a DPC or another callback of a running adapter",
    note = "in HwInitialize, HwPassiveInitialize and ScsiRestartAdapter, issue a DPC \
            (`DpcLocked::issue`): it runs when the adapter is ready, and can make this call"
)]
pub trait WhileRunning {}

/// The callback may issue DPCs.
#[diagnostic::on_unimplemented(
    message = "`{Self}` may not issue a DPC",
    label = "a DPC may be issued in HwInitialize and in later callbacks, except ScsiStopAdapter \
             (storport-rules.md HwAdapterControl, C1)",
    note = "issue it in another callback, for example in HwInitialize or ScsiRestartAdapter"
)]
pub trait IssuesDpcs<'a>: crate::context::OfAdapter<'a> {}

/// The callback may set performance options.
#[diagnostic::on_unimplemented(
    message = "performance options cannot be set in `{Self}`",
    label = "StorPortInitializePerfOpts may only be called in HwInitialize and HwPassiveInitialize \
             (storport-rules.md StorPortInitializePerfOpts)",
    note = "call `optimize` in `Miniport::initialize`"
)]
pub trait Optimizes {}

/// The callback may ask which messages are connected.
#[diagnostic::on_unimplemented(
    message = "the connected messages cannot be queried in `{Self}`",
    label = "StorPortGetMSIInfo may not be called in HwMSInterruptRoutine, and messages exist only \
             after HwFindAdapter (storport-rules.md StorPortGetMSIInfo)",
    note = "call `has_message` in `Miniport::initialize`, and store the result"
)]
pub trait SeesMessages {}

/// The callback is HwStartIo.
#[diagnostic::on_unimplemented(
    message = "the message and the channel of a request cannot be queried in `{Self}`",
    label = "StorPortGetStartIoPerfParams may only be called with a request that was passed to \
             HwStartIo (storport-rules.md StorPortGetStartIoPerfParams)",
    note = "call `start_io_parameters` in `Miniport::start_io`, and store the result"
)]
pub trait InStartIo {}

/// Implements the routines in `$methods` for the contexts that may call them. Implements them also,
/// hidden, for the other contexts, for which the bounds fail.
macro_rules! routines {
    (
        for [$($context:ident)*] not [$($other:ident)*]
        $methods:tt
    ) => {
        $(impl<'a> $context<'_, 'a> $methods)*
        $(
            #[doc(hidden)]
            impl<'a> $other<'_, 'a> $methods
        )*
    };
}

pub(crate) use routines;

macro_rules! rights {
    ($($right:ident for [$($context:ident)*];)*) => {$($(
        #[diagnostic::do_not_recommend]
        impl $right for $context<'_, '_> {}
    )*)*};
}

rights! {
    MayStall for [FindAdapter Initialize PassiveInitialize ResetBus Stop Restart Work];
    AtMostDispatch for [FindAdapter PassiveInitialize BuildIo StartIo Concurrent Serial Dpc
        ThreadedDpc Timer StateChange ResetBus AdapterPower SurpriseRemoval UnitControl UnitPower
        Tracing Work RegistryChange];
    MayAllocate for [FindAdapter PassiveInitialize BuildIo Dpc ThreadedDpc Timer StateChange
        ResetBus AdapterPower SurpriseRemoval UnitControl UnitPower Tracing Work RegistryChange];
    AtPassive for [FindAdapter PassiveInitialize UnitControl Tracing Work RegistryChange];
    WhileRunning for [BuildIo StartIo Concurrent Serial Interrupt MessageInterrupt Dpc ThreadedDpc
        Timer StateChange ResetBus AdapterPower SurpriseRemoval UnitControl UnitPower Tracing Work
        RegistryChange];
    Optimizes for [Initialize PassiveInitialize];
    SeesMessages for [Initialize PassiveInitialize Restart];
    InStartIo for [StartIo Concurrent Serial];
}

macro_rules! issuers {
    ($($context:ident)*) => {$(
        #[diagnostic::do_not_recommend]
        impl<'a> IssuesDpcs<'a> for $context<'_, 'a> {}
    )*};
}

issuers! {
    Initialize PassiveInitialize BuildIo StartIo Concurrent Serial Interrupt MessageInterrupt Dpc
    ThreadedDpc Timer StateChange ResetBus Restart AdapterPower SurpriseRemoval UnitControl
    UnitPower Tracing Work RegistryChange
}

routines! {
    for [FindAdapter Initialize PassiveInitialize BuildIo StartIo Concurrent Serial Interrupt
        MessageInterrupt Dpc ThreadedDpc Timer StateChange ResetBus Stop Restart AdapterPower
        SurpriseRemoval UnitControl UnitPower Tracing Work RegistryChange]
    not []
    {
        /// Whether this copy of the driver runs in a dump stack, which writes a crash dump or a
        /// hibernation file. There are no interrupts, DPCs or locks there
        /// (storport-rules.md D3, D5, D8).
        #[must_use]
        pub fn is_dump(&self) -> bool {
            self.header().state.is_dump()
        }

        /// The time since the system started, in microseconds
        /// (StorPortQueryPerformanceCounter).
        ///
        /// # Errors
        /// Storport's status. NOT_IMPLEMENTED in a dump stack.
        pub fn microseconds(&self) -> Result<u64, StorStatus> {
            microseconds(self.header())
        }
    }
}

routines! {
    for [FindAdapter Initialize PassiveInitialize ResetBus Stop Restart Work]
    not [BuildIo StartIo Concurrent Serial Interrupt MessageInterrupt Dpc ThreadedDpc Timer
        StateChange AdapterPower SurpriseRemoval UnitControl UnitPower Tracing RegistryChange]
    {
        /// Waits while it occupies the processor (StorPortStallExecution). A call waits at most
        /// 100 000 microseconds, the limit of Storport's verifier.
        pub fn stall(&self, microseconds: u32)
        where
            Self: MayStall,
        {
            port::stall(microseconds);
        }
    }
}

routines! {
    for [FindAdapter PassiveInitialize BuildIo StartIo Concurrent Serial Dpc ThreadedDpc Timer
        StateChange ResetBus AdapterPower SurpriseRemoval UnitControl UnitPower Tracing Work
        RegistryChange]
    not [Initialize Interrupt MessageInterrupt Stop Restart]
    {
        /// Maps the request's Data-In Buffer, for writing (StorPortGetSystemAddress). It is as long
        /// as the SRB's data, and so empty if the SRB has no data.
        ///
        /// # Errors
        /// The SRB has another direction, or Storport cannot map the data.
        pub fn data_in<'s, S: NotStarted>(
            &self,
            srb: &'s mut Srb<'a, S>,
        ) -> Result<DataIn<'s>, DataError>
        where
            Self: AtMostDispatch,
        {
            // SAFETY: This context runs at or below DISPATCH_LEVEL.
            let bytes = unsafe { srb.map(self.header(), Direction::In) }?;
            Ok(DataIn(bytes))
        }

        /// Maps the request's Data-Out Buffer, for reading (StorPortGetSystemAddress). It is as
        /// long as the SRB's data, and so empty if the SRB has no data.
        ///
        /// # Errors
        /// The SRB has another direction, or Storport cannot map the data.
        pub fn data_out<'s, S: NotStarted>(
            &self,
            srb: &'s mut Srb<'a, S>,
        ) -> Result<DataOut<'s>, DataError>
        where
            Self: AtMostDispatch,
        {
            // SAFETY: This context runs at or below DISPATCH_LEVEL.
            let bytes = unsafe { srb.map(self.header(), Direction::Out) }?;
            Ok(DataOut(bytes))
        }

        /// The scatter/gather list of the request's data (StorPortGetScatterGatherList). Returns
        /// `None` if there is none.
        pub fn scatter_gather<'s>(&self, srb: &'s Srb<'a>) -> Option<ScatterGather<'s>>
        where
            Self: AtMostDispatch,
        {
            // SAFETY: `Srb`'s invariant: the SRB is owned, and not completed.
            let list = unsafe { port::scatter_gather_list(self.header(), srb.as_ptr()) }?;
            // SAFETY: `Srb`'s invariant: the list is valid until the SRB is completed. The SRB is
            // borrowed for `'s`.
            Some(unsafe { ScatterGather::new(list) })
        }

        /// The number of active processors, in all groups
        /// (StorPortGetActiveGroupCount, StorPortGetGroupAffinity). It is at least 1. In a dump
        /// stack it is 1.
        #[must_use]
        pub fn processors(&self) -> u32
        where
            Self: AtMostDispatch,
        {
            // SAFETY: This context runs at or below DISPATCH_LEVEL.
            unsafe { processors(self.header()) }
        }

        /// The processor that this code runs on
        /// (StorPortGetCurrentProcessorNumber): its group and its number in the
        /// group. At PASSIVE_LEVEL the code may move to another processor at any time.
        ///
        /// # Errors
        /// Storport's status.
        #[inline(always)]
        pub fn processor(&self) -> Result<Processor, StorStatus>
        where
            Self: AtMostDispatch,
        {
            // SAFETY: This context runs at or below DISPATCH_LEVEL.
            unsafe { processor(self.header()) }
        }

        /// Writes an event to the system's log (StorPortLogSystemEvent).
        ///
        /// # Errors
        /// Storport's status. The event is lost. NOT_IMPLEMENTED in a dump stack.
        pub fn log_event(&self, event: &Event<'_>) -> Result<(), StorStatus>
        where
            Self: AtMostDispatch,
        {
            if self.is_dump() {
                return Err(StorStatus::NOT_IMPLEMENTED);
            }
            // SAFETY: This context runs at or below DISPATCH_LEVEL.
            unsafe { event.log(self.header()) }
        }
    }
}

routines! {
    for [FindAdapter PassiveInitialize BuildIo Dpc ThreadedDpc Timer StateChange ResetBus
        AdapterPower SurpriseRemoval UnitControl UnitPower Tracing Work RegistryChange]
    not [Initialize StartIo Concurrent Serial Interrupt MessageInterrupt Stop Restart]
    {
        /// Allocates non-paged memory for `length` elements, each made by
        /// `make` from its index (StorPortAllocatePool).
        ///
        /// # Errors
        /// Storport's status. INVALID_PARAMETER if the size of `length` elements does not fit
        /// 32 bits, or if the memory is not aligned for them. NOT_IMPLEMENTED in a dump stack.
        pub fn allocate<T>(
            &self,
            length: usize,
            make: impl FnMut(usize) -> T,
        ) -> Result<Pool<'a, T>, StorStatus>
        where
            Self: MayAllocate,
        {
            if self.is_dump() {
                return Err(StorStatus::NOT_IMPLEMENTED);
            }
            // SAFETY: This context may allocate.
            unsafe { Pool::allocate(self.header(), length, make) }
        }

        /// Drops the elements and frees the memory (StorPortFreePool).
        pub fn free<T>(&self, pool: Pool<'a, T>)
        where
            Self: MayAllocate,
        {
            // SAFETY: This context may free, and is of the pool's adapter.
            unsafe { pool.free(self.header()) };
        }
    }
}

routines! {
    for [FindAdapter PassiveInitialize UnitControl Tracing Work RegistryChange]
    not [Initialize BuildIo StartIo Concurrent Serial Interrupt MessageInterrupt Dpc ThreadedDpc
        Timer StateChange ResetBus Stop Restart AdapterPower SurpriseRemoval UnitPower]
    {
        /// Reads a number from the driver's settings: a REG_DWORD in the key `Parameters\Device` of
        /// the driver's service (StorPortRegistryRead). Returns `None` if it does not exist, and
        /// in a dump stack.
        #[must_use]
        pub fn registry_u32(&self, name: &CStr) -> Option<u32>
        where
            Self: AtPassive,
        {
            if self.is_dump() {
                return None;
            }
            // SAFETY: This context runs at PASSIVE_LEVEL.
            unsafe { port::registry_u32(self.header(), name) }
        }
    }
}

routines! {
    for [Initialize PassiveInitialize]
    not [FindAdapter BuildIo StartIo Concurrent Serial Interrupt MessageInterrupt Dpc ThreadedDpc
        Timer StateChange ResetBus Stop Restart AdapterPower SurpriseRemoval UnitControl UnitPower
        Tracing Work RegistryChange]
    {
        /// Asks Storport for the options in `wanted` that it supports (StorPortInitializePerfOpts).
        /// Returns the options that it granted, perhaps none. Only the first call asks Storport.
        /// Later calls return no options, and do not change those that were granted.
        ///
        /// If `messages` is granted and `targets` has an element for each of them, in their order,
        /// Storport is asked for the processors that each message can interrupt, too.
        pub fn optimize(&self, wanted: &Performance, targets: &mut [MessageTarget]) -> Performance
        where
            Self: Optimizes,
        {
            let adapter = self.header();
            if self.is_dump() || !adapter.state.may_optimize() {
                return Performance::default();
            }
            // SAFETY: This is HwInitialize or HwPassiveInitialize.
            let granted = unsafe { wanted.request(adapter, targets) };
            adapter.state.grant_channels(granted.channels);
            granted
        }
    }
}

routines! {
    for [Initialize PassiveInitialize Restart]
    not [FindAdapter BuildIo StartIo Concurrent Serial Interrupt MessageInterrupt Dpc ThreadedDpc
        Timer StateChange ResetBus Stop AdapterPower SurpriseRemoval UnitControl UnitPower Tracing
        Work RegistryChange]
    {
        /// Whether message `message` of MSI or MSI-X is connected
        /// (StorPortGetMSIInfo).
        #[must_use]
        pub fn has_message(&self, message: u32) -> bool
        where
            Self: SeesMessages,
        {
            message < self.header().state.messages()
        }
    }
}

routines! {
    for [StartIo Concurrent Serial]
    not [FindAdapter Initialize PassiveInitialize BuildIo Interrupt MessageInterrupt Dpc
        ThreadedDpc Timer StateChange ResetBus Stop Restart AdapterPower SurpriseRemoval
        UnitControl UnitPower Tracing Work RegistryChange]
    {
        /// The message and the channel of a request (StorPortGetStartIoPerfParams): the message by
        /// which the device should report its completion, and the concurrent channel in which
        /// HwStartIo runs.
        ///
        /// # Errors
        /// Storport's status. NOT_IMPLEMENTED in a dump stack.
        pub fn start_io_parameters<S>(
            &self,
            srb: &Srb<'a, S>,
        ) -> Result<StartIoParameters, StorStatus>
        where
            Self: InStartIo,
        {
            if self.is_dump() {
                return Err(StorStatus::NOT_IMPLEMENTED);
            }
            // SAFETY: This is HwStartIo. `Srb`'s invariant: the SRB is not completed.
            unsafe { StartIoParameters::of(self.header(), srb.as_ptr()) }
        }
    }
}

routines! {
    for [BuildIo StartIo Concurrent Serial Dpc ThreadedDpc Timer StateChange ResetBus AdapterPower
        SurpriseRemoval UnitControl UnitPower Tracing Work RegistryChange]
    not [FindAdapter Initialize PassiveInitialize Interrupt MessageInterrupt Stop Restart]
    {
        /// Makes Storport send no requests until `requests` requests are completed (StorPortBusy).
        /// Use it with [`Srb::busy`]. Returns false if Storport refuses.
        pub fn busy(&self, requests: u32) -> bool
        where
            Self: AtMostDispatch + WhileRunning,
        {
            !self.is_dump() && port::busy(self.header(), requests)
        }
    }
}

routines! {
    for [BuildIo Dpc ThreadedDpc Timer StateChange ResetBus AdapterPower SurpriseRemoval
        UnitControl UnitPower Tracing Work RegistryChange]
    not [FindAdapter Initialize PassiveInitialize StartIo Concurrent Serial Interrupt
        MessageInterrupt Stop Restart]
    {
        /// Queues a work item, which calls [`callback::Work`] at PASSIVE_LEVEL with `argument`
        /// (StorPortInitializeWorker, StorPortQueueWorkItem). The framework frees the worker
        /// afterwards. A work item that has not begun when the adapter is stopped is discarded, and
        /// does not run after a restart.
        ///
        /// # Errors
        /// Storport's status. INVALID_DEVICE_STATE if the adapter is not ready.
        pub fn queue_work<M: callback::Work>(&self, argument: u32) -> Result<(), StorStatus>
        where
            Self: MayAllocate + WhileRunning,
        {
            // SAFETY: This context runs at or below DISPATCH_LEVEL.
            unsafe { queue_work(self.header(), argument) }
        }
    }
}

routines! {
    for [UnitControl Tracing Work RegistryChange]
    not [FindAdapter Initialize PassiveInitialize BuildIo StartIo Concurrent Serial Interrupt
        MessageInterrupt Dpc ThreadedDpc Timer StateChange ResetBus Stop Restart AdapterPower
        SurpriseRemoval UnitPower]
    {
        /// Enables [`callback::RegistryChange`], which is called when the driver's registry key
        /// changes (StorPortEnableRegistryKeyNotification, since Windows 11 22H2).
        ///
        /// # Errors
        /// Storport's status. INVALID_DEVICE_STATE if the adapter is not ready.
        pub fn watch_registry<M: callback::RegistryChange>(&self) -> Result<(), StorStatus>
        where
            Self: AtPassive + WhileRunning,
        {
            // SAFETY: This context runs at PASSIVE_LEVEL.
            unsafe { watch_registry(self.header()) }
        }
    }
}

routines! {
    for [BuildIo StartIo Concurrent Serial Interrupt MessageInterrupt Dpc ThreadedDpc Timer
        StateChange ResetBus AdapterPower SurpriseRemoval UnitControl UnitPower Tracing Work
        RegistryChange]
    not [FindAdapter Initialize PassiveInitialize Stop Restart]
    {
        /// Requests one call of [`callback::Timer`] after `microseconds` (RequestTimerCall). An
        /// adapter has one timer, so a later request replaces an earlier one. A stop cancels it.
        ///
        /// # Errors
        /// INVALID_DEVICE_STATE if the adapter is not ready. NOT_IMPLEMENTED in a dump stack.
        pub fn request_timer<M: callback::Timer>(
            &self,
            microseconds: NonZero<u32>,
        ) -> Result<(), StorStatus>
        where
            Self: WhileRunning,
        {
            let adapter = self.header();
            let life = running(adapter)?;
            set_timer(adapter, Some((life, microseconds)))
        }

        /// Cancels the timer. Has no effect if it has expired already.
        pub fn cancel_timer<M: callback::Timer>(&self)
        where
            Self: WhileRunning,
        {
            if !self.is_dump() {
                // This fails only without a timer callback. Then there is no timer.
                let _: Result<(), StorStatus> = set_timer(self.header(), None);
            }
        }

        /// Reports to Storport that a unit, a target or a bus was attached, removed or changed
        /// (StorPortStateChangeDetected). Storport examines it, and then calls
        /// [`callback::StateChange`].
        ///
        /// # Errors
        /// Storport's status. BUSY if the previous report is not finished. INVALID_DEVICE_STATE if
        /// the adapter is not ready.
        pub fn report_change<M: callback::StateChange>(
            &self,
            changed: Changed,
        ) -> Result<(), StorStatus>
        where
            Self: WhileRunning,
        {
            report_change(self.header(), changed)
        }

        /// Makes Storport look for logical units again (BusChangeDetected).
        pub fn bus_changed(&self, path: u8)
        where
            Self: WhileRunning,
        {
            if !self.is_dump() {
                // SAFETY: The notification has no other requirement.
                unsafe { port::bus_change_detected(self.header(), path.into()) };
            }
        }

        /// Reports to Storport that bus `path` was reset (ResetDetected). The miniport must still
        /// complete the requests of that bus (storport-rules.md S8).
        pub fn reset_detected(&self, path: u8)
        where
            Self: WhileRunning,
        {
            if !self.is_dump() {
                // SAFETY: The notification has no other requirement.
                unsafe { port::reset_detected(self.header(), path.into()) };
            }
        }

        /// Makes Storport send no requests for `seconds`, or until [`resume`](Self::resume)
        /// (StorPortPause). Returns false if Storport refuses.
        pub fn pause(&self, seconds: u32) -> bool
        where
            Self: WhileRunning,
        {
            !self.is_dump() && port::pause(self.header(), seconds)
        }

        /// Ends a pause (StorPortResume). Returns false if Storport refuses.
        pub fn resume(&self) -> bool
        where
            Self: WhileRunning,
        {
            !self.is_dump() && port::resume(self.header())
        }

        /// Whether tracing of the miniport's events is enabled, according to the last call of
        /// HwTracingEnabled. A call while the adapter was stopped counts too.
        #[must_use]
        pub fn is_traced<M: callback::Tracing>(&self) -> bool
        where
            Self: WhileRunning,
        {
            self.header().state.is_traced()
        }
    }
}

/// A processor: its group, and its number in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// The group, from 0.
    pub group: u16,
    /// The number in the group, 0 to 63.
    pub number: u8,
}

/// The adapter's current life.
///
/// # Errors
/// INVALID_DEVICE_STATE if the adapter is not ready. NOT_IMPLEMENTED in a dump stack.
fn running(adapter: &Header) -> Result<u32, StorStatus> {
    if adapter.state.is_dump() {
        return Err(StorStatus::NOT_IMPLEMENTED);
    }
    let life = adapter.state.ready_life();
    life.ok_or(StorStatus::INVALID_DEVICE_STATE)
}

fn microseconds(adapter: &Header) -> Result<u64, StorStatus> {
    const SECOND: u64 = 1_000_000;

    if adapter.state.is_dump() {
        return Err(StorStatus::NOT_IMPLEMENTED);
    }
    let (mut frequency, mut counter) = (LARGE_INTEGER::default(), LARGE_INTEGER::default());
    // SAFETY: The two variables outlive the call.
    unsafe { port::query_performance_counter(adapter, &raw mut frequency, &raw mut counter) }?;
    // SAFETY: Every bit pattern is an integer.
    let frequency = unsafe { frequency.QuadPart }.cast_unsigned();
    // SAFETY: As above.
    let counter = unsafe { counter.QuadPart }.cast_unsigned();
    let part = |counts: u64| {
        counts
            .checked_div(frequency)
            .ok_or(StorStatus::UNSUCCESSFUL)
    };
    let rest = counter.checked_rem(frequency).unwrap_or(0);
    let seconds = part(counter)?.saturating_mul(SECOND);
    Ok(seconds.saturating_add(part(rest.saturating_mul(SECOND))?))
}

/// # Safety
/// At or below DISPATCH_LEVEL.
unsafe fn processors(adapter: &Header) -> u32 {
    if adapter.state.is_dump() {
        return 1;
    }
    let mut groups: u16 = 0;
    // SAFETY: The caller's promise. `groups` outlives the call.
    if unsafe { port::get_active_group_count(adapter, &raw mut groups) }.is_err() {
        return 1;
    }
    let mut processors: u32 = 0;
    for group in 0..groups {
        let mut mask: usize = 0;
        // SAFETY: As above.
        if unsafe { port::get_group_affinity(adapter, group.into(), &raw mut mask) }.is_ok() {
            processors = processors.saturating_add(mask.count_ones());
        }
    }
    processors.max(1)
}

/// # Safety
/// At or below DISPATCH_LEVEL.
#[inline(always)]
unsafe fn processor(adapter: &Header) -> Result<Processor, StorStatus> {
    if adapter.state.is_dump() {
        return Ok(Processor {
            group: 0,
            number: 0,
        });
    }
    let mut number = PROCESSOR_NUMBER::default();
    // SAFETY: The caller's promise. `number` outlives the call.
    unsafe { port::get_current_processor_number(adapter, &raw mut number) }?;
    Ok(Processor {
        group: number.Group,
        number: number.Number,
    })
}

/// Requests the timer (RequestTimerCall) for a life and after some microseconds. `None` cancels it.
pub(crate) fn set_timer(
    adapter: &Header,
    timer: Option<(u32, NonZero<u32>)>,
) -> Result<(), StorStatus> {
    // There is no timer routine if the caller's type parameter is not this adapter's miniport.
    let routine = adapter
        .optional()
        .timer
        .ok_or(StorStatus::INVALID_PARAMETER)?;
    adapter.state.arm_timer(timer.map(|(life, _)| life));
    let microseconds = timer.map_or(0, |(_, microseconds)| microseconds.get());
    // SAFETY: The routine belongs to this adapter's miniport.
    unsafe { port::request_timer_call(adapter, routine as PVOID, microseconds) };
    Ok(())
}

/// Queues a work item with a new worker, which the entry function of HwWorkItem frees.
///
/// # Safety
/// At or below DISPATCH_LEVEL.
unsafe fn queue_work(adapter: &Header, argument: u32) -> Result<(), StorStatus> {
    let life = running(adapter)?;
    let work = adapter
        .optional()
        .work
        .ok_or(StorStatus::INVALID_PARAMETER)?;
    let mut worker: PVOID = ptr::null_mut();
    // SAFETY: The caller's promise. `worker` outlives the call.
    unsafe { port::initialize_worker(adapter, &raw mut worker) }?;
    let context = WorkContext { life, argument };
    // SAFETY: The worker is initialised and not queued. The routine belongs to this adapter's
    // miniport.
    let queued =
        unsafe { port::queue_work_item(adapter, work as PVOID, worker, context.into_pointer()) };
    if queued.is_err() {
        // SAFETY: The worker was not queued, so nothing else uses it.
        let _: Result<(), StorStatus> = unsafe { port::free_worker(adapter, worker) };
    }
    queued
}

/// The values that the framework stores in the context pointer of a work item. The pointer is not
/// used as an address.
pub(crate) struct WorkContext {
    /// The adapter's life in which the work was queued.
    pub(crate) life: u32,
    pub(crate) argument: u32,
}

impl WorkContext {
    fn into_pointer(self) -> PVOID {
        let bits = u64::from(self.life) << 32 | u64::from(self.argument);
        ptr::without_provenance_mut(bits as usize)
    }

    pub(crate) fn from_pointer(context: PVOID) -> Self {
        let bits = context.addr() as u64;
        // Each cast takes one half.
        Self {
            life: (bits >> 32) as u32,
            argument: bits as u32,
        }
    }
}

const _: () = assert!(
    size_of::<usize>() == 8,
    "the life and the argument of a work item are stored in one pointer, which must have 64 bits: \
     build for x64 or ARM64"
);

/// StorPortStateChangeDetected, one at a time.
fn report_change(adapter: &Header, changed: Changed) -> Result<(), StorStatus> {
    let life = running(adapter)?;
    let optional = adapter.optional();
    let routine = optional.state_change.ok_or(StorStatus::INVALID_PARAMETER)?;
    if !adapter.state.begin_state_change() {
        return Err(StorStatus::BUSY);
    }
    let (entity, Address { path, target, lun }) = match changed {
        Changed::Unit(address) => (STATE_CHANGE_LUN, address),
        Changed::Target(address) => (STATE_CHANGE_TARGET, address),
        Changed::Bus(address) => (STATE_CHANGE_BUS, address),
    };
    let address = STOR_ADDR_BTL8 {
        Type: wdk_sys::STOR_ADDRESS_TYPE_BTL8 as u16,
        AddressLength: wdk_sys::STOR_ADDR_BTL8_ADDRESS_LENGTH,
        Path: path,
        Target: target,
        Lun: lun,
        ..STOR_ADDR_BTL8::default()
    };
    // SAFETY: `Header`'s invariant on `changed`: `begin_state_change` has begun the report, which
    // HwStateChange ends.
    unsafe { adapter.changed().write(address) };
    adapter.changed_entity.store(entity, Ordering::Relaxed);
    let life = ptr::without_provenance_mut(life as usize);
    let mut status: ULONG = wdk_sys::STOR_STATUS_UNSUCCESSFUL;
    // SAFETY: `Header`'s invariant on `changed`: the address does not change until HwStateChange.
    unsafe {
        port::state_change_detected(
            adapter,
            entity,
            adapter.changed(),
            0,
            routine as PVOID,
            life,
            &raw mut status,
        );
    }
    let reported = StorStatus::check(status);
    if reported.is_err() {
        adapter.state.end_state_change();
    }
    reported
}

/// Reads the change that was reported.
///
/// # Safety
/// The caller is the HwStateChange that ends the report.
pub(crate) unsafe fn take_change(adapter: &Header) -> Changed {
    // SAFETY: `Header`'s invariant on `changed`: it was written before the report, and nothing
    // writes it before the report ends.
    let address = unsafe { adapter.changed().read() };
    let address = Address {
        path: address.Path,
        target: address.Target,
        lun: address.Lun,
    };
    match adapter.changed_entity.load(Ordering::Relaxed) {
        STATE_CHANGE_LUN => Changed::Unit(address),
        STATE_CHANGE_TARGET => Changed::Target(address),
        _ => Changed::Bus(address),
    }
}

/// # Safety
/// At PASSIVE_LEVEL.
unsafe fn watch_registry(adapter: &Header) -> Result<(), StorStatus> {
    running(adapter)?;
    let routine = adapter
        .optional()
        .registry
        .ok_or(StorStatus::INVALID_PARAMETER)?;
    // SAFETY: The caller's promise. The routine belongs to this adapter's miniport.
    unsafe { port::enable_registry_key_notification(adapter, routine as PVOID) }
}
