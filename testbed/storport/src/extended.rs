//! StorPortExtendedFunction: a table of all function codes with their IRQL limits and
//! implementations.
//!
//! Functions that need something that the testbed does not have (MDLs, ACPI, power management,
//! crash dumps) are counted and return STOR_STATUS_NOT_IMPLEMENTED, as a Windows that is older
//! than the function does.

mod lists;
mod requests;
mod synchronization;
mod system;
mod system_event;

pub(super) use self::synchronization::message_information;
use super::{
    abi::{
        self, Status, Structure,
        calls::Call,
        wdk::{
            STOR_STATUS_INVALID_IRQL, STOR_STATUS_INVALID_PARAMETER, STOR_STATUS_NOT_IMPLEMENTED,
            STOR_STATUS_SUCCESS, STOR_STATUS_UNSUCCESSFUL,
        },
    },
    callbacks::Callback,
    pool::PoolKind,
    port::Port,
    violations::Rule,
};
use testbed_machine::{
    cpu::{self, irql},
    time,
};

type Body = fn(&mut Call, &'static Port) -> Status;

/// A function with its STORPORT_FUNCTION_CODE.
struct Function {
    code: u32,
    name: &'static str,
    /// The highest IRQL for a call (storport-rules.md IRQL). It is HIGH if none is documented.
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

// The index of a function is its code.
functions! {
    0 AllocatePool DISPATCH => requests::allocate_pool,
    1 FreePool DISPATCH => |call, port| requests::free(call, port, PoolKind::Pool),
    2 AllocateMdl DISPATCH,
    3 FreeMdl DISPATCH,
    4 BuildMdlForNonPagedPool DISPATCH,
    5 GetSystemAddress DISPATCH => requests::get_system_address,
    6 GetOriginalMdl HIGH,
    7 CompleteServiceIrp HIGH,
    8 GetDeviceObjects HIGH,
    9 BuildScatterGatherList DISPATCH,
    10 PutScatterGatherList DISPATCH,
    11 AcquireMSISpinLock HIGH => synchronization::acquire_msi_spin_lock,
    12 ReleaseMSISpinLock HIGH => synchronization::release_msi_spin_lock,
    13 GetMSIInfo HIGH => synchronization::get_msi_info,
    14 InitializePerfOpts HIGH => synchronization::initialize_perf_opts,
    15 GetStartIoPerfParams HIGH => requests::get_start_io_perf_params,
    16 LogSystemEvent DISPATCH => system_event::log,
    17 GetCurrentProcessorNumber DISPATCH => |call, _| output(call.structure(), system::processor_number()),
    18 GetActiveGroupCount DISPATCH => |call, _| output(call.structure(), 1u16),
    19 GetGroupAffinity DISPATCH => system::get_group_affinity,
    20 GetActiveNodeCount DISPATCH => |call, _| output(call.structure(), 1u32),
    21 GetNodeAffinity DISPATCH => system::get_node_affinity,
    22 GetHighestNodeNumber DISPATCH => |call, _| output(call.structure(), 0u32),
    23 GetLogicalProcessorRelationship DISPATCH,
    24 AllocateContiguousMemorySpecifyCacheNode DISPATCH => requests::allocate_contiguous_memory,
    25 FreeContiguousMemorySpecifyCache DISPATCH
        => |call, port| requests::free(call, port, PoolKind::Contiguous),
    26 SetPowerSettingNotificationGuids HIGH
        => |call, port| system::accept_in(&[Callback::HwFindAdapter], call, port),
    27 InvokeAcpiMethod PASSIVE,
    28 GetRequestInfo HIGH => requests::get_request_info,
    29 InitializeWorker DISPATCH => synchronization::initialize_worker,
    30 QueueWorkItem DISPATCH => synchronization::queue_work_item,
    31 FreeWorker DISPATCH => |call, port| port.free_worker(call.address()),
    32 InitializeTimer DISPATCH => synchronization::initialize_timer,
    33 RequestTimer HIGH => synchronization::request_timer,
    34 FreeTimer DISPATCH => |call, port| port.free_timer(call.address()),
    35 InitializeSListHead DISPATCH => lists::initialize_slist_head,
    36 InterlockedFlushSList DISPATCH => lists::interlocked_flush_slist,
    37 InterlockedPopEntrySList DISPATCH => lists::interlocked_pop_entry_slist,
    38 InterlockedPushEntrySList DISPATCH => lists::interlocked_push_entry_slist,
    39 QueryDepthSList DISPATCH => lists::query_depth_slist,
    40 GetActivityIdSrb HIGH => requests::get_activity_id,
    41 GetSystemPortNumber HIGH => requests::get_system_port_number,
    42 GetDataInBufferMdl HIGH,
    43 GetDataInBufferSystemAddress DISPATCH,
    44 GetDataInBufferScatterGatherList HIGH,
    45 MarkDumpMemory HIGH
        => |call, port| system::accept_in(&[Callback::DriverEntry, Callback::HwFindAdapter], call, port),
    46 SetUnitAttributes HIGH => requests::set_unit_attributes,
    47 QueryPerformanceCounter HIGH => synchronization::query_performance_counter,
    48 InitializePoFxPower PASSIVE,
    49 PoFxActivateComponent DISPATCH,
    50 PoFxIdleComponent DISPATCH,
    51 PoFxSetComponentLatency DISPATCH,
    52 PoFxSetComponentResidency DISPATCH,
    53 PoFxPowerControl DISPATCH,
    54 FlushDataBufferMdl HIGH,
    55 IsDeviceOperationAllowed PASSIVE,
    56 GetProcessorIndexFromNumber DISPATCH => system::get_processor_index_from_number,
    57 PoFxSetIdleTimeout DISPATCH,
    58 EtwEvent2 DISPATCH => system::etw_event,
    59 EtwEvent4 DISPATCH => system::etw_event,
    60 EtwEvent8 DISPATCH => system::etw_event,
    61 IsCurrentOsInstallationUpgrade PASSIVE => |call, _| output(call.structure(), 0u8),
    62 RegistryReadAdapterKey PASSIVE => |_, _| Err(STOR_STATUS_UNSUCCESSFUL),
    63 RegistryWriteAdapterKey PASSIVE,
    64 SetAdapterBusType HIGH
        => |call, port| system::accept_in(&[Callback::HwFindAdapter], call, port),
    65 PoFxRegisterPerfStates DISPATCH,
    66 PoFxSetPerfState DISPATCH,
    67 GetD3ColdSupport HIGH => system::get_d3_cold_support,
    68 InitializeRpmb HIGH,
    69 AllocateHostMemoryBuffer DISPATCH,
    70 FreeHostMemoryBuffer HIGH,
    71 PropagateIrpExtension HIGH,
    72 InterlockedInsertHeadList HIGH => |call, port| lists::interlocked_insert(call, port, lists::End::Head),
    73 InterlockedInsertTailList HIGH => |call, port| lists::interlocked_insert(call, port, lists::End::Tail),
    74 InterlockedRemoveHeadList HIGH => lists::interlocked_remove_head_list,
    75 InitializeSpinlock HIGH => |call, _| output(call.structure(), 0u64),
    76 GetPfns HIGH,
    77 InitializeCryptoEngine HIGH,
    78 GetRequestCryptoInfo HIGH,
    79 LogTelemetry HIGH => |_, port| system::telemetry(port),
    80 UpdateAdapterMaxIO HIGH => requests::update_adapter_max_io,
    81 DelayExecution HIGH => synchronization::delay_execution,
    82 AllocateDmaMemory DISPATCH => requests::allocate_dma_memory,
    83 FreeDmaMemory HIGH => |call, port| requests::free(call, port, PoolKind::Dma),
    84 UpdatePortConfigMaxIOInfo HIGH,
    85 EtwChannelEvent2 HIGH => system::etw_channel_event,
    86 EtwChannelEvent4 HIGH => system::etw_channel_event,
    87 EtwChannelEvent8 HIGH => system::etw_channel_event,
    88 InitializeHighResolutionTimer DISPATCH,
    89 RequestHighResolutionTimer HIGH,
    90 CancelHighResolutionTimer HIGH,
    91 FreeHighResolutionTimer DISPATCH,
    92 GetCurrentProcessorIndex HIGH => |call, _| output(call.structure(), cpu::current_number()),
    93 AcquireSpinLockEx HIGH => synchronization::acquire_spin_lock_ex,
    94 GetProcessorCount HIGH => |call, _| output(call.structure(), cpu::count()),
    95 CancelDpc HIGH => synchronization::cancel_dpc,
    96 LogTelemetryEx HIGH => |_, port| system::telemetry(port),
    97 QueryConfiguration HIGH,
    98 EtwLogError HIGH => system::log_hardware_error,
    99 InitializeEvent HIGH => synchronization::initialize_event,
    100 WaitForSingleObject DISPATCH => synchronization::wait_for_single_object,
    101 SetEvent DISPATCH => synchronization::set_event,
    102 HardwareReset PASSIVE,
    103 SetFeatureList HIGH => system::set_feature_list,
    104 CaptureLiveDump PASSIVE,
    105 EtwLogByteStream HIGH,
    106 QueryDpcWatchdogInformation HIGH => synchronization::query_dpc_watchdog_information,
    107 QueryTimerMinInterval HIGH => |call, _| output(call.structure(), time::TICK as u32),
    108 MaskMsixInterrupt HIGH,
    109 GetCurrentIrql HIGH => |call, _| output(call.structure(), cpu::current_irql()),
    110 CreateSystemThread HIGH,
    111 SetPriorityThread PASSIVE,
    112 SetSystemGroupAffinityThread DISPATCH,
    113 RevertToUserGroupAffinityThread DISPATCH,
    114 HardwareResetEx PASSIVE,
    115 MiniportReportInternalData HIGH,
    116 GetMessageInterruptIDFromProcessorIndex HIGH => synchronization::get_message_of_processor,
    117 GetNodeAffinity2 DISPATCH => system::get_node_affinity2,
    118 EnableRegistryKeyNotification HIGH,
    119 PoFxRegisterPerfStatesEx DISPATCH,
}

/// BuildScatterGatherList, PutScatterGatherList and QueryDpcWatchdogInformation must not be
/// called below DISPATCH_LEVEL (storport-rules.md Routines, IRQL).
const AT_DISPATCH: [u32; 3] = [9, 10, 106];

pub(super) fn name(code: u32) -> Option<String> {
    let function = FUNCTIONS.iter().find(|function| function.code == code)?;
    Some(function.name.to_owned())
}

pub(super) fn extended_function(mut call: Call) -> usize {
    let code = call.u32();
    let port = call.port();
    let Some(function) = FUNCTIONS
        .get(code as usize)
        .filter(|function| function.code == code)
    else {
        // The function of a newer kit than the testbed's. An older Storport returns the same.
        port.statistics
            .not_implemented(format!("StorPortExtendedFunction with code {code}"));
        return STOR_STATUS_NOT_IMPLEMENTED as usize;
    };
    call.function = function.name;
    if call.is_lacking(port) {
        return STOR_STATUS_NOT_IMPLEMENTED as usize;
    }
    let level = cpu::current_irql();
    if AT_DISPATCH.contains(&code) && level < irql::DISPATCH {
        port.violation(
            Rule::DdiIrql,
            format_args!("{} at IRQL {level}, below DISPATCH_LEVEL", call.function),
        );
    }
    if !call.check_irql(port, function.highest) {
        return STOR_STATUS_INVALID_IRQL as usize;
    }
    let failing = port.settings.failing_function;
    if let Some(status) = port.injections.failure(failing, code) {
        return status as usize;
    }
    let Some(body) = function.body else {
        port.statistics.not_implemented(function.name);
        return STOR_STATUS_NOT_IMPLEMENTED as usize;
    };
    body(&mut call, port).err().unwrap_or(STOR_STATUS_SUCCESS) as usize
}

/// Writes a result to the caller's variable. NULL is an invalid parameter.
fn output<T: abi::Plain>(to: Structure, value: T) -> Status {
    if to.is_null() {
        return Err(STOR_STATUS_INVALID_PARAMETER);
    }
    to.set(abi::value(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{AT_DISPATCH, FUNCTIONS, irql};

    #[test]
    fn each_function_has_the_irql_of_the_reference() {
        let page = include_str!("../../../docs/reference/storport-rules.md");
        let [passive, apc, dispatch, exactly] = ["i1", "i2", "i3", "i4"].map(|row| {
            let row = format!("| <a id=\"{row}\">");
            let row = page.lines().find(|line| line.starts_with(&row));
            let words = row.expect("the row").split(|c: char| !c.is_alphanumeric());
            words.collect::<BTreeSet<_>>()
        });
        for function in FUNCTIONS {
            let name = &function.name["StorPort".len()..];
            let highest = if passive.contains(name) {
                irql::PASSIVE
            } else if [&apc, &dispatch, &exactly]
                .iter()
                .any(|row| row.contains(name))
            {
                irql::DISPATCH
            } else {
                irql::HIGH
            };
            assert_eq!(function.highest, highest, "{name}");
            assert!(!exactly.contains(name) || AT_DISPATCH.contains(&function.code));
        }
    }

    #[test]
    fn each_code_of_the_headers_is_in_the_table_at_its_own_index() {
        let table: serde_json::Value =
            serde_json::from_str(include_str!("../../../cross/abi/storport-wdk.json")).unwrap();
        let codes = table["enums"]["_STORPORT_FUNCTION_CODE"]
            .as_object()
            .unwrap();

        // The names of the functions of these codes differ from those of the codes.
        let others = [
            13, 14, 15, 40, 55, 58, 59, 60, 61, 69, 70, 79, 84, 85, 86, 87, 93, 96, 98, 100, 102,
            105, 108, 114,
        ];

        assert_eq!(codes.len(), FUNCTIONS.len());
        for (name, code) in codes {
            let code = code.as_u64().unwrap() as u32;
            let function = &FUNCTIONS[code as usize];
            assert_eq!(function.code, code, "{name}");
            let is_named_alike = function.name.replacen("StorPort", "ExtFunction", 1) == *name;
            assert_eq!(is_named_alike, !others.contains(&code), "{name}");
        }
    }
}
