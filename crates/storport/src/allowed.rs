//! Which of Storport's routines may be called in which callback (rule book 3.1,
//! 3.5, 3.6).
//!
//! The routines are methods of [`Context`], which every callback's context has.
//! Each asks for the right to call it, a trait that the contexts have in which
//! it is allowed; in another it does not compile, and the error says where to
//! call it instead. In a dump stack a routine that is not there answers as if
//! there were nothing to be had (rule book 6).
#![expect(unsafe_code, reason = "the methods call storport.sys")]

use core::{ffi::CStr, slice};

use crate::{
    context::{
        AdapterPower, BuildIo, Changed, Concurrent, Dpc, InCallback, Initialize, Interrupt,
        MessageInterrupt, PassiveInitialize, RegistryChange, ResetBus, Restart, Serial, StartIo,
        StateChange, Stop, SurpriseRemoval, ThreadedDpc, Timer, Tracing, UnitControl, UnitPower,
        Work,
    },
    dma::UncachedExtension,
    extension::Table,
    find_adapter::{AdapterLimits, Configured, FindAdapter, Finding},
    lock::{DpcLocked, InterruptLocked, Locked, MessageLocked, StartIoLocked},
    performance::{Performance, StartIoParameters},
    pool::Pool,
    port,
    registers::MappedRegisters,
    srb::{NotStarted, ScatterGather, Srb},
    state::DpcKind,
};

/// The callback may wait on the processor.
#[diagnostic::on_unimplemented(
    message = "`{Self}` may not wait",
    label = "StorPortStallExecution is not allowed in this callback (rule book 3.1)",
    note = "wait in HwFindAdapter, HwInitialize, HwPassiveInitialize, HwResetBus, ScsiStopAdapter, \
            ScsiRestartAdapter or a work item; elsewhere ask for a timer (`request_timer`)"
)]
pub trait MayStall<'a>: Context<'a> {}

/// The callback runs at DISPATCH_LEVEL or below.
#[diagnostic::on_unimplemented(
    message = "`{Self}` may run above DISPATCH_LEVEL",
    label = "this routine is for DISPATCH_LEVEL and below (rule book 3.6)",
    note = "in an interrupt routine, `DpcLocked::issue` a DPC and call it in `Miniport::dpc`; for \
            HwInitialize, call it in HwFindAdapter or HwPassiveInitialize; in ScsiStopAdapter and \
            ScsiRestartAdapter nothing that needs DISPATCH_LEVEL may be called (rule book 8, row 1)"
)]
pub trait AtMostDispatch<'a>: Context<'a> {}

/// The callback may allocate and free pool.
#[diagnostic::on_unimplemented(
    message = "nothing can be allocated or freed in `{Self}`",
    label = "pool and work items are for DISPATCH_LEVEL and below, and not for HwStartIo (rule \
             book 3.1, 3.6)",
    note = "allocate in HwFindAdapter, HwPassiveInitialize or HwBuildIo, and queue work from \
            HwBuildIo or a DPC; free where the adapter is removed: HwBuildIo gets `Function::Pnp` \
            with `PnpAction::Remove`"
)]
pub trait MayAllocate<'a>: AtMostDispatch<'a> {}

/// The callback runs at PASSIVE_LEVEL.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not run at PASSIVE_LEVEL",
    label = "this routine is for PASSIVE_LEVEL (rule book 3.6)",
    note = "call it in HwFindAdapter or HwPassiveInitialize; later, have a work item do it \
            (`queue_work`)"
)]
pub trait AtPassive<'a>: MayAllocate<'a> {}

/// The adapter was initialised, and what is asked for may run at any time from
/// now on.
#[diagnostic::on_unimplemented(
    message = "in `{Self}` the adapter is not running",
    label = "what this asks for would run before the adapter is ready, or after it is stopped",
    note = "ask in HwPassiveInitialize, or in any callback after it; HwFindAdapter, HwInitialize, \
            ScsiStopAdapter and ScsiRestartAdapter are alone with the adapter's data, and stay so"
)]
pub trait WhileRunning<'a>: Context<'a> {}

/// DPCs may be issued from here.
#[diagnostic::on_unimplemented(
    message = "`{Self}` issues no DPCs",
    label = "a DPC would run while this callback is alone with the adapter's data",
    note = "issue it in HwInitialize or any callback that comes later, but for ScsiStopAdapter"
)]
pub trait IssuesDpcs<'a>: Context<'a> {}

/// The callback may set performance options.
#[diagnostic::on_unimplemented(
    message = "performance options can't be set in `{Self}`",
    label = "StorPortInitializePerfOpts is for HwInitialize and HwPassiveInitialize (rule book 3.5)",
    note = "call `optimize` in `Miniport::initialize`"
)]
pub trait Optimizes<'a>: Context<'a> {}

/// The callback may ask for an adapter's messages.
#[diagnostic::on_unimplemented(
    message = "messages can't be looked at in `{Self}`",
    label = "StorPortGetMSIInfo is not allowed in an interrupt routine, and before HwInitialize \
             there are no messages (rule book 3.5)",
    note = "call `has_message` in `Miniport::initialize`, and keep what it says"
)]
pub trait SeesMessages<'a>: Context<'a> {}

/// The callback is HwStartIo.
#[diagnostic::on_unimplemented(
    message = "only HwStartIo knows this, not `{Self}`",
    label = "StorPortGetStartIoPerfParams is for an SRB that HwStartIo was given (rule book 3.5)",
    note = "call `start_io_parameters` in `Miniport::start_io`, and keep what it says"
)]
pub trait InStartIo<'a>: Context<'a> {}

/// The callback is HwFindAdapter.
#[diagnostic::on_unimplemented(
    message = "only HwFindAdapter may do this, not `{Self}`",
    label = "an adapter's limits, registers, memory, tables and cells are settled in HwFindAdapter \
             (rule book 3.5)",
    note = "call it in `Miniport::find_adapter`, and keep what it gives in the adapter's state"
)]
pub trait InFindAdapter<'a>: Context<'a> + Finding<'a> {}

macro_rules! rights {
    ($($right:ident: $($name:ident)*;)*) => {$($(
        #[diagnostic::do_not_recommend]
        impl<'a> $right<'a> for $name<'_, 'a> {}
    )*)*};
}

rights! {
    Context: FindAdapter Initialize PassiveInitialize BuildIo StartIo Concurrent Serial Interrupt
        MessageInterrupt Dpc ThreadedDpc Timer StateChange ResetBus Stop Restart AdapterPower
        SurpriseRemoval UnitControl UnitPower Tracing Work RegistryChange;
    MayStall: FindAdapter Initialize PassiveInitialize ResetBus Stop Restart Work;
    AtMostDispatch: FindAdapter PassiveInitialize BuildIo StartIo Concurrent Serial Dpc ThreadedDpc
        Timer StateChange ResetBus AdapterPower SurpriseRemoval UnitControl UnitPower Tracing Work
        RegistryChange;
    MayAllocate: FindAdapter PassiveInitialize BuildIo Dpc ThreadedDpc Timer StateChange ResetBus
        AdapterPower SurpriseRemoval UnitControl UnitPower Tracing Work RegistryChange;
    AtPassive: FindAdapter PassiveInitialize UnitControl Tracing Work RegistryChange;
    WhileRunning: PassiveInitialize BuildIo StartIo Concurrent Serial Interrupt MessageInterrupt
        Dpc ThreadedDpc Timer StateChange ResetBus AdapterPower SurpriseRemoval UnitControl
        UnitPower Tracing Work RegistryChange;
    IssuesDpcs: Initialize PassiveInitialize BuildIo StartIo Concurrent Serial Interrupt
        MessageInterrupt Dpc ThreadedDpc Timer StateChange ResetBus Restart AdapterPower
        SurpriseRemoval UnitControl UnitPower Tracing Work RegistryChange;
    Optimizes: Initialize PassiveInitialize;
    SeesMessages: Initialize PassiveInitialize Restart;
    InStartIo: StartIo Concurrent Serial;
    InFindAdapter: FindAdapter;
}

/// What a callback of Storport's may do: its context.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no context of a callback",
    note = "contexts are made by the framework, and lent to the miniport's methods"
)]
pub trait Context<'a>: InCallback<'a> {
    /// Whether this is the copy of the driver that writes a crash dump or a
    /// hibernation file: no interrupts, no DPCs, no locks (rule book 6).
    fn is_dump(&self) -> bool {
        self.header().state.is_dump()
    }

    /// Waits on the processor (StorPortStallExecution): at most 100 000
    /// microseconds at a time, as Storport's verifier accepts.
    fn stall(&self, microseconds: u32)
    where
        Self: MayStall<'a>,
    {
        port::stall(microseconds);
    }

    /// The request's data in system memory (StorPortGetSystemAddress), as long
    /// as the SRB says; nothing if it has none or it can't be mapped.
    ///
    /// Only of a request that the device has not seen: it writes into the data
    /// of one that it has.
    fn data<'s, S: NotStarted>(&self, srb: &'s mut Srb<'a, S>) -> Option<&'s mut [u8]>
    where
        Self: AtMostDispatch<'a>,
    {
        let length = usize::try_from(srb.data_length()).ok()?;
        if length == 0 {
            return None;
        }
        let first = if self.header().state.is_dump() {
            // A dump stack runs above DISPATCH_LEVEL (rule book 6, D2), and has
            // it mapped.
            srb.data_buffer()?
        } else {
            // SAFETY: this context runs at or below DISPATCH_LEVEL; the SRB is
            // owned, so it is not completed.
            unsafe { port::system_address(self.header(), srb.as_ptr()) }?
        };
        // SAFETY: Storport maps as many bytes as the SRB's DataTransferLength;
        // they stay mapped until it is completed, which needs the SRB that is
        // borrowed here.
        Some(unsafe { slice::from_raw_parts_mut(first.as_ptr(), length) })
    }

    /// The request's data as the device reaches it
    /// (StorPortGetScatterGatherList); nothing if there is none.
    fn scatter_gather<'s>(&self, srb: &'s Srb<'a>) -> Option<ScatterGather<'s>>
    where
        Self: AtMostDispatch<'a>,
    {
        // SAFETY: the SRB is owned, so it is not completed.
        let list = unsafe { port::scatter_gather_list(self.header(), srb.as_ptr()) }?;
        // SAFETY: Storport's list is good until the SRB is completed, which
        // needs the SRB that is borrowed here.
        Some(unsafe { ScatterGather::new(list) })
    }

    /// Non-paged memory for `length` elements, each made by `make` from its
    /// index (StorPortAllocatePool); nothing if there is none, in a dump stack
    /// always.
    fn allocate<T>(&self, length: usize, make: impl FnMut(usize) -> T) -> Option<Pool<'a, T>>
    where
        Self: MayAllocate<'a>,
    {
        if self.is_dump() {
            return None;
        }
        // SAFETY: this context may allocate.
        unsafe { Pool::allocate(self.header(), length, make) }
    }

    /// Drops the elements and gives the memory back (StorPortFreePool).
    fn free<T>(&self, pool: Pool<'a, T>)
    where
        Self: MayAllocate<'a>,
    {
        // SAFETY: this context may free, and is of the adapter that the pool
        // is of.
        unsafe { pool.free(self.header()) };
    }

    /// A number that the administrator set for the driver
    /// (StorPortRegistryRead of a REG_DWORD, from the key `Parameters\Device`
    /// of the driver's service); nothing if it is not there.
    fn registry_u32(&self, name: &CStr) -> Option<u32>
    where
        Self: AtPassive<'a>,
    {
        if self.is_dump() {
            return None;
        }
        // SAFETY: this context runs at PASSIVE_LEVEL.
        unsafe { port::registry_u32(self.header(), name) }
    }

    /// How many processors the system has in use (StorPortGetActiveGroupCount,
    /// StorPortGetGroupAffinity); in a dump stack one.
    fn processors(&self) -> u32
    where
        Self: AtMostDispatch<'a>,
    {
        if self.is_dump() {
            return 1;
        }
        // SAFETY: this context runs at or below DISPATCH_LEVEL.
        unsafe { port::processors(self.header()) }.max(1)
    }

    /// Asks for what Storport has of `wanted` and says what was granted, which
    /// may be nothing (StorPortInitializePerfOpts). Storport is asked once: a
    /// second call is granted nothing, and leaves the first one's grant as it
    /// is.
    fn optimize(&self, wanted: &Performance) -> Performance
    where
        Self: Optimizes<'a>,
    {
        let adapter = self.header();
        if self.is_dump() || !adapter.state.may_optimize() {
            return Performance::default();
        }
        // SAFETY: this is HwInitialize or HwPassiveInitialize.
        let granted = unsafe { wanted.request(adapter) };
        adapter.state.grant_channels(granted.channels);
        granted
    }

    /// Message and channel of a request (StorPortGetStartIoPerfParams): where
    /// its completion is expected, and in which of the concurrent channels
    /// HwStartIo runs.
    fn start_io_parameters<S>(&self, srb: &Srb<'a, S>) -> Option<StartIoParameters>
    where
        Self: InStartIo<'a>,
    {
        if self.is_dump() {
            return None;
        }
        // SAFETY: this is HwStartIo, and the SRB is not completed.
        unsafe { StartIoParameters::of(self.header(), srb.as_ptr()) }
    }

    /// Whether message `message` of MSI or MSI-X is connected
    /// (StorPortGetMSIInfo).
    fn has_message(&self, message: u32) -> bool
    where
        Self: SeesMessages<'a>,
    {
        !self.is_dump() && port::message_information(self.header(), message).is_some()
    }

    /// Has [`Miniport::timer`](crate::Miniport::timer) called once, after so
    /// many microseconds (RequestTimerCall). There is one timer: asking again
    /// sets it anew. False: the adapter does not run.
    fn request_timer(&self, microseconds: core::num::NonZero<u32>) -> bool
    where
        Self: WhileRunning<'a>,
    {
        let runs = !self.is_dump() && self.header().state.is_running();
        if runs {
            self.header().set_timer(microseconds.get());
        }
        runs
    }

    /// Has the timer not called, if it is not on its way yet.
    fn cancel_timer(&self)
    where
        Self: WhileRunning<'a>,
    {
        if !self.is_dump() {
            self.header().set_timer(0);
        }
    }

    /// Has [`Miniport::work`](crate::Miniport::work) called at PASSIVE_LEVEL
    /// with `argument` (StorPortInitializeWorker, StorPortQueueWorkItem; the
    /// framework frees the worker after). False: it can't be had now.
    ///
    /// Work that has not begun when the adapter is stopped is not done.
    fn queue_work(&self, argument: usize) -> bool
    where
        Self: MayAllocate<'a> + WhileRunning<'a>,
    {
        if self.is_dump() || !self.header().state.is_running() {
            return false;
        }
        // SAFETY: this context runs at or below DISPATCH_LEVEL.
        unsafe { self.header().queue_work(argument) }
    }

    /// Tells Storport that something was attached, removed or changed
    /// (StorPortStateChangeDetected): it looks anew, and then calls
    /// [`Miniport::state_changed`](crate::Miniport::state_changed). False: the
    /// report before this one is not through.
    fn report_change(&self, changed: Changed) -> bool
    where
        Self: WhileRunning<'a>,
    {
        !self.is_dump() && self.header().state.is_running() && self.header().report_change(changed)
    }

    /// Has [`Miniport::registry_changed`](crate::Miniport::registry_changed)
    /// called when the driver's registry key changes
    /// (StorPortEnableRegistryKeyNotification, since Windows 11 22H2). False:
    /// this Windows does not.
    fn watch_registry(&self) -> bool
    where
        Self: AtPassive<'a> + WhileRunning<'a>,
    {
        if self.is_dump() {
            return false;
        }
        // SAFETY: this context runs at PASSIVE_LEVEL.
        unsafe { self.header().watch_registry() }
    }

    /// Has Storport look for units anew (BusChangeDetected).
    fn bus_changed(&self, path: u8)
    where
        Self: WhileRunning<'a>,
    {
        if !self.is_dump() {
            port::bus_change_detected(self.header(), path);
        }
    }

    /// Tells Storport that bus `path` was reset by someone (ResetDetected). Its
    /// requests stay the miniport's to complete (rule book 5.1, S8).
    fn reset_detected(&self, path: u8)
    where
        Self: WhileRunning<'a>,
    {
        if !self.is_dump() {
            port::reset_detected(self.header(), path);
        }
    }

    /// Stops Storport from sending requests for so many seconds, or until
    /// [`resume`](Self::resume) (StorPortPause). False: it does not.
    fn pause(&self, seconds: u32) -> bool
    where
        Self: WhileRunning<'a>,
    {
        !self.is_dump() && port::pause(self.header(), seconds)
    }

    /// Ends a pause (StorPortResume).
    fn resume(&self) -> bool
    where
        Self: WhileRunning<'a>,
    {
        !self.is_dump() && port::resume(self.header())
    }

    /// Stops Storport from sending requests until so many are completed
    /// (StorPortBusy): to go with [`Srb::busy`] (rule book 5.1, S5).
    fn busy(&self, requests: u32) -> bool
    where
        Self: AtMostDispatch<'a> + WhileRunning<'a>,
    {
        !self.is_dump() && port::busy(self.header(), requests)
    }

    /// The function's PCI configuration space (StorPortGetBusData).
    fn pci_configuration(&mut self) -> Option<[u8; 256]>
    where
        Self: InFindAdapter<'a>,
    {
        self.found().pci_configuration()
    }

    /// Maps the memory range that begins at bus address `start`
    /// (StorPortGetDeviceBase), whole. Nothing if no such range was assigned,
    /// or it can't be mapped.
    fn map(&mut self, start: u64) -> Option<MappedRegisters<'a>>
    where
        Self: InFindAdapter<'a>,
    {
        self.found().map(|_, address| address == start)
    }

    /// The same of the range with this index, in the order of the function's
    /// base address registers.
    fn map_range(&mut self, index: usize) -> Option<MappedRegisters<'a>>
    where
        Self: InFindAdapter<'a>,
    {
        self.found().map(|other, _| other == index)
    }

    /// Whether the adapter was given message-signalled interrupts.
    fn has_messages(&mut self) -> bool
    where
        Self: InFindAdapter<'a>,
    {
        self.found().has_messages()
    }

    /// Tells Storport what the adapter is: a bus master of 64-bit addresses,
    /// full duplex, with these limits.
    fn configure(&mut self, limits: &AdapterLimits) -> Configured<'a>
    where
        Self: InFindAdapter<'a>,
    {
        self.found().configure(limits)
    }

    /// Memory to share with the device (StorPortGetUncachedExtension):
    /// `bytes` of it, physically contiguous. Nothing if there is none, or it
    /// was asked for already: Storport would give the same again.
    fn uncached_extension(
        &mut self,
        configured: &Configured<'a>,
        bytes: u32,
    ) -> Option<UncachedExtension<'a>>
    where
        Self: InFindAdapter<'a>,
    {
        let _: &Configured<'a> = configured;
        self.found().uncached_extension(bytes)
    }

    /// A table in the device extension, of `length` elements, which `make`
    /// makes from their index. Nothing if [`TABLE_BYTES`] do not suffice, or
    /// `make` has none to give.
    ///
    /// [`TABLE_BYTES`]: crate::Miniport::TABLE_BYTES
    fn table<T>(
        &mut self,
        length: usize,
        mut make: impl FnMut(&mut Self, usize) -> Option<T>,
    ) -> Option<Table<'a, T>>
    where
        Self: InFindAdapter<'a>,
    {
        let place = self.found().tables.cut(length)?;
        place.fill(|index| make(self, index))
    }

    /// Puts data under the StartIo lock.
    fn start_io_locked<T>(&mut self, data: T) -> StartIoLocked<'a, T>
    where
        Self: InFindAdapter<'a>,
    {
        Locked::under_start_io(self.found().adapter, data)
    }

    /// Puts data under the lock of a DPC object made for it. Nothing if the
    /// adapter has [`MAX_DPCS`](crate::MAX_DPCS) of them.
    fn dpc_locked<T>(&mut self, data: T) -> Option<DpcLocked<'a, T>>
    where
        Self: InFindAdapter<'a>,
    {
        Locked::under_dpc(self.found().adapter, DpcKind::Ordinary, data)
    }

    /// Puts data under the lock of a threaded DPC object made for it
    /// (StorPortInitializeThreadedDpc): issued, it runs
    /// [`Miniport::threaded_dpc`](crate::Miniport::threaded_dpc), in a thread
    /// if the system lets it. Nothing if the adapter has
    /// [`MAX_DPCS`](crate::MAX_DPCS) of them.
    fn threaded_dpc_locked<T>(&mut self, data: T) -> Option<DpcLocked<'a, T>>
    where
        Self: InFindAdapter<'a>,
    {
        Locked::under_dpc(self.found().adapter, DpcKind::Threaded, data)
    }

    /// Puts data under the interrupt lock.
    fn interrupt_locked<T>(&mut self, data: T) -> InterruptLocked<'a, T>
    where
        Self: InFindAdapter<'a>,
    {
        Locked::under_interrupt(self.found().adapter, data)
    }

    /// Puts data under the lock of message `message`.
    fn message_locked<T>(&mut self, message: u32, data: T) -> MessageLocked<'a, T>
    where
        Self: InFindAdapter<'a>,
    {
        Locked::under_message(self.found().adapter, message, data)
    }
}
