//! The functions that Storport calls. Each makes the context that belongs to
//! its callback and lends it to the miniport.
#![expect(unsafe_code, reason = "Storport calls these with raw pointers")]

use core::{marker::PhantomData, ptr::NonNull};

use wdk_sys::{
    _INTERRUPT_SYNCHRONIZATION_MODE, _KINTERRUPT_MODE, _SCSI_ADAPTER_CONTROL_STATUS,
    _SCSI_ADAPTER_CONTROL_TYPE as control, BOOLEAN, PCHAR, PPORT_CONFIGURATION_INFORMATION,
    PSCSI_REQUEST_BLOCK, PSTOR_DPC, PUCHAR, PVOID, SCSI_ADAPTER_CONTROL_STATUS,
    SCSI_ADAPTER_CONTROL_TYPE, SCSI_SUPPORTED_CONTROL_TYPE_LIST, ULONG,
};

use crate::{
    context::{
        BuildIo, Dpc, FindAdapter, Initialize, Interrupt, MessageInterrupt, PassiveInitialize,
        ResetBus, Restart, StartIo, Stop,
    },
    extension::{DpcNumber, Extension, Header},
    miniport::{Interrupted, MessageLocks, Miniport, NotFound},
    port,
    srb::{Failure, Function, Srb},
};

/// What lies in the SRB extension between HwBuildIo and HwStartIo.
#[repr(C)]
struct Built<R> {
    request: R,
}

/// What `HW_INITIALIZATION_DATA.SrbExtensionSize` must be.
pub(crate) const fn request_bytes<M: Miniport>() -> usize {
    // The memory is at least aligned to 8 bytes; a request needs no more.
    assert!(align_of::<Built<M::Request<'static>>>() <= 8);
    size_of::<Built<M::Request<'static>>>()
}

fn truth(is: bool) -> BOOLEAN {
    BOOLEAN::from(is)
}

macro_rules! context {
    ($name:ident, $adapter:expr $(, $field:ident: $value:expr)*) => {
        $name {
            adapter: $adapter,
            $($field: $value,)*
            brand: PhantomData,
            not_send: PhantomData,
        }
    };
}

/// HW_FIND_ADAPTER (`storport.h`).
pub(crate) unsafe extern "C" fn find_adapter<M: Miniport>(
    device_extension: PVOID,
    _hw_context: PVOID,
    _bus_information: PVOID,
    _arguments: PCHAR,
    config: PPORT_CONFIGURATION_INFORMATION,
    _reserved: *mut BOOLEAN,
) -> ULONG {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    // SAFETY: Storport's ConfigInfo is the callback's alone while it runs.
    let Some(config) = (unsafe { config.as_mut() }) else {
        return wdk_sys::SP_RETURN_BAD_CONFIG;
    };
    let header = &extension.header;
    // The extension is zeroed at its first use only (rule book 3.1).
    header.set_found(false);
    header.forget_dpcs();
    header.set_dump(config.DumpMode != 0);
    let messages = config.InterruptMode == _KINTERRUPT_MODE::Latched && !header.is_dump();
    header.set_message_locks(messages && M::MESSAGE_LOCKS == MessageLocks::PerMessage);
    if messages {
        config.HwMSInterruptRoutine = Some(message_interrupt::<M>);
        config.InterruptSynchronizationMode = match M::MESSAGE_LOCKS {
            MessageLocks::Shared => _INTERRUPT_SYNCHRONIZATION_MODE::InterruptSynchronizeAll,
            MessageLocks::PerMessage => {
                _INTERRUPT_SYNCHRONIZATION_MODE::InterruptSynchronizePerMessage
            }
        };
    }
    let mut cx = FindAdapter {
        adapter: header,
        config,
        tables: Extension::<M>::table_memory(device_extension),
        not_send: PhantomData,
    };
    match M::find_adapter(&mut cx) {
        Ok(adapter) => {
            extension.put(adapter);
            wdk_sys::SP_RETURN_FOUND
        }
        Err(NotFound::Absent) => wdk_sys::SP_RETURN_NOT_FOUND,
        Err(NotFound::Unusable) => wdk_sys::SP_RETURN_ERROR,
        Err(NotFound::BadConfiguration) => wdk_sys::SP_RETURN_BAD_CONFIG,
    }
}

/// HW_INITIALIZE.
pub(crate) unsafe extern "C" fn initialize<M: Miniport>(device_extension: PVOID) -> BOOLEAN {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let Some(adapter) = extension.adapter() else {
        return truth(false);
    };
    let header = &extension.header;
    if !header.is_dump() {
        // SAFETY: this is HwInitialize, which nothing else calls (rule
        // StorPortPassiveFromHwInit): a restart has its own callback.
        let enabled =
            unsafe { port::enable_passive_initialization(header, Some(passive_initialize::<M>)) };
        if !enabled {
            // Without it no DPC object is ever initialised.
            return truth(false);
        }
    }
    truth(M::initialize(adapter, &mut context!(Initialize, header)))
}

/// HW_PASSIVE_INITIALIZE_ROUTINE.
unsafe extern "C" fn passive_initialize<M: Miniport>(device_extension: PVOID) -> BOOLEAN {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let Some(adapter) = extension.adapter() else {
        return truth(false);
    };
    let header = &extension.header;
    for number in header.dpcs() {
        // SAFETY: this is HwPassiveInitialize, and each object's turn comes
        // once.
        unsafe { port::initialize_dpc(header, header.dpc(number), Some(dpc::<M>)) };
    }
    header.set_dpcs_ready();
    truth(M::passive_initialize(
        adapter,
        &mut context!(PassiveInitialize, header),
    ))
}

/// HW_BUILDIO: true sends the SRB on to HwStartIo.
pub(crate) unsafe extern "C" fn build_io<M: Miniport>(
    device_extension: PVOID,
    block: PSCSI_REQUEST_BLOCK,
) -> BOOLEAN {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let Some(block) = NonNull::new(block) else {
        return truth(false);
    };
    // SAFETY: Storport just gave this SRB to the miniport.
    let srb = unsafe { Srb::new(&extension.header, block) };
    let memory: *mut Built<M::Request<'_>> = srb.extension().cast();
    let (Some(adapter), false) = (extension.adapter(), memory.is_null()) else {
        complete_without_adapter(srb);
        return truth(false);
    };
    let mut cx = context!(BuildIo, &extension.header);
    let Some((built, request)) = M::build_io(adapter, &mut cx, srb) else {
        return truth(false);
    };
    let same = core::ptr::eq(built.as_ptr(), block.as_ptr());
    if !same {
        // Another request than the one that was given: it is not Storport's
        // to start now. Dropping it completes it.
        return truth(false);
    }
    // SAFETY: Storport gave SrbExtensionSize bytes there to this SRB.
    unsafe { memory.write(Built { request }) };
    let _: PSCSI_REQUEST_BLOCK = built.into_raw();
    truth(true)
}

/// HW_STARTIO.
pub(crate) unsafe extern "C" fn start_io<M: Miniport>(
    device_extension: PVOID,
    block: PSCSI_REQUEST_BLOCK,
) -> BOOLEAN {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let Some(block) = NonNull::new(block) else {
        return truth(true);
    };
    // SAFETY: Storport just gave this SRB to the miniport.
    let srb = unsafe { Srb::new(&extension.header, block) };
    let memory: *mut Built<M::Request<'_>> = srb.extension().cast();
    let (Some(adapter), false) = (extension.adapter(), memory.is_null()) else {
        complete_without_adapter(srb);
        return truth(true);
    };
    // SAFETY: with an adapter, Storport calls HwStartIo only after HwBuildIo
    // returned true, which wrote it (rule book 5.1, S4).
    let Built { request } = unsafe { memory.read() };
    M::start_io(
        adapter,
        &mut context!(StartIo, &extension.header),
        srb,
        request,
    );
    // What false would do is undocumented (rule book 5.1, S6).
    truth(true)
}

/// Completes an SRB that came although no adapter was found: a remove may be
/// the first SRB there is (rule book 8, row 16).
fn complete_without_adapter(srb: Srb<'_>) {
    match srb.function() {
        Function::Pnp { .. } | Function::Power => srb.succeed(0),
        _ => srb.fail(Failure::NoHba),
    }
}

/// HW_INTERRUPT.
pub(crate) unsafe extern "C" fn interrupt<M: Miniport>(device_extension: PVOID) -> BOOLEAN {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let Some(adapter) = extension.adapter() else {
        return truth(false);
    };
    let header = &extension.header;
    let interrupted = M::interrupt(adapter, &mut context!(Interrupt, header));
    for number in header.take_dump_dpcs() {
        M::dpc(
            adapter,
            &mut context!(Dpc, header, dpc: number, argument: 0),
        );
    }
    truth(interrupted == Interrupted::Ours)
}

/// HW_MESSAGE_SIGNALED_INTERRUPT_ROUTINE.
unsafe extern "C" fn message_interrupt<M: Miniport>(
    device_extension: PVOID,
    message: ULONG,
) -> BOOLEAN {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let Some(adapter) = extension.adapter() else {
        return truth(false);
    };
    let mut cx = context!(MessageInterrupt, &extension.header, message: message);
    truth(M::message_interrupt(adapter, &mut cx) == Interrupted::Ours)
}

/// HW_DPC_ROUTINE.
unsafe extern "C" fn dpc<M: Miniport>(
    dpc: PSTOR_DPC,
    device_extension: PVOID,
    argument: PVOID,
    _unused: PVOID,
) {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let header = &extension.header;
    let (Some(adapter), Some(number)) = (extension.adapter(), header.dpc_number(dpc)) else {
        return;
    };
    run_dpc::<M>(adapter, header, number, argument.addr());
}

fn run_dpc<M: Miniport>(
    adapter: &M::Adapter<'_>,
    header: &Header,
    number: DpcNumber,
    argument: usize,
) {
    M::dpc(
        adapter,
        &mut context!(Dpc, header, dpc: number, argument: argument),
    );
}

/// HW_RESET_BUS.
pub(crate) unsafe extern "C" fn reset_bus<M: Miniport>(
    device_extension: PVOID,
    path: ULONG,
) -> BOOLEAN {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let Some(adapter) = extension.adapter() else {
        return truth(false);
    };
    let mut cx = context!(ResetBus, &extension.header, path: path);
    truth(M::reset_bus(adapter, &mut cx))
}

/// The control types that are answered.
const SUPPORTED_CONTROLS: [SCSI_ADAPTER_CONTROL_TYPE; 3] = [
    control::ScsiQuerySupportedControlTypes,
    control::ScsiStopAdapter,
    control::ScsiRestartAdapter,
];

/// HW_ADAPTER_CONTROL.
pub(crate) unsafe extern "C" fn adapter_control<M: Miniport>(
    device_extension: PVOID,
    control_type: SCSI_ADAPTER_CONTROL_TYPE,
    parameters: PVOID,
) -> SCSI_ADAPTER_CONTROL_STATUS {
    let success = _SCSI_ADAPTER_CONTROL_STATUS::ScsiAdapterControlSuccess;
    if control_type == control::ScsiQuerySupportedControlTypes {
        // SAFETY: for this type Parameters is the list to fill.
        unsafe { fill_supported_controls(parameters.cast()) };
        return success;
    }
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let Some(adapter) = extension.adapter() else {
        return success;
    };
    let header = &extension.header;
    match control_type {
        control::ScsiStopAdapter => M::stop(adapter, &mut context!(Stop, header)),
        control::ScsiRestartAdapter => {
            if !M::restart(adapter, &mut context!(Restart, header)) {
                return _SCSI_ADAPTER_CONTROL_STATUS::ScsiAdapterControlUnsuccessful;
            }
        }
        _ => return _SCSI_ADAPTER_CONTROL_STATUS::ScsiAdapterControlUnsuccessful,
    }
    success
}

/// # Safety
/// `list` is null or Storport's list, whose MaxControlType entries follow it.
unsafe fn fill_supported_controls(list: *mut SCSI_SUPPORTED_CONTROL_TYPE_LIST) {
    if list.is_null() {
        return;
    }
    // SAFETY: the caller's promise.
    let count = unsafe { (*list).MaxControlType };
    // SAFETY: the entries follow the head; this takes their address.
    let entries: PUCHAR = unsafe { (&raw mut (*list).SupportedTypeList).cast() };
    for supported in SUPPORTED_CONTROLS {
        let Ok(index) = u32::try_from(supported) else {
            continue;
        };
        if index < count {
            let entry = entries.wrapping_add(index as usize);
            // SAFETY: it is one of the MaxControlType entries.
            unsafe { entry.write(truth(true)) };
        }
    }
}
