//! The functions that Storport calls. Each makes the context that belongs to
//! its callback and lends it to the miniport.
#![expect(unsafe_code, reason = "Storport calls these with raw pointers")]

use core::{marker::PhantomData, ptr::NonNull};

use wdk_sys::{
    _INTERRUPT_SYNCHRONIZATION_MODE, _KINTERRUPT_MODE, _SCSI_ADAPTER_CONTROL_STATUS,
    _SCSI_ADAPTER_CONTROL_TYPE as control, _SCSI_UNIT_CONTROL_STATUS,
    _SCSI_UNIT_CONTROL_TYPE as unit, BOOLEAN, PCHAR, PPORT_CONFIGURATION_INFORMATION,
    PSCSI_REQUEST_BLOCK, PSTOR_DPC, PUCHAR, PVOID, SCSI_ADAPTER_CONTROL_STATUS,
    SCSI_ADAPTER_CONTROL_TYPE, SCSI_SUPPORTED_CONTROL_TYPE_LIST, SCSI_UNIT_CONTROL_STATUS,
    SCSI_UNIT_CONTROL_TYPE, SHORT, STOR_ADAPTER_CONTROL_POWER, STOR_ADDR_BTL8,
    STOR_DEVICE_POWER_STATE, STOR_UNIT_CONTROL_POWER, ULONG,
};

use crate::{
    context::{
        AdapterPower, BuildIo, Dpc, Initialize, Interrupt, MessageInterrupt, OneProcessorOnly,
        PassiveInitialize, PowerState, RegistryChange, ResetBus, Restart, StartIo, StateChange,
        Stop, SurpriseRemoval, ThreadedDpc, Timer, Tracing, UnitControl, UnitEvent, UnitPower,
        Work,
    },
    extension::{DpcNumber, Extension, Header},
    find_adapter::{Configured, FindAdapter},
    later::Entries,
    miniport::{Callback, Interrupted, MessageLocks, Miniport, NotFound},
    port,
    srb::{Address, Failure, Function, Srb},
    stack::Stack,
    state::{Begin, Noted},
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
    match size_of::<Built<M::Request<'static>>>() {
        // Without any an SRB has none, as those that come before there is an
        // adapter.
        0 => 1,
        bytes => bytes,
    }
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
            _processor: OneProcessorOnly::new(),
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
    if !Extension::<M>::fits(device_extension) {
        return wdk_sys::SP_RETURN_ERROR;
    }
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    // SAFETY: Storport's ConfigInfo is the callback's alone while it runs.
    let Some(config) = (unsafe { config.as_mut() }) else {
        return wdk_sys::SP_RETURN_BAD_CONFIG;
    };
    let header = &extension.header;
    // The extension is zeroed at its first use only (rule book 3.1).
    header.state.stop();
    if !is_alone(header) {
        // Work of an earlier life has not ended: it still uses what lies here.
        return wdk_sys::SP_RETURN_ERROR;
    }
    let dump = config.DumpMode != 0 || Stack::current() == Stack::Dump;
    let messages = config.InterruptMode == _KINTERRUPT_MODE::Latched && !dump;
    header.state.begin(
        dump,
        messages && M::MESSAGE_LOCKS == MessageLocks::PerMessage,
    );
    header.set_entries(const { &entries::<M>() });
    if messages {
        config.HwMSInterruptRoutine = Some(message_interrupt::<M>);
        config.InterruptSynchronizationMode = match M::MESSAGE_LOCKS {
            MessageLocks::Shared => _INTERRUPT_SYNCHRONIZATION_MODE::InterruptSynchronizeAll,
            MessageLocks::PerMessage => {
                _INTERRUPT_SYNCHRONIZATION_MODE::InterruptSynchronizePerMessage
            }
        };
    }
    let tables = Extension::<M>::table_memory(device_extension);
    let mut cx = FindAdapter::new(header, config, tables);
    match M::find_adapter(&mut cx) {
        Ok((Configured { .. }, adapter)) => {
            extension.put(adapter);
            wdk_sys::SP_RETURN_FOUND
        }
        Err(NotFound::Absent) => wdk_sys::SP_RETURN_NOT_FOUND,
        Err(NotFound::Unusable) => wdk_sys::SP_RETURN_ERROR,
        Err(NotFound::BadConfiguration) => wdk_sys::SP_RETURN_BAD_CONFIG,
    }
}

/// Waits up to 10 ms for what runs on from before a stop; whether it is over.
fn is_alone(header: &Header) -> bool {
    for _ in 0..100 {
        if header.state.may_restart() {
            return true;
        }
        port::stall(100);
    }
    header.state.may_restart()
}

/// HW_INITIALIZE.
pub(crate) unsafe extern "C" fn initialize<M: Miniport>(device_extension: PVOID) -> BOOLEAN {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let Some(adapter) = extension.adapter() else {
        return truth(false);
    };
    let header = &extension.header;
    if !header.state.is_dump() {
        // SAFETY: this is HwInitialize, which nothing else calls (rule
        // StorPortPassiveFromHwInit): a restart has its own callback.
        let enabled =
            unsafe { port::enable_passive_initialization(header, Some(passive_initialize::<M>)) };
        if !enabled {
            // Without it no DPC object is ever initialised.
            return truth(false);
        }
    }
    let works = M::initialize(adapter, &mut context!(Initialize, header));
    if works {
        issue_noted(header, header.state.run());
    }
    truth(works)
}

/// Queues DPCs that were issued before they could be.
fn issue_noted(header: &Header, noted: Noted) {
    if header.state.is_dump() {
        return;
    }
    for number in noted {
        // SAFETY: DPCs are queued from now on, so the objects are initialised.
        unsafe { port::issue_dpc(header, header.dpc(DpcNumber(number))) };
    }
}

/// HW_PASSIVE_INITIALIZE_ROUTINE.
unsafe extern "C" fn passive_initialize<M: Miniport>(device_extension: PVOID) -> BOOLEAN {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let Some(adapter) = extension.adapter() else {
        return truth(false);
    };
    let header = &extension.header;
    for number in 0..header.state.dpcs() {
        let object = header.dpc(DpcNumber(number));
        if header.state.is_threaded(number) {
            // SAFETY: this is HwPassiveInitialize, and each object's turn
            // comes once.
            unsafe { port::initialize_threaded_dpc(header, object, Some(threaded_dpc::<M>)) };
        } else {
            // SAFETY: as above.
            unsafe { port::initialize_dpc(header, object, Some(dpc::<M>)) };
        }
    }
    issue_noted(header, header.state.run_with_dpcs());
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
    let _: NonNull<wdk_sys::SCSI_REQUEST_BLOCK> = built.into_block();
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
    // Where the start failed, a remove comes without HwBuildIo (rule book 8,
    // row 16).
    let (Some(adapter), false) = (extension.running(), memory.is_null()) else {
        complete_without_adapter(srb);
        return truth(true);
    };
    // SAFETY: of a running adapter Storport calls HwStartIo only after
    // HwBuildIo returned true, which wrote it (rule book 5.1, S4).
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
    if header.state.is_dump() {
        run_noted::<M>(adapter, header);
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

/// Runs the DPCs that were issued in a dump stack, which has none (rule book
/// 6, D3).
fn run_noted<M: Miniport>(adapter: &M::Adapter<'_>, header: &Header) {
    for number in header.state.take_noted() {
        let dpc = DpcNumber(number);
        if header.state.is_threaded(number) {
            M::threaded_dpc(adapter, &mut context!(ThreadedDpc, header, dpc: dpc));
        } else {
            M::dpc(adapter, &mut context!(Dpc, header, dpc: dpc));
        }
    }
}

/// HW_DPC_ROUTINE.
unsafe extern "C" fn dpc<M: Miniport>(
    object: PSTOR_DPC,
    device_extension: PVOID,
    _argument: PVOID,
    _unused: PVOID,
) {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let header = &extension.header;
    let (Some(adapter), Some(dpc)) = (extension.adapter(), header.dpc_number(object)) else {
        return;
    };
    run_dpc(header, dpc, || {
        M::dpc(adapter, &mut context!(Dpc, header, dpc: dpc));
    });
}

/// Runs a DPC that Storport took from its queue. A restart is alone with the
/// adapter's data, so one that was queued before a stop waits for it.
fn run_dpc(header: &Header, dpc: DpcNumber, run: impl FnOnce()) {
    match header.state.begin_dpc(dpc.0) {
        Begin::Now => {
            run();
            header.state.leave();
        }
        // SAFETY: DPCs are queued, so the objects are initialised.
        Begin::Queue => unsafe { port::issue_dpc(header, header.dpc(dpc)) },
        Begin::Later => {}
    }
}

/// HW_DPC_ROUTINE of a threaded DPC.
unsafe extern "C" fn threaded_dpc<M: Miniport>(
    object: PSTOR_DPC,
    device_extension: PVOID,
    _argument: PVOID,
    _unused: PVOID,
) {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let header = &extension.header;
    let (Some(adapter), Some(dpc)) = (extension.adapter(), header.dpc_number(object)) else {
        return;
    };
    run_dpc(header, dpc, || {
        M::threaded_dpc(adapter, &mut context!(ThreadedDpc, header, dpc: dpc));
    });
}

/// What a miniport has called later.
const fn entries<M: Miniport>() -> Entries {
    Entries {
        timer: timer::<M>,
        work: work::<M>,
        state_change: state_change::<M>,
        registry: registry::<M>,
    }
}

/// HW_TIMER.
unsafe extern "C" fn timer<M: Miniport>(device_extension: PVOID) {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let header = &extension.header;
    if let Some(adapter) = extension.adapter()
        && header.state.enter()
    {
        M::timer(adapter, &mut context!(Timer, header));
        header.state.leave();
    }
}

/// HW_WORKITEM.
unsafe extern "C" fn work<M: Miniport>(device_extension: PVOID, argument: PVOID, worker: PVOID) {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let header = &extension.header;
    if let Some(adapter) = extension.adapter()
        && header.state.enter()
    {
        let argument = argument.addr();
        M::work(adapter, &mut context!(Work, header, argument: argument));
        header.state.leave();
    }
    if let Some(worker) = NonNull::new(worker) {
        // SAFETY: this runs at PASSIVE_LEVEL, and the worker, made for this
        // item, is through (rule book 3.1).
        unsafe { port::free_worker(header, worker) };
    }
}

/// HW_STATE_CHANGE.
unsafe extern "C" fn state_change<M: Miniport>(
    device_extension: PVOID,
    _context: PVOID,
    _address_type: SHORT,
    _address: PVOID,
    status: ULONG,
) {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let header = &extension.header;
    // SAFETY: this callback ends the one change that is reported; until it
    // says so no one writes there.
    let changed = unsafe { header.take_change() };
    header.state.end_state_change();
    if let Some(adapter) = extension.adapter()
        && header.state.enter()
    {
        let handled = status < 0x8000_0000;
        let mut cx = context!(StateChange, header, changed: changed, handled: handled);
        M::state_changed(adapter, &mut cx);
        header.state.leave();
    }
}

/// HW_REGISTRY_NOTIFICATION_ROUTINE.
unsafe extern "C" fn registry<M: Miniport>(device_extension: PVOID) {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let header = &extension.header;
    if let Some(adapter) = extension.adapter()
        && header.state.enter()
    {
        M::registry_changed(adapter, &mut context!(RegistryChange, header));
        header.state.leave();
    }
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
    // To be disregarded (rule book 6, D4).
    if extension.header.state.is_dump() {
        return truth(false);
    }
    let mut cx = context!(ResetBus, &extension.header, path: path);
    truth(M::reset_bus(adapter, &mut cx))
}

/// HW_TRACING_ENABLED.
pub(crate) unsafe extern "C" fn tracing<M: Miniport>(device_extension: PVOID, enabled: BOOLEAN) {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    if let Some(adapter) = extension.adapter() {
        let header = &extension.header;
        let enabled = enabled != 0;
        M::tracing(adapter, &mut context!(Tracing, header, enabled: enabled));
    }
}

/// The optional callback that a control type is.
fn adapter_callback(control_type: SCSI_ADAPTER_CONTROL_TYPE) -> Option<Callback> {
    match control_type {
        control::ScsiAdapterPower => Some(Callback::AdapterPower),
        control::ScsiAdapterSurpriseRemoval => Some(Callback::SurpriseRemoval),
        _ => None,
    }
}

fn supports_adapter_control<M: Miniport>(control_type: SCSI_ADAPTER_CONTROL_TYPE) -> bool {
    match control_type {
        control::ScsiQuerySupportedControlTypes
        | control::ScsiStopAdapter
        | control::ScsiRestartAdapter => true,
        other => adapter_callback(other).is_some_and(|callback| M::CALLBACKS.contains(&callback)),
    }
}

/// HW_ADAPTER_CONTROL.
pub(crate) unsafe extern "C" fn adapter_control<M: Miniport>(
    device_extension: PVOID,
    control_type: SCSI_ADAPTER_CONTROL_TYPE,
    parameters: PVOID,
) -> SCSI_ADAPTER_CONTROL_STATUS {
    let success = _SCSI_ADAPTER_CONTROL_STATUS::ScsiAdapterControlSuccess;
    let unsuccessful = _SCSI_ADAPTER_CONTROL_STATUS::ScsiAdapterControlUnsuccessful;
    if control_type == control::ScsiQuerySupportedControlTypes {
        // SAFETY: for this type Parameters is the list to fill.
        unsafe { fill_supported(parameters.cast(), supports_adapter_control::<M>) };
        return success;
    }
    if !supports_adapter_control::<M>(control_type) {
        return unsuccessful;
    }
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let Some(adapter) = extension.adapter() else {
        return success;
    };
    let header = &extension.header;
    match control_type {
        control::ScsiStopAdapter => {
            header.state.stop();
            if !header.state.is_dump() {
                header.set_timer(0);
            }
            M::stop(adapter, &mut context!(Stop, header));
        }
        control::ScsiRestartAdapter => {
            let works =
                header.state.may_restart() && M::restart(adapter, &mut context!(Restart, header));
            if !works {
                return unsuccessful;
            }
            issue_noted(header, header.state.run());
        }
        control::ScsiAdapterPower => {
            let power: *const STOR_ADAPTER_CONTROL_POWER = parameters.cast();
            // SAFETY: for this type Parameters is such a structure, or null.
            let Some(power) = (unsafe { power.as_ref() }) else {
                return unsuccessful;
            };
            let state = power_state(power.PowerState);
            M::adapter_power(adapter, &mut context!(AdapterPower, header, state: state));
        }
        control::ScsiAdapterSurpriseRemoval => {
            M::surprise_removal(adapter, &mut context!(SurpriseRemoval, header));
        }
        _ => return unsuccessful,
    }
    success
}

fn power_state(state: STOR_DEVICE_POWER_STATE) -> PowerState {
    if state == wdk_sys::_STOR_DEVICE_POWER_STATE::StorPowerDeviceD0 {
        PowerState::On
    } else {
        PowerState::Off
    }
}

fn supports_unit_control<M: Miniport>(control_type: SCSI_UNIT_CONTROL_TYPE) -> bool {
    let callback = match control_type {
        unit::ScsiQuerySupportedUnitControlTypes => return true,
        unit::ScsiUnitStart | unit::ScsiUnitRemove | unit::ScsiUnitSurpriseRemoval => {
            Callback::UnitControl
        }
        unit::ScsiUnitPower => Callback::UnitPower,
        _ => return false,
    };
    M::CALLBACKS.contains(&callback)
}

/// HW_UNIT_CONTROL.
///
/// Its page calls the first argument a unit's storage; Microsoft's storahci
/// takes it for the adapter's extension, as every other callback gets it.
pub(crate) unsafe extern "C" fn unit_control<M: Miniport>(
    device_extension: PVOID,
    control_type: SCSI_UNIT_CONTROL_TYPE,
    parameters: PVOID,
) -> SCSI_UNIT_CONTROL_STATUS {
    let success = _SCSI_UNIT_CONTROL_STATUS::ScsiUnitControlSuccess;
    let unsuccessful = _SCSI_UNIT_CONTROL_STATUS::ScsiUnitControlUnsuccessful;
    if control_type == unit::ScsiQuerySupportedUnitControlTypes {
        // SAFETY: for this type Parameters is the list to fill.
        unsafe { fill_supported(parameters.cast(), supports_unit_control::<M>) };
        return success;
    }
    if !supports_unit_control::<M>(control_type) {
        return unsuccessful;
    }
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let Some(adapter) = extension.adapter() else {
        return success;
    };
    let header = &extension.header;
    let event = match control_type {
        unit::ScsiUnitStart => UnitEvent::Start,
        unit::ScsiUnitRemove => UnitEvent::Remove,
        unit::ScsiUnitSurpriseRemoval => UnitEvent::SurpriseRemoval,
        unit::ScsiUnitPower => {
            let power: *const STOR_UNIT_CONTROL_POWER = parameters.cast();
            // SAFETY: for this type Parameters is such a structure, or null.
            let Some(power) = (unsafe { power.as_ref() }) else {
                return unsuccessful;
            };
            // SAFETY: its Address is of the kind that is registered.
            let Some(unit) = (unsafe { address(power.Address.cast()) }) else {
                return unsuccessful;
            };
            let state = power_state(power.PowerState);
            let mut cx = context!(UnitPower, header, state: state, unit: unit);
            M::unit_power(adapter, &mut cx);
            return success;
        }
        _ => return unsuccessful,
    };
    // SAFETY: for these types Parameters is a unit's address.
    let Some(unit) = (unsafe { address(parameters.cast()) }) else {
        return unsuccessful;
    };
    let mut cx = context!(UnitControl, header, event: event, unit: unit);
    M::unit_control(adapter, &mut cx);
    success
}

/// # Safety
/// `address` is null or a STOR_ADDR_BTL8, the one kind of address that is asked
/// for at registration.
unsafe fn address(address: *const STOR_ADDR_BTL8) -> Option<Address> {
    // SAFETY: the caller's promise.
    let address = unsafe { address.as_ref() }?;
    Some(Address {
        path: address.Path,
        target: address.Target,
        lun: address.Lun,
    })
}

/// Says of each control type whether it is supported.
///
/// # Safety
/// `list` is null or Storport's list, whose MaxControlType entries follow it.
unsafe fn fill_supported(
    list: *mut SCSI_SUPPORTED_CONTROL_TYPE_LIST,
    supports: impl Fn(i32) -> bool,
) {
    if list.is_null() {
        return;
    }
    // SAFETY: the caller's promise.
    let count = unsafe { (*list).MaxControlType };
    // SAFETY: the entries follow the head; this takes their address.
    let entries: PUCHAR = unsafe { (&raw mut (*list).SupportedTypeList).cast() };
    for number in 0..count {
        if i32::try_from(number).is_ok_and(&supports) {
            let entry = entries.wrapping_add(number as usize);
            // SAFETY: it is one of the MaxControlType entries.
            unsafe { entry.write(truth(true)) };
        }
    }
}
