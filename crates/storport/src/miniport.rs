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

    /// What HwBuildIo hands to HwStartIo for a request, perhaps on another
    /// processor. If Storport never starts the request, the value is forgotten,
    /// not dropped.
    type Request<'a>: Send;

    /// How much memory [`table`](crate::FindAdapter::table) can give, in bytes.
    const TABLE_BYTES: usize = 0;

    /// The same in a dump stack, where all memory of the driver is to be below
    /// 32 KiB (storport-rules.md D4).
    const DUMP_TABLE_BYTES: usize = Self::TABLE_BYTES;

    /// How messages are locked, if there are any.
    const MESSAGE_LOCKS: MessageLocks = MessageLocks::Shared;

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

    /// HwBuildIo: prepares a request. HwStartIo gets what is returned. `None`:
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

    /// HwInterrupt: the interrupt pin. With messages it is not called.
    fn interrupt<'a>(adapter: &Self::Adapter<'a>, cx: &mut Interrupt<'_, 'a>) -> Interrupted;

    /// HwDpcRoutine: a DPC that [`DpcLocked::issue`](crate::DpcLocked::issue)
    /// issued. Another processor may run the same object's DPC at the same time
    /// (storport-rules.md X6).
    fn dpc<'a>(adapter: &Self::Adapter<'a>, cx: &mut Dpc<'_, 'a>);

    /// HwResetBus: takes every request back from the device and completes it.
    /// Whether the adapter works again.
    fn reset_bus<'a>(adapter: &Self::Adapter<'a>, cx: &mut ResetBus<'_, 'a>) -> bool;

    /// HwAdapterControl(ScsiStopAdapter): silences the adapter. It may be gone
    /// already.
    fn stop<'a>(adapter: &Self::Adapter<'a>, cx: &mut Stop<'_, 'a>);

    /// HwAdapterControl(ScsiRestartAdapter): as `initialize`, after `stop`.
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
    // SAFETY: The caller's promise; the table is filled in.
    let status =
        unsafe { port::initialize(driver.cast(), registry_path.cast_mut().cast(), &mut table) };
    status.cast_signed()
}
