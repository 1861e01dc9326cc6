//! The functions that Storport calls. Each passes the gate ([`State`](crate::state::State)),
//! makes the context of its callback, and calls the miniport's method with it.
#![expect(unsafe_code, reason = "Storport calls these with raw pointers")]

use core::{
    marker::PhantomData,
    mem::{self, offset_of},
    ptr::NonNull,
};

use wdk_sys::{
    _INTERRUPT_SYNCHRONIZATION_MODE, _KINTERRUPT_MODE, _SCSI_ADAPTER_CONTROL_STATUS,
    _SCSI_ADAPTER_CONTROL_TYPE as control, _SCSI_UNIT_CONTROL_STATUS,
    _SCSI_UNIT_CONTROL_TYPE as unit, BOOLEAN, MESSAGE_INTERRUPT_INFORMATION, PCHAR,
    PPORT_CONFIGURATION_INFORMATION, PSCSI_REQUEST_BLOCK, PSTOR_DPC, PUCHAR, PVOID,
    SCSI_ADAPTER_CONTROL_STATUS, SCSI_ADAPTER_CONTROL_TYPE, SCSI_SUPPORTED_CONTROL_TYPE_LIST,
    SCSI_UNIT_CONTROL_STATUS, SCSI_UNIT_CONTROL_TYPE, SHORT, STOR_ADAPTER_CONTROL_POWER,
    STOR_ADDR_BTL8, STOR_DEVICE_POWER_STATE, STOR_UNIT_CONTROL_POWER, ULONG,
};

use crate::{
    callback::{self, Registered},
    context::{
        AdapterPower, BuildIo, Dpc, Initialize, Interrupt, MessageInterrupt, OneProcessorOnly,
        PassiveInitialize, PowerState, RegistryChange, ResetBus, Restart, StartIo, StateChange,
        Stop, SurpriseRemoval, ThreadedDpc, Timer, Tracing, UnitControl, UnitEvent, UnitPower,
        Work,
    },
    extension::{DpcNumber, Extension, Header},
    find_adapter::{Configured, FindAdapter},
    miniport::{Interrupted, MessageLocks, Miniport, NotFound},
    port,
    routines::{WorkContext, set_timer, take_change},
    srb::{Address, Failure, Function, Srb},
    stack::Stack,
    state::Issue,
    status::StorStatus,
};

/// The contents of a request's SRB extension.
#[repr(C)]
struct Built<R> {
    /// While HwBuildIo runs, the address of its context: it identifies the call that got the
    /// request, because it differs from that of every call that runs at the same time. Afterwards
    /// the number of the adapter's life in which the request was built.
    call_or_life: usize,
    /// The miniport's value. It is initialised between HwBuildIo and HwStartIo.
    request: R,
}

impl<R> Built<R> {
    fn call_or_life_in(memory: *mut Self) -> *mut usize {
        memory
            .wrapping_byte_add(offset_of!(Self, call_or_life))
            .cast()
    }

    fn request_in(memory: *mut Self) -> *mut R {
        memory.wrapping_byte_add(offset_of!(Self, request)).cast()
    }
}

/// The value of `HW_INITIALIZATION_DATA.SrbExtensionSize`.
pub(crate) const fn request_bytes<M: Miniport>() -> usize {
    const {
        assert!(
            align_of::<Built<M::Request<'static>>>() <= 8,
            "`Miniport::Request` is aligned to more than 8 bytes, but Storport promises only 8 bytes \
             for an SRB extension: use a type with a smaller alignment"
        );
    };
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
            _processor: OneProcessorOnly::new(),
        }
    };
}

/// HW_FIND_ADAPTER (`storport.h`).
pub(crate) unsafe extern "C" fn find_adapter<M: Registered>(
    device_extension: PVOID,
    _hw_context: PVOID,
    _bus_information: PVOID,
    _arguments: PCHAR,
    config: PPORT_CONFIGURATION_INFORMATION,
    _reserved: *mut BOOLEAN,
) -> ULONG {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    // SAFETY: Only this callback accesses Storport's ConfigInfo while it runs.
    let Some(config) = (unsafe { config.as_mut() }) else {
        return wdk_sys::SP_RETURN_BAD_CONFIG;
    };
    let Some(finding) = extension.find() else {
        // A callback of an earlier life has not ended, so it still uses the state.
        return wdk_sys::SP_RETURN_ERROR;
    };
    let dump = config.DumpMode != 0 || Stack::current() == Stack::Dump;
    let message_routine = M::OPTIONAL.message_interrupt;
    let messages =
        config.InterruptMode == _KINTERRUPT_MODE::Latched && message_routine.is_some() && !dump;
    finding.begin(
        dump,
        messages && M::MESSAGE_LOCKS == MessageLocks::PerMessage,
    );
    if messages {
        config.HwMSInterruptRoutine = message_routine;
        config.InterruptSynchronizationMode = match M::MESSAGE_LOCKS {
            MessageLocks::Shared => _INTERRUPT_SYNCHRONIZATION_MODE::InterruptSynchronizeAll,
            MessageLocks::PerMessage => {
                _INTERRUPT_SYNCHRONIZATION_MODE::InterruptSynchronizePerMessage
            }
        };
    }
    let tables = Extension::<M>::table_memory(device_extension);
    let mut cx = FindAdapter::new(&extension.header, config, tables);
    match M::find_adapter(&mut cx) {
        Ok((Configured { .. }, adapter)) => {
            finding.put(adapter);
            wdk_sys::SP_RETURN_FOUND
        }
        Err(NotFound::Absent) => wdk_sys::SP_RETURN_NOT_FOUND,
        Err(NotFound::Unusable) => wdk_sys::SP_RETURN_ERROR,
        Err(NotFound::BadConfiguration) => wdk_sys::SP_RETURN_BAD_CONFIG,
    }
}

/// HW_INITIALIZE.
pub(crate) unsafe extern "C" fn initialize<M: Registered>(device_extension: PVOID) -> BOOLEAN {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let Some(adapter) = extension.initialize() else {
        return truth(false);
    };
    let header = &extension.header;
    let works = prepare::<M>(header) && M::initialize(adapter, &mut context!(Initialize, header));
    header.state.end_initialize(works);
    truth(works)
}

/// The framework's part of HwInitialize. Returns false if Storport cannot call
/// HwPassiveInitialize.
fn prepare<M: Registered>(header: &Header) -> bool {
    if header.state.is_dump() {
        return true;
    }
    header.state.set_messages(connected_messages(header));
    let routine: unsafe extern "C" fn(PVOID) -> BOOLEAN = initialize_passively::<M>;
    let mut enabled: ULONG = 0;
    // SAFETY: This is HwInitialize, and it is not called for a restart, which has its own
    // callback (rule StorPortPassiveFromHwInit).
    unsafe { port::enable_passive_initialization(header, routine as PVOID, &raw mut enabled) };
    // Without HwPassiveInitialize no DPC object is ever initialised.
    enabled != 0
}

/// The maximum number of messages of an MSI-X table.
const MOST_MESSAGES: u32 = 2048;

/// Returns how many messages are connected. They are numbered from 0.
fn connected_messages(header: &Header) -> u32 {
    let is_connected = |message| {
        let mut information = MESSAGE_INTERRUPT_INFORMATION::default();
        // SAFETY: This is HwInitialize. `information` outlives the call.
        unsafe { port::get_msi_info(header, message, &raw mut information) }.is_ok()
    };
    let absent = (0..MOST_MESSAGES).find(|message| !is_connected(*message));
    absent.unwrap_or(MOST_MESSAGES)
}

/// HW_PASSIVE_INITIALIZE_ROUTINE.
unsafe extern "C" fn initialize_passively<M: Registered>(device_extension: PVOID) -> BOOLEAN {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let header = &extension.header;
    let adapter: Option<&M::Adapter<'_>> = extension.passive();
    if adapter.is_none() {
        return truth(false);
    }
    for number in 0..header.state.dpcs() {
        initialize_dpc::<M>(header, DpcNumber(number));
    }
    let works = match M::OPTIONAL.passive {
        None => true,
        // SAFETY: `Registered`: the entry function belongs to this miniport. The gate has admitted
        // HwPassiveInitialize.
        Some(passive) => unsafe { passive(device_extension) },
    };
    header.issue_noted(header.state.end_passive(works));
    truth(works)
}

/// Initialises one DPC object, in HwPassiveInitialize.
fn initialize_dpc<M: Registered>(header: &Header, number: DpcNumber) {
    if !header.state.begin_dpc_initialization(number.0) {
        return;
    }
    let object = header.dpc(number);
    if !header.state.is_threaded(number.0) {
        let routine: unsafe extern "C" fn(PSTOR_DPC, PVOID, PVOID, PVOID) = dpc::<M>;
        // SAFETY: This is HwPassiveInitialize. The object is initialised for the first time, so
        // nothing uses it yet.
        unsafe { port::initialize_dpc(header, object, routine as PVOID) };
    } else if let Some(routine) = M::OPTIONAL.threaded_dpc {
        // The documentation says that the routine gets the device extension, not the context. In
        // case a version of Windows passes the context, the context is the device extension too.
        let context = header.device_extension();
        let important = 1;
        // SAFETY: As above.
        unsafe {
            port::initialize_threaded_dpc(header, object, routine as PVOID, context, important);
        }
    }
}

/// [`callback::PassiveInitialize`].
///
/// # Safety
/// The argument is the HwDeviceExtension, and the gate admitted
/// HwPassiveInitialize.
pub(crate) unsafe fn passive<M: callback::PassiveInitialize + Registered>(
    device_extension: PVOID,
) -> bool {
    // SAFETY: The caller's promise.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    // SAFETY: The caller's promise: the gate has admitted the callback, in PASSIVE, which has a
    // higher number than FOUND.
    let adapter = unsafe { extension.adapter() };
    let mut cx = context!(PassiveInitialize, &extension.header);
    M::passive_initialize(adapter, &mut cx)
}

/// HW_BUILDIO. If it returns true, Storport passes the SRB to HwStartIo.
pub(crate) unsafe extern "C" fn build_io<M: Registered>(
    device_extension: PVOID,
    block: PSCSI_REQUEST_BLOCK,
) -> BOOLEAN {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let Some(block) = NonNull::new(block) else {
        return truth(false);
    };
    // SAFETY: Storport just gave this SRB to the miniport.
    let Some(srb) = (unsafe { Srb::accept(&extension.header, block) }) else {
        return truth(false);
    };
    let memory: *mut Built<M::Request<'_>> = srb.extension().cast();
    let (Some(adapter), false) = (extension.requests(), memory.is_null()) else {
        answer_unready(&extension.header, srb);
        return truth(false);
    };
    let mut cx = context!(BuildIo, &extension.header);
    let call = (&raw const cx).addr();
    // SAFETY: The SRB's extension has SrbExtensionSize bytes, which only this SRB uses.
    unsafe { Built::call_or_life_in(memory).write(call) };
    let result = M::build_io(adapter, &mut cx, srb);
    let Some((built, request)) = &result else {
        return truth(false);
    };
    let memory: *mut Built<M::Request<'_>> = built.extension().cast();
    // SAFETY: As above, for the SRB that the miniport returned. The miniport owned it, so a call
    // of HwBuildIo got it and wrote this field.
    let given = unsafe { Built::call_or_life_in(memory).read() };
    // The address of the SRB does not identify the request: once this call's request is completed,
    // Storport may reuse the SRB for another request.
    if given != call {
        // The miniport returned a request of another call, which Storport would not start. It is
        // dropped here, which completes it as failed.
        return truth(false);
    }
    let life = extension.header.state.life() as usize;
    // SAFETY: As above.
    unsafe { Built::call_or_life_in(memory).write(life) };
    // Copied in place, because a move would copy the value twice.
    // SAFETY: As above. The value is forgotten below, so it exists once.
    unsafe { Built::request_in(memory).copy_from_nonoverlapping(request, 1) };
    mem::forget(result);
    truth(true)
}

/// HW_STARTIO.
pub(crate) unsafe extern "C" fn start_io<M: Registered>(
    device_extension: PVOID,
    block: PSCSI_REQUEST_BLOCK,
) -> BOOLEAN {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let Some(block) = NonNull::new(block) else {
        return truth(true);
    };
    let Some(adapter) = extension.requests() else {
        // After a failed start, a request for removal comes without HwBuildIo
        // (storport-rules.md X16), so the SRB is checked here.
        // SAFETY: Storport just gave this SRB to the miniport.
        if let Some(srb) = unsafe { Srb::accept(&extension.header, block) } {
            answer_unready(&extension.header, srb);
        }
        return truth(true);
    };
    // SAFETY: `Srb`'s invariants: Storport just gave this SRB to the miniport, and HwBuildIo
    // checked it.
    let srb = unsafe { Srb::new(&extension.header, block) };
    let memory: *mut Built<M::Request<'_>> = srb.extension().cast();
    if memory.is_null() {
        answer_unready(&extension.header, srb);
        return truth(true);
    }
    if extension.header.state.is_dump() {
        // Storport may send a request again that was completed as BUSY without calling HwInterrupt
        // first. So the noted DPCs run here too.
        run_noted::<M>(adapter, device_extension, &extension.header);
    }
    // SAFETY: While the adapter is ready, Storport calls HwStartIo only after HwBuildIo returned
    // true (storport-rules.md S4). HwBuildIo wrote the number then.
    let life = unsafe { Built::call_or_life_in(memory).read() };
    if life != extension.header.state.life() as usize {
        // The request belongs to an adapter that was stopped or found again since. Its value is
        // forgotten, as if Storport had never started it.
        return restart_later(srb);
    }
    // SAFETY: As above, for the value.
    let request = unsafe { Built::request_in(memory).read() };
    M::start_io(
        adapter,
        &mut context!(StartIo, &extension.header),
        srb,
        request,
    );
    // The meaning of false is not documented (storport-rules.md S6).
    truth(true)
}

/// Completes an SRB that was built in an earlier life. Storport sends it again.
#[cold]
fn restart_later(srb: Srb<'_>) -> BOOLEAN {
    srb.busy();
    truth(true)
}

/// Completes an SRB that arrives while the adapter is not ready. The first SRB of an adapter may be
/// a request for its removal (storport-rules.md X16).
#[cold]
fn answer_unready(header: &Header, srb: Srb<'_>) {
    match srb.function() {
        Function::Pnp { .. } | Function::Power => srb.succeed_control(),
        // The adapter will be ready soon.
        _ if header.state.is_starting() => srb.busy(),
        _ => srb.fail(Failure::NoHba),
    }
}

/// HW_INTERRUPT.
pub(crate) unsafe extern "C" fn interrupt<M: Registered>(device_extension: PVOID) -> BOOLEAN {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let header = &extension.header;
    let Some(adapter) = extension.interrupts() else {
        return truth(false);
    };
    if header.state.has_message_locks() {
        // The adapter interrupts by messages. It is not documented which lock Storport holds in
        // this callback then.
        return truth(false);
    }
    let interrupted = M::interrupt(adapter, &mut context!(Interrupt, header));
    if header.state.is_dump() {
        run_noted::<M>(adapter, device_extension, header);
    }
    truth(interrupted == Interrupted::Ours)
}

/// HW_MESSAGE_SIGNALED_INTERRUPT_ROUTINE.
pub(crate) unsafe extern "C" fn message_interrupt<M: callback::MessageInterrupt + Registered>(
    device_extension: PVOID,
    message: ULONG,
) -> BOOLEAN {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let Some(adapter) = extension.interrupts() else {
        return truth(false);
    };
    let mut cx = context!(MessageInterrupt, &extension.header, message: message);
    truth(M::message_interrupt(adapter, &mut cx) == Interrupted::Ours)
}

/// Runs the DPCs that were issued in a dump stack, which has no DPCs (storport-rules.md D3).
fn run_noted<M: Registered>(adapter: &M::Adapter<'_>, device_extension: PVOID, header: &Header) {
    for number in header.state.take_noted() {
        let dpc = DpcNumber(number);
        if !header.state.is_threaded(number) {
            M::dpc(adapter, &mut context!(Dpc, header, dpc: dpc));
        } else if let Some(routine) = M::OPTIONAL.threaded_dpc {
            let nothing = core::ptr::null_mut();
            // SAFETY: `Registered`: the entry function belongs to this miniport.
            unsafe { routine(header.dpc(dpc), device_extension, nothing, nothing) };
        }
    }
}

/// HW_DPC_ROUTINE.
unsafe extern "C" fn dpc<M: Registered>(
    object: PSTOR_DPC,
    device_extension: PVOID,
    _argument: PVOID,
    _unused: PVOID,
) {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    enter_dpc(extension, object, |adapter, header, dpc| {
        M::dpc(adapter, &mut context!(Dpc, header, dpc: dpc));
    });
}

/// HW_DPC_ROUTINE of a threaded DPC.
pub(crate) unsafe extern "C" fn threaded_dpc<M: callback::ThreadedDpc + Registered>(
    object: PSTOR_DPC,
    device_extension: PVOID,
    _argument: PVOID,
    _unused: PVOID,
) {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    enter_dpc(extension, object, |adapter, header, dpc| {
        M::threaded_dpc(adapter, &mut context!(ThreadedDpc, header, dpc: dpc));
    });
}

/// Runs a DPC that Storport took from its queue. While the adapter is stopped, the DPC is noted,
/// and queued again at the end of the restart.
#[inline]
fn enter_dpc<M: Registered>(
    extension: &Extension<M>,
    object: PSTOR_DPC,
    run: impl FnOnce(&M::Adapter<'_>, &Header, DpcNumber),
) {
    let header = &extension.header;
    let Some(dpc) = header.dpc_number(object) else {
        return;
    };
    if let Some(inside) = extension.enter_dpc(dpc) {
        run(inside.adapter(), header, dpc);
    } else if header.state.issue(dpc.0) == Issue::Now {
        // SAFETY: `Header`'s invariant on `dpcs`: DPCs can be queued, so the phase is READY and
        // the object is initialised.
        unsafe { port::issue(header, object) };
    }
}

/// HW_TIMER.
pub(crate) unsafe extern "C" fn timer<M: callback::Timer + Registered>(device_extension: PVOID) {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let header = &extension.header;
    if let Some(inside) = extension.enter()
        && header.state.take_timer()
    {
        M::timer(inside.adapter(), &mut context!(Timer, header));
    }
}

/// HW_WORKITEM.
pub(crate) unsafe extern "C" fn work<M: callback::Work + Registered>(
    device_extension: PVOID,
    context: PVOID,
    worker: PVOID,
) {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let header = &extension.header;
    let WorkContext { life, argument } = WorkContext::from_pointer(context);
    if let Some(inside) = extension.enter()
        && life == header.state.life()
    {
        let mut cx = context!(Work, header, argument: argument);
        M::work(inside.adapter(), &mut cx);
    }
    // SAFETY: This runs at PASSIVE_LEVEL. The worker was made for this item only, which has run
    // (storport-rules.md Callbacks).
    let _: Result<(), StorStatus> = unsafe { port::free_worker(header, worker) };
}

/// HW_STATE_CHANGE.
pub(crate) unsafe extern "C" fn state_change<M: callback::StateChange + Registered>(
    device_extension: PVOID,
    context: PVOID,
    _address_type: SHORT,
    _address: PVOID,
    status: ULONG,
) {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let header = &extension.header;
    // SAFETY: `Header`'s invariant on `changed`: this callback ends the report of the change.
    // Before `end_state_change` below nothing writes there.
    let changed = unsafe { take_change(header) };
    header.state.end_state_change();
    if let Some(inside) = extension.enter()
        && context.addr() == header.state.life() as usize
    {
        let handled = status < 0x8000_0000;
        let mut cx = context!(StateChange, header, changed: changed, handled: handled);
        M::state_changed(inside.adapter(), &mut cx);
    }
}

/// HW_REGISTRY_NOTIFICATION_ROUTINE.
pub(crate) unsafe extern "C" fn registry<M: callback::RegistryChange + Registered>(
    device_extension: PVOID,
) {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    if let Some(inside) = extension.enter() {
        let mut cx = context!(RegistryChange, &extension.header);
        M::registry_changed(inside.adapter(), &mut cx);
    }
}

/// HW_RESET_BUS.
pub(crate) unsafe extern "C" fn reset_bus<M: Registered>(
    device_extension: PVOID,
    path: ULONG,
) -> BOOLEAN {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    // A dump stack disregards resets (storport-rules.md D4).
    if extension.header.state.is_dump() {
        return truth(false);
    }
    let Some(inside) = extension.enter() else {
        return truth(false);
    };
    let mut cx = context!(ResetBus, &extension.header, path: path);
    truth(M::reset_bus(inside.adapter(), &mut cx))
}

/// HW_TRACING_ENABLED.
pub(crate) unsafe extern "C" fn tracing<M: callback::Tracing + Registered>(
    device_extension: PVOID,
    enabled: BOOLEAN,
) {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let (header, enabled) = (&extension.header, enabled != 0);
    header.state.set_traced(enabled);
    if let Some(inside) = extension.enter() {
        let mut cx = context!(Tracing, header, enabled: enabled);
        M::tracing(inside.adapter(), &mut cx);
    }
}

fn supports_adapter_control<M: Registered>(control_type: SCSI_ADAPTER_CONTROL_TYPE) -> bool {
    match control_type {
        control::ScsiQuerySupportedControlTypes
        | control::ScsiStopAdapter
        | control::ScsiRestartAdapter => true,
        control::ScsiAdapterPower => M::OPTIONAL.adapter_power.is_some(),
        control::ScsiAdapterSurpriseRemoval => M::OPTIONAL.surprise_removal.is_some(),
        _ => false,
    }
}

/// HW_ADAPTER_CONTROL.
pub(crate) unsafe extern "C" fn adapter_control<M: Registered>(
    device_extension: PVOID,
    control_type: SCSI_ADAPTER_CONTROL_TYPE,
    parameters: PVOID,
) -> SCSI_ADAPTER_CONTROL_STATUS {
    let optional = match control_type {
        control::ScsiQuerySupportedControlTypes => {
            // SAFETY: For this control type, Parameters points to the list to fill in.
            unsafe { fill_supported(parameters.cast(), supports_adapter_control::<M>) };
            return _SCSI_ADAPTER_CONTROL_STATUS::ScsiAdapterControlSuccess;
        }
        control::ScsiStopAdapter => Some(stop::<M> as callback::Control),
        control::ScsiRestartAdapter => Some(restart::<M> as callback::Control),
        control::ScsiAdapterPower => M::OPTIONAL.adapter_power,
        control::ScsiAdapterSurpriseRemoval => M::OPTIONAL.surprise_removal,
        _ => None,
    };
    // SAFETY: `Registered`: the entry function belongs to this miniport. It gets the arguments that
    // Storport passed.
    if optional.is_some_and(|entry| unsafe { entry(device_extension, parameters) }) {
        _SCSI_ADAPTER_CONTROL_STATUS::ScsiAdapterControlSuccess
    } else {
        _SCSI_ADAPTER_CONTROL_STATUS::ScsiAdapterControlUnsuccessful
    }
}

/// ScsiStopAdapter. Returns true also if there is no adapter to stop.
unsafe fn stop<M: Registered>(device_extension: PVOID, _parameters: PVOID) -> bool {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let header = &extension.header;
    if let Some(inside) = extension.stop() {
        if !header.state.is_dump() {
            // Fails if the miniport has no timer callback, and so no timer to cancel.
            let _: Result<(), StorStatus> = set_timer(header, None);
        }
        M::stop(inside.adapter(), &mut context!(Stop, header));
    }
    true
}

/// ScsiRestartAdapter.
unsafe fn restart<M: Registered>(device_extension: PVOID, _parameters: PVOID) -> bool {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let header = &extension.header;
    let Some(adapter) = extension.restart() else {
        return false;
    };
    let works = M::restart(adapter, &mut context!(Restart, header));
    header.issue_noted(header.state.end_restart(works));
    works
}

/// ScsiAdapterPower.
pub(crate) unsafe fn adapter_power<M: callback::AdapterPower + Registered>(
    device_extension: PVOID,
    parameters: PVOID,
) -> bool {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let power: *const STOR_ADAPTER_CONTROL_POWER = parameters.cast();
    // SAFETY: For this control type, Parameters is null or points to such a structure.
    let Some(power) = (unsafe { power.as_ref() }) else {
        return false;
    };
    let Some(inside) = extension.enter() else {
        return false;
    };
    let state = power_state(power.PowerState);
    let mut cx = context!(AdapterPower, &extension.header, state: state);
    M::adapter_power(inside.adapter(), &mut cx);
    true
}

/// ScsiAdapterSurpriseRemoval.
pub(crate) unsafe fn surprise_removal<M: callback::SurpriseRemoval + Registered>(
    device_extension: PVOID,
    _parameters: PVOID,
) -> bool {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    if let Some(inside) = extension.enter() {
        let mut cx = context!(SurpriseRemoval, &extension.header);
        M::surprise_removal(inside.adapter(), &mut cx);
    }
    true
}

fn power_state(state: STOR_DEVICE_POWER_STATE) -> PowerState {
    if state == wdk_sys::_STOR_DEVICE_POWER_STATE::StorPowerDeviceD0 {
        PowerState::On
    } else {
        PowerState::Off
    }
}

/// The event of a unit that `control_type` announces.
fn unit_event(control_type: SCSI_UNIT_CONTROL_TYPE) -> Option<UnitEvent> {
    match control_type {
        unit::ScsiUnitStart => Some(UnitEvent::Start),
        unit::ScsiUnitRemove => Some(UnitEvent::Remove),
        unit::ScsiUnitSurpriseRemoval => Some(UnitEvent::SurpriseRemoval),
        _ => None,
    }
}

fn supports_unit_control<M: Registered>(control_type: SCSI_UNIT_CONTROL_TYPE) -> bool {
    match control_type {
        unit::ScsiQuerySupportedUnitControlTypes => true,
        unit::ScsiUnitPower => M::OPTIONAL.unit_power.is_some(),
        other => unit_event(other).is_some() && M::OPTIONAL.unit_control.is_some(),
    }
}

/// HW_UNIT_CONTROL.
///
/// The documentation calls the first argument a unit's storage. Microsoft's driver storahci uses it
/// as the adapter's device extension, which every other callback gets.
pub(crate) unsafe extern "C" fn control_unit<M: Registered>(
    device_extension: PVOID,
    control_type: SCSI_UNIT_CONTROL_TYPE,
    parameters: PVOID,
) -> SCSI_UNIT_CONTROL_STATUS {
    let success = _SCSI_UNIT_CONTROL_STATUS::ScsiUnitControlSuccess;
    if control_type == unit::ScsiQuerySupportedUnitControlTypes {
        // SAFETY: For this control type, Parameters points to the list to fill in.
        unsafe { fill_supported(parameters.cast(), supports_unit_control::<M>) };
        return success;
    }
    let done = match (unit_event(control_type), control_type) {
        (Some(event), _) => M::OPTIONAL.unit_control.is_some_and(|entry| {
            // SAFETY: `Registered`: the entry function belongs to this miniport. It gets the arguments
            // that Storport passed.
            unsafe { entry(device_extension, event, parameters) }
        }),
        (None, unit::ScsiUnitPower) => M::OPTIONAL.unit_power.is_some_and(|entry| {
            // SAFETY: As above.
            unsafe { entry(device_extension, parameters) }
        }),
        (None, _) => false,
    };
    if done {
        success
    } else {
        _SCSI_UNIT_CONTROL_STATUS::ScsiUnitControlUnsuccessful
    }
}

/// ScsiUnitStart, ScsiUnitRemove, ScsiUnitSurpriseRemoval.
pub(crate) unsafe fn unit_control<M: callback::UnitControl + Registered>(
    device_extension: PVOID,
    event: UnitEvent,
    parameters: PVOID,
) -> bool {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    // SAFETY: For these control types, Parameters is null or points to a unit's address.
    let Some(unit) = (unsafe { address(parameters.cast()) }) else {
        return false;
    };
    let Some(inside) = extension.enter() else {
        return false;
    };
    let mut cx = context!(UnitControl, &extension.header, event: event, unit: unit);
    M::unit_control(inside.adapter(), &mut cx);
    true
}

/// ScsiUnitPower.
pub(crate) unsafe fn unit_power<M: callback::UnitPower + Registered>(
    device_extension: PVOID,
    parameters: PVOID,
) -> bool {
    // SAFETY: Storport passes the HwDeviceExtension.
    let extension = unsafe { Extension::<M>::at(device_extension) };
    let power: *const STOR_UNIT_CONTROL_POWER = parameters.cast();
    // SAFETY: For this control type, Parameters is null or points to such a structure.
    let Some(power) = (unsafe { power.as_ref() }) else {
        return false;
    };
    // SAFETY: Its Address has the type that `register` asks for.
    let Some(unit) = (unsafe { address(power.Address.cast()) }) else {
        return false;
    };
    let Some(inside) = extension.enter() else {
        return false;
    };
    let state = power_state(power.PowerState);
    let mut cx = context!(UnitPower, &extension.header, state: state, unit: unit);
    M::unit_power(inside.adapter(), &mut cx);
    true
}

/// # Safety
/// `address` is null or points to a STOR_ADDR_BTL8, the only type of address that `register`
/// asks for.
unsafe fn address(address: *const STOR_ADDR_BTL8) -> Option<Address> {
    // SAFETY: The caller's promise.
    let address = unsafe { address.as_ref() }?;
    Some(Address {
        path: address.Path,
        target: address.Target,
        lun: address.Lun,
    })
}

/// Fills in which control types are supported.
///
/// # Safety
/// `list` is null or points to Storport's list, which has MaxControlType entries.
unsafe fn fill_supported(
    list: *mut SCSI_SUPPORTED_CONTROL_TYPE_LIST,
    supports: impl Fn(i32) -> bool,
) {
    if list.is_null() {
        return;
    }
    // SAFETY: The caller's promise.
    let count = unsafe { (*list).MaxControlType };
    // SAFETY: The caller's promise: the entries follow the head. This only takes their address.
    let entries: PUCHAR = unsafe { (&raw mut (*list).SupportedTypeList).cast() };
    for number in 0..count {
        if i32::try_from(number).is_ok_and(&supports) {
            let entry = entries.wrapping_add(number as usize);
            // SAFETY: It is one of the MaxControlType entries.
            unsafe { entry.write(truth(true)) };
        }
    }
}
