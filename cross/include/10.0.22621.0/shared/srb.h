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
#define SRB_FUNCTION_SHUTDOWN              0x07
#define SRB_FUNCTION_FLUSH                 0x08
#define SRB_FUNCTION_RESET_BUS             0x12
#define SRB_FUNCTION_RESET_DEVICE          0x13
#define SRB_FUNCTION_RESET_LOGICAL_UNIT    0x20
#define SRB_FUNCTION_POWER                 0x24
#define SRB_FUNCTION_PNP                   0x25
#define SRB_FUNCTION_STORAGE_REQUEST_BLOCK 0x28

// srb/ns-srb-_scsi_request_block, member SrbStatus. 0x80 is a flag
// beside the status.
#define SRB_STATUS_PENDING           0x00
#define SRB_STATUS_SUCCESS           0x01
#define SRB_STATUS_ABORTED           0x02
#define SRB_STATUS_ERROR             0x04
#define SRB_STATUS_BUSY              0x05
#define SRB_STATUS_INVALID_REQUEST   0x06
#define SRB_STATUS_INVALID_PATH_ID   0x07
#define SRB_STATUS_NO_DEVICE         0x08
#define SRB_STATUS_BUS_RESET         0x0E
#define SRB_STATUS_NO_HBA            0x11
#define SRB_STATUS_DATA_OVERRUN      0x12
#define SRB_STATUS_INVALID_LUN       0x20
#define SRB_STATUS_INVALID_TARGET_ID 0x21
#define SRB_STATUS_AUTOSENSE_VALID   0x80

// SAM: status codes, in the WDK's scsi.h.
#define SCSISTAT_GOOD            0x00
#define SCSISTAT_CHECK_CONDITION 0x02

// srb/ns-srb-_scsi_request_block, member SrbFlags.
#define SRB_FLAGS_DATA_IN  0x40
#define SRB_FLAGS_DATA_OUT 0x80

// SCSI_PNP_REQUEST_BLOCK: SrbPnPFlags.
#define SRB_PNP_FLAGS_ADAPTER_REQUEST 0x01

// storport/ns-storport-_hw_initialization_data~r1, members SrbTypeFlags and
// AddressTypeFlags.
#define SRB_TYPE_FLAG_SCSI_REQUEST_BLOCK    0x01
#define SRB_TYPE_FLAG_STORAGE_REQUEST_BLOCK 0x02
#define ADDRESS_TYPE_FLAG_BTL8              0x01

// STOR_ADDRESS: Type, AddressLength.
#define STOR_ADDRESS_TYPE_BTL8        1
#define STOR_ADDR_BTL8_ADDRESS_LENGTH 4

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
    SrbExDataTypeScsiCdb16 = 64,
    SrbExDataTypeScsiCdb32 = 65,
    SrbExDataTypePnP = 98,
} SRBEXDATATYPE, *PSRBEXDATATYPE;

// storport/ns-storport-_srbex_data
typedef struct __declspec(align(8)) _SRBEX_DATA {
    SRBEXDATATYPE Type;
    ULONG Length;
    UCHAR Data[1];
} SRBEX_DATA, *PSRBEX_DATA;

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

// storport/ne-storport-_stor_device_power_state
typedef enum _STOR_DEVICE_POWER_STATE {
    StorPowerDeviceD0 = 1,
    StorPowerDeviceD3 = 4,
} STOR_DEVICE_POWER_STATE, *PSTOR_DEVICE_POWER_STATE;

// storport/ne-storport-stor_power_action
typedef enum {
    StorPowerActionNone = 0,
} STOR_POWER_ACTION, *PSTOR_POWER_ACTION;

// table
typedef enum {
    StorRemoveDevice = 2,
    StorStopDevice = 4,
    StorSurpriseRemoval = 23,
} STOR_PNP_ACTION, *PSTOR_PNP_ACTION;

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
