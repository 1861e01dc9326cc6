//! What a miniport registers: HW_INITIALIZATION_DATA in DriverEntry, and
//! PORT_CONFIGURATION_INFORMATION in HwFindAdapter.

use std::time::Duration;

use super::{
    abi::{
        Routine, SP_UNINITIALIZED_VALUE, Structure, hw_initialization_data as init,
        ntstatus::{STATUS_INVALID_PARAMETER, STATUS_REVISION_MISMATCH},
        port_configuration_information as info, wdk,
    },
    adapter::{AdapterLimits, Checks, SrbShape},
    callbacks::Callback,
    port::Port,
    srb::SrbSettings,
    violations::Rule,
};
use testbed_machine::memory::PAGE;

/// The end of HW_INITIALIZATION_DATA before Windows 8: HwFreeAdapterResources.
const SMALLEST_INITIALIZATION: usize = 136;

/// The most elements of a scatter/gather list, which is enough for 16 MiB.
const MOST_ELEMENTS: u32 = 4097;

/// The fields of HW_INITIALIZATION_DATA that a port driver for physical adapters uses.
#[derive(Debug)]
pub(super) struct Registration {
    pub(super) find_adapter: Routine,
    pub(super) initialize: Routine,
    pub(super) build_io: Routine,
    pub(super) start_io: Routine,
    pub(super) interrupt: Routine,
    pub(super) reset_bus: Routine,
    pub(super) adapter_control: Routine,
    pub(super) unit_control: Routine,
    pub(super) tracing_enabled: Routine,
    pub(super) extension_bytes: u32,
    unit_extension_bytes: u32,
    pub(super) srb_extension_bytes: u32,
    pub(super) map_buffers: u8,
    features: u32,
    pub(super) access_ranges: u32,
    interface: u32,
    srb_types: u32,
}

impl Registration {
    /// Reads the structure that StorPortInitialize got, or returns the NTSTATUS of its refusal.
    /// Reports fields that are not as HW_INITIALIZATION_DATA's page demands.
    pub(super) fn read(port: &Port, data: Structure) -> Result<Self, u32> {
        let bytes = data.get(init::HwInitializationDataSize) as usize;
        if !(SMALLEST_INITIALIZATION..=init::SIZE).contains(&bytes) {
            port.violation(
                Rule::InitializationData,
                format_args!(
                    "HwInitializationDataSize is {bytes}, not sizeof(HW_INITIALIZATION_DATA), {}",
                    init::SIZE
                ),
            );
            return Err(STATUS_REVISION_MISMATCH);
        }
        // Fields beyond a smaller structure count as 0.
        let complete = bytes == init::SIZE;
        let added = |field| if complete { data.get(field) } else { 0 };
        let added_routine = |field| {
            if complete {
                data.routine(field)
            } else {
                Routine::NONE
            }
        };
        let registration = Self {
            find_adapter: data.routine(init::HwFindAdapter),
            initialize: data.routine(init::HwInitialize),
            build_io: data.routine(init::HwBuildIo),
            start_io: data.routine(init::HwStartIo),
            interrupt: data.routine(init::HwInterrupt),
            reset_bus: data.routine(init::HwResetBus),
            adapter_control: data.routine(init::HwAdapterControl),
            unit_control: added_routine(init::HwUnitControl),
            tracing_enabled: added_routine(init::HwTracingEnabled),
            extension_bytes: data.get(init::DeviceExtensionSize),
            unit_extension_bytes: data.get(init::SpecificLuExtensionSize),
            srb_extension_bytes: data.get(init::SrbExtensionSize),
            access_ranges: data.get(init::NumberOfAccessRanges),
            interface: data.get(init::AdapterInterfaceType),
            map_buffers: data.get(init::MapBuffers),
            features: added(init::FeatureSupport),
            srb_types: added(init::SrbTypeFlags),
        };
        registration.check(port, data, complete)?;
        Ok(registration)
    }

    /// Checks the demands of HW_INITIALIZATION_DATA's page (storport-rules.md Callbacks).
    fn check(&self, port: &Port, data: Structure, complete: bool) -> Result<(), u32> {
        let wrong = |what: std::fmt::Arguments<'_>| {
            port.violation(Rule::InitializationData, what);
        };
        let routines = [
            ("HwInitialize", self.initialize),
            ("HwStartIo", self.start_io),
            ("HwInterrupt", self.interrupt),
            ("HwFindAdapter", self.find_adapter),
            ("HwResetBus", self.reset_bus),
            ("HwAdapterControl", self.adapter_control),
        ];
        let mut usable = true;
        for (name, routine) in routines {
            if routine.is_none() {
                wrong(format_args!("{name} is NULL"));
                usable = false;
            }
        }
        for (name, routine) in [
            ("HwDmaStarted", data.get(init::HwDmaStarted)),
            ("HwAdapterState", data.get(init::HwAdapterState)),
        ] {
            if routine != 0 {
                wrong(format_args!("{name} is not NULL"));
            }
        }
        for (name, flag) in [
            (
                "NeedPhysicalAddresses",
                data.get(init::NeedPhysicalAddresses),
            ),
            ("TaggedQueuing", data.get(init::TaggedQueuing)),
            ("AutoRequestSense", data.get(init::AutoRequestSense)),
            ("MultipleRequestPerLu", data.get(init::MultipleRequestPerLu)),
        ] {
            if flag != 1 {
                wrong(format_args!("{name} is {flag}, not TRUE"));
            }
        }
        // viostor leaves it 0 and runs on Windows, so 0 counts as BTL8, the only documented type.
        let address_types = data.get(init::AddressTypeFlags);
        if complete
            && address_types != 0
            && self.srb_types & wdk::SRB_TYPE_FLAG_STORAGE_REQUEST_BLOCK != 0
            && address_types != wdk::ADDRESS_TYPE_FLAG_BTL8
        {
            wrong(format_args!(
                "AddressTypeFlags is {address_types:#x}, not ADDRESS_TYPE_FLAG_BTL8"
            ));
        }
        if usable {
            Ok(())
        } else {
            Err(STATUS_INVALID_PARAMETER)
        }
    }

    pub(super) fn srb_shape(&self, wanted: SrbShape) -> SrbShape {
        let scsi = self.srb_types & wdk::SRB_TYPE_FLAG_SCSI_REQUEST_BLOCK != 0;
        let storage = self.srb_types & wdk::SRB_TYPE_FLAG_STORAGE_REQUEST_BLOCK != 0;
        match wanted {
            SrbShape::Storage if storage => SrbShape::Storage,
            SrbShape::Scsi if storage && !scsi => SrbShape::Storage,
            _ => SrbShape::Scsi,
        }
    }

    /// Fills ConfigInfo for HwFindAdapter, except for the resources.
    pub(super) fn fill(&self, to: Structure, shape: SrbShape) {
        to.set(info::Length, info::SIZE as u32);
        to.set(info::AdapterInterfaceType, self.interface);
        to.set(info::MaximumTransferLength, SP_UNINITIALIZED_VALUE);
        // The documented default.
        to.set(info::NumberOfPhysicalBreaks, 0x11);
        to.set(info::DmaChannel, SP_UNINITIALIZED_VALUE);
        to.set(info::DmaPort, SP_UNINITIALIZED_VALUE);
        for flag in [
            info::ScatterGather,
            info::Master,
            info::Dma32BitAddresses,
            info::NeedPhysicalAddresses,
            info::TaggedQueuing,
            info::AutoRequestSense,
            info::MultipleRequestPerLu,
            info::WmiDataProvider,
        ] {
            to.set(flag, 1);
        }
        to.set(info::MapBuffers, self.map_buffers);
        to.set(
            info::MaximumNumberOfTargets,
            wdk::SCSI_MAXIMUM_TARGETS_PER_BUS as u8,
        );
        to.set(
            info::MaximumNumberOfLogicalUnits,
            wdk::SCSI_MAXIMUM_LOGICAL_UNITS as u8,
        );
        to.set(
            info::SrbType,
            match shape {
                SrbShape::Scsi => wdk::SRB_TYPE_SCSI_REQUEST_BLOCK as u8,
                SrbShape::Storage => wdk::SRB_TYPE_STORAGE_REQUEST_BLOCK as u8,
            },
        );
        to.set(info::DeviceExtensionSize, self.extension_bytes);
        to.set(info::SpecificLuExtensionSize, self.unit_extension_bytes);
        to.set(info::SrbExtensionSize, self.srb_extension_bytes);
        to.set(
            info::Dma64BitAddresses,
            wdk::SCSI_DMA64_SYSTEM_SUPPORTED as u8,
        );
        to.set(info::MaxNumberOfIO, 1000);
        to.set(info::MaxIOsPerLun, 255);
        to.set(info::InitialLunQueueDepth, 20);
    }

    /// STOR_FEATURE_DUMP_16_BYTE_ALIGNMENT.
    pub(super) fn dump_alignment_16(&self) -> bool {
        self.features & wdk::STOR_FEATURE_DUMP_16_BYTE_ALIGNMENT != 0
    }
}

/// The values of ConfigInfo after HwFindAdapter.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Configuration {
    pub(super) max_transfer_bytes: u32,
    pub(super) max_elements: u32,
    pub(super) alignment_mask: u32,
    pub(super) caches_data: bool,
    pub(super) buses: u8,
    pub(super) targets: u8,
    pub(super) units: u8,
    pub(super) map_buffers: u32,
    pub(super) srb_shape: SrbShape,
    pub(super) srb_extension_bytes: usize,
    pub(super) unit_extension_bytes: u32,
    pub(super) full_duplex: bool,
    pub(super) message_routine: Routine,
    pub(super) interrupt_mode: u32,
    pub(super) max_requests: u32,
    pub(super) max_ios_per_unit: u32,
    /// The number of queue tags of a unit.
    pub(super) tags: u32,
    pub(super) initial_depth: u32,
    pub(super) reset_hold: Duration,
}

impl Configuration {
    pub(super) fn srb_settings(&self, checks: Checks) -> SrbSettings {
        SrbSettings {
            shape: self.srb_shape,
            extension_bytes: self.srb_extension_bytes,
            elements: self.max_elements as usize,
            map_buffers: self.map_buffers,
            checks,
        }
    }

    pub(super) fn limits(&self) -> AdapterLimits {
        AdapterLimits {
            max_transfer_bytes: self.max_transfer_bytes,
            max_physical_breaks: self.max_elements,
            alignment_mask: self.alignment_mask,
        }
    }

    /// Reads ConfigInfo after HwFindAdapter, and reports violations.
    pub(super) fn read(port: &Port, from: Structure) -> Self {
        let wrong = |what: std::fmt::Arguments<'_>| {
            port.violation_of(Callback::HwFindAdapter, Rule::FindAdapter, what);
        };
        let transfer = from.get(info::MaximumTransferLength);
        let breaks = from.get(info::NumberOfPhysicalBreaks);
        if transfer == SP_UNINITIALIZED_VALUE || transfer == 0 {
            wrong(format_args!("MaximumTransferLength was not set"));
        }
        if breaks == 0 || breaks == SP_UNINITIALIZED_VALUE {
            wrong(format_args!("NumberOfPhysicalBreaks was not set"));
        }
        if from.get(info::VirtualDevice) != 0 {
            port.violation_of(
                Callback::HwFindAdapter,
                Rule::VirtualDevice,
                format_args!("VirtualDevice is set for a PCI adapter"),
            );
        }
        let shape = if from.get(info::SrbType) == 0 {
            SrbShape::Scsi
        } else {
            SrbShape::Storage
        };
        let tags = match shape {
            // Tags have 8 bits, and one value means untagged.
            SrbShape::Scsi => 254,
            SrbShape::Storage => u32::MAX,
        };
        let per_unit = from.get(info::MaxIOsPerLun);
        if per_unit > 255 && shape == SrbShape::Scsi {
            wrong(format_args!(
                "MaxIOsPerLun is {per_unit}; above 255 it needs SRB_TYPE_STORAGE_REQUEST_BLOCK"
            ));
        }
        if from.get(info::SynchronizationModel) != wdk::StorSynchronizeFullDuplex {
            port.violation_of(
                Callback::HwFindAdapter,
                Rule::HalfDuplex,
                format_args!("SynchronizationModel is not StorSynchronizeFullDuplex"),
            );
        }
        let max_transfer_bytes = transfer.clamp(1, (MOST_ELEMENTS - 1) * PAGE as u32);
        Self {
            max_transfer_bytes,
            max_elements: breaks.clamp(1, MOST_ELEMENTS),
            alignment_mask: from.get(info::AlignmentMask),
            caches_data: from.get(info::CachesData) != 0,
            buses: from.get(info::NumberOfBuses).max(1),
            targets: from.get(info::MaximumNumberOfTargets).max(1),
            units: from.get(info::MaximumNumberOfLogicalUnits).max(1),
            map_buffers: u32::from(from.get(info::MapBuffers)),
            srb_shape: shape,
            srb_extension_bytes: from.get(info::SrbExtensionSize) as usize,
            unit_extension_bytes: from.get(info::SpecificLuExtensionSize),
            full_duplex: from.get(info::SynchronizationModel) == wdk::StorSynchronizeFullDuplex,
            message_routine: from.routine(info::HwMSInterruptRoutine),
            interrupt_mode: from.get(info::InterruptSynchronizationMode),
            max_requests: from.get(info::MaxNumberOfIO).max(1),
            max_ios_per_unit: per_unit,
            tags,
            initial_depth: from.get(info::InitialLunQueueDepth),
            reset_hold: Duration::from_micros(u64::from(from.get(info::BusResetHoldTime))),
        }
    }
}
