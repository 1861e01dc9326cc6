//! StorPortExtendedFunction and the inline functions that go through it: a
//! table of all codes, with the highest IRQL of each and what answers it.
//!
//! What needs something that a testbed has not (an MDL, ACPI, power
//! management, crash dumps) answers STOR_STATUS_NOT_IMPLEMENTED, as a Windows
//! does that is older than the function, and is counted.

use std::{sync::PoisonError, thread, time::Duration};

use super::{
    abi::{
        self, Structure, config, group_affinity, message_interrupt_information as msi,
        startio_performance_parameters as start_io, startio_performance_parameters_v2 as start_io2,
        stor_dpc_watchdog_information as dpc_watchdog, stor_list_entry as list_entry,
        stor_log_event_details as log_event, stor_request_info_v1 as request_info,
        stor_slist_entry as slist_entry, stor_slist_header as slist,
        stor_status::{
            STOR_STATUS_BUFFER_TOO_SMALL, STOR_STATUS_INSUFFICIENT_RESOURCES,
            STOR_STATUS_INVALID_DEVICE_REQUEST, STOR_STATUS_INVALID_IRQL,
            STOR_STATUS_INVALID_PARAMETER, STOR_STATUS_NOT_IMPLEMENTED, STOR_STATUS_SUCCESS,
            STOR_STATUS_UNSUCCESSFUL,
        },
    },
    callbacks::{self, Callback},
    events,
    exports::{self, Call, check_callback, check_irql},
    interrupts::Controller,
    plug_and_play,
    pool::PoolKind,
    port::Port,
    request::Address,
    srb::Slot,
    violations::Rule,
};
use crate::{
    cpu::{self, irql},
    kernel,
};

type Body = fn(&mut Call, &'static Port) -> u32;

/// A function code: STORPORT_FUNCTION_CODE.
struct Function {
    code: u32,
    name: &'static str,
    /// The highest IRQL that it may be called at (rule book 3.6).
    highest: u8,
    body: Option<Body>,
}

macro_rules! functions {
    ($($code:literal $name:ident $highest:ident $(=> $body:expr)?,)*) => {
        const FUNCTIONS: &[Function] = &[$(Function {
            code: $code,
            name: concat!("StorPort", stringify!($name)),
            highest: irql::$highest,
            body: functions!(@ $($body)?),
        },)*];
    };
    (@) => { None };
    (@ $body:expr) => { Some($body) };
}

// In the order of their codes, each of which stands at its own index.
functions! {
    0 AllocatePool DISPATCH => allocate_pool,
    1 FreePool DISPATCH => |call, port| free(call, port, PoolKind::Pool),
    2 AllocateMdl DISPATCH,
    3 FreeMdl DISPATCH,
    4 BuildMdlForNonPagedPool DISPATCH,
    5 GetSystemAddress DISPATCH => get_system_address,
    6 GetOriginalMdl HIGH,
    7 CompleteServiceIrp HIGH,
    8 GetDeviceObjects HIGH,
    9 BuildScatterGatherList DISPATCH,
    10 PutScatterGatherList DISPATCH,
    11 AcquireMSISpinLock HIGH => acquire_msi_spin_lock,
    12 ReleaseMSISpinLock HIGH => release_msi_spin_lock,
    13 GetMSIInfo HIGH => get_msi_info,
    14 InitializePerfOpts HIGH => initialize_perf_opts,
    15 GetStartIoPerfParams HIGH => get_start_io_perf_params,
    16 LogSystemEvent DISPATCH => log_system_event,
    17 GetCurrentProcessorNumber DISPATCH => get_current_processor_number,
    18 GetActiveGroupCount DISPATCH => get_active_group_count,
    19 GetGroupAffinity DISPATCH => get_group_affinity,
    20 GetActiveNodeCount DISPATCH => get_active_node_count,
    21 GetNodeAffinity DISPATCH => get_node_affinity,
    22 GetHighestNodeNumber DISPATCH => get_highest_node_number,
    23 GetLogicalProcessorRelationship DISPATCH,
    24 AllocateContiguousMemorySpecifyCacheNode DISPATCH => allocate_contiguous_memory,
    25 FreeContiguousMemorySpecifyCache DISPATCH
        => |call, port| free(call, port, PoolKind::Contiguous),
    26 SetPowerSettingNotificationGuids HIGH => set_power_setting_notification_guids,
    27 InvokeAcpiMethod PASSIVE,
    28 GetRequestInfo HIGH => get_request_info,
    29 InitializeWorker DISPATCH => initialize_worker,
    30 QueueWorkItem DISPATCH => queue_work_item,
    31 FreeWorker DISPATCH => |call, port| port.free_worker(call.address()),
    32 InitializeTimer DISPATCH => initialize_timer,
    33 RequestTimer HIGH => request_timer,
    34 FreeTimer DISPATCH => |call, port| port.free_timer(call.address()),
    35 InitializeSListHead DISPATCH => initialize_slist_head,
    36 InterlockedFlushSList DISPATCH => interlocked_flush_slist,
    37 InterlockedPopEntrySList DISPATCH => interlocked_pop_entry_slist,
    38 InterlockedPushEntrySList DISPATCH => interlocked_push_entry_slist,
    39 QueryDepthSList DISPATCH => query_depth_slist,
    40 GetActivityIdSrb HIGH => get_activity_id,
    41 GetSystemPortNumber HIGH => get_system_port_number,
    42 GetDataInBufferMdl HIGH,
    43 GetDataInBufferSystemAddress DISPATCH,
    44 GetDataInBufferScatterGatherList HIGH,
    45 MarkDumpMemory HIGH => mark_dump_memory,
    46 SetUnitAttributes HIGH => set_unit_attributes,
    47 QueryPerformanceCounter HIGH => query_performance_counter,
    48 InitializePoFxPower PASSIVE,
    49 PoFxActivateComponent DISPATCH,
    50 PoFxIdleComponent DISPATCH,
    51 PoFxSetComponentLatency DISPATCH,
    52 PoFxSetComponentResidency DISPATCH,
    53 PoFxPowerControl DISPATCH,
    54 FlushDataBufferMdl HIGH,
    55 IsDeviceOperationAllowed PASSIVE,
    56 GetProcessorIndexFromNumber DISPATCH => get_processor_index_from_number,
    57 PoFxSetIdleTimeout DISPATCH,
    58 EtwEvent2 DISPATCH => |call, port| etw_event(call, port, false),
    59 EtwEvent4 DISPATCH => |call, port| etw_event(call, port, false),
    60 EtwEvent8 DISPATCH => |call, port| etw_event(call, port, false),
    61 IsCurrentOsInstallationUpgrade PASSIVE => is_current_os_installation_upgrade,
    62 RegistryReadAdapterKey PASSIVE => |_, _| STOR_STATUS_UNSUCCESSFUL,
    63 RegistryWriteAdapterKey PASSIVE,
    64 SetAdapterBusType HIGH => set_adapter_bus_type,
    65 PoFxRegisterPerfStates DISPATCH,
    66 PoFxSetPerfState DISPATCH,
    67 GetD3ColdSupport HIGH => get_d3_cold_support,
    68 InitializeRpmb HIGH,
    69 AllocateHostMemoryBuffer DISPATCH,
    70 FreeHostMemoryBuffer DISPATCH,
    71 PropagateIrpExtension HIGH,
    72 InterlockedInsertHeadList HIGH => |call, port| interlocked_insert(call, port, End::Head),
    73 InterlockedInsertTailList HIGH => |call, port| interlocked_insert(call, port, End::Tail),
    74 InterlockedRemoveHeadList HIGH => interlocked_remove_head_list,
    75 InitializeSpinlock HIGH => initialize_spin_lock,
    76 GetPfns HIGH,
    77 InitializeCryptoEngine HIGH,
    78 GetRequestCryptoInfo HIGH,
    79 LogTelemetry HIGH => |_, port| telemetry(port),
    80 UpdateAdapterMaxIO HIGH,
    81 DelayExecution HIGH => delay_execution,
    82 AllocateDmaMemory DISPATCH => allocate_dma_memory,
    83 FreeDmaMemory DISPATCH => |call, port| free(call, port, PoolKind::Dma),
    84 UpdatePortConfigMaxIOInfo HIGH,
    85 EtwChannelEvent2 DISPATCH => |call, port| etw_event(call, port, true),
    86 EtwChannelEvent4 DISPATCH => |call, port| etw_event(call, port, true),
    87 EtwChannelEvent8 DISPATCH => |call, port| etw_event(call, port, true),
    88 InitializeHighResolutionTimer DISPATCH,
    89 RequestHighResolutionTimer HIGH,
    90 CancelHighResolutionTimer HIGH,
    91 FreeHighResolutionTimer DISPATCH,
    92 GetCurrentProcessorIndex HIGH => get_current_processor_index,
    93 AcquireSpinLockEx HIGH => acquire_spin_lock_ex,
    94 GetProcessorCount HIGH => get_processor_count,
    95 CancelDpc HIGH => cancel_dpc,
    96 LogTelemetryEx HIGH => |_, port| telemetry(port),
    97 QueryConfiguration HIGH,
    98 EtwLogError HIGH => log_hardware_error,
    99 InitializeEvent HIGH => initialize_event,
    100 WaitForSingleObject DISPATCH => wait_for_single_object,
    101 SetEvent DISPATCH => set_event,
    102 HardwareReset PASSIVE,
    103 SetFeatureList HIGH => set_feature_list,
    104 CaptureLiveDump PASSIVE,
    105 EtwLogByteStream DISPATCH,
    106 QueryDpcWatchdogInformation HIGH => query_dpc_watchdog_information,
    107 QueryTimerMinInterval HIGH => query_timer_min_interval,
    108 MaskMsixInterrupt HIGH,
    109 GetCurrentIrql HIGH => get_current_irql,
    110 CreateSystemThread PASSIVE,
    111 SetPriorityThread DISPATCH,
    112 SetSystemGroupAffinityThread DISPATCH,
    113 RevertToUserGroupAffinityThread DISPATCH,
    114 HardwareResetEx PASSIVE,
    115 MiniportReportInternalData HIGH,
    116 GetMessageInterruptIDFromProcessorIndex HIGH => get_message_of_processor,
    117 GetNodeAffinity2 DISPATCH => get_node_affinity2,
    118 EnableRegistryKeyNotification PASSIVE,
    119 PoFxRegisterPerfStatesEx DISPATCH,
}

/// StorPortExtendedFunction.
pub(super) fn extended_function(mut call: Call) -> usize {
    let code = call.u32();
    let port = call.port();
    let Some(function) = FUNCTIONS
        .get(code as usize)
        .filter(|function| function.code == code)
    else {
        port.violation(
            Rule::DdiArgument,
            call.caller,
            format_args!("StorPortExtendedFunction with code {code}"),
        );
        return STOR_STATUS_NOT_IMPLEMENTED as usize;
    };
    let status = match function.body {
        Some(body) if check_irql(port, function.name, function.highest, call.caller) => {
            body(&mut call, port)
        }
        Some(_) => STOR_STATUS_INVALID_IRQL,
        None => {
            port.statistics.not_implemented(function.name);
            STOR_STATUS_NOT_IMPLEMENTED
        }
    };
    status as usize
}

/// Writes a result, if there is a place for it.
fn give<T: abi::Plain>(to: Structure, value: T) -> u32 {
    if to.address() == 0 {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    to.set(abi::value(), value);
    STOR_STATUS_SUCCESS
}

impl Port {
    /// The SRB at `address`, that the miniport has; what it names else is a
    /// violation.
    pub(super) fn srb_of_miniport(&self, address: usize, caller: usize) -> Option<&Slot> {
        let srbs = self.try_srbs()?;
        let slot = srbs
            .find(address)
            .map(|number| srbs.slot(number))
            .filter(|slot| slot.is_out());
        if slot.is_none() {
            self.violation(
                Rule::SrbUnknown,
                caller,
                format_args!("{address:#x} is no SRB that the miniport has"),
            );
        }
        slot
    }
}

// Memory.

fn allocate_pool(call: &mut Call, port: &'static Port) -> u32 {
    let (bytes, _tag) = (call.u32(), call.u32());
    let to = call.structure();
    allocated(
        to,
        port.allocate(PoolKind::Pool, bytes as usize, call.caller),
    )
}

fn allocated(to: Structure, address: usize) -> u32 {
    let status = give(to, address);
    if address == 0 {
        STOR_STATUS_INSUFFICIENT_RESOURCES
    } else {
        status
    }
}

fn free(call: &mut Call, port: &'static Port, kind: PoolKind) -> u32 {
    let address = call.address();
    if port.free(kind, address, call.caller) {
        STOR_STATUS_SUCCESS
    } else {
        STOR_STATUS_INVALID_PARAMETER
    }
}

/// Contiguous memory between two physical addresses, across no multiple of a
/// boundary (0: any).
fn contiguous(call: &mut Call, port: &'static Port, kind: PoolKind) -> usize {
    let bytes = call.u64() as usize;
    let (lowest, highest, boundary) = (call.u64(), call.u64(), call.u64());
    let (_cache, _node) = (call.u32(), call.u32());
    let address = port.allocate(kind, bytes, call.caller);
    let Some(first) = port.machine.memory().physical(address) else {
        return 0;
    };
    let last = first + (bytes as u64).max(1) - 1;
    let crosses = boundary != 0 && first / boundary != last / boundary;
    if first < lowest || last > highest || crosses {
        port.free(kind, address, call.caller);
        return 0;
    }
    address
}

fn allocate_contiguous_memory(call: &mut Call, port: &'static Port) -> u32 {
    let address = contiguous(call, port, PoolKind::Contiguous);
    allocated(call.structure(), address)
}

fn allocate_dma_memory(call: &mut Call, port: &'static Port) -> u32 {
    let address = contiguous(call, port, PoolKind::Dma);
    let status = allocated(call.structure(), address);
    if status == STOR_STATUS_SUCCESS {
        let physical = port.machine.memory().physical(address).unwrap_or(0);
        return give(call.structure(), physical);
    }
    status
}

fn get_system_address(call: &mut Call, port: &'static Port) -> u32 {
    let srb = call.address();
    let to = call.structure();
    let data = port.srb_of_miniport(srb, call.caller).and_then(Slot::data);
    match data {
        Some(address) => give(to, address),
        None => STOR_STATUS_INVALID_PARAMETER,
    }
}

// Locks, DPCs, interrupts.

fn acquire_msi_spin_lock(call: &mut Call, port: &'static Port) -> u32 {
    let message = call.u32();
    let to = call.structure();
    match port.acquire_message_for_miniport(message, call.caller) {
        Ok(old_irql) => give(to, u32::from(old_irql)),
        Err(status) => status,
    }
}

fn release_msi_spin_lock(call: &mut Call, port: &'static Port) -> u32 {
    let (message, old_irql) = (call.u32(), call.u32());
    port.release_message_for_miniport(message, old_irql, call.caller)
}

fn acquire_spin_lock_ex(call: &mut Call, port: &'static Port) -> u32 {
    let (lock, context) = (call.u32(), call.address());
    let handle = call.structure();
    port.acquire_for_miniport(lock, context, handle, true, call.caller)
}

fn cancel_dpc(call: &mut Call, port: &'static Port) -> u32 {
    let dpc = call.address();
    let to = call.structure();
    give(to, u8::from(port.cancel_dpc(dpc, call.caller)))
}

fn get_msi_info(call: &mut Call, port: &'static Port) -> u32 {
    let message = call.u32();
    let to = call.structure();
    message_information(port, message, to, call.caller)
}

/// StorPortGetMSIInfo and StorPortGetMessageInterruptInformation.
pub(super) fn message_information(port: &Port, message: u32, to: Structure, caller: usize) -> u32 {
    if callbacks::current() == Callback::HwMSInterruptRoutine {
        port.violation(
            Rule::DdiCallback,
            caller,
            format_args!("StorPortGetMSIInfo in HwMSInterruptRoutine"),
        );
    }
    if port.messages() == 0 {
        return STOR_STATUS_INVALID_DEVICE_REQUEST;
    }
    if message >= port.messages() || to.address() == 0 {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    let cpu = Controller::cpu_of(message);
    let vector = plug_and_play::FIRST_VECTOR + message;
    to.set(msi::MessageId, message);
    to.set(msi::MessageData, vector);
    to.set(msi::MessageAddress, plug_and_play::message_address(cpu));
    to.set(msi::InterruptVector, vector);
    to.set(msi::InterruptLevel, u32::from(irql::DEVICE));
    to.set(msi::InterruptMode, config::Latched);
    STOR_STATUS_SUCCESS
}

fn get_message_of_processor(call: &mut Call, port: &'static Port) -> u32 {
    let processor = call.u32();
    let to = call.structure();
    let message = (0..port.messages()).find(|message| Controller::cpu_of(*message) == processor);
    match message {
        Some(message) => give(to, message),
        None => STOR_STATUS_INVALID_PARAMETER,
    }
}

fn initialize_perf_opts(call: &mut Call, port: &'static Port) -> u32 {
    let query = call.u8() != 0;
    let data = call.structure();
    port.performance_options(query, data, call.caller)
}

fn get_start_io_perf_params(call: &mut Call, port: &'static Port) -> u32 {
    let srb = call.address();
    let to = call.structure();
    let known = port.srb_of_miniport(srb, call.caller).is_some();
    if !known || to.address() == 0 {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    let size = to.get(start_io::Size) as usize;
    if size < start_io::SIZE {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    let (message, channel) = port.start_io_parameters();
    to.set(start_io::MessageNumber, message);
    to.set(start_io::ChannelNumber, channel);
    if size >= start_io2::SIZE && to.get(start_io::Version) >= 2 {
        to.set(start_io2::InitiatingProcessor, processor_number());
    }
    STOR_STATUS_SUCCESS
}

fn get_current_irql(call: &mut Call, _: &'static Port) -> u32 {
    give(call.structure(), cpu::current_irql())
}

fn query_dpc_watchdog_information(call: &mut Call, _: &'static Port) -> u32 {
    let to = call.structure();
    if to.address() == 0 {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    if cpu::current_irql() < irql::DISPATCH {
        return STOR_STATUS_UNSUCCESSFUL;
    }
    // No limits: a DPC that does not return is the watchdog's.
    to.set(dpc_watchdog::DpcTimeLimit, 0);
    to.set(dpc_watchdog::DpcTimeCount, 0);
    to.set(dpc_watchdog::DpcWatchdogLimit, 0);
    to.set(dpc_watchdog::DpcWatchdogCount, 0);
    STOR_STATUS_SUCCESS
}

// Processors: one group, one node.

/// A PROCESSOR_NUMBER: group 0, and the CPU.
fn processor_number() -> u32 {
    cpu::current_number() << 16
}

fn all_processors() -> u64 {
    u64::MAX >> (64 - cpu::count())
}

fn get_current_processor_number(call: &mut Call, _: &'static Port) -> u32 {
    give(call.structure(), processor_number())
}

fn get_current_processor_index(call: &mut Call, _: &'static Port) -> u32 {
    give(call.structure(), cpu::current_number())
}

fn get_processor_index_from_number(call: &mut Call, _: &'static Port) -> u32 {
    let number = call.structure();
    let to = call.structure();
    if number.address() == 0 {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    let number = number.get::<u32>(abi::value());
    let (group, index) = (number as u16, u32::from((number >> 16) as u8));
    if group != 0 || index >= cpu::count() {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    give(to, index)
}

fn get_processor_count(call: &mut Call, _: &'static Port) -> u32 {
    give(call.structure(), cpu::count())
}

fn get_active_group_count(call: &mut Call, _: &'static Port) -> u32 {
    give(call.structure(), 1u16)
}

fn get_group_affinity(call: &mut Call, _: &'static Port) -> u32 {
    let group = call.u32() as u16;
    let to = call.structure();
    if group != 0 {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    give(to, all_processors())
}

fn get_active_node_count(call: &mut Call, _: &'static Port) -> u32 {
    give(call.structure(), 1u32)
}

fn get_highest_node_number(call: &mut Call, _: &'static Port) -> u32 {
    give(call.structure(), 0u32)
}

fn get_node_affinity(call: &mut Call, _: &'static Port) -> u32 {
    let node = call.u32();
    let to = call.structure();
    if node != 0 || to.address() == 0 {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    to.fill(group_affinity::SIZE, 0);
    to.set(group_affinity::Mask, all_processors());
    STOR_STATUS_SUCCESS
}

fn get_node_affinity2(call: &mut Call, _: &'static Port) -> u32 {
    let (node, to) = (call.u32(), call.structure());
    let (count, required) = (call.u32() as u16, call.structure());
    if node != 0 {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    if required.address() != 0 {
        give(required, 1u16);
    }
    if count == 0 || to.address() == 0 {
        return STOR_STATUS_BUFFER_TOO_SMALL;
    }
    to.fill(group_affinity::SIZE, 0);
    to.set(group_affinity::Mask, all_processors());
    STOR_STATUS_SUCCESS
}

// Requests and units.

fn get_request_info(call: &mut Call, port: &'static Port) -> u32 {
    let srb = call.address();
    let to = call.structure();
    let Some(slot) = port.srb_of_miniport(srb, call.caller) else {
        return STOR_STATUS_INVALID_PARAMETER;
    };
    if to.address() == 0 {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    let cdb = port.srbs().view(slot).cdb();
    // WRITE of 6, 10, 12 and 16 bytes.
    let is_write = matches!(cdb[0], 0x0A | 0x2A | 0xAA | 0x8A);
    // IoPriorityNormal (wdm.h).
    to.set(request_info::PriorityHint, 2);
    to.set(request_info::Flags, 0);
    to.set(request_info::Key, 0);
    to.set(request_info::Length, slot.data_bytes());
    to.set(request_info::IsWriteRequest, u8::from(is_write));
    STOR_STATUS_SUCCESS
}

/// No request has an ETW activity ID: nobody traces.
fn get_activity_id(call: &mut Call, port: &'static Port) -> u32 {
    let srb = call.address();
    let to = call.address();
    if to == 0 || port.srb_of_miniport(srb, call.caller).is_none() {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    STOR_STATUS_UNSUCCESSFUL
}

fn get_system_port_number(call: &mut Call, _: &'static Port) -> u32 {
    let address = call.structure();
    if address.address() == 0 {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    address.set(abi::stor_addr_btl8::Port, 0);
    STOR_STATUS_SUCCESS
}

fn set_unit_attributes(call: &mut Call, port: &'static Port) -> u32 {
    let address = call.structure();
    let attributes = call.u32();
    // Four bits are defined.
    if address.address() == 0 || attributes >> 4 != 0 {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    let unit = Address {
        path: address.get(abi::stor_addr_btl8::Path),
        target: address.get(abi::stor_addr_btl8::Target),
        lun: address.get(abi::stor_addr_btl8::Lun),
    };
    let is_btl8 =
        u32::from(address.get(abi::stor_addr_btl8::Type)) == abi::srb::STOR_ADDRESS_TYPE_BTL8;
    if !is_btl8 || port.units.get(unit).is_none() {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    STOR_STATUS_SUCCESS
}

// Later.

fn initialize_timer(call: &mut Call, port: &'static Port) -> u32 {
    let to = call.structure();
    if to.address() == 0 {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    give(to, port.initialize_timer())
}

fn request_timer(call: &mut Call, port: &'static Port) -> u32 {
    let (handle, routine, context) = (call.address(), call.address(), call.address());
    let microseconds = call.u64();
    port.request_timer(handle, routine, context, microseconds)
}

fn query_timer_min_interval(call: &mut Call, _: &'static Port) -> u32 {
    give(call.structure(), kernel::time::TICK as u32)
}

fn initialize_worker(call: &mut Call, port: &'static Port) -> u32 {
    let to = call.structure();
    if to.address() == 0 {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    give(to, port.initialize_worker())
}

fn queue_work_item(call: &mut Call, port: &'static Port) -> u32 {
    let (routine, handle, context) = (call.address(), call.address(), call.address());
    if routine == 0 {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    port.queue_work(handle, routine, context)
}

/// Sleeps below DISPATCH_LEVEL, stalls at or above it (rule book 3.6).
fn delay_execution(call: &mut Call, port: &'static Port) -> u32 {
    let microseconds = call.u32();
    let time = Duration::from_micros(u64::from(microseconds));
    if cpu::current_irql() < irql::DISPATCH {
        thread::sleep(time);
    } else {
        exports::check_stall(port, microseconds, call.caller);
        exports::stall(time);
    }
    STOR_STATUS_SUCCESS
}

fn query_performance_counter(call: &mut Call, _: &'static Port) -> u32 {
    let (frequency, counter) = (call.structure(), call.structure());
    if frequency.address() != 0 {
        give(frequency, kernel::time::FREQUENCY);
    }
    give(counter, kernel::time::interrupt_time())
}

fn initialize_event(call: &mut Call, _: &'static Port) -> u32 {
    let event = call.structure();
    let (kind, state) = (call.u32(), call.u8() != 0);
    if event.address() == 0 {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    events::initialize(event, kind, state)
}

fn set_event(call: &mut Call, _: &'static Port) -> u32 {
    let event = call.structure();
    if event.address() == 0 {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    events::set(event);
    STOR_STATUS_SUCCESS
}

fn wait_for_single_object(call: &mut Call, port: &'static Port) -> u32 {
    let event = call.structure();
    let (_alertable, timeout) = (call.u8(), call.structure());
    if event.address() == 0 {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    let timeout = match timeout.address() {
        0 => None,
        _ => Some(timeout.get::<u64>(abi::value()) as i64),
    };
    let waits = timeout != Some(0);
    let name = "StorPortWaitForSingleObject with a time-out";
    if waits && !check_irql(port, name, irql::APC, call.caller) {
        return STOR_STATUS_INVALID_IRQL;
    }
    events::wait(event, timeout)
}

// Lists.

fn initialize_slist_head(call: &mut Call, _: &'static Port) -> u32 {
    let head = call.structure();
    if head.address() == 0 {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    head.set(slist::Alignment, 0);
    // HeaderType, as on x64.
    head.set(slist::Region, 1);
    STOR_STATUS_SUCCESS
}

/// The depth's 16 bits in a sequenced list's head; the sequence follows.
fn set_slist(head: Structure, first: usize, depth: u16) {
    let sequence = (head.get(slist::Alignment) >> 16).wrapping_add(1);
    head.set(slist::Alignment, sequence << 16 | u64::from(depth));
    head.set(slist::Region, first as u64 & !0xf | 1);
}

fn slist_first(head: Structure) -> usize {
    head.get(slist::Region) as usize & !0xf
}

fn slist_depth(head: Structure) -> u16 {
    head.get(slist::Alignment) as u16
}

fn interlocked_flush_slist(call: &mut Call, port: &'static Port) -> u32 {
    let (head, to) = (call.structure(), call.structure());
    let _lists = port.lists.lock().unwrap_or_else(PoisonError::into_inner);
    let first = slist_first(head);
    set_slist(head, 0, 0);
    give(to, first)
}

#[expect(unsafe_code, reason = "follows the driver's list")]
fn at(address: usize) -> Structure {
    // SAFETY: by its contract the driver puts entries into its lists that stay
    // there until they are taken out.
    unsafe { Structure::at(address) }
}

fn interlocked_pop_entry_slist(call: &mut Call, port: &'static Port) -> u32 {
    let (head, to) = (call.structure(), call.structure());
    let _lists = port.lists.lock().unwrap_or_else(PoisonError::into_inner);
    let first = slist_first(head);
    if first != 0 {
        let next = at(first).get(slist_entry::Next);
        set_slist(head, next, slist_depth(head).wrapping_sub(1));
    }
    give(to, first)
}

fn interlocked_push_entry_slist(call: &mut Call, port: &'static Port) -> u32 {
    let (head, entry, to) = (call.structure(), call.structure(), call.structure());
    if !entry.address().is_multiple_of(16) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    let _lists = port.lists.lock().unwrap_or_else(PoisonError::into_inner);
    let first = slist_first(head);
    entry.set(slist_entry::Next, first);
    set_slist(head, entry.address(), slist_depth(head).wrapping_add(1));
    give(to, first)
}

fn query_depth_slist(call: &mut Call, port: &'static Port) -> u32 {
    let (head, to) = (call.structure(), call.structure());
    let _lists = port.lists.lock().unwrap_or_else(PoisonError::into_inner);
    give(to, slist_depth(head))
}

/// An end of a doubly linked list.
#[derive(Clone, Copy)]
enum End {
    Head,
    Tail,
}

fn interlocked_insert(call: &mut Call, port: &'static Port, end: End) -> u32 {
    let (head, entry, to) = (call.structure(), call.structure(), call.structure());
    let _lists = port.lists.lock().unwrap_or_else(PoisonError::into_inner);
    let first = head.get(list_entry::Flink);
    let (before, after) = match end {
        End::Head => (head, at(first)),
        End::Tail => (at(head.get(list_entry::Blink)), head),
    };
    let was = match end {
        End::Head => after.address(),
        End::Tail => before.address(),
    };
    entry.set(list_entry::Flink, after.address());
    entry.set(list_entry::Blink, before.address());
    before.set(list_entry::Flink, entry.address());
    after.set(list_entry::Blink, entry.address());
    give(to, if was == head.address() { 0 } else { was })
}

fn interlocked_remove_head_list(call: &mut Call, port: &'static Port) -> u32 {
    let (head, to) = (call.structure(), call.structure());
    let _lists = port.lists.lock().unwrap_or_else(PoisonError::into_inner);
    let first = head.get(list_entry::Flink);
    if first == head.address() {
        return give(to, 0usize);
    }
    let second = at(first).get(list_entry::Flink);
    head.set(list_entry::Flink, second);
    at(second).set(list_entry::Blink, head.address());
    give(to, first)
}

fn initialize_spin_lock(call: &mut Call, _: &'static Port) -> u32 {
    give(call.structure(), 0u64)
}

// What is told to the system.

fn log_system_event(call: &mut Call, port: &'static Port) -> u32 {
    let details = call.structure();
    if details.address() == 0 {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    port.event(format_args!(
        "StorPortLogSystemEvent: error {:#x}, unique id {:#x}",
        details.get(log_event::ErrorCode),
        details.get(log_event::UniqueId)
    ));
    STOR_STATUS_SUCCESS
}

fn log_hardware_error(call: &mut Call, port: &'static Port) -> u32 {
    let (_address, id) = (call.address(), call.u32());
    let text = wide(call.address());
    port.event(format_args!("StorPortEtwLogError {id}: {text}"));
    STOR_STATUS_SUCCESS
}

fn etw_event(call: &mut Call, port: &'static Port, channel: bool) -> u32 {
    let _address = call.address();
    if channel {
        let _channel = call.u32();
    }
    let id = call.u32();
    let text = wide(call.address());
    port.event(format_args!("ETW event {id}: {text}"));
    STOR_STATUS_SUCCESS
}

fn telemetry(port: &'static Port) -> u32 {
    port.event(format_args!("telemetry"));
    STOR_STATUS_SUCCESS
}

/// A NUL-terminated UTF-16 string of the driver's, as far as a line goes.
fn wide(address: usize) -> String {
    const LONGEST: usize = 256;
    if address == 0 {
        return String::new();
    }
    let units = (0..LONGEST)
        .map(|index| at(address + 2 * index).get::<u16>(abi::value()))
        .take_while(|unit| *unit != 0);
    char::decode_utf16(units)
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

fn is_current_os_installation_upgrade(call: &mut Call, _: &'static Port) -> u32 {
    give(call.structure(), 0u8)
}

fn get_d3_cold_support(call: &mut Call, _: &'static Port) -> u32 {
    let _address = call.address();
    give(call.structure(), 0u8)
}

fn set_adapter_bus_type(call: &mut Call, port: &'static Port) -> u32 {
    let allowed = [Callback::HwFindAdapter];
    if check_callback(port, "StorPortSetAdapterBusType", &allowed, call.caller) {
        STOR_STATUS_SUCCESS
    } else {
        STOR_STATUS_UNSUCCESSFUL
    }
}

fn set_feature_list(call: &mut Call, port: &'static Port) -> u32 {
    let (_count, features) = (call.u32(), call.address());
    let allowed = [Callback::HwFindAdapter];
    if !check_callback(port, "StorPortSetFeatureList", &allowed, call.caller) {
        return STOR_STATUS_UNSUCCESSFUL;
    }
    if features == 0 {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    STOR_STATUS_SUCCESS
}

/// Power settings never change here, so that nobody is ever notified.
fn set_power_setting_notification_guids(call: &mut Call, port: &'static Port) -> u32 {
    let allowed = [Callback::HwFindAdapter];
    let name = "StorPortSetPowerSettingNotificationGuids";
    if check_callback(port, name, &allowed, call.caller) {
        STOR_STATUS_SUCCESS
    } else {
        STOR_STATUS_UNSUCCESSFUL
    }
}

/// There is no dump to be written that memory could be missing in.
fn mark_dump_memory(call: &mut Call, port: &'static Port) -> u32 {
    let allowed = [Callback::DriverEntry, Callback::HwFindAdapter];
    if check_callback(port, "StorPortMarkDumpMemory", &allowed, call.caller) {
        STOR_STATUS_SUCCESS
    } else {
        STOR_STATUS_UNSUCCESSFUL
    }
}

#[cfg(test)]
mod tests {
    use super::FUNCTIONS;

    #[test]
    fn each_code_of_the_headers_is_in_the_table_at_its_own_index() {
        let table: serde_json::Value =
            serde_json::from_str(include_str!("../../../cross/abi/storport-wdk.json")).unwrap();
        let codes = table["enums"]["_STORPORT_FUNCTION_CODE"]
            .as_object()
            .unwrap();

        for (index, function) in FUNCTIONS.iter().enumerate() {
            assert_eq!(function.code as usize, index, "{}", function.name);
        }
        for (name, code) in codes {
            let code = code.as_u64().unwrap() as usize;
            assert!(code < FUNCTIONS.len(), "{name} = {code}");
        }
        for (name, function) in [
            ("ExtFunctionAllocatePool", "StorPortAllocatePool"),
            (
                "ExtFunctionAcquireMSISpinLock",
                "StorPortAcquireMSISpinLock",
            ),
            (
                "ExtFunctionGetMessageInterruptInformation",
                "StorPortGetMSIInfo",
            ),
            ("ExtFunctionRequestTimer", "StorPortRequestTimer"),
            ("ExtFunctionAcquireSpinLock", "StorPortAcquireSpinLockEx"),
            ("ExtFunctionGetCurrentIrql", "StorPortGetCurrentIrql"),
            (
                "ExtFunctionInitializeSpinlock",
                "StorPortInitializeSpinlock",
            ),
            ("ExtFunctionDelayExecution", "StorPortDelayExecution"),
        ] {
            let code = codes[name].as_u64().unwrap() as usize;
            assert_eq!(FUNCTIONS[code].name, function);
        }
    }
}
