//! The layouts of storport.h and srb.h as typed offsets, and their values, under the headers'
//! own names.
#![expect(non_upper_case_globals, reason = "the names of the C headers")]

use super::Field;

macro_rules! structures {
    ($($(#[$doc:meta])* $module:ident = $name:literal, $bytes:literal {
        $($field:ident: $type:ty = $offset:literal,)*
    })*) => {
        $($(#[$doc])* pub(crate) mod $module {
            use super::Field;
            pub(crate) const SIZE: usize = $bytes;
            // All fields are inside the structure.
            $(const _: () = assert!($offset + size_of::<$type>() <= SIZE);)*
            $(pub(crate) const $field: Field<$type> = Field::at($offset);)*
        })*

        /// Every layout above, for comparison with the headers' table.
        #[cfg(test)]
        const LAYOUTS: &[(&str, usize, &[(&str, usize, usize)])] = &[$(
            ($name, $bytes, &[$((stringify!($field), $offset, size_of::<$type>()),)*]),
        )*];
    };
}

structures! {
    hw_initialization_data = "_HW_INITIALIZATION_DATA", 208 {
        HwInitializationDataSize: u32 = 0,
        AdapterInterfaceType: u32 = 4,
        HwInitialize: usize = 8,
        HwStartIo: usize = 16,
        HwInterrupt: usize = 24,
        HwFindAdapter: usize = 32,
        HwResetBus: usize = 40,
        HwDmaStarted: usize = 48,
        HwAdapterState: usize = 56,
        DeviceExtensionSize: u32 = 64,
        SpecificLuExtensionSize: u32 = 68,
        SrbExtensionSize: u32 = 72,
        NumberOfAccessRanges: u32 = 76,
        MapBuffers: u8 = 88,
        NeedPhysicalAddresses: u8 = 89,
        TaggedQueuing: u8 = 90,
        AutoRequestSense: u8 = 91,
        MultipleRequestPerLu: u8 = 92,
        HwAdapterControl: usize = 120,
        HwBuildIo: usize = 128,
        HwTracingEnabled: usize = 176,
        FeatureSupport: u32 = 184,
        SrbTypeFlags: u32 = 188,
        AddressTypeFlags: u32 = 192,
        HwUnitControl: usize = 200,
    }
    port_configuration_information = "_PORT_CONFIGURATION_INFORMATION", 224 {
        Length: u32 = 0,
        SystemIoBusNumber: u32 = 4,
        AdapterInterfaceType: u32 = 8,
        BusInterruptLevel: u32 = 12,
        BusInterruptVector: u32 = 16,
        InterruptMode: u32 = 20,
        MaximumTransferLength: u32 = 24,
        NumberOfPhysicalBreaks: u32 = 28,
        DmaChannel: u32 = 32,
        DmaPort: u32 = 36,
        AlignmentMask: u32 = 48,
        NumberOfAccessRanges: u32 = 52,
        AccessRanges: usize = 56,
        NumberOfBuses: u8 = 72,
        ScatterGather: u8 = 81,
        Master: u8 = 82,
        CachesData: u8 = 83,
        Dma32BitAddresses: u8 = 87,
        MapBuffers: u8 = 89,
        NeedPhysicalAddresses: u8 = 90,
        TaggedQueuing: u8 = 91,
        AutoRequestSense: u8 = 92,
        MultipleRequestPerLu: u8 = 93,
        MaximumNumberOfTargets: u8 = 97,
        SrbType: u8 = 98,
        SlotNumber: u32 = 100,
        DeviceExtensionSize: u32 = 132,
        SpecificLuExtensionSize: u32 = 136,
        SrbExtensionSize: u32 = 140,
        Dma64BitAddresses: u8 = 144,
        MaximumNumberOfLogicalUnits: u8 = 146,
        WmiDataProvider: u8 = 147,
        SynchronizationModel: u32 = 148,
        HwMSInterruptRoutine: usize = 152,
        InterruptSynchronizationMode: u32 = 160,
        VirtualDevice: u8 = 196,
        DumpMode: u8 = 197,
        MaxNumberOfIO: u32 = 204,
        MaxIOsPerLun: u32 = 208,
        InitialLunQueueDepth: u32 = 212,
        BusResetHoldTime: u32 = 216,
    }
    access_range = "_ACCESS_RANGE", 16 {
        RangeStart: u64 = 0,
        RangeLength: u32 = 8,
        RangeInMemory: u8 = 12,
    }
    scsi_request_block = "_SCSI_REQUEST_BLOCK", 88 {
        Length: u16 = 0,
        Function: u8 = 2,
        SrbStatus: u8 = 3,
        ScsiStatus: u8 = 4,
        PathId: u8 = 5,
        TargetId: u8 = 6,
        Lun: u8 = 7,
        QueueTag: u8 = 8,
        QueueAction: u8 = 9,
        CdbLength: u8 = 10,
        SenseInfoBufferLength: u8 = 11,
        SrbFlags: u32 = 12,
        DataTransferLength: u32 = 16,
        TimeOutValue: u32 = 20,
        DataBuffer: usize = 24,
        SenseInfoBuffer: usize = 32,
        OriginalRequest: usize = 48,
        SrbExtension: usize = 56,
        Cdb: [u8; 16] = 72,
    }
    storage_request_block = "_STORAGE_REQUEST_BLOCK", 128 {
        Length: u16 = 0,
        Function: u8 = 2,
        SrbStatus: u8 = 3,
        Signature: u32 = 8,
        Version: u32 = 12,
        SrbLength: u32 = 16,
        SrbFunction: u32 = 20,
        SrbFlags: u32 = 24,
        RequestTag: u32 = 32,
        RequestAttribute: u16 = 38,
        TimeOutValue: u32 = 40,
        AddressOffset: u32 = 52,
        NumSrbExData: u32 = 56,
        DataTransferLength: u32 = 60,
        DataBuffer: usize = 64,
        OriginalRequest: usize = 80,
        MiniportContext: usize = 104,
        SrbExDataOffset: u32 = 120,
    }
    stor_addr_btl8 = "_STOR_ADDR_BTL8", 16 {
        Type: u16 = 0,
        Port: u16 = 2,
        AddressLength: u32 = 4,
        Path: u8 = 8,
        Target: u8 = 9,
        Lun: u8 = 10,
    }
    srbex_data_scsi_cdb16 = "_SRBEX_DATA_SCSI_CDB16", 40 {
        Type: u32 = 0,
        Length: u32 = 4,
        ScsiStatus: u8 = 8,
        SenseInfoBufferLength: u8 = 9,
        CdbLength: u8 = 10,
        SenseInfoBuffer: usize = 16,
        Cdb: [u8; 16] = 24,
    }
    scsi_power_request_block = "_SCSI_POWER_REQUEST_BLOCK", 88 {
        SrbPowerFlags: u8 = 4,
        DevicePowerState: u32 = 8,
        PowerAction: u32 = 64,
    }
    scsi_pnp_request_block = "_SCSI_PNP_REQUEST_BLOCK", 88 {
        PnPSubFunction: u8 = 4,
        PnPAction: u32 = 8,
        SrbPnPFlags: u32 = 64,
    }
    srbex_data_power = "_SRBEX_DATA_POWER", 24 {
        Type: u32 = 0,
        Length: u32 = 4,
        SrbPowerFlags: u8 = 8,
        DevicePowerState: u32 = 12,
        PowerAction: u32 = 16,
    }
    srbex_data_pnp = "_SRBEX_DATA_PNP", 24 {
        Type: u32 = 0,
        Length: u32 = 4,
        PnPAction: u32 = 12,
        SrbPnPFlags: u32 = 16,
    }
    stor_scatter_gather_list = "_STOR_SCATTER_GATHER_LIST", 16 {
        NumberOfElements: u32 = 0,
        Reserved: u64 = 8,
    }
    stor_scatter_gather_element = "_STOR_SCATTER_GATHER_ELEMENT", 24 {
        PhysicalAddress: u64 = 0,
        Length: u32 = 8,
        Reserved: u64 = 16,
    }
    stor_lock_handle = "_STOR_LOCK_HANDLE", 32 {
        Lock: u32 = 0,
        Context_LockQueue_Next: u64 = 8,
        Context_LockQueue_Lock: u64 = 16,
        Context_OldIrql: u8 = 24,
    }
    stor_dpc = "_STOR_DPC", 72 {
        Lock: u64 = 64,
    }
    dpc_buffer = "_DPC_BUFFER", 64 {
        DeferredRoutine: usize = 24,
        DeferredContext: usize = 32,
    }
    perf_configuration_data = "_PERF_CONFIGURATION_DATA", 40 {
        Version: u32 = 0,
        Size: u32 = 4,
        Flags: u32 = 8,
        ConcurrentChannels: u32 = 12,
        FirstRedirectionMessageNumber: u32 = 16,
        LastRedirectionMessageNumber: u32 = 20,
        DeviceNode: u32 = 24,
        MessageTargets: usize = 32,
    }
    startio_performance_parameters = "_STARTIO_PERFORMANCE_PARAMETERS", 16 {
        Version: u32 = 0,
        Size: u32 = 4,
        MessageNumber: u32 = 8,
        ChannelNumber: u32 = 12,
    }
    startio_performance_parameters_v2 = "_STARTIO_PERFORMANCE_PARAMETERS_V2", 20 {
        InitiatingProcessor: u32 = 16,
    }
    message_interrupt_information = "_MESSAGE_INTERRUPT_INFORMATION", 32 {
        MessageId: u32 = 0,
        MessageData: u32 = 4,
        MessageAddress: u64 = 8,
        InterruptVector: u32 = 16,
        InterruptLevel: u32 = 20,
        InterruptMode: u32 = 24,
    }
    group_affinity = "_GROUP_AFFINITY", 16 {
        Mask: u64 = 0,
    }
    scsi_supported_control_type_list = "_SCSI_SUPPORTED_CONTROL_TYPE_LIST", 4 {
        MaxControlType: u32 = 0,
    }
    stor_list_entry = "_STOR_LIST_ENTRY", 16 {
        Flink: usize = 0,
        Blink: usize = 8,
    }
    stor_slist_header = "_STOR_SLIST_HEADER", 16 {
        Alignment: u64 = 0,
        Region: usize = 8,
    }
    stor_slist_entry = "_STOR_SLIST_ENTRY", 16 {
        Next: usize = 0,
    }
    stor_log_event_details = "_STOR_LOG_EVENT_DETAILS", 72 {
        InterfaceRevision: u32 = 0,
        Size: u32 = 4,
        Flags: u32 = 8,
        EventAssociation: u32 = 12,
        ErrorCode: u32 = 32,
        UniqueId: u32 = 36,
        DumpDataSize: u32 = 40,
        DumpData: usize = 48,
        StringCount: u32 = 56,
        StringList: usize = 64,
    }
    stor_request_info_v1 = "_STOR_REQUEST_INFO_V1", 24 {
        PriorityHint: u32 = 4,
        Flags: u32 = 8,
        Key: u32 = 12,
        Length: u32 = 16,
        IsWriteRequest: u8 = 20,
    }
    stor_dpc_watchdog_information = "_STOR_DPC_WATCHDOG_INFORMATION", 20 {
        DpcTimeLimit: u32 = 0,
        DpcTimeCount: u32 = 4,
        DpcWatchdogLimit: u32 = 8,
        DpcWatchdogCount: u32 = 12,
    }
    stor_dispatcher_header = "_STOR_DISPATCHER_HEADER", 24 {
        Lock: u32 = 0,
        SignalState: u32 = 4,
    }
    driver_object = "_DRIVER_OBJECT", 336 {
        Type: u16 = 0,
        Size: u16 = 2,
    }
    unicode_string = "_UNICODE_STRING", 16 {
        Length: u16 = 0,
        MaximumLength: u16 = 2,
        Buffer: usize = 8,
    }
}

/// Offset of `List` in `STOR_SCATTER_GATHER_LIST`.
pub(crate) const SCATTER_GATHER_LIST: usize = 16;
/// Offset of `SupportedTypeList` in `SCSI_SUPPORTED_CONTROL_TYPE_LIST`.
pub(crate) const SUPPORTED_TYPE_LIST: usize = 4;

macro_rules! values {
    ($($(#[$doc:meta])* $module:ident: $type:ty { $($name:ident = $value:literal,)* })*) => {
        $($(#[$doc])* pub(crate) mod $module {
            $(pub(crate) const $name: $type = $value;)*
        })*

        /// Every value above, for comparison with the headers' table.
        #[cfg(test)]
        const VALUES: &[(&str, i64)] = &[$($((stringify!($name), $value as i64),)*)*];
    };
}

values! {
    stor_status: u32 {
        STOR_STATUS_SUCCESS = 0,
        STOR_STATUS_UNSUCCESSFUL = 0xC100_0001,
        STOR_STATUS_NOT_IMPLEMENTED = 0xC100_0002,
        STOR_STATUS_INSUFFICIENT_RESOURCES = 0xC100_0003,
        STOR_STATUS_BUFFER_TOO_SMALL = 0xC100_0004,
        STOR_STATUS_INVALID_PARAMETER = 0xC100_0006,
        STOR_STATUS_INVALID_DEVICE_REQUEST = 0xC100_0007,
        STOR_STATUS_INVALID_IRQL = 0xC100_0008,
        STOR_STATUS_INVALID_DEVICE_STATE = 0xC100_0009,
        STOR_STATUS_INVALID_BUFFER_SIZE = 0xC100_000A,
        STOR_STATUS_UNSUPPORTED_VERSION = 0xC100_000B,
        STOR_STATUS_BUSY = 0xC100_000C,
        STOR_STATUS_TIMEOUT = 0xC100_000E,
    }
    srb_status: u8 {
        SRB_STATUS_PENDING = 0x00,
        SRB_STATUS_SUCCESS = 0x01,
        SRB_STATUS_BUSY = 0x05,
        SRB_STATUS_INVALID_REQUEST = 0x06,
        SRB_STATUS_INVALID_PATH_ID = 0x07,
        SRB_STATUS_NO_DEVICE = 0x08,
        SRB_STATUS_BUS_RESET = 0x0E,
        SRB_STATUS_INVALID_LUN = 0x20,
        SRB_STATUS_INVALID_TARGET_ID = 0x21,
        SRB_STATUS_BAD_FUNCTION = 0x22,
        SRB_STATUS_QUEUE_FROZEN = 0x40,
        SRB_STATUS_AUTOSENSE_VALID = 0x80,
    }
    srb_flags: u32 {
        SRB_FLAGS_QUEUE_ACTION_ENABLE = 0x2,
        SRB_FLAGS_DATA_IN = 0x40,
        SRB_FLAGS_DATA_OUT = 0x80,
        SRB_FLAGS_NO_QUEUE_FREEZE = 0x100,
    }
    srb: u32 {
        SRB_FUNCTION_EXECUTE_SCSI = 0,
        SRB_FUNCTION_SHUTDOWN = 0x07,
        SRB_FUNCTION_FLUSH = 0x08,
        SRB_FUNCTION_RESET_DEVICE = 0x13,
        SRB_FUNCTION_RESET_LOGICAL_UNIT = 0x20,
        SRB_FUNCTION_POWER = 0x24,
        SRB_FUNCTION_PNP = 0x25,
        SRB_POWER_FLAGS_ADAPTER_REQUEST = 1,
        SRB_PNP_FLAGS_ADAPTER_REQUEST = 1,
        SRB_FUNCTION_STORAGE_REQUEST_BLOCK = 0x28,
        SRB_SIGNATURE = 0x5352_4258,
        STORAGE_REQUEST_BLOCK_VERSION_1 = 1,
        SRB_SIMPLE_TAG_REQUEST = 0x20,
        SRB_TYPE_SCSI_REQUEST_BLOCK = 0,
        SRB_TYPE_STORAGE_REQUEST_BLOCK = 1,
        SRB_TYPE_FLAG_SCSI_REQUEST_BLOCK = 1,
        SRB_TYPE_FLAG_STORAGE_REQUEST_BLOCK = 2,
        ADDRESS_TYPE_FLAG_BTL8 = 1,
        STOR_ADDRESS_TYPE_BTL8 = 1,
        STOR_ADDR_BTL8_ADDRESS_LENGTH = 4,
        SrbExDataTypeScsiCdb16 = 64,
        SrbExDataTypePower = 97,
        SrbExDataTypePnP = 98,
        StorRemoveDevice = 2,
        StorStopDevice = 4,
        StorPowerDeviceD0 = 1,
        StorPowerDeviceD3 = 4,
        StorPowerActionNone = 0,
        StorPowerActionSleep = 2,
        StorPowerActionShutdownOff = 6,
    }
    config: u32 {
        SP_RETURN_NOT_FOUND = 0,
        SP_RETURN_FOUND = 1,
        SP_RETURN_ERROR = 2,
        SP_RETURN_BAD_CONFIG = 3,
        STOR_MAP_NO_BUFFERS = 0,
        STOR_MAP_ALL_BUFFERS_INCLUDING_READ_WRITE = 3,
        SCSI_DMA64_SYSTEM_SUPPORTED = 0x80,
        SCSI_MAXIMUM_TARGETS_PER_BUS = 128,
        SCSI_MAXIMUM_LOGICAL_UNITS = 8,
        StorSynchronizeFullDuplex = 1,
        InterruptSupportNone = 0,
        InterruptSynchronizeAll = 1,
        InterruptSynchronizePerMessage = 2,
        LevelSensitive = 0,
        Latched = 1,
        PCIConfiguration = 4,
        DUMP_MODE_CRASH = 1,
        STOR_FEATURE_DUMP_16_BYTE_ALIGNMENT = 0x400,
    }
    control: u32 {
        ScsiQuerySupportedControlTypes = 0,
        ScsiStopAdapter = 1,
        ScsiRestartAdapter = 2,
        ScsiSetBootConfig = 3,
        ScsiSetRunningConfig = 4,
        ScsiAdapterPower = 6,
        ScsiAdapterSurpriseRemoval = 16,
        ScsiAdapterControlMax = 26,
        ScsiAdapterControlSuccess = 0,
        ScsiQuerySupportedUnitControlTypes = 0,
        ScsiUnitStart = 2,
        ScsiUnitControlMax = 15,
    }
    perf: u32 {
        STOR_PERF_DPC_REDIRECTION = 0x1,
        STOR_PERF_CONCURRENT_CHANNELS = 0x2,
        STOR_PERF_INTERRUPT_MESSAGE_RANGES = 0x4,
        STOR_PERF_ADV_CONFIG_LOCALITY = 0x8,
        STOR_PERF_OPTIMIZE_FOR_COMPLETION_DURING_STARTIO = 0x10,
        STOR_PERF_DPC_REDIRECTION_CURRENT_CPU = 0x20,
    }
    spin_lock: u32 {
        DpcLock = 1,
        StartIoLock = 2,
        InterruptLock = 3,
        ThreadedDpcLock = 4,
        DpcLevelLock = 5,
    }
}

/// `SP_UNINITIALIZED_VALUE` (`srb.h`).
pub(crate) const SP_UNINITIALIZED_VALUE: u32 = u32::MAX;

/// NTSTATUS values (`ntstatus.h`).
pub(crate) mod ntstatus {
    pub(crate) const STATUS_SUCCESS: u32 = 0;
    pub(crate) const STATUS_INVALID_HANDLE: u32 = 0xC000_0008;
    pub(crate) const STATUS_INVALID_PARAMETER: u32 = 0xC000_000D;
    pub(crate) const STATUS_REVISION_MISMATCH: u32 = 0xC000_0059;
    pub(crate) const STATUS_NOT_SUPPORTED: u32 = 0xC000_00BB;
    pub(crate) const STATUS_NOT_FOUND: u32 = 0xC000_0225;
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{LAYOUTS, VALUES};

    /// The headers as data: `cross/abi`.
    fn table() -> Value {
        serde_json::from_str(include_str!("../../../../cross/abi/storport-wdk.json")).unwrap()
    }

    #[test]
    fn layouts_are_those_of_the_headers() {
        let table = table();
        let mut compared = 0;
        for (name, bytes, fields) in LAYOUTS {
            let Some(structure) = table["structs"].get(name) else {
                continue;
            };
            assert_eq!(structure["size"], *bytes, "{name}");
            for (field, offset, size) in *fields {
                let known = &structure["fields"][field.replace('_', ".")];
                assert_eq!(known["offset"], *offset, "{name}.{field}");
                assert_eq!(known["size"], *size, "{name}.{field}");
            }
            compared += 1;
        }
        assert!(compared >= 18, "the table has only {compared} of them");
    }

    #[test]
    fn values_are_those_of_the_headers() {
        let table = table();
        let enums = table["enums"].as_object().unwrap();
        let mut compared = 0;
        for (name, value) in VALUES {
            let known = table["constants"]
                .get(name)
                .or_else(|| enums.values().find_map(|values| values.get(name)));
            if let Some(known) = known {
                assert_eq!(known.as_i64(), Some(*value), "{name}");
                compared += 1;
            }
        }
        assert!(compared >= 50, "the table has only {compared} of them");
    }
}
