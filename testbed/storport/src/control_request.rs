//! Control requests: SRBs for flush, shutdown, reset, power, and plug and play, which are not SCSI
//! commands.
//!
//! Their functions and fields are documented (SCSI_POWER_REQUEST_BLOCK, SCSI_PNP_REQUEST_BLOCK,
//! SRBEX_DATA_POWER, SRBEX_DATA_PNP; `storport.h`). Their order, and the reaction of Windows to a
//! failure, are not.

use std::time::Duration;

use super::{
    abi::{
        Structure, scsi_pnp_request_block as scsi_pnp, scsi_power_request_block as scsi_power,
        scsi_request_block as scsi, srbex_data_pnp as pnp, srbex_data_power as power,
        storage_request_block as storage, wdk,
    },
    adapter::SrbShape,
    callbacks::Callback,
    port::Port,
    request::{Address, Request},
    srb::{CDB_AT, Srb},
    violations::Rule,
};

/// The recipient of a power or plug-and-play request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// The adapter. The SRB's address has no meaning.
    Adapter,
    /// A unit.
    Unit(Address),
}

/// STOR_DEVICE_POWER_STATE: the values that are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PowerState {
    /// Working.
    D0 = wdk::StorPowerDeviceD0,
    /// Off.
    D3 = wdk::StorPowerDeviceD3,
}

/// STOR_POWER_ACTION: the values that are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PowerAction {
    /// None: only the device changes its state.
    None = wdk::StorPowerActionNone,
    /// The system sleeps.
    Sleep = wdk::StorPowerActionSleep,
    /// The system shuts down.
    ShutdownOff = wdk::StorPowerActionShutdownOff,
}

/// STOR_PNP_ACTION: the values that are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PnpAction {
    /// The device is removed.
    Remove = wdk::StorRemoveDevice,
    /// The device is stopped, to get other resources.
    Stop = wdk::StorStopDevice,
}

/// A control request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlRequest {
    /// SRB_FUNCTION_FLUSH.
    Flush(Address),
    /// SRB_FUNCTION_SHUTDOWN.
    Shutdown(Address),
    /// SRB_FUNCTION_RESET_LOGICAL_UNIT.
    ResetUnit(Address),
    /// SRB_FUNCTION_RESET_DEVICE, for the target.
    ResetDevice(Address),
    /// SRB_FUNCTION_POWER.
    Power(Recipient, PowerState, PowerAction),
    /// SRB_FUNCTION_PNP.
    Pnp(Recipient, PnpAction),
}

const TIMEOUT: Duration = Duration::from_secs(10);

/// The header of an extended data structure, which its Length does not count.
const DATA_HEADER: usize = 8;

impl ControlRequest {
    /// The unit's address. The adapter's requests have zeros, which existing miniports accept.
    pub(super) fn unit(self) -> Address {
        match self {
            Self::Flush(unit)
            | Self::Shutdown(unit)
            | Self::ResetUnit(unit)
            | Self::ResetDevice(unit)
            | Self::Power(Recipient::Unit(unit), ..)
            | Self::Pnp(Recipient::Unit(unit), _) => unit,
            Self::Power(Recipient::Adapter, ..) | Self::Pnp(Recipient::Adapter, _) => {
                Address::default()
            }
        }
    }

    /// The request for which the SRB is filled before [`Self::write`] changes it.
    pub(super) fn request(self) -> Request {
        Request {
            token: 0,
            address: self.unit(),
            cdb: [0; 16],
            cdb_length: 6,
            data: None,
            timeout: TIMEOUT,
        }
    }

    fn function(self) -> u32 {
        match self {
            Self::Flush(_) => wdk::SRB_FUNCTION_FLUSH,
            Self::Shutdown(_) => wdk::SRB_FUNCTION_SHUTDOWN,
            Self::ResetUnit(_) => wdk::SRB_FUNCTION_RESET_LOGICAL_UNIT,
            Self::ResetDevice(_) => wdk::SRB_FUNCTION_RESET_DEVICE,
            Self::Power(..) => wdk::SRB_FUNCTION_POWER,
            Self::Pnp(..) => wdk::SRB_FUNCTION_PNP,
        }
    }

    /// Turns a filled SRB into this control request.
    pub(super) fn write(self, srb: Srb) {
        srb.set_address(self.unit());
        match srb.shape() {
            SrbShape::Scsi => self.write_scsi(srb.base()),
            SrbShape::Storage => self.write_storage(srb.base()),
        }
    }

    fn write_scsi(self, base: Structure) {
        base.set(scsi::Function, self.function() as u8);
        base.set(scsi::CdbLength, 0);
        match self {
            Self::Flush(_) | Self::Shutdown(_) | Self::ResetUnit(_) | Self::ResetDevice(_) => {}
            Self::Power(of, state, action) => {
                base.set(scsi_power::SrbPowerFlags, power_flags(of));
                base.set(scsi_power::DevicePowerState, state as u32);
                base.set(scsi_power::PowerAction, action as u32);
            }
            Self::Pnp(of, action) => {
                base.set(scsi_pnp::PnPSubFunction, 0);
                base.set(scsi_pnp::PnPAction, action as u32);
                base.set(scsi_pnp::SrbPnPFlags, pnp_flags(of));
            }
        }
    }

    fn write_storage(self, base: Structure) {
        base.set(storage::SrbFunction, self.function());
        let data = base.offset(CDB_AT);
        data.fill(super::abi::srbex_data_scsi_cdb16::SIZE, 0);
        match self {
            // STORAGE_REQUEST_BLOCK: these functions need no extended data.
            Self::Flush(_) | Self::Shutdown(_) | Self::ResetUnit(_) | Self::ResetDevice(_) => {
                base.set(storage::NumSrbExData, 0);
                base.set(storage::SrbExDataOffset, 0);
            }
            Self::Power(of, state, action) => {
                data.set(power::Type, wdk::SrbExDataTypePower);
                data.set(power::Length, (power::SIZE - DATA_HEADER) as u32);
                data.set(power::SrbPowerFlags, power_flags(of));
                data.set(power::DevicePowerState, state as u32);
                data.set(power::PowerAction, action as u32);
            }
            Self::Pnp(of, action) => {
                data.set(pnp::Type, wdk::SrbExDataTypePnP);
                data.set(pnp::Length, (pnp::SIZE - DATA_HEADER) as u32);
                data.set(pnp::PnPAction, action as u32);
                data.set(pnp::SrbPnPFlags, pnp_flags(of));
            }
        }
    }
}

fn power_flags(of: Recipient) -> u8 {
    match of {
        Recipient::Adapter => wdk::SRB_POWER_FLAGS_ADAPTER_REQUEST as u8,
        Recipient::Unit(_) => 0,
    }
}

fn pnp_flags(of: Recipient) -> u32 {
    match of {
        Recipient::Adapter => wdk::SRB_PNP_FLAGS_ADAPTER_REQUEST,
        Recipient::Unit(_) => 0,
    }
}

impl Port {
    /// Reports a status that is neither a success nor means that the function or the unit is not
    /// supported.
    pub(super) fn check_control(&self, control: ControlRequest, status: u8) {
        if !matches!(
            status,
            wdk::SRB_STATUS_SUCCESS
                | wdk::SRB_STATUS_INVALID_REQUEST
                | wdk::SRB_STATUS_BAD_FUNCTION
                | wdk::SRB_STATUS_NO_DEVICE
                | wdk::SRB_STATUS_INVALID_PATH_ID
                | wdk::SRB_STATUS_INVALID_TARGET_ID
                | wdk::SRB_STATUS_INVALID_LUN
        ) {
            self.violation_of(
                Callback::HwStartIo,
                Rule::SrbControl,
                format_args!("{control:?} is completed with SRB status {status:#04x}"),
            );
        }
    }
}
