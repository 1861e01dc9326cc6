//! What a miniport is, and how it becomes one: the trait and its registration.
#![expect(
    unsafe_code,
    reason = "registration passes function pointers to Storport"
)]

use core::mem::MaybeUninit;

use wdk_sys::{HW_INITIALIZATION_DATA, NTSTATUS, PCUNICODE_STRING, PDRIVER_OBJECT};

use crate::{
    callbacks,
    context::{
        AdapterPower, BuildIo, Dpc, Initialize, Interrupt, MessageInterrupt, PassiveInitialize,
        RegistryChange, ResetBus, Restart, StartIo, StateChange, Stop, SurpriseRemoval,
        ThreadedDpc, Timer, Tracing, UnitControl, UnitPower, Work,
    },
    extension::Extension,
    find_adapter::{Configured, FindAdapter},
    port,
    srb::Srb,
    stack::Stack,
};

/// Why HwFindAdapter has no adapter to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotFound {
    /// There is none (SP_RETURN_NOT_FOUND).
    Absent,
    /// There is one, but it can't be used (SP_RETURN_ERROR).
    Unusable,
    /// What Storport says of it can't be (SP_RETURN_BAD_CONFIG).
    BadConfiguration,
}

/// Whether an interrupt was the adapter's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupted {
    /// By this adapter; it was served.
    Ours,
    /// By someone else on the line.
    NotOurs,
}

/// How message-signalled interrupts are locked (InterruptSynchronizationMode).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageLocks {
    /// One lock for all messages (InterruptSynchronizeAll).
    Shared,
    /// A lock a message (InterruptSynchronizePerMessage).
    PerMessage,
}

/// A callback that Storport makes only to a miniport that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callback {
    /// [`Miniport::adapter_power`]: then the adapter gets no SRB of
    /// `Function::Power`, and is not stopped for power (ScsiAdapterPower).
    AdapterPower,
    /// [`Miniport::surprise_removal`].
    SurpriseRemoval,
    /// [`Miniport::unit_control`].
    UnitControl,
    /// [`Miniport::unit_power`]: then a unit gets no SRB of `Function::Power`
    /// (ScsiUnitPower).
    UnitPower,
    /// [`Miniport::tracing`].
    Tracing,
}

/// A Storport miniport.
///
/// Every method is a callback of Storport's; its context says what is held and
/// what may be done. `'a` names the adapter: what a context of one adapter
/// gives can only be put into that adapter's state, and only be used with its
/// contexts.
pub trait Miniport: Sized + 'static {
    /// An adapter's state. It lies in the device extension and never moves
    /// once found. Callbacks run at the same time, so they share it; what
    /// changes lies in cells with their locks.
    type Adapter<'a>: Sync;

    /// What HwBuildIo hands to HwStartIo for a request: perhaps on another
    /// processor.
    type Request<'a>: Send;

    /// How much memory [`table`](crate::Context::table) can give, in bytes.
    const TABLE_BYTES: usize = 0;

    /// The same in a dump stack, where all memory of the driver is to be below
    /// 32 KiB (rule book 6, D4).
    const DUMP_TABLE_BYTES: usize = Self::TABLE_BYTES;

    /// How messages are locked, if there are any.
    const MESSAGE_LOCKS: MessageLocks = MessageLocks::Shared;

    /// Which of the optional callbacks this miniport has.
    const CALLBACKS: &'static [Callback] = &[];

    /// HwFindAdapter: finds the adapter, says what it can do, takes memory.
    ///
    /// # Errors
    /// Why there is no adapter to use.
    fn find_adapter<'a>(
        cx: &mut FindAdapter<'_, 'a>,
    ) -> Result<(Configured<'a>, Self::Adapter<'a>), NotFound>;

    /// HwInitialize: makes the adapter ready for requests and interrupts.
    /// False: it does not work, and Storport gives it up.
    fn initialize<'a>(adapter: &Self::Adapter<'a>, cx: &mut Initialize<'_, 'a>) -> bool;

    /// HwPassiveInitialize: what needs PASSIVE_LEVEL. DPC objects are
    /// initialised already.
    fn passive_initialize<'a>(
        adapter: &Self::Adapter<'a>,
        cx: &mut PassiveInitialize<'_, 'a>,
    ) -> bool {
        let _: (&Self::Adapter<'a>, &mut PassiveInitialize<'_, 'a>) = (adapter, cx);
        true
    }

    /// HwBuildIo: prepares a request. Nothing: it was completed, and goes no
    /// further; otherwise HwStartIo gets what is returned.
    fn build_io<'a>(
        adapter: &Self::Adapter<'a>,
        cx: &mut BuildIo<'_, 'a>,
        srb: Srb<'a>,
    ) -> Option<(Srb<'a>, Self::Request<'a>)>;

    /// HwStartIo: starts a request.
    fn start_io<'a>(
        adapter: &Self::Adapter<'a>,
        cx: &mut StartIo<'_, 'a>,
        srb: Srb<'a>,
        request: Self::Request<'a>,
    );

    /// HwInterrupt: the interrupt pin.
    fn interrupt<'a>(adapter: &Self::Adapter<'a>, cx: &mut Interrupt<'_, 'a>) -> Interrupted {
        let _: (&Self::Adapter<'a>, &mut Interrupt<'_, 'a>) = (adapter, cx);
        Interrupted::NotOurs
    }

    /// HwMSInterruptRoutine: a message.
    fn message_interrupt<'a>(
        adapter: &Self::Adapter<'a>,
        cx: &mut MessageInterrupt<'_, 'a>,
    ) -> Interrupted {
        let _: (&Self::Adapter<'a>, &mut MessageInterrupt<'_, 'a>) = (adapter, cx);
        Interrupted::NotOurs
    }

    /// HwDpcRoutine: a DPC that was issued. Another processor may run the
    /// same object's DPC at the same time (rule book 8, row 6).
    fn dpc<'a>(adapter: &Self::Adapter<'a>, cx: &mut Dpc<'_, 'a>) {
        let _: (&Self::Adapter<'a>, &mut Dpc<'_, 'a>) = (adapter, cx);
    }

    /// HwDpcRoutine of a threaded DPC
    /// ([`threaded_dpc_locked`](crate::Context::threaded_dpc_locked)).
    fn threaded_dpc<'a>(adapter: &Self::Adapter<'a>, cx: &mut ThreadedDpc<'_, 'a>) {
        let _: (&Self::Adapter<'a>, &mut ThreadedDpc<'_, 'a>) = (adapter, cx);
    }

    /// HwTimer ([`request_timer`](crate::Context::request_timer)).
    fn timer<'a>(adapter: &Self::Adapter<'a>, cx: &mut Timer<'_, 'a>) {
        let _: (&Self::Adapter<'a>, &mut Timer<'_, 'a>) = (adapter, cx);
    }

    /// HwWorkItem ([`queue_work`](crate::Context::queue_work)).
    fn work<'a>(adapter: &Self::Adapter<'a>, cx: &mut Work<'_, 'a>) {
        let _: (&Self::Adapter<'a>, &mut Work<'_, 'a>) = (adapter, cx);
    }

    /// HwStateChange: Storport has dealt with what
    /// [`report_change`](crate::Context::report_change) reported, and another
    /// change may be reported.
    fn state_changed<'a>(adapter: &Self::Adapter<'a>, cx: &mut StateChange<'_, 'a>) {
        let _: (&Self::Adapter<'a>, &mut StateChange<'_, 'a>) = (adapter, cx);
    }

    /// HwRegistryNotification
    /// ([`watch_registry`](crate::Context::watch_registry)).
    fn registry_changed<'a>(adapter: &Self::Adapter<'a>, cx: &mut RegistryChange<'_, 'a>) {
        let _: (&Self::Adapter<'a>, &mut RegistryChange<'_, 'a>) = (adapter, cx);
    }

    /// HwResetBus: takes every request back from the device and completes it.
    /// Whether the adapter works again.
    fn reset_bus<'a>(adapter: &Self::Adapter<'a>, cx: &mut ResetBus<'_, 'a>) -> bool;

    /// HwAdapterControl(ScsiStopAdapter): silences the adapter. It may be gone
    /// already.
    fn stop<'a>(adapter: &Self::Adapter<'a>, cx: &mut Stop<'_, 'a>);

    /// HwAdapterControl(ScsiRestartAdapter): as `initialize`, after `stop`.
    fn restart<'a>(adapter: &Self::Adapter<'a>, cx: &mut Restart<'_, 'a>) -> bool;

    /// HwAdapterControl(ScsiAdapterPower), with [`Callback::AdapterPower`].
    fn adapter_power<'a>(adapter: &Self::Adapter<'a>, cx: &mut AdapterPower<'_, 'a>) {
        let _: (&Self::Adapter<'a>, &mut AdapterPower<'_, 'a>) = (adapter, cx);
    }

    /// HwAdapterControl(ScsiAdapterSurpriseRemoval), with
    /// [`Callback::SurpriseRemoval`]: the adapter is gone.
    fn surprise_removal<'a>(adapter: &Self::Adapter<'a>, cx: &mut SurpriseRemoval<'_, 'a>) {
        let _: (&Self::Adapter<'a>, &mut SurpriseRemoval<'_, 'a>) = (adapter, cx);
    }

    /// HwUnitControl at PASSIVE_LEVEL, with [`Callback::UnitControl`].
    fn unit_control<'a>(adapter: &Self::Adapter<'a>, cx: &mut UnitControl<'_, 'a>) {
        let _: (&Self::Adapter<'a>, &mut UnitControl<'_, 'a>) = (adapter, cx);
    }

    /// HwUnitControl(ScsiUnitPower), with [`Callback::UnitPower`].
    fn unit_power<'a>(adapter: &Self::Adapter<'a>, cx: &mut UnitPower<'_, 'a>) {
        let _: (&Self::Adapter<'a>, &mut UnitPower<'_, 'a>) = (adapter, cx);
    }

    /// HwTracingEnabled, with [`Callback::Tracing`].
    fn tracing<'a>(adapter: &Self::Adapter<'a>, cx: &mut Tracing<'_, 'a>) {
        let _: (&Self::Adapter<'a>, &mut Tracing<'_, 'a>) = (adapter, cx);
    }
}

/// Registers `M` with Storport (StorPortInitialize): the body of DriverEntry.
///
/// # Safety
/// The arguments are those of DriverEntry, which Windows called, at
/// PASSIVE_LEVEL (or in a dump stack, with nulls).
pub unsafe fn register<M: Miniport>(
    driver: PDRIVER_OBJECT,
    registry_path: PCUNICODE_STRING,
) -> NTSTATUS {
    let stack = if driver.is_null() && registry_path.is_null() {
        Stack::Dump
    } else {
        Stack::Normal
    };
    stack.enter();
    let mut table = MaybeUninit::<HW_INITIALIZATION_DATA>::zeroed();
    // SAFETY: every field is valid as zero.
    let data = unsafe { table.assume_init_mut() };
    let (Ok(size), Ok(extension), Ok(request)) = (
        u32::try_from(size_of::<HW_INITIALIZATION_DATA>()),
        u32::try_from(Extension::<M>::bytes(stack)),
        u32::try_from(callbacks::request_bytes::<M>()),
    ) else {
        return wdk_sys::STATUS_INSUFFICIENT_RESOURCES;
    };
    data.HwInitializationDataSize = size;
    data.AdapterInterfaceType = wdk_sys::_INTERFACE_TYPE::PCIBus;
    data.HwInitialize = Some(callbacks::initialize::<M>);
    data.HwBuildIo = Some(callbacks::build_io::<M>);
    data.HwStartIo = Some(callbacks::start_io::<M>);
    data.HwInterrupt = Some(callbacks::interrupt::<M>);
    data.HwFindAdapter = callbacks::find_adapter::<M> as *mut _;
    data.HwResetBus = Some(callbacks::reset_bus::<M>);
    data.HwAdapterControl = Some(callbacks::adapter_control::<M>);
    let has = |callback| M::CALLBACKS.contains(&callback);
    if has(Callback::UnitControl) || has(Callback::UnitPower) {
        data.HwUnitControl = Some(callbacks::unit_control::<M>);
    }
    if has(Callback::Tracing) {
        data.HwTracingEnabled = Some(callbacks::tracing::<M>);
    }
    data.DeviceExtensionSize = extension;
    data.SrbExtensionSize = request;
    // Six base address registers of PCI, of which one 64-bit takes two.
    data.NumberOfAccessRanges = 6;
    data.MapBuffers = wdk_sys::STOR_MAP_NON_READ_WRITE_BUFFERS as u8;
    data.NeedPhysicalAddresses = 1;
    data.TaggedQueuing = 1;
    data.AutoRequestSense = 1;
    data.MultipleRequestPerLu = 1;
    // Without it a dump stack's device extension may lie at any 8 bytes.
    data.FeatureSupport = wdk_sys::STOR_FEATURE_DUMP_16_BYTE_ALIGNMENT;
    data.SrbTypeFlags = wdk_sys::SRB_TYPE_FLAG_STORAGE_REQUEST_BLOCK;
    data.AddressTypeFlags = wdk_sys::ADDRESS_TYPE_FLAG_BTL8;
    // SAFETY: the caller's promise; the table is filled.
    let status =
        unsafe { port::initialize(driver.cast(), registry_path.cast_mut().cast(), &mut table) };
    status.cast_signed()
}
