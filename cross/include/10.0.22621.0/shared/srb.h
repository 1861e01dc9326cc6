// SCSI and storage request blocks, which Storport passes to a miniport.
//
// The comment before a declaration is its source: a page of the driver reference
// (windows-driver-docs-ddi, wdk-ddi-src/content), or `table`: the table of the compiled
// WDK 10.0.22621.0 (cross/abi/storport-wdk.json). A test compares every offset, size and value
// with that table. The file was written from these facts. No part of the WDK is copied.
#pragma once

#include <wdm.h>

// srb/ns-srb-_scsi_request_block, member Function; also
// STORAGE_REQUEST_BLOCK.SrbFunction.
#define SRB_FUNCTION_EXECUTE_SCSI          0x00
#define SRB_FUNCTION_CLAIM_DEVICE          0x01
#define SRB_FUNCTION_IO_CONTROL            0x02
#define SRB_FUNCTION_RECEIVE_EVENT         0x03
#define SRB_FUNCTION_RELEASE_QUEUE         0x04
#define SRB_FUNCTION_ATTACH_DEVICE         0x05
#define SRB_FUNCTION_RELEASE_DEVICE        0x06
#define SRB_FUNCTION_SHUTDOWN              0x07
#define SRB_FUNCTION_FLUSH                 0x08
#define SRB_FUNCTION_PROTOCOL_COMMAND      0x09
#define SRB_FUNCTION_EXECUTE_NVME          0x0A
#define SRB_FUNCTION_ABORT_COMMAND         0x10
#define SRB_FUNCTION_RELEASE_RECOVERY      0x11
#define SRB_FUNCTION_RESET_BUS             0x12
#define SRB_FUNCTION_RESET_DEVICE          0x13
#define SRB_FUNCTION_TERMINATE_IO          0x14
#define SRB_FUNCTION_FLUSH_QUEUE           0x15
#define SRB_FUNCTION_REMOVE_DEVICE         0x16
#define SRB_FUNCTION_WMI                   0x17
#define SRB_FUNCTION_LOCK_QUEUE            0x18
#define SRB_FUNCTION_UNLOCK_QUEUE          0x19
#define SRB_FUNCTION_QUIESCE_DEVICE        0x1A
#define SRB_FUNCTION_RESET_LOGICAL_UNIT    0x20
#define SRB_FUNCTION_SET_LINK_TIMEOUT      0x21
#define SRB_FUNCTION_LINK_TIMEOUT_OCCURRED 0x22
#define SRB_FUNCTION_LINK_TIMEOUT_COMPLETE 0x23
#define SRB_FUNCTION_POWER                 0x24
#define SRB_FUNCTION_PNP                   0x25
#define SRB_FUNCTION_DUMP_POINTERS         0x26
#define SRB_FUNCTION_FREE_DUMP_POINTERS    0x27
#define SRB_FUNCTION_STORAGE_REQUEST_BLOCK 0x28

// srb/ns-srb-_scsi_request_block, member SrbStatus. Values from 0x40 up
// are flags beside the status.
#define SRB_STATUS_PENDING                0x00
#define SRB_STATUS_SUCCESS                0x01
#define SRB_STATUS_ABORTED                0x02
#define SRB_STATUS_ABORT_FAILED           0x03
#define SRB_STATUS_ERROR                  0x04
#define SRB_STATUS_BUSY                   0x05
#define SRB_STATUS_INVALID_REQUEST        0x06
#define SRB_STATUS_INVALID_PATH_ID        0x07
#define SRB_STATUS_NO_DEVICE              0x08
#define SRB_STATUS_TIMEOUT                0x09
#define SRB_STATUS_SELECTION_TIMEOUT      0x0A
#define SRB_STATUS_COMMAND_TIMEOUT        0x0B
#define SRB_STATUS_MESSAGE_REJECTED       0x0D
#define SRB_STATUS_BUS_RESET              0x0E
#define SRB_STATUS_PARITY_ERROR           0x0F
#define SRB_STATUS_REQUEST_SENSE_FAILED   0x10
#define SRB_STATUS_NO_HBA                 0x11
#define SRB_STATUS_DATA_OVERRUN           0x12
#define SRB_STATUS_UNEXPECTED_BUS_FREE    0x13
#define SRB_STATUS_PHASE_SEQUENCE_FAILURE 0x14
#define SRB_STATUS_BAD_SRB_BLOCK_LENGTH   0x15
#define SRB_STATUS_REQUEST_FLUSHED        0x16
#define SRB_STATUS_INVALID_LUN            0x20
#define SRB_STATUS_INVALID_TARGET_ID      0x21
#define SRB_STATUS_BAD_FUNCTION           0x22
#define SRB_STATUS_ERROR_RECOVERY         0x23
#define SRB_STATUS_NOT_POWERED            0x24
#define SRB_STATUS_LINK_DOWN              0x25
#define SRB_STATUS_INSUFFICIENT_RESOURCES 0x26
#define SRB_STATUS_THROTTLED_REQUEST      0x27
#define SRB_STATUS_INVALID_PARAMETER      0x28
#define SRB_STATUS_INTERNAL_ERROR         0x30
#define SRB_STATUS_QUEUE_FROZEN           0x40
#define SRB_STATUS_AUTOSENSE_VALID        0x80

// srb/ns-srb-_scsi_request_block, member SrbFlags.
#define SRB_FLAGS_NO_DATA_TRANSFER         0x00
#define SRB_FLAGS_QUEUE_ACTION_ENABLE      0x02
#define SRB_FLAGS_DISABLE_DISCONNECT       0x04
#define SRB_FLAGS_DISABLE_SYNCH_TRANSFER   0x08
#define SRB_FLAGS_BYPASS_FROZEN_QUEUE      0x10
#define SRB_FLAGS_DISABLE_AUTOSENSE        0x20
#define SRB_FLAGS_DATA_IN                  0x40
#define SRB_FLAGS_DATA_OUT                 0x80
#define SRB_FLAGS_NO_QUEUE_FREEZE          0x0100
#define SRB_FLAGS_ADAPTER_CACHE_ENABLE     0x0200
#define SRB_FLAGS_FREE_SENSE_BUFFER        0x0400
#define SRB_FLAGS_D3_PROCESSING            0x0800
#define SRB_FLAGS_SEQUENTIAL_REQUIRED      0x1000
#define SRB_FLAGS_IS_ACTIVE                0x00010000
#define SRB_FLAGS_ALLOCATED_FROM_ZONE      0x00020000
#define SRB_FLAGS_SGLIST_FROM_POOL         0x00040000
#define SRB_FLAGS_BYPASS_LOCKED_QUEUE      0x00080000
#define SRB_FLAGS_NO_KEEP_AWAKE            0x00100000
#define SRB_FLAGS_PORT_DRIVER_ALLOCSENSE   0x00200000
#define SRB_FLAGS_PORT_DRIVER_SENSEHASPORT 0x00400000
#define SRB_FLAGS_DONT_START_NEXT_PACKET   0x00800000
#define SRB_FLAGS_PORT_DRIVER_RESERVED     0x0F000000
#define SRB_FLAGS_CLASS_DRIVER_RESERVED    0xF0000000

// srb/ns-srb-_scsi_request_block, member QueueAction.
#define SRB_SIMPLE_TAG_REQUEST        0x20
#define SRB_HEAD_OF_QUEUE_TAG_REQUEST 0x21
#define SRB_ORDERED_QUEUE_TAG_REQUEST 0x22

// Flags of the request blocks for power, PnP, WMI and I/O control.
#define SRB_IOCTL_FLAGS_ADAPTER_REQUEST    0x01
#define SRB_PNP_FLAGS_ADAPTER_REQUEST      0x01
#define SRB_POWER_FLAGS_ADAPTER_REQUEST    0x01
#define SRB_PROTOCOL_FLAGS_ADAPTER_REQUEST 0x01
#define SRB_WMI_FLAGS_ADAPTER_REQUEST      0x01

// srb/ns-srb-_storage_request_block: Signature, Version; the length of a variable CDB.
#define STORAGE_REQUEST_BLOCK_VERSION_1    0x01
#define SRB_SIGNATURE                      0x53524258
#define SRBEX_DATA_SCSI_CDB_VAR_LENGTH_MAX 0xFFFFFFFF

// storport/ns-storport-_hw_initialization_data~r1, members SrbTypeFlags and
// AddressTypeFlags.
#define SRB_TYPE_FLAG_SCSI_REQUEST_BLOCK    0x01
#define SRB_TYPE_FLAG_STORAGE_REQUEST_BLOCK 0x02
#define ADDRESS_TYPE_FLAG_BTL8 0x01

// The shapes of request blocks and of addresses.
#define SRB_TYPE_SCSI_REQUEST_BLOCK    0
#define SRB_TYPE_STORAGE_REQUEST_BLOCK 1
#define SRB_TYPE_NVME_REQUEST_BLOCK    2
#define STORAGE_ADDRESS_TYPE_BTL8 0
#define STOR_ADDRESS_TYPE_UNKNOWN 0
#define STORAGE_ADDRESS_TYPE_NVME 1
#define STOR_ADDRESS_TYPE_BTL8    1
#define STOR_ADDRESS_TYPE_MAX     65535
#define STOR_ADDR_BTL8_ADDRESS_LENGTH 4

// Events of SRB_FUNCTION_RECEIVE_EVENT.
#define SRBEV_BUS_RESET               0x01
#define SRBEV_SCSI_ASYNC_NOTIFICATION 0x02

// STOR_DEVICE_CAPABILITIES_EX: Version.
#define STOR_DEVICE_CAPABILITIES_EX_VERSION_1 1

// storport/ns-storport-_stor_address
typedef struct __declspec(align(8)) _STOR_ADDRESS {
    USHORT Type;
    USHORT Port;
    ULONG AddressLength;
    UCHAR AddressData[1];
} STOR_ADDRESS, *PSTOR_ADDRESS;

// storport/ns-storport-_stor_addr_btl8
typedef struct __declspec(align(8)) _STOR_ADDR_BTL8 {
    USHORT Type;
    USHORT Port;
    ULONG AddressLength;
    UCHAR Path;
    UCHAR Target;
    UCHAR Lun;
    UCHAR Reserved;
} STOR_ADDR_BTL8, *PSTOR_ADDR_BTL8;

// storport/ns-storport-_scsi_request_block
typedef struct _SCSI_REQUEST_BLOCK {
    USHORT Length;
    UCHAR Function;
    UCHAR SrbStatus;
    UCHAR ScsiStatus;
    UCHAR PathId;
    UCHAR TargetId;
    UCHAR Lun;
    UCHAR QueueTag;
    UCHAR QueueAction;
    UCHAR CdbLength;
    UCHAR SenseInfoBufferLength;
    ULONG SrbFlags;
    ULONG DataTransferLength;
    ULONG TimeOutValue;
    PVOID DataBuffer;
    PVOID SenseInfoBuffer;
    struct _SCSI_REQUEST_BLOCK *NextSrb;
    PVOID OriginalRequest;
    PVOID SrbExtension;
    union {
        ULONG InternalStatus;
        ULONG LinkTimeoutValue;
        ULONG QueueSortKey;
    };
    ULONG Reserved;
    UCHAR Cdb[16];
} SCSI_REQUEST_BLOCK, *PSCSI_REQUEST_BLOCK;

// table
typedef enum _SRBEXDATATYPE {
    SrbExDataTypeUnknown = 0,
    SrbExDataTypeBidirectional = 1,
    SrbExDataTypeScsiCdb16 = 64,
    SrbExDataTypeScsiCdb32 = 65,
    SrbExDataTypeScsiCdbVar = 66,
    SrbExDataTypeNvmeCommand = 67,
    SrbExDataTypeWmi = 96,
    SrbExDataTypePower = 97,
    SrbExDataTypePnP = 98,
    SrbExDataTypeIoInfo = 128,
    SrbExDataTypePassthroughDirect = 160,
    SrbExDataTypeMSReservedStart = (int)0xF0000000,
    SrbExDataTypeReserved = -1,
} SRBEXDATATYPE, *PSRBEXDATATYPE;

// storport/ns-storport-_srbex_data
typedef struct __declspec(align(8)) _SRBEX_DATA {
    SRBEXDATATYPE Type;
    ULONG Length;
    UCHAR Data[1];
} SRBEX_DATA, *PSRBEX_DATA;

// storport/ns-storport-_srbex_data_bidirectional
typedef struct _SRBEX_DATA_BIDIRECTIONAL {
    SRBEXDATATYPE Type;
    ULONG Length;
    ULONG DataInTransferLength;
    ULONG Reserved1;
    PVOID DataInBuffer;
} SRBEX_DATA_BIDIRECTIONAL, *PSRBEX_DATA_BIDIRECTIONAL;

// storport/ns-storport-_srbex_data_scsi_cdb16
typedef struct _SRBEX_DATA_SCSI_CDB16 {
    SRBEXDATATYPE Type;
    ULONG Length;
    UCHAR ScsiStatus;
    UCHAR SenseInfoBufferLength;
    UCHAR CdbLength;
    UCHAR Reserved;
    ULONG Reserved1;
    PVOID SenseInfoBuffer;
    UCHAR Cdb[16];
} SRBEX_DATA_SCSI_CDB16, *PSRBEX_DATA_SCSI_CDB16;

// storport/ns-storport-_srbex_data_scsi_cdb32
typedef struct _SRBEX_DATA_SCSI_CDB32 {
    SRBEXDATATYPE Type;
    ULONG Length;
    UCHAR ScsiStatus;
    UCHAR SenseInfoBufferLength;
    UCHAR CdbLength;
    UCHAR Reserved;
    ULONG Reserved1;
    PVOID SenseInfoBuffer;
    UCHAR Cdb[32];
} SRBEX_DATA_SCSI_CDB32, *PSRBEX_DATA_SCSI_CDB32;

// storport/ns-storport-_srbex_data_scsi_cdb_var
typedef struct _SRBEX_DATA_SCSI_CDB_VAR {
    SRBEXDATATYPE Type;
    ULONG Length;
    UCHAR ScsiStatus;
    UCHAR SenseInfoBufferLength;
    UCHAR Reserved[2];
    ULONG CdbLength;
    ULONG Reserved1[2];
    PVOID SenseInfoBuffer;
    UCHAR Cdb[1];
} SRBEX_DATA_SCSI_CDB_VAR, *PSRBEX_DATA_SCSI_CDB_VAR;

// storport/ns-storport-_srbex_data_wmi
typedef struct _SRBEX_DATA_WMI {
    SRBEXDATATYPE Type;
    ULONG Length;
    UCHAR WMISubFunction;
    UCHAR WMIFlags;
    UCHAR Reserved[2];
    ULONG Reserved1;
    PVOID DataPath;
} SRBEX_DATA_WMI, *PSRBEX_DATA_WMI;

// storport/ne-storport-_stor_device_power_state
typedef enum _STOR_DEVICE_POWER_STATE {
    StorPowerDeviceUnspecified = 0,
    StorPowerDeviceD0 = 1,
    StorPowerDeviceD1 = 2,
    StorPowerDeviceD2 = 3,
    StorPowerDeviceD3 = 4,
    StorPowerDeviceMaximum = 5,
} STOR_DEVICE_POWER_STATE, *PSTOR_DEVICE_POWER_STATE;

// storport/ne-storport-stor_power_action
typedef enum {
    StorPowerActionNone = 0,
    StorPowerActionReserved = 1,
    StorPowerActionSleep = 2,
    StorPowerActionHibernate = 3,
    StorPowerActionShutdown = 4,
    StorPowerActionShutdownReset = 5,
    StorPowerActionShutdownOff = 6,
    StorPowerActionWarmEject = 7,
} STOR_POWER_ACTION, *PSTOR_POWER_ACTION;

// table
typedef enum {
    StorStartDevice = 0,
    StorRemoveDevice = 2,
    StorStopDevice = 4,
    StorQueryCapabilities = 9,
    StorQueryResourceRequirements = 11,
    StorFilterResourceRequirements = 13,
    StorSurpriseRemoval = 23,
} STOR_PNP_ACTION, *PSTOR_PNP_ACTION;

// storport/ns-storport-_srbex_data_power
typedef struct __declspec(align(8)) _SRBEX_DATA_POWER {
    SRBEXDATATYPE Type;
    ULONG Length;
    UCHAR SrbPowerFlags;
    UCHAR Reserved[3];
    STOR_DEVICE_POWER_STATE DevicePowerState;
    STOR_POWER_ACTION PowerAction;
} SRBEX_DATA_POWER, *PSRBEX_DATA_POWER;

// storport/ns-storport-_srbex_data_pnp
typedef struct __declspec(align(8)) _SRBEX_DATA_PNP {
    SRBEXDATATYPE Type;
    ULONG Length;
    UCHAR PnPSubFunction;
    UCHAR Reserved[3];
    STOR_PNP_ACTION PnPAction;
    ULONG SrbPnPFlags;
    ULONG Reserved1;
} SRBEX_DATA_PNP, *PSRBEX_DATA_PNP;

// storport/ns-storport-_srbex_data_io_info
typedef struct __declspec(align(8)) _SRBEX_DATA_IO_INFO {
    SRBEXDATATYPE Type;
    ULONG Length;
    ULONG Flags;
    ULONG Key;
    ULONG RWLength;
    BOOLEAN IsWriteRequest;
    UCHAR CachePriority;
    UCHAR Reserved[2];
    ULONG Reserved1[2];
} SRBEX_DATA_IO_INFO, *PSRBEX_DATA_IO_INFO;

// table
typedef struct __declspec(align(8)) _STORAGE_REQUEST_BLOCK_HEADER {
    USHORT Length;
    UCHAR Function;
    UCHAR SrbStatus;
} STORAGE_REQUEST_BLOCK_HEADER, *PSTORAGE_REQUEST_BLOCK_HEADER;

// storport/ns-storport-_storage_request_block
typedef struct _STORAGE_REQUEST_BLOCK {
    USHORT Length;
    UCHAR Function;
    UCHAR SrbStatus;
    ULONG ReservedUlong1;
    ULONG Signature;
    ULONG Version;
    ULONG SrbLength;
    ULONG SrbFunction;
    ULONG SrbFlags;
    ULONG ReservedUlong2;
    ULONG RequestTag;
    USHORT RequestPriority;
    USHORT RequestAttribute;
    ULONG TimeOutValue;
    ULONG SystemStatus;
    ULONG ZeroGuard1;
    ULONG AddressOffset;
    ULONG NumSrbExData;
    ULONG DataTransferLength;
    PVOID DataBuffer;
    PVOID ZeroGuard2;
    PVOID OriginalRequest;
    PVOID ClassContext;
    PVOID PortContext;
    PVOID MiniportContext;
    struct _STORAGE_REQUEST_BLOCK *NextSrb;
    ULONG SrbExDataOffset[1];
} STORAGE_REQUEST_BLOCK, *PSTORAGE_REQUEST_BLOCK;

// storport/ns-storport-_scsi_power_request_block
typedef struct _SCSI_POWER_REQUEST_BLOCK {
    USHORT Length;
    UCHAR Function;
    UCHAR SrbStatus;
    UCHAR SrbPowerFlags;
    UCHAR PathId;
    UCHAR TargetId;
    UCHAR Lun;
    STOR_DEVICE_POWER_STATE DevicePowerState;
    ULONG SrbFlags;
    ULONG DataTransferLength;
    ULONG TimeOutValue;
    PVOID DataBuffer;
    PVOID SenseInfoBuffer;
    struct _SCSI_REQUEST_BLOCK *NextSrb;
    PVOID OriginalRequest;
    PVOID SrbExtension;
    STOR_POWER_ACTION PowerAction;
    ULONG Reserved;
    UCHAR Reserved5[16];
} SCSI_POWER_REQUEST_BLOCK, *PSCSI_POWER_REQUEST_BLOCK;

// storport/ns-storport-_scsi_pnp_request_block
typedef struct _SCSI_PNP_REQUEST_BLOCK {
    USHORT Length;
    UCHAR Function;
    UCHAR SrbStatus;
    UCHAR PnPSubFunction;
    UCHAR PathId;
    UCHAR TargetId;
    UCHAR Lun;
    STOR_PNP_ACTION PnPAction;
    ULONG SrbFlags;
    ULONG DataTransferLength;
    ULONG TimeOutValue;
    PVOID DataBuffer;
    PVOID SenseInfoBuffer;
    struct _SCSI_REQUEST_BLOCK *NextSrb;
    PVOID OriginalRequest;
    PVOID SrbExtension;
    ULONG SrbPnPFlags;
    ULONG Reserved;
    UCHAR Reserved4[16];
} SCSI_PNP_REQUEST_BLOCK, *PSCSI_PNP_REQUEST_BLOCK;

// storport/ns-storport-_scsi_wmi_request_block
typedef struct _SCSI_WMI_REQUEST_BLOCK {
    USHORT Length;
    UCHAR Function;
    UCHAR SrbStatus;
    UCHAR WMISubFunction;
    UCHAR PathId;
    UCHAR TargetId;
    UCHAR Lun;
    UCHAR Reserved1;
    UCHAR WMIFlags;
    UCHAR Reserved2[2];
    ULONG SrbFlags;
    ULONG DataTransferLength;
    ULONG TimeOutValue;
    PVOID DataBuffer;
    PVOID DataPath;
    PVOID Reserved3;
    PVOID OriginalRequest;
    PVOID SrbExtension;
    ULONG Reserved4;
    ULONG Reserved6;
    UCHAR Reserved5[16];
} SCSI_WMI_REQUEST_BLOCK, *PSCSI_WMI_REQUEST_BLOCK;

// storport/ns-storport-_stor_device_capabilities
typedef struct _STOR_DEVICE_CAPABILITIES {
    USHORT Version;
    ULONG DeviceD1 : 1;
    ULONG DeviceD2 : 1;
    ULONG LockSupported : 1;
    ULONG EjectSupported : 1;
    ULONG Removable : 1;
    ULONG DockDevice : 1;
    ULONG UniqueID : 1;
    ULONG SilentInstall : 1;
    ULONG SurpriseRemovalOK : 1;
    ULONG NoDisplayInUI : 1;
} STOR_DEVICE_CAPABILITIES, *PSTOR_DEVICE_CAPABILITIES;

// storport/ns-storport-_stor_device_capabilities_ex
typedef struct _STOR_DEVICE_CAPABILITIES_EX {
    USHORT Version;
    USHORT Size;
    ULONG DeviceD1 : 1;
    ULONG DeviceD2 : 1;
    ULONG LockSupported : 1;
    ULONG EjectSupported : 1;
    ULONG Removable : 1;
    ULONG DockDevice : 1;
    ULONG UniqueID : 1;
    ULONG SilentInstall : 1;
    ULONG RawDeviceOK : 1;
    ULONG SurpriseRemovalOK : 1;
    ULONG NoDisplayInUI : 1;
    ULONG DefaultWriteCacheEnabled : 1;
    ULONG Reserved0 : 20;
    ULONG Address;
    ULONG UINumber;
    ULONG Reserved1[2];
} STOR_DEVICE_CAPABILITIES_EX, *PSTOR_DEVICE_CAPABILITIES_EX;
