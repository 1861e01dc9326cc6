//! The `Miniport` trait, and the registration of a miniport with Storport.
#![expect(
    unsafe_code,
    reason = "registration passes function pointers to Storport"
)]

use core::mem::MaybeUninit;

use wdk_sys::{HW_INITIALIZATION_DATA, NTSTATUS, PCUNICODE_STRING, PDRIVER_OBJECT};

use crate::{
    callback::Registered,
    callbacks,
    context::{BuildIo, Dpc, Initialize, Interrupt, ResetBus, Restart, StartIo, Stop},
    extension::Extension,
    find_adapter::{Configured, FindAdapter},
    port,
    srb::Srb,
    stack::Stack,
};

/// Why HwFindAdapter returns no adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotFound {
    /// There is no adapter (SP_RETURN_NOT_FOUND).
    Absent,
    /// The adapter cannot be used (SP_RETURN_ERROR).
    Unusable,
    /// Storport's configuration information is invalid (SP_RETURN_BAD_CONFIG).
    BadConfiguration,
}

/// Whether the adapter caused an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupted {
    /// This adapter caused it, and the interrupt routine has handled it.
    Ours,
    /// Another device on the same line caused it.
    NotOurs,
}

/// How message-signalled interrupts are locked (InterruptSynchronizationMode).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageLocks {
    /// One lock for all messages (InterruptSynchronizeAll).
    Shared,
    /// One lock for each message (InterruptSynchronizePerMessage).
    PerMessage,
}

/// A Storport miniport.
///
/// Every method is a callback of Storport. Its context states which locks are held, and offers
/// what may be called there. `'a` names the adapter: a value from a context can be stored only in
/// the state of the same adapter, and be used only with its contexts.
pub trait Miniport: Sized + 'static {
    /// An adapter's state. It lies in the device extension and does not move. Callbacks run at the
    /// same time and share it, so data that changes lies in cells with locks.
    type Adapter<'a>: Sync;

    /// The value that HwBuildIo passes to HwStartIo for a request. HwStartIo may run on another
    /// processor. If Storport never starts the request, the value is forgotten, not dropped.
    type Request<'a>: Send;

    /// The size in bytes of the memory for all tables
    /// ([`table`](crate::FindAdapter::table)).
    const TABLE_BYTES: usize = 0;

    /// The same for a dump stack, where all memory of the driver should be below 32 KiB
    /// (storport-rules.md D4).
    const DUMP_TABLE_BYTES: usize = Self::TABLE_BYTES;

    /// How message-signalled interrupts are locked.
    const MESSAGE_LOCKS: MessageLocks = MessageLocks::Shared;

    /// HwFindAdapter: finds the adapter, tells Storport its limits, and takes memory.
    ///
    /// # Errors
    /// [`NotFound`] if there is no adapter that can be used.
    fn find_adapter<'a>(
        cx: &mut FindAdapter<'_, 'a>,
    ) -> Result<(Configured<'a>, Self::Adapter<'a>), NotFound>;

    /// HwInitialize: prepares the adapter for requests and interrupts. Returns false if the adapter
    /// does not work. Storport then gives it up.
    fn initialize<'a>(adapter: &Self::Adapter<'a>, cx: &mut Initialize<'_, 'a>) -> bool;

    /// HwBuildIo: prepares a request, and returns it with a value for HwStartIo. Returns `None` if
    /// the request was completed.
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

    /// HwInterrupt: handles an interrupt of the pin. Not called if the adapter interrupts by
    /// messages.
    fn interrupt<'a>(adapter: &Self::Adapter<'a>, cx: &mut Interrupt<'_, 'a>) -> Interrupted;

    /// HwDpcRoutine: a DPC that [`DpcLocked::issue`](crate::DpcLocked::issue)
    /// issued. Another processor may run the same object's DPC at the same time
    /// (storport-rules.md X6).
    fn dpc<'a>(adapter: &Self::Adapter<'a>, cx: &mut Dpc<'_, 'a>);

    /// HwResetBus: takes every request back from the device and completes it. Returns whether the
    /// bus was reset.
    fn reset_bus<'a>(adapter: &Self::Adapter<'a>, cx: &mut ResetBus<'_, 'a>) -> bool;

    /// HwAdapterControl(ScsiStopAdapter): stops the adapter's interrupts and accesses to memory.
    /// The adapter may have been removed already.
    fn stop<'a>(adapter: &Self::Adapter<'a>, cx: &mut Stop<'_, 'a>);

    /// HwAdapterControl(ScsiRestartAdapter): prepares the adapter again after `stop`. Returns false
    /// if it does not work.
    fn restart<'a>(adapter: &Self::Adapter<'a>, cx: &mut Restart<'_, 'a>) -> bool;
}

/// Registers `M` with Storport (StorPortInitialize): the body of DriverEntry.
///
/// # Safety
/// The arguments are those of DriverEntry, which Windows called, at
/// PASSIVE_LEVEL (or in a dump stack, with nulls).
pub unsafe fn register<M: Registered>(
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
    // SAFETY: Every field is valid as zero.
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
    if M::OPTIONAL.unit_control.is_some() || M::OPTIONAL.unit_power.is_some() {
        data.HwUnitControl = Some(callbacks::control_unit::<M>);
    }
    data.HwTracingEnabled = M::OPTIONAL.tracing;
    data.DeviceExtensionSize = extension;
    data.SrbExtensionSize = request;
    // Six base address registers of PCI, of which one 64-bit takes two.
    data.NumberOfAccessRanges = 6;
    data.MapBuffers = wdk_sys::STOR_MAP_NON_READ_WRITE_BUFFERS as u8;
    data.NeedPhysicalAddresses = 1;
    data.TaggedQueuing = 1;
    data.AutoRequestSense = 1;
    data.MultipleRequestPerLu = 1;
    data.SrbTypeFlags = wdk_sys::SRB_TYPE_FLAG_STORAGE_REQUEST_BLOCK;
    data.AddressTypeFlags = wdk_sys::ADDRESS_TYPE_FLAG_BTL8;
    // SAFETY: The caller's promise. The table is filled in.
    let status =
        unsafe { port::initialize(driver.cast(), registry_path.cast_mut().cast(), &mut table) };
    status.cast_signed()
}
