// Storport's interface to a miniport: the structures, the types of the callbacks, and the
// functions that storport.sys exports.
//
// The comment before a declaration is its source: a page of the driver reference
// (windows-driver-docs-ddi, wdk-ddi-src/content), or `table`: the table of the compiled
// WDK 10.0.22621.0 (cross/abi/storport-wdk.json). A test compares every offset, size and value
// with that table. The file was written from these facts. No part of the WDK is copied.
//
// The WDK's inline functions, such as StorPortAcquireSpinLock, are not here, because
// bindings cannot be made of them. They call StorPortNotification or
// StorPortExtendedFunction with the codes below.
#pragma once

#include <ntddk.h>
#include <scsi.h>
#include <srb.h>

// What HwFindAdapter returns (storport/nc-storport-hw_find_adapter).
#define SP_RETURN_NOT_FOUND  0
#define SP_RETURN_FOUND      1
#define SP_RETURN_ERROR      2
#define SP_RETURN_BAD_CONFIG 3

// Error codes of StorPortLogError.
#define SP_BUS_PARITY_ERROR          0x01
#define SP_UNEXPECTED_DISCONNECT     0x02
#define SP_INVALID_RESELECTION       0x03
#define SP_BUS_TIME_OUT              0x04
#define SP_PROTOCOL_ERROR            0x05
#define SP_INTERNAL_ADAPTER_ERROR    0x06
#define SP_REQUEST_TIMEOUT           0x07
#define SP_IRQ_NOT_RESPONDING        0x08
#define SP_BAD_FW_WARNING            0x09
#define SP_BAD_FW_ERROR              0x0A
#define SP_LOST_WMI_MINIPORT_REQUEST 0x0B

// What StorPort functions return (StorPortExtendedFunction).
#define STOR_STATUS_SUCCESS                0x00
#define STOR_STATUS_UNSUCCESSFUL           0xC1000001
#define STOR_STATUS_NOT_IMPLEMENTED        0xC1000002
#define STOR_STATUS_INSUFFICIENT_RESOURCES 0xC1000003
#define STOR_STATUS_BUFFER_TOO_SMALL       0xC1000004
#define STOR_STATUS_ACCESS_DENIED          0xC1000005
#define STOR_STATUS_INVALID_PARAMETER      0xC1000006
#define STOR_STATUS_INVALID_DEVICE_REQUEST 0xC1000007
#define STOR_STATUS_INVALID_IRQL           0xC1000008
#define STOR_STATUS_INVALID_DEVICE_STATE   0xC1000009
#define STOR_STATUS_INVALID_BUFFER_SIZE    0xC100000A
#define STOR_STATUS_UNSUPPORTED_VERSION    0xC100000B
#define STOR_STATUS_BUSY                   0xC100000C
#define STOR_STATUS_THROTTLED_REQUEST      0xC100000D
#define STOR_STATUS_TIMEOUT                0xC100000E
#define STOR_STATUS_INVALID_DATA           0xC100000F

// HW_INITIALIZATION_DATA and PORT_CONFIGURATION_INFORMATION: MapBuffers.
#define STOR_MAP_NO_BUFFERS                       0
#define STOR_MAP_ALL_BUFFERS                      1
#define STOR_MAP_NON_READ_WRITE_BUFFERS           2
#define STOR_MAP_ALL_BUFFERS_INCLUDING_READ_WRITE 3

// PORT_CONFIGURATION_INFORMATION: Dma64BitAddresses.
#define SCSI_DMA64_MINIPORT_SUPPORTED                           0x01
#define SCSI_DMA64_MINIPORT_FULL64BIT_SUPPORTED                 0x02
#define SCSI_DMA64_MINIPORT_FULL64BIT_NO_BOUNDARY_REQ_SUPPORTED 0x03
#define SCSI_DMA64_MINIPORT_64BIT_ONE_4GB_SUPPORTED             0x04
#define SCSI_DMA64_SYSTEM_SUPPORTED                             0x80

// HW_INITIALIZATION_DATA: FeatureSupport.
#define STOR_FEATURE_VIRTUAL_MINIPORT                    0x01
#define STOR_FEATURE_ATA_PASS_THROUGH                    0x02
#define STOR_FEATURE_FULL_PNP_DEVICE_CAPABILITIES        0x04
#define STOR_FEATURE_DUMP_POINTERS                       0x08
#define STOR_FEATURE_DEVICE_NAME_NO_SUFFIX               0x10
#define STOR_FEATURE_DUMP_RESUME_CAPABLE                 0x20
#define STOR_FEATURE_DEVICE_DESCRIPTOR_FROM_ATA_INFO_VPD 0x40
#define STOR_FEATURE_EXTRA_IO_INFORMATION                0x80
#define STOR_FEATURE_ADAPTER_CONTROL_PRE_FINDADAPTER     0x0100
#define STOR_FEATURE_ADAPTER_NOT_REQUIRE_IO_PORT         0x0200
#define STOR_FEATURE_DUMP_16_BYTE_ALIGNMENT              0x0400
#define STOR_FEATURE_SET_ADAPTER_INTERFACE_TYPE          0x0800
#define STOR_FEATURE_DUMP_INFO                           0x1000
#define STOR_FEATURE_DMA_ALLOCATION_NO_BOUNDARY          0x2000
#define STOR_FEATURE_NVME                                0x4000
#define STOR_FEATURE_REPORT_INTERNAL_DATA                0x8000
#define STOR_FEATURE_EARLY_DUMP                          0x00010000

// PORT_CONFIGURATION_INFORMATION: FeatureSupport.
#define STOR_ADAPTER_FEATURE_DEVICE_TELEMETRY               0x01
#define STOR_ADAPTER_FEATURE_STOP_UNIT_DURING_POWER_DOWN    0x02
#define STOR_ADAPTER_UNCACHED_EXTENSION_NUMA_NODE_PREFERRED 0x04
#define STOR_ADAPTER_DMA_V3_PREFERRED                       0x08
#define STOR_ADAPTER_FEATURE_ABORT_COMMAND                  0x10
#define STOR_ADAPTER_FEATURE_RICH_TEMPERATURE_THRESHOLD     0x20
#define STOR_ADAPTER_DMA_ADDRESS_WIDTH_SPECIFIED            0x40

// PORT_CONFIGURATION_INFORMATION: limits.
#define SCSI_MAXIMUM_BUSES             8
#define SCSI_MAXIMUM_LOGICAL_UNITS     8
#define SCSI_MAXIMUM_TARGETS           8
#define SCSI_MINIMUM_PHYSICAL_BREAKS   16
#define SCSI_MAXIMUM_TARGETS_PER_BUS   128
#define SCSI_MAXIMUM_BUSES_PER_ADAPTER 255
#define SCSI_MAXIMUM_LUNS_PER_TARGET   255
#define SCSI_MAXIMUM_PHYSICAL_BREAKS   255

// PERF_CONFIGURATION_DATA: Version.
#define STOR_PERF_VERSION_2 2
#define STOR_PERF_VERSION_3 3
#define STOR_PERF_VERSION_4 4
#define STOR_PERF_VERSION_5 5
#define STOR_PERF_VERSION_6 6
#define STOR_PERF_VERSION_7 7

// PERF_CONFIGURATION_DATA: Flags.
#define STOR_PERF_DPC_REDIRECTION                        0x01
#define STOR_PERF_CONCURRENT_CHANNELS                    0x02
#define STOR_PERF_INTERRUPT_MESSAGE_RANGES               0x04
#define STOR_PERF_ADV_CONFIG_LOCALITY                    0x08
#define STOR_PERF_OPTIMIZE_FOR_COMPLETION_DURING_STARTIO 0x10
#define STOR_PERF_DPC_REDIRECTION_CURRENT_CPU            0x20
#define STOR_PERF_NO_SGL                                 0x40
#define STOR_PERF_SOFT_NUMA                              0x80
#define STOR_PERF_HETEROGENEOUS_CPU                      0x0100

// PORT_CONFIGURATION_INFORMATION: DumpMode.
#define DUMP_MODE_CRASH       1
#define DUMP_MODE_HIBER       2
#define DUMP_MODE_MARK_MEMORY 3
#define DUMP_MODE_RESUME      4

// MINIPORT_DUMP_POINTERS.
#define DUMP_MINIPORT_NAME_LENGTH 15
#define DUMP_MINIPORT_VERSION_1   256
#define DUMP_MINIPORT_VERSION     512

// StorPortMarkDumpMemory: Flags.
#define MARK_DUMP_MEMORY_FLAG_PHYSICAL_ADDRESS 1

// StorPortRegistryRead and StorPortRegistryWrite: Type.
#define MINIPORT_REG_SZ       1
#define MINIPORT_REG_BINARY   3
#define MINIPORT_REG_DWORD    4
#define MINIPORT_REG_MULTI_SZ 7

// storport/nc-storport-hw_state_change.
#define STATE_CHANGE_LUN    0x01
#define STATE_CHANGE_TARGET 0x02
#define STATE_CHANGE_BUS    0x04

// STOR_REQUEST_INFO: Version and Flags.
#define STOR_REQUEST_INFO_VER_1 1
#define STOR_REQUEST_INFO_VER_2 2
#define REQUEST_INFO_NO_CACHE_FLAG             0x01
#define REQUEST_INFO_PAGING_IO_FLAG            0x02
#define REQUEST_INFO_SEQUENTIAL_IO_FLAG        0x04
#define REQUEST_INFO_TEMPORARY_FLAG            0x08
#define REQUEST_INFO_WRITE_THROUGH_FLAG        0x10
#define REQUEST_INFO_HYBRID_WRITE_THROUGH_FLAG 0x20
#define REQUEST_INFO_NO_FILE_OBJECT_FLAG       0x40
#define REQUEST_INFO_VOLSNAP_IO_FLAG           0x80
#define REQUEST_INFO_STREAM_FLAG               0x0100
#define REQUEST_INFO_VALID_CACHEPRIORITY_FLAG  0x80000000

// Versions of other structures.
#define STOR_FILTER_RESOURCE_REQUIREMENTS_V1 1
#define STOR_SYSTEM_POWER_HINTS_V1           1
#define STOR_CURRENT_LOG_INTERFACE_REVISION  256

// Event tracing.
#define STORPORT_ETW_EVENT_KEYWORD_IO                   0x01
#define STORPORT_ETW_EVENT_KEYWORD_PERFORMANCE          0x02
#define STORPORT_ETW_EVENT_KEYWORD_POWER                0x04
#define STORPORT_ETW_EVENT_KEYWORD_ENUMERATION          0x08
#define STORPORT_ETW_EVENT_KEYWORD_COMMAND_TRACE        0x10
#define STORPORT_ETW_EVENT_KEYWORD_ASYNC_EVENT          0x20
#define STORPORT_ETW_EVENT_KEYWORD_NON_IO               0x40
#define STORPORT_ETW_EVENT_KEYWORD_COMMAND_TRACE_IO     0x80
#define STORPORT_ETW_EVENT_KEYWORD_COMMAND_TRACE_NON_IO 0x0100
#define STORPORT_ETW_MAX_PARAM_NAME_LENGTH  32
#define STORPORT_ETW_MAX_DESCRIPTION_LENGTH 64
#define STORPORT_ETW_MAX_BYTE_STREAM_LENGTH 1024

// storport/ne-storport-_stor_spinlock
typedef enum _STOR_SPINLOCK {
    DpcLock = 1,
    StartIoLock = 2,
    InterruptLock = 3,
    ThreadedDpcLock = 4,
    DpcLevelLock = 5,
} STOR_SPINLOCK;

// table
typedef enum _SCSI_NOTIFICATION_TYPE {
    RequestComplete = 0,
    NextRequest = 1,
    NextLuRequest = 2,
    ResetDetected = 3,
    _obsolete1 = 4,
    _obsolete2 = 5,
    RequestTimerCall = 6,
    BusChangeDetected = 7,
    WMIEvent = 8,
    WMIReregister = 9,
    LinkUp = 10,
    LinkDown = 11,
    QueryTickCount = 12,
    BufferOverrunDetected = 13,
    TraceNotification = 14,
    GetExtendedFunctionTable = 15,
    EnablePassiveInitialization = 4096,
    InitializeDpc = 4097,
    IssueDpc = 4098,
    AcquireSpinLock = 4099,
    ReleaseSpinLock = 4100,
    StateChangeDetectedCall = 4101,
    IoTargetRequestServiceTime = 4102,
    AsyncNotificationDetected = 4103,
    RequestDirectComplete = 4104,
    InitializeDpcWithContext = 4105,
    InitializeThreadedDpc = 4106,
    SetTargetProcessorDpc = 4107,
    MarkDeviceFailed = 4108,
    MarkDeviceFailedEx = 4109,
    TerminateSystemThread = 4110,
} SCSI_NOTIFICATION_TYPE, *PSCSI_NOTIFICATION_TYPE;

// table
typedef enum _STORPORT_FUNCTION_CODE {
    ExtFunctionAllocatePool = 0,
    ExtFunctionFreePool = 1,
    ExtFunctionAllocateMdl = 2,
    ExtFunctionFreeMdl = 3,
    ExtFunctionBuildMdlForNonPagedPool = 4,
    ExtFunctionGetSystemAddress = 5,
    ExtFunctionGetOriginalMdl = 6,
    ExtFunctionCompleteServiceIrp = 7,
    ExtFunctionGetDeviceObjects = 8,
    ExtFunctionBuildScatterGatherList = 9,
    ExtFunctionPutScatterGatherList = 10,
    ExtFunctionAcquireMSISpinLock = 11,
    ExtFunctionReleaseMSISpinLock = 12,
    ExtFunctionGetMessageInterruptInformation = 13,
    ExtFunctionInitializePerformanceOptimizations = 14,
    ExtFunctionGetStartIoPerformanceParameters = 15,
    ExtFunctionLogSystemEvent = 16,
    ExtFunctionGetCurrentProcessorNumber = 17,
    ExtFunctionGetActiveGroupCount = 18,
    ExtFunctionGetGroupAffinity = 19,
    ExtFunctionGetActiveNodeCount = 20,
    ExtFunctionGetNodeAffinity = 21,
    ExtFunctionGetHighestNodeNumber = 22,
    ExtFunctionGetLogicalProcessorRelationship = 23,
    ExtFunctionAllocateContiguousMemorySpecifyCacheNode = 24,
    ExtFunctionFreeContiguousMemorySpecifyCache = 25,
    ExtFunctionSetPowerSettingNotificationGuids = 26,
    ExtFunctionInvokeAcpiMethod = 27,
    ExtFunctionGetRequestInfo = 28,
    ExtFunctionInitializeWorker = 29,
    ExtFunctionQueueWorkItem = 30,
    ExtFunctionFreeWorker = 31,
    ExtFunctionInitializeTimer = 32,
    ExtFunctionRequestTimer = 33,
    ExtFunctionFreeTimer = 34,
    ExtFunctionInitializeSListHead = 35,
    ExtFunctionInterlockedFlushSList = 36,
    ExtFunctionInterlockedPopEntrySList = 37,
    ExtFunctionInterlockedPushEntrySList = 38,
    ExtFunctionQueryDepthSList = 39,
    ExtFunctionGetActivityId = 40,
    ExtFunctionGetSystemPortNumber = 41,
    ExtFunctionGetDataInBufferMdl = 42,
    ExtFunctionGetDataInBufferSystemAddress = 43,
    ExtFunctionGetDataInBufferScatterGatherList = 44,
    ExtFunctionMarkDumpMemory = 45,
    ExtFunctionSetUnitAttributes = 46,
    ExtFunctionQueryPerformanceCounter = 47,
    ExtFunctionInitializePoFxPower = 48,
    ExtFunctionPoFxActivateComponent = 49,
    ExtFunctionPoFxIdleComponent = 50,
    ExtFunctionPoFxSetComponentLatency = 51,
    ExtFunctionPoFxSetComponentResidency = 52,
    ExtFunctionPoFxPowerControl = 53,
    ExtFunctionFlushDataBufferMdl = 54,
    ExtFunctionDeviceOperationAllowed = 55,
    ExtFunctionGetProcessorIndexFromNumber = 56,
    ExtFunctionPoFxSetIdleTimeout = 57,
    ExtFunctionMiniportEtwEvent2 = 58,
    ExtFunctionMiniportEtwEvent4 = 59,
    ExtFunctionMiniportEtwEvent8 = 60,
    ExtFunctionCurrentOsInstallationUpgrade = 61,
    ExtFunctionRegistryReadAdapterKey = 62,
    ExtFunctionRegistryWriteAdapterKey = 63,
    ExtFunctionSetAdapterBusType = 64,
    ExtFunctionPoFxRegisterPerfStates = 65,
    ExtFunctionPoFxSetPerfState = 66,
    ExtFunctionGetD3ColdSupport = 67,
    ExtFunctionInitializeRpmb = 68,
    ExtFunctionAllocateHmb = 69,
    ExtFunctionFreeHmb = 70,
    ExtFunctionPropagateIrpExtension = 71,
    ExtFunctionInterlockedInsertHeadList = 72,
    ExtFunctionInterlockedInsertTailList = 73,
    ExtFunctionInterlockedRemoveHeadList = 74,
    ExtFunctionInitializeSpinlock = 75,
    ExtFunctionGetPfns = 76,
    ExtFunctionInitializeCryptoEngine = 77,
    ExtFunctionGetRequestCryptoInfo = 78,
    ExtFunctionMiniportTelemetry = 79,
    ExtFunctionUpdateAdapterMaxIO = 80,
    ExtFunctionDelayExecution = 81,
    ExtFunctionAllocateDmaMemory = 82,
    ExtFunctionFreeDmaMemory = 83,
    ExtFunctionUpdateAdapterMaxIOInfo = 84,
    ExtFunctionMiniportChannelEtwEvent2 = 85,
    ExtFunctionMiniportChannelEtwEvent4 = 86,
    ExtFunctionMiniportChannelEtwEvent8 = 87,
    ExtFunctionInitializeHighResolutionTimer = 88,
    ExtFunctionRequestHighResolutionTimer = 89,
    ExtFunctionCancelHighResolutionTimer = 90,
    ExtFunctionFreeHighResolutionTimer = 91,
    ExtFunctionGetCurrentProcessorIndex = 92,
    ExtFunctionAcquireSpinLock = 93,
    ExtFunctionGetProcessorCount = 94,
    ExtFunctionCancelDpc = 95,
    ExtFunctionMiniportTelemetryEx = 96,
    ExtFunctionQueryConfiguration = 97,
    ExtFunctionLogHardwareError = 98,
    ExtFunctionInitializeEvent = 99,
    ExtFunctionWaitForEvent = 100,
    ExtFunctionSetEvent = 101,
    ExtFunctionDeviceReset = 102,
    ExtFunctionSetFeatureList = 103,
    ExtFunctionCaptureLiveDump = 104,
    ExtFunctionMiniportLogByteStream = 105,
    ExtFunctionQueryDpcWatchdogInformation = 106,
    ExtFunctionQueryTimerMinInterval = 107,
    ExtFunctionMaskPciMsixEntry = 108,
    ExtFunctionGetCurrentIrql = 109,
    ExtFunctionCreateSystemThread = 110,
    ExtFunctionSetPriorityThread = 111,
    ExtFunctionSetSystemGroupAffinityThread = 112,
    ExtFunctionRevertToUserGroupAffinityThread = 113,
    ExtFunctionDeviceResetEx = 114,
    ExtFunctionMiniportReportInternalData = 115,
    ExtFunctionGetMessageInterruptIDFromProcessorIndex = 116,
    ExtFunctionGetNodeAffinity2 = 117,
    ExtFunctionEnableRegistryKeyNotification = 118,
    ExtFunctionPoFxRegisterPerfStatesEx = 119,
} STORPORT_FUNCTION_CODE, *PSTORPORT_FUNCTION_CODE;

// table
typedef enum _STOR_SYNCHRONIZATION_MODEL {
    StorSynchronizeHalfDuplex = 0,
    StorSynchronizeFullDuplex = 1,
} STOR_SYNCHRONIZATION_MODEL;

// storport/ne-storport-_interrupt_synchronization_mode
typedef enum _INTERRUPT_SYNCHRONIZATION_MODE {
    InterruptSupportNone = 0,
    InterruptSynchronizeAll = 1,
    InterruptSynchronizePerMessage = 2,
} INTERRUPT_SYNCHRONIZATION_MODE;

// storport/ne-storport-scsi_adapter_control_type
typedef enum _SCSI_ADAPTER_CONTROL_TYPE {
    ScsiQuerySupportedControlTypes = 0,
    ScsiStopAdapter = 1,
    ScsiRestartAdapter = 2,
    ScsiSetBootConfig = 3,
    ScsiSetRunningConfig = 4,
    ScsiPowerSettingNotification = 5,
    ScsiAdapterPower = 6,
    ScsiAdapterPoFxPowerRequired = 7,
    ScsiAdapterPoFxPowerActive = 8,
    ScsiAdapterPoFxPowerSetFState = 9,
    ScsiAdapterPoFxPowerControl = 10,
    ScsiAdapterPrepareForBusReScan = 11,
    ScsiAdapterSystemPowerHints = 12,
    ScsiAdapterFilterResourceRequirements = 13,
    ScsiAdapterPoFxMaxOperationalPower = 14,
    ScsiAdapterPoFxSetPerfState = 15,
    ScsiAdapterSurpriseRemoval = 16,
    ScsiAdapterSerialNumber = 17,
    ScsiAdapterCryptoOperation = 18,
    ScsiAdapterQueryFruId = 19,
    ScsiAdapterSetEventLogging = 20,
    ScsiAdapterReportInternalData = 21,
    ScsiAdapterResetBusSynchronous = 22,
    ScsiAdapterPostHwInitialize = 23,
    ScsiAdapterPrepareEarlyDumpData = 24,
    ScsiAdapterRestoreEarlyDumpData = 25,
    ScsiAdapterControlMax = 26,
    MakeAdapterControlTypeSizeOfUlong = -1,
} SCSI_ADAPTER_CONTROL_TYPE, *PSCSI_ADAPTER_CONTROL_TYPE;

// table
typedef enum _SCSI_ADAPTER_CONTROL_STATUS {
    ScsiAdapterControlSuccess = 0,
    ScsiAdapterControlUnsuccessful = 1,
    ScsiAdapterControlRetryNeeded = 2,
    ScsiAdapterControlBufferTooSmall = 3,
} SCSI_ADAPTER_CONTROL_STATUS, *PSCSI_ADAPTER_CONTROL_STATUS;

// storport/ne-storport-scsi_unit_control_type
typedef enum _SCSI_UNIT_CONTROL_TYPE {
    ScsiQuerySupportedUnitControlTypes = 0,
    ScsiUnitUsage = 1,
    ScsiUnitStart = 2,
    ScsiUnitPower = 3,
    ScsiUnitPoFxPowerInfo = 4,
    ScsiUnitPoFxPowerRequired = 5,
    ScsiUnitPoFxPowerActive = 6,
    ScsiUnitPoFxPowerSetFState = 7,
    ScsiUnitPoFxPowerControl = 8,
    ScsiUnitRemove = 9,
    ScsiUnitSurpriseRemoval = 10,
    ScsiUnitRichDescription = 11,
    ScsiUnitQueryBusType = 12,
    ScsiUnitQueryFruId = 13,
    ScsiUnitReportInternalData = 14,
    ScsiUnitControlMax = 15,
    MakeUnitControlTypeSizeOfUlong = -1,
} SCSI_UNIT_CONTROL_TYPE, *PSCSI_UNIT_CONTROL_TYPE;

// table
typedef enum _SCSI_UNIT_CONTROL_STATUS {
    ScsiUnitControlSuccess = 0,
    ScsiUnitControlUnsuccessful = 1,
} SCSI_UNIT_CONTROL_STATUS, *PSCSI_UNIT_CONTROL_STATUS;

// storport/ne-storport-scsi_uc_device_usage_type
typedef enum _SCSI_UC_DEVICE_USAGE_TYPE {
    ScsiDeviceUsageTypeUndefined = 0,
    ScsiDeviceUsageTypePaging = 1,
    ScsiDeviceUsageTypeHibernation = 2,
    ScsiDeviceUsageTypeDumpFile = 3,
    ScsiDeviceUsageTypeBoot = 4,
} SCSI_UC_DEVICE_USAGE_TYPE;

// storport/ne-storport-raid_system_power
typedef enum _RAID_SYSTEM_POWER {
    RaidSystemPowerUnknown = 0,
    RaidSystemPowerLowest = 1,
    RaidSystemPowerLow = 2,
    RaidSystemPowerMedium = 3,
    RaidSystemPowerHigh = 4,
} RAID_SYSTEM_POWER, *PRAID_SYSTEM_POWER;

// storport/ne-storport-stor_device_reset_type
typedef enum _STOR_DEVICE_RESET_TYPE {
    StorFunctionLevelReset = 0,
    StorPlatformLevelReset = 1,
    StorBusSpecificReset = 2,
} STOR_DEVICE_RESET_TYPE;

// storport/ne-storport-_stor_event_association_enum
typedef enum _STOR_EVENT_ASSOCIATION_ENUM {
    StorEventAdapterAssociation = 0,
    StorEventLunAssociation = 1,
    StorEventTargetAssociation = 2,
    StorEventInvalidAssociation = 3,
} STOR_EVENT_ASSOCIATION_ENUM;

// table
typedef enum _STOR_IO_PRIORITY_HINT {
    StorIoPriorityVeryLow = 0,
    StorIoPriorityLow = 1,
    StorIoPriorityNormal = 2,
    StorIoPriorityHigh = 3,
    StorIoPriorityCritical = 4,
    StorIoMaxPriorityTypes = 5,
    StorIoMaxPriorityValue = 65535,
} STOR_IO_PRIORITY_HINT, *PSTOR_IO_PRIORITY_HINT;

// table
typedef enum _STOR_IMPORTANCE {
    StorLowImportance = 0,
    StorMediumImportance = 1,
    StorHighImportance = 2,
    StorMediumHighImportance = 3,
} STOR_IMPORTANCE;

// storport/ne-storport-storport_etw_event_channel
typedef enum _STORPORT_ETW_EVENT_CHANNEL {
    StorportEtwEventDiagnostic = 0,
    StorportEtwEventOperational = 1,
    StorportEtwEventHealth = 2,
} STORPORT_ETW_EVENT_CHANNEL, *PSTORPORT_ETW_EVENT_CHANNEL;

// table
typedef enum _STORPORT_ETW_EVENT_OPCODE {
    StorportEtwEventOpcodeInfo = 0,
    StorportEtwEventOpcodeStart = 1,
    StorportEtwEventOpcodeStop = 2,
    StorportEtwEventOpcodeDC_Start = 3,
    StorportEtwEventOpcodeDC_Stop = 4,
    StorportEtwEventOpcodeExtension = 5,
    StorportEtwEventOpcodeReply = 6,
    StorportEtwEventOpcodeResume = 7,
    StorportEtwEventOpcodeSuspend = 8,
    StorportEtwEventOpcodeSend = 9,
    StorportEtwEventOpcodeReceive = 240,
} STORPORT_ETW_EVENT_OPCODE, *PSTORPORT_ETW_EVENT_OPCODE;

// table
typedef enum _STORPORT_ETW_LEVEL {
    StorportEtwLevelLogAlways = 0,
    StorportEtwLevelCritical = 1,
    StorportEtwLevelError = 2,
    StorportEtwLevelWarning = 3,
    StorportEtwLevelInformational = 4,
    StorportEtwLevelMax = 5,
    StorportEtwLevelVerbose = 5,
} STORPORT_ETW_LEVEL, *PSTORPORT_ETW_LEVEL;

// table
typedef enum _GETSGSTATUS {
    SG_ALLOCATED = 0,
    SG_BUFFER_TOO_SMALL = 1,
} GETSGSTATUS, *PGETSGSTATUS;

// storport/ne-storport-storport_feature_type
typedef enum _STORPORT_FEATURE_TYPE {
    StorportFeatureBusTypeUnitControl = 0,
    StorportFeatureFruIdUnitControl = 1,
    StorportFeatureFruIdAdapterControl = 2,
    StorportFeatureSetEventLoggingAdapterControl = 3,
    StorportFeatureReportInternalDataUnitControl = 4,
    StorportFeatureReportInternalDataAdapterControl = 5,
    StorportFeatureResetBusSynchronous = 6,
    StorportFeaturePostHwInitialize = 7,
    StorportFeaturePrepareEarlyDumpData = 8,
    StorportFeatureRestoreEarlyDumpData = 9,
    StorportFeatureMax = 10,
} STORPORT_FEATURE_TYPE;

// storport/ne-storport-storport_query_configuration_type
typedef enum _STORPORT_QUERY_CONFIGURATION_TYPE {
    StorportQueryConfigurationD3 = 0,
    StorportQueryConfigurationMax = 1,
} STORPORT_QUERY_CONFIGURATION_TYPE, *PSTORPORT_QUERY_CONFIGURATION_TYPE;

typedef PHYSICAL_ADDRESS STOR_PHYSICAL_ADDRESS, *PSTOR_PHYSICAL_ADDRESS;
typedef ULONG_PTR STOR_AFFINITY;

// storport/ns-storport-_access_range
typedef struct _ACCESS_RANGE {
    STOR_PHYSICAL_ADDRESS RangeStart;
    ULONG RangeLength;
    BOOLEAN RangeInMemory;
} ACCESS_RANGE, *PACCESS_RANGE;

// storport/ns-storport-_memory_region
typedef struct _MEMORY_REGION {
    PUCHAR VirtualBase;
    PHYSICAL_ADDRESS PhysicalBase;
    ULONG Length;
} MEMORY_REGION, *PMEMORY_REGION;

// storport/ns-storport-_stor_scatter_gather_element
typedef struct _STOR_SCATTER_GATHER_ELEMENT {
    STOR_PHYSICAL_ADDRESS PhysicalAddress;
    ULONG Length;
    ULONG_PTR Reserved;
} STOR_SCATTER_GATHER_ELEMENT, *PSTOR_SCATTER_GATHER_ELEMENT;

// storport/ns-storport-_stor_scatter_gather_list
typedef struct _STOR_SCATTER_GATHER_LIST {
    ULONG NumberOfElements;
    ULONG_PTR Reserved;
    STOR_SCATTER_GATHER_ELEMENT List[];
} STOR_SCATTER_GATHER_LIST, *PSTOR_SCATTER_GATHER_LIST;

// table
typedef struct _STOR_LOCK_HANDLE {
    STOR_SPINLOCK Lock;
    struct {
        struct {
            PVOID Next;
            PVOID Lock;
        } LockQueue;
        KIRQL OldIrql;
    } Context;
} STOR_LOCK_HANDLE, *PSTOR_LOCK_HANDLE;

// table
typedef struct _DPC_BUFFER {
    CSHORT Type;
    UCHAR Number;
    UCHAR Importance;
    struct {
        PVOID F;
        PVOID B;
    };
    PVOID DeferredRoutine;
    PVOID DeferredContext;
    PVOID SystemArgument1;
    PVOID SystemArgument2;
    PVOID DpcData;
} DPC_BUFFER;

// storport/ns-storport-_stor_dpc
typedef struct _STOR_DPC {
    DPC_BUFFER Dpc;
    ULONG_PTR Lock;
} STOR_DPC, *PSTOR_DPC;

// storport/ns-storport-stor_dpc_watchdog_information
typedef struct _STOR_DPC_WATCHDOG_INFORMATION {
    ULONG DpcTimeLimit;
    ULONG DpcTimeCount;
    ULONG DpcWatchdogLimit;
    ULONG DpcWatchdogCount;
    ULONG Reserved;
} STOR_DPC_WATCHDOG_INFORMATION, *PSTOR_DPC_WATCHDOG_INFORMATION;

// storport/ns-storport-stor_group_affinity
typedef struct _STOR_GROUP_AFFINITY {
    STOR_AFFINITY Mask;
    USHORT Group;
    USHORT Reserved[3];
} STOR_GROUP_AFFINITY, *PSTOR_GROUP_AFFINITY;

// table
typedef struct _STOR_UNICODE_STRING {
    USHORT Length;
    USHORT MaximumLength;
    PWCH Buffer;
} STOR_UNICODE_STRING, *PSTOR_UNICODE_STRING;

// storport/ns-storport-_message_interrupt_information
typedef struct _MESSAGE_INTERRUPT_INFORMATION {
    ULONG MessageId;
    ULONG MessageData;
    STOR_PHYSICAL_ADDRESS MessageAddress;
    ULONG InterruptVector;
    ULONG InterruptLevel;
    KINTERRUPT_MODE InterruptMode;
} MESSAGE_INTERRUPT_INFORMATION, *PMESSAGE_INTERRUPT_INFORMATION;

// storport/nc-storport-hw_message_signaled_interrupt_routine
typedef BOOLEAN HW_MESSAGE_SIGNALED_INTERRUPT_ROUTINE(PVOID HwDeviceExtension, ULONG MessageId);
typedef HW_MESSAGE_SIGNALED_INTERRUPT_ROUTINE *PHW_MESSAGE_SIGNALED_INTERRUPT_ROUTINE;

// storport/ns-storport-_port_configuration_information
typedef struct _PORT_CONFIGURATION_INFORMATION {
    ULONG Length;
    ULONG SystemIoBusNumber;
    INTERFACE_TYPE AdapterInterfaceType;
    ULONG BusInterruptLevel;
    ULONG BusInterruptVector;
    KINTERRUPT_MODE InterruptMode;
    ULONG MaximumTransferLength;
    ULONG NumberOfPhysicalBreaks;
    ULONG DmaChannel;
    ULONG DmaPort;
    DMA_WIDTH DmaWidth;
    DMA_SPEED DmaSpeed;
    ULONG AlignmentMask;
    ULONG NumberOfAccessRanges;
    ACCESS_RANGE (*AccessRanges)[];
    PVOID MiniportDumpData;
    UCHAR NumberOfBuses;
    CCHAR InitiatorBusId[8];
    BOOLEAN ScatterGather;
    BOOLEAN Master;
    BOOLEAN CachesData;
    BOOLEAN AdapterScansDown;
    BOOLEAN AtdiskPrimaryClaimed;
    BOOLEAN AtdiskSecondaryClaimed;
    BOOLEAN Dma32BitAddresses;
    BOOLEAN DemandMode;
    UCHAR MapBuffers;
    BOOLEAN NeedPhysicalAddresses;
    BOOLEAN TaggedQueuing;
    BOOLEAN AutoRequestSense;
    BOOLEAN MultipleRequestPerLu;
    BOOLEAN ReceiveEvent;
    BOOLEAN RealModeInitialized;
    BOOLEAN BufferAccessScsiPortControlled;
    UCHAR MaximumNumberOfTargets;
    UCHAR SrbType;
    UCHAR AddressType;
    ULONG SlotNumber;
    ULONG BusInterruptLevel2;
    ULONG BusInterruptVector2;
    KINTERRUPT_MODE InterruptMode2;
    ULONG DmaChannel2;
    ULONG DmaPort2;
    DMA_WIDTH DmaWidth2;
    DMA_SPEED DmaSpeed2;
    ULONG DeviceExtensionSize;
    ULONG SpecificLuExtensionSize;
    ULONG SrbExtensionSize;
    UCHAR Dma64BitAddresses;
    BOOLEAN ResetTargetSupported;
    UCHAR MaximumNumberOfLogicalUnits;
    BOOLEAN WmiDataProvider;
    STOR_SYNCHRONIZATION_MODEL SynchronizationModel;
    PHW_MESSAGE_SIGNALED_INTERRUPT_ROUTINE HwMSInterruptRoutine;
    INTERRUPT_SYNCHRONIZATION_MODE InterruptSynchronizationMode;
    MEMORY_REGION DumpRegion;
    ULONG RequestedDumpBufferSize;
    BOOLEAN VirtualDevice;
    UCHAR DumpMode;
    UCHAR DmaAddressWidth;
    ULONG ExtendedFlags1;
    ULONG MaxNumberOfIO;
    ULONG MaxIOsPerLun;
    ULONG InitialLunQueueDepth;
    ULONG BusResetHoldTime;
    ULONG FeatureSupport;
} PORT_CONFIGURATION_INFORMATION, *PPORT_CONFIGURATION_INFORMATION;

// storport/nc-storport-hw_initialize
typedef BOOLEAN HW_INITIALIZE(PVOID DeviceExtension);
typedef HW_INITIALIZE *PHW_INITIALIZE;

// storport/nc-storport-hw_passive_initialize_routine
typedef BOOLEAN HW_PASSIVE_INITIALIZE_ROUTINE(PVOID DeviceExtension);
typedef HW_PASSIVE_INITIALIZE_ROUTINE *PHW_PASSIVE_INITIALIZE_ROUTINE;

// storport/nc-storport-hw_buildio
typedef BOOLEAN HW_BUILDIO(PVOID DeviceExtension, PSCSI_REQUEST_BLOCK Srb);
typedef HW_BUILDIO *PHW_BUILDIO;

// storport/nc-storport-hw_startio
typedef BOOLEAN HW_STARTIO(PVOID DeviceExtension, PSCSI_REQUEST_BLOCK Srb);
typedef HW_STARTIO *PHW_STARTIO;

// storport/nc-storport-hw_interrupt
typedef BOOLEAN HW_INTERRUPT(PVOID DeviceExtension);
typedef HW_INTERRUPT *PHW_INTERRUPT;

// storport/nc-storport-hw_dpc_routine
typedef VOID HW_DPC_ROUTINE(
    PSTOR_DPC Dpc,
    PVOID HwDeviceExtension,
    PVOID SystemArgument1,
    PVOID SystemArgument2);
typedef HW_DPC_ROUTINE *PHW_DPC_ROUTINE;

// storport/nc-storport-hw_timer
typedef VOID HW_TIMER(PVOID DeviceExtension);
typedef HW_TIMER *PHW_TIMER;

// type of a member of HW_INITIALIZATION_DATA
typedef VOID HW_TIMER_EX(PVOID DeviceExtension, PVOID Context);
typedef HW_TIMER_EX *PHW_TIMER_EX;

// storport/nc-storport-hw_workitem
typedef VOID HW_WORKITEM(PVOID HwDeviceExtension, PVOID Context, PVOID Worker);
typedef HW_WORKITEM *PHW_WORKITEM;

// type of a member of HW_INITIALIZATION_DATA
typedef VOID HW_DMA_STARTED(PVOID DeviceExtension);
typedef HW_DMA_STARTED *PHW_DMA_STARTED;

// storport/nc-storport-hw_find_adapter
typedef ULONG HW_FIND_ADAPTER(
    PVOID DeviceExtension,
    PVOID HwContext,
    PVOID BusInformation,
    PCHAR ArgumentString,
    PPORT_CONFIGURATION_INFORMATION ConfigInfo,
    PBOOLEAN Reserved3);
typedef HW_FIND_ADAPTER *PHW_FIND_ADAPTER;

// storport/nc-storport-hw_reset_bus
typedef BOOLEAN HW_RESET_BUS(PVOID DeviceExtension, ULONG PathId);
typedef HW_RESET_BUS *PHW_RESET_BUS;

// type of a member of HW_INITIALIZATION_DATA
typedef BOOLEAN HW_ADAPTER_STATE(PVOID DeviceExtension, PVOID Context, BOOLEAN SaveState);
typedef HW_ADAPTER_STATE *PHW_ADAPTER_STATE;

// storport/nc-storport-hw_adapter_control
typedef SCSI_ADAPTER_CONTROL_STATUS HW_ADAPTER_CONTROL(
    PVOID DeviceExtension,
    SCSI_ADAPTER_CONTROL_TYPE ControlType,
    PVOID Parameters);
typedef HW_ADAPTER_CONTROL *PHW_ADAPTER_CONTROL;

// storport/nc-storport-hw_unit_control
typedef SCSI_UNIT_CONTROL_STATUS HW_UNIT_CONTROL(
    PVOID DeviceExtension,
    SCSI_UNIT_CONTROL_TYPE ControlType,
    PVOID Parameters);
typedef HW_UNIT_CONTROL *PHW_UNIT_CONTROL;

// storport/nc-storport-hw_state_change
typedef VOID HW_STATE_CHANGE(
    PVOID HwDeviceExtension,
    PVOID Context,
    SHORT AddressType,
    PVOID Address,
    ULONG Status);
typedef HW_STATE_CHANGE *PHW_STATE_CHANGE;

// storport/nc-storport-hw_tracing_enabled
typedef VOID HW_TRACING_ENABLED(PVOID HwDeviceExtension, BOOLEAN Enabled);
typedef HW_TRACING_ENABLED *PHW_TRACING_ENABLED;

// storport/nc-storport-hw_initialize_tracing
typedef VOID HW_INITIALIZE_TRACING(PVOID Arg1, PVOID Arg2);
typedef HW_INITIALIZE_TRACING *PHW_INITIALIZE_TRACING;

// storport/nc-storport-hw_cleanup_tracing
typedef VOID HW_CLEANUP_TRACING(PVOID Arg1);
typedef HW_CLEANUP_TRACING *PHW_CLEANUP_TRACING;

// storport/nc-storport-hw_free_adapter_resources
typedef VOID HW_FREE_ADAPTER_RESOURCES(PVOID DeviceExtension);
typedef HW_FREE_ADAPTER_RESOURCES *PHW_FREE_ADAPTER_RESOURCES;

// storport/nc-storport-hw_process_service_request
typedef VOID HW_PROCESS_SERVICE_REQUEST(PVOID DeviceExtension, PVOID Irp);
typedef HW_PROCESS_SERVICE_REQUEST *PHW_PROCESS_SERVICE_REQUEST;

// storport/nc-storport-hw_complete_service_irp
typedef VOID HW_COMPLETE_SERVICE_IRP(PVOID DeviceExtension);
typedef HW_COMPLETE_SERVICE_IRP *PHW_COMPLETE_SERVICE_IRP;

// type of a member of HW_INITIALIZATION_DATA
typedef BOOLEAN STOR_SYNCHRONIZED_ACCESS(PVOID HwDeviceExtension, PVOID Context);
typedef STOR_SYNCHRONIZED_ACCESS *PSTOR_SYNCHRONIZED_ACCESS;

// srb/ns-srb-_hw_initialization_data
typedef struct _HW_INITIALIZATION_DATA {
    ULONG HwInitializationDataSize;
    INTERFACE_TYPE AdapterInterfaceType;
    PHW_INITIALIZE HwInitialize;
    PHW_STARTIO HwStartIo;
    PHW_INTERRUPT HwInterrupt;
    PVOID HwFindAdapter;
    PHW_RESET_BUS HwResetBus;
    PHW_DMA_STARTED HwDmaStarted;
    PHW_ADAPTER_STATE HwAdapterState;
    ULONG DeviceExtensionSize;
    ULONG SpecificLuExtensionSize;
    ULONG SrbExtensionSize;
    ULONG NumberOfAccessRanges;
    PVOID Reserved;
    UCHAR MapBuffers;
    BOOLEAN NeedPhysicalAddresses;
    BOOLEAN TaggedQueuing;
    BOOLEAN AutoRequestSense;
    BOOLEAN MultipleRequestPerLu;
    BOOLEAN ReceiveEvent;
    USHORT VendorIdLength;
    PVOID VendorId;
    union {
        USHORT PortVersionFlags;
        USHORT ReservedUshort;
    };
    USHORT DeviceIdLength;
    PVOID DeviceId;
    PHW_ADAPTER_CONTROL HwAdapterControl;
    PHW_BUILDIO HwBuildIo;
    PHW_FREE_ADAPTER_RESOURCES HwFreeAdapterResources;
    PHW_PROCESS_SERVICE_REQUEST HwProcessServiceRequest;
    PHW_COMPLETE_SERVICE_IRP HwCompleteServiceIrp;
    PHW_INITIALIZE_TRACING HwInitializeTracing;
    PHW_CLEANUP_TRACING HwCleanupTracing;
    PHW_TRACING_ENABLED HwTracingEnabled;
    ULONG FeatureSupport;
    ULONG SrbTypeFlags;
    ULONG AddressTypeFlags;
    ULONG Reserved1;
    PHW_UNIT_CONTROL HwUnitControl;
} HW_INITIALIZATION_DATA, *PHW_INITIALIZATION_DATA;

// storport/ns-storport-_perf_configuration_data
typedef struct _PERF_CONFIGURATION_DATA {
    ULONG Version;
    ULONG Size;
    ULONG Flags;
    ULONG ConcurrentChannels;
    ULONG FirstRedirectionMessageNumber;
    ULONG LastRedirectionMessageNumber;
    ULONG DeviceNode;
    ULONG Reserved;
    PGROUP_AFFINITY MessageTargets;
} PERF_CONFIGURATION_DATA, *PPERF_CONFIGURATION_DATA;

// storport/ns-storport-_startio_performance_parameters
typedef struct _STARTIO_PERFORMANCE_PARAMETERS {
    ULONG Version;
    ULONG Size;
    ULONG MessageNumber;
    ULONG ChannelNumber;
} STARTIO_PERFORMANCE_PARAMETERS, *PSTARTIO_PERFORMANCE_PARAMETERS;

// table
typedef struct _STARTIO_PERFORMANCE_PARAMETERS_V2 {
    ULONG Version;
    ULONG Size;
    ULONG MessageNumber;
    ULONG ChannelNumber;
    PROCESSOR_NUMBER InitiatingProcessor;
} STARTIO_PERFORMANCE_PARAMETERS_V2, *PSTARTIO_PERFORMANCE_PARAMETERS_V2;

// storport/ns-storport-_miniport_dump_pointers
typedef struct _MINIPORT_DUMP_POINTERS {
    USHORT Version;
    USHORT Size;
    WCHAR DriverName[15];
    struct _ADAPTER_OBJECT *AdapterObject;
    PVOID MappedRegisterBase;
    ULONG CommonBufferSize;
    PVOID MiniportPrivateDumpData;
    ULONG SystemIoBusNumber;
    INTERFACE_TYPE AdapterInterfaceType;
    ULONG MaximumTransferLength;
    ULONG NumberOfPhysicalBreaks;
    ULONG AlignmentMask;
    ULONG NumberOfAccessRanges;
    ACCESS_RANGE (*AccessRanges)[];
    UCHAR NumberOfBuses;
    BOOLEAN Master;
    BOOLEAN MapBuffers;
    UCHAR MaximumNumberOfTargets;
} MINIPORT_DUMP_POINTERS, *PMINIPORT_DUMP_POINTERS;

// storport/ns-storport-scsi_supported_control_type_list
typedef struct _SCSI_SUPPORTED_CONTROL_TYPE_LIST {
    ULONG MaxControlType;
    BOOLEAN SupportedTypeList[0];
} SCSI_SUPPORTED_CONTROL_TYPE_LIST, *PSCSI_SUPPORTED_CONTROL_TYPE_LIST;

// storport/ns-storport-stor_power_control_header
typedef struct _STOR_POWER_CONTROL_HEADER {
    ULONG Version;
    ULONG Size;
    PSTOR_ADDRESS Address;
} STOR_POWER_CONTROL_HEADER, *PSTOR_POWER_CONTROL_HEADER;

// storport/ns-storport-stor_power_setting_info
typedef struct _STOR_POWER_SETTING_INFO {
    GUID PowerSettingGuid;
    PVOID Value;
    ULONG ValueLength;
} STOR_POWER_SETTING_INFO, *PSTOR_POWER_SETTING_INFO;

// storport/ns-storport-stor_adapter_control_power
typedef struct _STOR_ADAPTER_CONTROL_POWER {
    STOR_POWER_CONTROL_HEADER Header;
    STOR_POWER_ACTION PowerAction;
    STOR_DEVICE_POWER_STATE PowerState;
} STOR_ADAPTER_CONTROL_POWER, *PSTOR_ADAPTER_CONTROL_POWER;

// storport/ns-storport-stor_max_operational_power
typedef struct _STOR_MAX_OPERATIONAL_POWER {
    ULONG Version;
    ULONG Size;
    ULONGLONG Value;
} STOR_MAX_OPERATIONAL_POWER, *PSTOR_MAX_OPERATIONAL_POWER;

// storport/ns-storport-stor_system_power_hints
typedef struct _STOR_SYSTEM_POWER_HINTS {
    ULONG Version;
    ULONG Size;
    RAID_SYSTEM_POWER SystemPower;
    ULONG ResumeLatencyMSec;
} STOR_SYSTEM_POWER_HINTS, *PSTOR_SYSTEM_POWER_HINTS;

// storport/ns-storport-stor_filter_resource_requirements
typedef struct _STOR_FILTER_RESOURCE_REQUIREMENTS {
    ULONG Version;
    ULONG Size;
    PIO_RESOURCE_REQUIREMENTS_LIST IoResourceRequirementsList;
} STOR_FILTER_RESOURCE_REQUIREMENTS, *PSTOR_FILTER_RESOURCE_REQUIREMENTS;

// storport/ns-storport-stor_reset_bus_synchronous_parameter
typedef struct _STOR_RESET_BUS_SYNCHRONOUS_PARAMETER {
    ULONG Version;
    ULONG Size;
    ULONG PathId;
    ULONG Reserved;
} STOR_RESET_BUS_SYNCHRONOUS_PARAMETER, *PSTOR_RESET_BUS_SYNCHRONOUS_PARAMETER;

// storport/ns-storport-stor_uc_device_usage
typedef struct _STOR_UC_DEVICE_USAGE {
    PSTOR_ADDRESS Address;
    SCSI_UC_DEVICE_USAGE_TYPE UsageType;
    BOOLEAN InUse;
} STOR_UC_DEVICE_USAGE, *PSTOR_UC_DEVICE_USAGE;

// storport/ns-storport-stor_unit_control_power
typedef struct _STOR_UNIT_CONTROL_POWER {
    PSTOR_ADDRESS Address;
    STOR_POWER_ACTION PowerAction;
    STOR_DEVICE_POWER_STATE PowerState;
} STOR_UNIT_CONTROL_POWER, *PSTOR_UNIT_CONTROL_POWER;

// storport/ns-storport-stor_unit_control_query_bus_type
typedef struct _STOR_UNIT_CONTROL_QUERY_BUS_TYPE {
    PSTOR_ADDRESS Address;
    ULONG BusType;
} STOR_UNIT_CONTROL_QUERY_BUS_TYPE, *PSTOR_UNIT_CONTROL_QUERY_BUS_TYPE;

// storport/ns-storport-_stor_unit_attributes
typedef struct _STOR_UNIT_ATTRIBUTES {
    ULONG DeviceAttentionSupported : 1;
    ULONG AsyncNotificationSupported : 1;
    ULONG D3ColdNotSupported : 1;
    ULONG BypassIOSupported : 1;
    ULONG Reserved : 28;
} STOR_UNIT_ATTRIBUTES, *PSTOR_UNIT_ATTRIBUTES;

// storport/ns-storport-_stor_request_info_v1
typedef struct _STOR_REQUEST_INFO_V1 {
    USHORT Version;
    USHORT Size;
    STOR_IO_PRIORITY_HINT PriorityHint;
    ULONG Flags;
    ULONG Key;
    ULONG Length;
    BOOLEAN IsWriteRequest;
    UCHAR Reserved[3];
} STOR_REQUEST_INFO_V1, *PSTOR_REQUEST_INFO_V1;

// table
typedef struct _STOR_REQUEST_INFO_V2 {
    USHORT Version;
    USHORT Size;
    STOR_IO_PRIORITY_HINT PriorityHint;
    ULONG Flags;
    ULONG Key;
    ULONG Length;
    BOOLEAN IsWriteRequest;
    UCHAR Reserved[3];
    PSTOR_UNICODE_STRING FileName;
    ULONG ProcessId;
} STOR_REQUEST_INFO_V2, *PSTOR_REQUEST_INFO_V2;

// storport/ns-storport-stor_set_event_logging
typedef struct _STOR_SET_EVENT_LOGGING {
    STORPORT_ETW_EVENT_CHANNEL Channel;
    BOOLEAN Enabled;
} STOR_SET_EVENT_LOGGING, *PSTOR_SET_EVENT_LOGGING;

// storport/ns-storport-_stor_log_event_details
typedef struct _STOR_LOG_EVENT_DETAILS {
    ULONG InterfaceRevision;
    ULONG Size;
    ULONG Flags;
    STOR_EVENT_ASSOCIATION_ENUM EventAssociation;
    ULONG PathId;
    ULONG TargetId;
    ULONG LunId;
    BOOLEAN StorportSpecificErrorCode;
    ULONG ErrorCode;
    ULONG UniqueId;
    ULONG DumpDataSize;
    PVOID DumpData;
    ULONG StringCount;
    PWSTR *StringList;
} STOR_LOG_EVENT_DETAILS, *PSTOR_LOG_EVENT_DETAILS;

// The exports of storport.sys that are functions in every build.
// storport/nf-storport-storportallocateregistrybuffer
PUCHAR StorPortAllocateRegistryBuffer(PVOID HwDeviceExtension, PULONG Length);

// storport/nf-storport-storportbusy
BOOLEAN StorPortBusy(PVOID HwDeviceExtension, ULONG RequestsToComplete);

// storport/nf-storport-storportcompleterequest
void StorPortCompleteRequest(
    PVOID HwDeviceExtension,
    UCHAR PathId,
    UCHAR TargetId,
    UCHAR Lun,
    UCHAR SrbStatus);

// table
ULONG StorPortConvertPhysicalAddressToUlong(STOR_PHYSICAL_ADDRESS Address);

// storport/nf-storport-storportconvertulongtophysicaladdress
STOR_PHYSICAL_ADDRESS StorPortConvertUlongToPhysicalAddress(
    ULONG_PTR UlongAddress);

// storport/nf-storport-storportdebugprint
void StorPortDebugPrint(ULONG DebugPrintLevel, PSTR DebugMessage, ...);

// storport/nf-storport-storportdevicebusy
BOOLEAN StorPortDeviceBusy(
    PVOID HwDeviceExtension,
    UCHAR PathId,
    UCHAR TargetId,
    UCHAR Lun,
    ULONG RequestsToComplete);

// storport/nf-storport-storportdeviceready
BOOLEAN StorPortDeviceReady(
    PVOID HwDeviceExtension,
    UCHAR PathId,
    UCHAR TargetId,
    UCHAR Lun);

// table
ULONG StorPortExtendedFunction(
    STORPORT_FUNCTION_CODE FunctionCode,
    PVOID HwDeviceExtension,
    ...);

// storport/nf-storport-storportfreedevicebase
void StorPortFreeDeviceBase(PVOID HwDeviceExtension, PVOID MappedAddress);

// storport/nf-storport-storportfreeregistrybuffer
void StorPortFreeRegistryBuffer(PVOID HwDeviceExtension, PUCHAR Buffer);

// storport/nf-storport-storportgetbusdata
ULONG StorPortGetBusData(
    PVOID DeviceExtension,
    ULONG BusDataType,
    ULONG SystemIoBusNumber,
    ULONG SlotNumber,
    PVOID Buffer,
    ULONG Length);

// storport/nf-storport-storportgetdevicebase
PVOID StorPortGetDeviceBase(
    PVOID HwDeviceExtension,
    INTERFACE_TYPE BusType,
    ULONG SystemIoBusNumber,
    STOR_PHYSICAL_ADDRESS IoAddress,
    ULONG NumberOfBytes,
    BOOLEAN InIoSpace);

// storport/nf-storport-storportgetlogicalunit
PVOID StorPortGetLogicalUnit(
    PVOID HwDeviceExtension,
    UCHAR PathId,
    UCHAR TargetId,
    UCHAR Lun);

// table
BOOLEAN StorPortGetMessageInterruptInformation(
    PVOID HwDeviceExtension,
    ULONG MessageId,
    PMESSAGE_INTERRUPT_INFORMATION InterruptInfo);

// storport/nf-storport-storportgetphysicaladdress
STOR_PHYSICAL_ADDRESS StorPortGetPhysicalAddress(
    PVOID HwDeviceExtension,
    PSCSI_REQUEST_BLOCK Srb,
    PVOID VirtualAddress,
    ULONG *Length);

// storport/nf-storport-storportgetscattergatherlist
PSTOR_SCATTER_GATHER_LIST StorPortGetScatterGatherList(
    PVOID HwDeviceExtension,
    PSCSI_REQUEST_BLOCK Srb);

// storport/nf-storport-storportgetuncachedextension
PVOID StorPortGetUncachedExtension(
    PVOID HwDeviceExtension,
    PPORT_CONFIGURATION_INFORMATION ConfigInfo,
    ULONG NumberOfBytes);

// storport/nf-storport-storportgetvirtualaddress
PVOID StorPortGetVirtualAddress(
    PVOID HwDeviceExtension,
    STOR_PHYSICAL_ADDRESS PhysicalAddress);

// storport/nf-storport-storportinitialize
ULONG StorPortInitialize(
    PVOID Argument1,
    PVOID Argument2,
    struct _HW_INITIALIZATION_DATA *HwInitializationData,
    PVOID HwContext);

// storport/nf-storport-storportlogerror
void StorPortLogError(
    PVOID HwDeviceExtension,
    PSCSI_REQUEST_BLOCK Srb,
    UCHAR PathId,
    UCHAR TargetId,
    UCHAR Lun,
    ULONG ErrorCode,
    ULONG UniqueId);

// storport/nf-storport-storportnotification
void StorPortNotification(
    SCSI_NOTIFICATION_TYPE NotificationType,
    PVOID HwDeviceExtension,
    ...);

// storport/nf-storport-storportpause
BOOLEAN StorPortPause(PVOID HwDeviceExtension, ULONG Timeout);

// storport/nf-storport-storportpausedevice
BOOLEAN StorPortPauseDevice(
    PVOID HwDeviceExtension,
    UCHAR PathId,
    UCHAR TargetId,
    UCHAR Lun,
    ULONG Timeout);

// storport/nf-storport-storportquerysystemtime
void StorPortQuerySystemTime(PLARGE_INTEGER CurrentTime);

// storport/nf-storport-storportready
BOOLEAN StorPortReady(PVOID HwDeviceExtension);

// storport/nf-storport-storportregistryread
BOOLEAN StorPortRegistryRead(
    PVOID HwDeviceExtension,
    PUCHAR ValueName,
    ULONG Global,
    ULONG Type,
    PUCHAR Buffer,
    PULONG BufferLength);

// storport/nf-storport-storportregistrywrite
BOOLEAN StorPortRegistryWrite(
    PVOID HwDeviceExtension,
    PUCHAR ValueName,
    ULONG Global,
    ULONG Type,
    PUCHAR Buffer,
    ULONG BufferLength);

// storport/nf-storport-storportresume
BOOLEAN StorPortResume(PVOID HwDeviceExtension);

// storport/nf-storport-storportresumedevice
BOOLEAN StorPortResumeDevice(
    PVOID HwDeviceExtension,
    UCHAR PathId,
    UCHAR TargetId,
    UCHAR Lun);

// storport/nf-storport-storportsetbusdatabyoffset
ULONG StorPortSetBusDataByOffset(
    PVOID DeviceExtension,
    ULONG BusDataType,
    ULONG SystemIoBusNumber,
    ULONG SlotNumber,
    PVOID Buffer,
    ULONG Offset,
    ULONG Length);

// storport/nf-storport-storportsetdevicequeuedepth
BOOLEAN StorPortSetDeviceQueueDepth(
    PVOID HwDeviceExtension,
    UCHAR PathId,
    UCHAR TargetId,
    UCHAR Lun,
    ULONG Depth);

// storport/nf-storport-storportstallexecution
void StorPortStallExecution(ULONG Delay);

// storport/nf-storport-storportsynchronizeaccess
BOOLEAN StorPortSynchronizeAccess(
    PVOID HwDeviceExtension,
    PSTOR_SYNCHRONIZED_ACCESS SynchronizedAccessRoutine,
    PVOID Context);

// storport/nf-storport-storportvalidaterange
BOOLEAN StorPortValidateRange(
    PVOID HwDeviceExtension,
    INTERFACE_TYPE BusType,
    ULONG SystemIoBusNumber,
    STOR_PHYSICAL_ADDRESS IoAddress,
    ULONG NumberOfBytes,
    BOOLEAN InIoSpace);

// Exports that the WDK's header has macros in the place of on x64, unless DBG is
// 1 (the table's notes): there a driver reads and writes memory and ports itself,
// so it must not find functions here either.
#if !defined(_AMD64_) || (defined(DBG) && DBG)

void StorPortMoveMemory(PVOID WriteBuffer, PVOID ReadBuffer, ULONG Length);
void StorPortReadPortBufferUchar(
    PVOID HwDeviceExtension,
    PUCHAR Port,
    PUCHAR Buffer,
    ULONG Count);
void StorPortReadPortBufferUlong(
    PVOID HwDeviceExtension,
    PULONG Port,
    PULONG Buffer,
    ULONG Count);
void StorPortReadPortBufferUshort(
    PVOID HwDeviceExtension,
    PUSHORT Port,
    PUSHORT Buffer,
    ULONG Count);
UCHAR StorPortReadPortUchar(PVOID HwDeviceExtension, PUCHAR Port);
ULONG StorPortReadPortUlong(PVOID HwDeviceExtension, PULONG Port);
USHORT StorPortReadPortUshort(PVOID HwDeviceExtension, PUSHORT Port);
void StorPortReadRegisterBufferUchar(
    PVOID HwDeviceExtension,
    PUCHAR Register,
    PUCHAR Buffer,
    ULONG Count);
void StorPortReadRegisterBufferUlong(
    PVOID HwDeviceExtension,
    PULONG Register,
    PULONG Buffer,
    ULONG Count);
void StorPortReadRegisterBufferUshort(
    PVOID HwDeviceExtension,
    PUSHORT Register,
    PUSHORT Buffer,
    ULONG Count);
UCHAR StorPortReadRegisterUchar(PVOID HwDeviceExtension, PUCHAR Register);
ULONG StorPortReadRegisterUlong(PVOID HwDeviceExtension, PULONG Register);
USHORT StorPortReadRegisterUshort(PVOID HwDeviceExtension, PUSHORT Register);
void StorPortWritePortBufferUchar(
    PVOID HwDeviceExtension,
    PUCHAR Port,
    PUCHAR Buffer,
    ULONG Count);
void StorPortWritePortBufferUlong(
    PVOID HwDeviceExtension,
    PULONG Port,
    PULONG Buffer,
    ULONG Count);
void StorPortWritePortBufferUshort(
    PVOID HwDeviceExtension,
    PUSHORT Port,
    PUSHORT Buffer,
    ULONG Count);
void StorPortWritePortUchar(PVOID HwDeviceExtension, PUCHAR Port, UCHAR Value);
void StorPortWritePortUlong(PVOID HwDeviceExtension, PULONG Port, ULONG Value);
void StorPortWritePortUshort(PVOID HwDeviceExtension, PUSHORT Port, USHORT Value);
void StorPortWriteRegisterBufferUchar(
    PVOID HwDeviceExtension,
    PUCHAR Register,
    PUCHAR Buffer,
    ULONG Count);
void StorPortWriteRegisterBufferUlong(
    PVOID HwDeviceExtension,
    PULONG Register,
    PULONG Buffer,
    ULONG Count);
void StorPortWriteRegisterBufferUshort(
    PVOID HwDeviceExtension,
    PUSHORT Register,
    PUSHORT Buffer,
    ULONG Count);
void StorPortWriteRegisterUchar(
    PVOID HwDeviceExtension,
    PUCHAR Register,
    UCHAR Value);
void StorPortWriteRegisterUlong(
    PVOID HwDeviceExtension,
    PULONG Register,
    ULONG Value);
void StorPortWriteRegisterUshort(
    PVOID HwDeviceExtension,
    PUSHORT Register,
    USHORT Value);

#endif
