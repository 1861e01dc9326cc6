//! The calls into storport.sys, one function a DDI.
//!
//! Most of storport.h's functions are inline there and go through two
//! exported variadic ones, so they are not in the bindings: the codes used
//! here are theirs (`SCSI_NOTIFICATION_TYPE`, `STORPORT_FUNCTION_CODE`).
#![expect(unsafe_code, reason = "this is the FFI")]

use core::{ffi::c_void, mem::MaybeUninit, ptr::NonNull};

use wdk_sys::{
    _SCSI_NOTIFICATION_TYPE as notification, _STORPORT_FUNCTION_CODE as extended,
    MESSAGE_INTERRUPT_INFORMATION, PHW_DPC_ROUTINE, PHW_PASSIVE_INITIALIZE_ROUTINE,
    PPORT_CONFIGURATION_INFORMATION, PSCSI_REQUEST_BLOCK, PVOID, STOR_DPC, STOR_LOCK_HANDLE,
    STOR_SCATTER_GATHER_LIST, STOR_SPINLOCK, ULONG, storage,
};

use crate::extension::Header;

/// `STOR_STATUS_SUCCESS` (`storport.h`).
const SUCCESS: ULONG = 0;

/// A nullable function pointer as a variable argument: as a pointer to data,
/// which is passed alike, and which Rust's own `va_arg` can read in tests.
macro_rules! function_pointer {
    ($routine:expr) => {
        $routine.map_or(core::ptr::null_mut(), |routine| routine as PVOID)
    };
}

/// StorPortAcquireSpinLock.
///
/// # Safety
/// `context` is what `kind` asks for (a STOR_DPC's address, or null), the
/// callback may take this kind now, and `handle` stays where it is until
/// [`release_spin_lock`].
pub(crate) unsafe fn acquire_spin_lock(
    adapter: &Header,
    kind: STOR_SPINLOCK,
    context: *mut STOR_DPC,
    handle: *mut STOR_LOCK_HANDLE,
) {
    // SAFETY: the arguments are those of the inline function; the rest is the
    // caller's promise.
    unsafe {
        storage::StorPortNotification(
            notification::AcquireSpinLock,
            adapter.device_extension(),
            kind,
            context,
            handle,
        );
    }
}

/// StorPortReleaseSpinLock.
///
/// # Safety
/// `handle` was filled by [`acquire_spin_lock`] in this callback, is the
/// latest one not yet released, and lies where it lay.
pub(crate) unsafe fn release_spin_lock(adapter: &Header, handle: *mut STOR_LOCK_HANDLE) {
    // SAFETY: as above.
    unsafe {
        storage::StorPortNotification(
            notification::ReleaseSpinLock,
            adapter.device_extension(),
            handle,
        );
    }
}

/// StorPortAcquireMSISpinLock: the IRQL to give back.
///
/// # Safety
/// Message locks exist, message `message` is one of them, and the callback
/// may take it now.
pub(crate) unsafe fn acquire_message_lock(adapter: &Header, message: u32) -> Option<ULONG> {
    let mut irql: ULONG = 0;
    // SAFETY: the arguments are those of the inline function.
    let status = unsafe {
        storage::StorPortExtendedFunction(
            extended::ExtFunctionAcquireMSISpinLock,
            adapter.device_extension(),
            message,
            &raw mut irql,
        )
    };
    (status == SUCCESS).then_some(irql)
}

/// StorPortReleaseMSISpinLock.
///
/// # Safety
/// `irql` came from [`acquire_message_lock`] of this message, not yet
/// released.
pub(crate) unsafe fn release_message_lock(adapter: &Header, message: u32, irql: ULONG) {
    // SAFETY: as above.
    unsafe {
        storage::StorPortExtendedFunction(
            extended::ExtFunctionReleaseMSISpinLock,
            adapter.device_extension(),
            message,
            irql,
        );
    }
}

/// StorPortInitializeDpc.
///
/// # Safety
/// Called from HwPassiveInitialize (rule book 3.5), once for a DPC object.
pub(crate) unsafe fn initialize_dpc(
    adapter: &Header,
    dpc: *mut STOR_DPC,
    routine: PHW_DPC_ROUTINE,
) {
    let routine = function_pointer!(routine);
    // SAFETY: `dpc` is one of the adapter's own; the rest is the caller's
    // promise.
    unsafe {
        storage::StorPortNotification(
            notification::InitializeDpc,
            adapter.device_extension(),
            dpc,
            routine,
        );
    }
}

/// StorPortIssueDpc: whether it was queued; false means that it waits already.
///
/// # Safety
/// `dpc` is initialised.
pub(crate) unsafe fn issue_dpc(adapter: &Header, dpc: *mut STOR_DPC, argument: usize) -> bool {
    let mut queued: ULONG = 0;
    let argument: PVOID = core::ptr::without_provenance_mut(argument);
    let nothing: PVOID = core::ptr::null_mut();
    // SAFETY: the arguments are those of the inline function.
    unsafe {
        storage::StorPortNotification(
            notification::IssueDpc,
            adapter.device_extension(),
            dpc,
            argument,
            nothing,
            &raw mut queued,
        );
    }
    queued != 0
}

/// StorPortEnablePassiveInitialization: whether Storport will call it.
///
/// # Safety
/// Called from HwInitialize (rule book 3.5).
pub(crate) unsafe fn enable_passive_initialization(
    adapter: &Header,
    routine: PHW_PASSIVE_INITIALIZE_ROUTINE,
) -> bool {
    let mut enabled: ULONG = 0;
    let routine = function_pointer!(routine);
    // SAFETY: the arguments are those of the inline function.
    unsafe {
        storage::StorPortNotification(
            notification::EnablePassiveInitialization,
            adapter.device_extension(),
            routine,
            &raw mut enabled,
        );
    }
    enabled != 0
}

/// StorPortGetMSIInfo for one message; callable at any IRQL, but not from
/// HwMSInterruptRoutine.
pub(crate) fn message_information(
    adapter: &Header,
    message: u32,
) -> Option<MESSAGE_INTERRUPT_INFORMATION> {
    let mut information = MESSAGE_INTERRUPT_INFORMATION::default();
    // SAFETY: the arguments are those of the inline function.
    let status = unsafe {
        storage::StorPortExtendedFunction(
            extended::ExtFunctionGetMessageInterruptInformation,
            adapter.device_extension(),
            message,
            &raw mut information,
        )
    };
    (status == SUCCESS).then_some(information)
}

/// StorPortNotification(RequestComplete).
///
/// # Safety
/// The SRB is the miniport's, its status is final, and nothing touches it
/// from now on (rule book 5.1, S1-S3).
pub(crate) unsafe fn request_complete(adapter: &Header, srb: PSCSI_REQUEST_BLOCK) {
    // SAFETY: the caller's promise.
    unsafe {
        storage::StorPortNotification(
            notification::RequestComplete,
            adapter.device_extension(),
            srb,
        );
    }
}

/// StorPortGetScatterGatherList.
///
/// # Safety
/// The SRB is the miniport's; the list is good until it is completed.
pub(crate) unsafe fn scatter_gather_list(
    adapter: &Header,
    srb: PSCSI_REQUEST_BLOCK,
) -> Option<NonNull<STOR_SCATTER_GATHER_LIST>> {
    // SAFETY: the caller's promise.
    let list = unsafe { storage::StorPortGetScatterGatherList(adapter.device_extension(), srb) };
    NonNull::new(list)
}

/// StorPortGetSystemAddress: where the SRB's data is mapped.
///
/// # Safety
/// At or below DISPATCH_LEVEL (rule book 3.6); the SRB is the miniport's.
pub(crate) unsafe fn system_address(
    adapter: &Header,
    srb: PSCSI_REQUEST_BLOCK,
) -> Option<NonNull<u8>> {
    let mut address: PVOID = core::ptr::null_mut();
    // SAFETY: the arguments are those of the inline function.
    let status = unsafe {
        storage::StorPortExtendedFunction(
            extended::ExtFunctionGetSystemAddress,
            adapter.device_extension(),
            srb,
            &raw mut address,
        )
    };
    if status != SUCCESS {
        return None;
    }
    NonNull::new(address.cast())
}

/// StorPortGetPhysicalAddress of memory that is no SRB's data: the address,
/// and how many bytes from there on are contiguous.
///
/// # Safety
/// `address` lies in the uncached extension.
pub(crate) unsafe fn physical_address(
    adapter: &Header,
    address: NonNull<u8>,
) -> Option<(u64, u32)> {
    let mut length: ULONG = 0;
    // SAFETY: the caller's promise; a null SRB means the address is none's.
    let physical = unsafe {
        storage::StorPortGetPhysicalAddress(
            adapter.device_extension(),
            core::ptr::null_mut(),
            address.as_ptr().cast(),
            &raw mut length,
        )
    };
    // SAFETY: every bit pattern is an integer.
    let physical = unsafe { physical.QuadPart };
    let physical = u64::try_from(physical).ok()?;
    (physical != 0 && length != 0).then_some((physical, length))
}

/// StorPortGetUncachedExtension.
///
/// # Safety
/// Called from HwFindAdapter with its ConfigInfo filled (rule book 3.5).
pub(crate) unsafe fn uncached_extension(
    adapter: &Header,
    config: PPORT_CONFIGURATION_INFORMATION,
    bytes: u32,
) -> Option<NonNull<u8>> {
    // SAFETY: the caller's promise.
    let memory =
        unsafe { storage::StorPortGetUncachedExtension(adapter.device_extension(), config, bytes) };
    NonNull::new(memory.cast())
}

/// StorPortGetBusData of PCI configuration space: how many bytes were read.
///
/// # Safety
/// Called from HwFindAdapter (rule book 3.5).
pub(crate) unsafe fn pci_configuration(
    adapter: &Header,
    bus: u32,
    slot: u32,
    into: &mut [u8; 256],
) -> u32 {
    // SAFETY: the buffer is as long as is said; the rest is the caller's
    // promise.
    unsafe {
        storage::StorPortGetBusData(
            adapter.device_extension(),
            wdk_sys::_BUS_DATA_TYPE::PCIConfiguration as ULONG,
            bus,
            slot,
            into.as_mut_ptr().cast(),
            256,
        )
    }
}

/// StorPortGetDeviceBase of memory space.
///
/// # Safety
/// The arguments come from the ConfigInfo of HwFindAdapter (rule book 3.5).
pub(crate) unsafe fn device_base(
    adapter: &Header,
    bus_type: wdk_sys::INTERFACE_TYPE,
    bus: u32,
    address: wdk_sys::STOR_PHYSICAL_ADDRESS,
    bytes: u32,
) -> Option<NonNull<u8>> {
    // SAFETY: the caller's promise.
    let base = unsafe {
        storage::StorPortGetDeviceBase(adapter.device_extension(), bus_type, bus, address, bytes, 0)
    };
    NonNull::new(base.cast())
}

/// The longest stall that Storport's verifier accepts, in microseconds
/// (rule book 3.6: bug check 0xF1, 0x2001).
pub(crate) const LONGEST_STALL: u32 = 100_000;

/// StorPortStallExecution, at any IRQL: `microseconds`, at most
/// [`LONGEST_STALL`].
pub(crate) fn stall(microseconds: u32) {
    // SAFETY: no requirement but the length.
    unsafe { storage::StorPortStallExecution(microseconds.min(LONGEST_STALL)) };
}

/// StorPortInitialize.
///
/// # Safety
/// The arguments are DriverEntry's, and the table is filled.
pub(crate) unsafe fn initialize(
    driver: *mut c_void,
    registry_path: *mut c_void,
    table: &mut MaybeUninit<wdk_sys::HW_INITIALIZATION_DATA>,
) -> ULONG {
    // SAFETY: the caller's promise.
    unsafe {
        storage::StorPortInitialize(
            driver,
            registry_path,
            table.as_mut_ptr(),
            core::ptr::null_mut(),
        )
    }
}
