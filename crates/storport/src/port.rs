//! The calls into storport.sys, one function a DDI.
//!
//! Most of storport.h's functions are inline there and go through two
//! exported variadic ones, so they are not in the bindings: the codes used
//! here are theirs (`SCSI_NOTIFICATION_TYPE`, `STORPORT_FUNCTION_CODE`).
#![expect(unsafe_code, reason = "this is the FFI")]

use core::{
    ffi::{CStr, c_void},
    mem::MaybeUninit,
    ptr::NonNull,
};

use wdk_sys::{
    _SCSI_NOTIFICATION_TYPE as notification, _STORPORT_FUNCTION_CODE as extended,
    MESSAGE_INTERRUPT_INFORMATION, PERF_CONFIGURATION_DATA, PHW_DPC_ROUTINE,
    PHW_PASSIVE_INITIALIZE_ROUTINE, PPORT_CONFIGURATION_INFORMATION, PSCSI_REQUEST_BLOCK,
    PSTOR_SYNCHRONIZED_ACCESS, PVOID, SHORT, STARTIO_PERFORMANCE_PARAMETERS, STOR_ADDR_BTL8,
    STOR_DPC, STOR_LOCK_HANDLE, STOR_SCATTER_GATHER_LIST, STOR_SPINLOCK, ULONG, storage,
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

/// StorPortAcquireSpinLockEx: the status, with which the lock is held if it is
/// 0.
///
/// # Safety
/// As for [`acquire_spin_lock`].
pub(crate) unsafe fn acquire_spin_lock_ex(
    adapter: &Header,
    kind: STOR_SPINLOCK,
    context: *mut STOR_DPC,
    handle: *mut STOR_LOCK_HANDLE,
) -> ULONG {
    // SAFETY: the arguments are those of the inline function; the rest is the
    // caller's promise.
    unsafe {
        storage::StorPortExtendedFunction(
            extended::ExtFunctionAcquireSpinLock,
            adapter.device_extension(),
            kind,
            context,
            handle,
        )
    }
}

/// StorPortSynchronizeAccess.
///
/// # Safety
/// The callback may take the interrupt lock now; `routine` may be called with
/// `context`.
pub(crate) unsafe fn synchronize_access(
    adapter: &Header,
    routine: PSTOR_SYNCHRONIZED_ACCESS,
    context: PVOID,
) {
    // SAFETY: the caller's promise.
    unsafe { storage::StorPortSynchronizeAccess(adapter.device_extension(), routine, context) };
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

/// StorPortInitializeThreadedDpc.
///
/// # Safety
/// As for [`initialize_dpc`].
pub(crate) unsafe fn initialize_threaded_dpc(
    adapter: &Header,
    dpc: *mut STOR_DPC,
    routine: PHW_DPC_ROUTINE,
) {
    let routine = function_pointer!(routine);
    // The routine gets the extension whatever the context is; should a Windows
    // pass the context in its place, it is the same.
    let context: PVOID = adapter.device_extension();
    // SAFETY: `dpc` is one of the adapter's own; the rest is the caller's
    // promise.
    unsafe {
        storage::StorPortNotification(
            notification::InitializeThreadedDpc,
            adapter.device_extension(),
            dpc,
            routine,
            context,
            // Importance, a BOOLEAN that C passes as an int.
            1_i32,
        );
    }
}

/// StorPortIssueDpc. If it waits in the queue already, it stays there.
///
/// # Safety
/// `dpc` is initialised.
pub(crate) unsafe fn issue_dpc(adapter: &Header, dpc: *mut STOR_DPC) {
    let mut queued: ULONG = 0;
    let nothing: PVOID = core::ptr::null_mut();
    // SAFETY: the arguments are those of the inline function.
    unsafe {
        storage::StorPortNotification(
            notification::IssueDpc,
            adapter.device_extension(),
            dpc,
            nothing,
            nothing,
            &raw mut queued,
        );
    }
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

/// StorPortNotification(RequestTimerCall); 0 microseconds cancel.
///
/// # Safety
/// `routine` may be called with the adapter's extension at any time.
pub(crate) unsafe fn request_timer_call(
    adapter: &Header,
    routine: unsafe extern "C" fn(PVOID),
    microseconds: u32,
) {
    let routine: PVOID = routine as PVOID;
    // SAFETY: the arguments are those of RequestTimerCall; the rest is the
    // caller's promise.
    unsafe {
        storage::StorPortNotification(
            notification::RequestTimerCall,
            adapter.device_extension(),
            routine,
            microseconds,
        );
    }
}

/// StorPortInitializeWorker.
///
/// # Safety
/// At or below DISPATCH_LEVEL (rule book 3.6).
pub(crate) unsafe fn initialize_worker(adapter: &Header) -> Option<NonNull<c_void>> {
    let mut worker: PVOID = core::ptr::null_mut();
    // SAFETY: the arguments are those of the inline function.
    let status = unsafe {
        storage::StorPortExtendedFunction(
            extended::ExtFunctionInitializeWorker,
            adapter.device_extension(),
            &raw mut worker,
        )
    };
    if status != SUCCESS {
        return None;
    }
    NonNull::new(worker)
}

/// StorPortQueueWorkItem: whether it was queued.
///
/// # Safety
/// At or below DISPATCH_LEVEL; `worker` is initialised and not queued;
/// `routine` may be called with the adapter's extension at any time.
pub(crate) unsafe fn queue_work_item(
    adapter: &Header,
    routine: unsafe extern "C" fn(PVOID, PVOID, PVOID),
    worker: NonNull<c_void>,
    argument: usize,
) -> bool {
    let routine: PVOID = routine as PVOID;
    let argument: PVOID = core::ptr::without_provenance_mut(argument);
    // SAFETY: the arguments are those of the inline function.
    let status = unsafe {
        storage::StorPortExtendedFunction(
            extended::ExtFunctionQueueWorkItem,
            adapter.device_extension(),
            routine,
            worker.as_ptr(),
            argument,
        )
    };
    status == SUCCESS
}

/// StorPortFreeWorker.
///
/// # Safety
/// At or below DISPATCH_LEVEL; `worker` is initialised and not queued, and is
/// not used again.
pub(crate) unsafe fn free_worker(adapter: &Header, worker: NonNull<c_void>) {
    // SAFETY: the caller's promise.
    unsafe {
        storage::StorPortExtendedFunction(
            extended::ExtFunctionFreeWorker,
            adapter.device_extension(),
            worker.as_ptr(),
        );
    }
}

/// StorPortStateChangeDetected: whether `routine` will be called.
///
/// # Safety
/// `address` stays as it is until `routine` is called, which may be with the
/// adapter's extension.
pub(crate) unsafe fn state_change_detected(
    adapter: &Header,
    entity: u32,
    address: *mut STOR_ADDR_BTL8,
    routine: unsafe extern "C" fn(PVOID, PVOID, SHORT, PVOID, ULONG),
) -> bool {
    let routine: PVOID = routine as PVOID;
    let mut status: ULONG = wdk_sys::STOR_STATUS_UNSUCCESSFUL;
    let (attributes, context): (ULONG, PVOID) = (0, core::ptr::null_mut());
    // SAFETY: the arguments are those of the inline function.
    unsafe {
        storage::StorPortNotification(
            notification::StateChangeDetectedCall,
            adapter.device_extension(),
            entity,
            address,
            attributes,
            routine,
            context,
            &raw mut status,
        );
    }
    status == SUCCESS
}

/// StorPortEnableRegistryKeyNotification: whether `routine` will be called.
///
/// # Safety
/// At PASSIVE_LEVEL; `routine` may be called with the adapter's extension at
/// any time.
pub(crate) unsafe fn enable_registry_key_notification(
    adapter: &Header,
    routine: unsafe extern "C" fn(PVOID),
) -> bool {
    let routine: PVOID = routine as PVOID;
    // SAFETY: the arguments are those of the inline function.
    let status = unsafe {
        storage::StorPortExtendedFunction(
            extended::ExtFunctionEnableRegistryKeyNotification,
            adapter.device_extension(),
            routine,
        )
    };
    status == SUCCESS
}

/// StorPortAllocatePool.
///
/// # Safety
/// At or below DISPATCH_LEVEL, not in HwStartIo (rule book 3.1, 3.6), not in a
/// dump stack (6, D6).
pub(crate) unsafe fn allocate_pool(
    adapter: &Header,
    bytes: u32,
    tag: u32,
) -> Option<NonNull<c_void>> {
    let mut memory: PVOID = core::ptr::null_mut();
    // SAFETY: the arguments are those of the inline function.
    let status = unsafe {
        storage::StorPortExtendedFunction(
            extended::ExtFunctionAllocatePool,
            adapter.device_extension(),
            bytes,
            tag,
            &raw mut memory,
        )
    };
    if status != SUCCESS {
        return None;
    }
    NonNull::new(memory)
}

/// StorPortFreePool.
///
/// # Safety
/// As for [`allocate_pool`], which `memory` came from and which is not used
/// again.
pub(crate) unsafe fn free_pool(adapter: &Header, memory: NonNull<c_void>) {
    // SAFETY: the caller's promise.
    unsafe {
        storage::StorPortExtendedFunction(
            extended::ExtFunctionFreePool,
            adapter.device_extension(),
            memory.as_ptr(),
        );
    }
}

/// What StorPortInitializePerfOpts is to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum PerfOpts {
    /// Say which flags there are.
    Query,
    /// Set those that are given.
    Set,
}

/// StorPortInitializePerfOpts: whether it was done.
///
/// # Safety
/// Called from HwInitialize or HwPassiveInitialize (rule book 3.5).
pub(crate) unsafe fn initialize_perf_opts(
    adapter: &Header,
    what: PerfOpts,
    data: &mut PERF_CONFIGURATION_DATA,
) -> bool {
    // C passes a BOOLEAN to a variadic function as an int.
    let query = i32::from(what == PerfOpts::Query);
    // SAFETY: the arguments are those of the inline function.
    let status = unsafe {
        storage::StorPortExtendedFunction(
            extended::ExtFunctionInitializePerformanceOptimizations,
            adapter.device_extension(),
            query,
            core::ptr::from_mut(data),
        )
    };
    status == SUCCESS
}

/// StorPortGetStartIoPerfParams.
///
/// # Safety
/// `srb` was given to HwStartIo of this adapter, and is not completed.
pub(crate) unsafe fn start_io_parameters(
    adapter: &Header,
    srb: PSCSI_REQUEST_BLOCK,
) -> Option<STARTIO_PERFORMANCE_PARAMETERS> {
    let mut parameters = STARTIO_PERFORMANCE_PARAMETERS {
        Version: 1,
        Size: size_of::<STARTIO_PERFORMANCE_PARAMETERS>() as u32,
        ..STARTIO_PERFORMANCE_PARAMETERS::default()
    };
    // SAFETY: the arguments are those of the inline function.
    let status = unsafe {
        storage::StorPortExtendedFunction(
            extended::ExtFunctionGetStartIoPerformanceParameters,
            adapter.device_extension(),
            srb,
            &raw mut parameters,
        )
    };
    (status == SUCCESS).then_some(parameters)
}

/// How many processors are active: StorPortGetActiveGroupCount and
/// StorPortGetGroupAffinity; 0 if they do not say.
///
/// # Safety
/// At or below DISPATCH_LEVEL (rule book 3.6).
pub(crate) unsafe fn processors(adapter: &Header) -> u32 {
    let mut groups: u16 = 0;
    // SAFETY: the arguments are those of the inline function.
    let status = unsafe {
        storage::StorPortExtendedFunction(
            extended::ExtFunctionGetActiveGroupCount,
            adapter.device_extension(),
            &raw mut groups,
        )
    };
    if status != SUCCESS {
        return 0;
    }
    let mut processors: u32 = 0;
    for group in 0..groups {
        let mut mask: usize = 0;
        // SAFETY: the arguments are those of the inline function, of which C
        // passes the USHORT as an int.
        let status = unsafe {
            storage::StorPortExtendedFunction(
                extended::ExtFunctionGetGroupAffinity,
                adapter.device_extension(),
                i32::from(group),
                &raw mut mask,
            )
        };
        if status == SUCCESS {
            processors = processors.wrapping_add(mask.count_ones());
        }
    }
    processors
}

/// StorPortRegistryRead of a REG_DWORD below the service's Parameters\Device.
///
/// # Safety
/// At PASSIVE_LEVEL (rule book 3.6).
pub(crate) unsafe fn registry_u32(adapter: &Header, name: &CStr) -> Option<u32> {
    let extension = adapter.device_extension();
    let mut length: ULONG = 4;
    // SAFETY: the caller's promise.
    let buffer = unsafe { storage::StorPortAllocateRegistryBuffer(extension, &raw mut length) };
    let buffer = NonNull::new(buffer)?;
    length = 4;
    // SAFETY: the buffer is Storport's and as long as is said; the name ends
    // with a zero, and is only read.
    let read = unsafe {
        storage::StorPortRegistryRead(
            extension,
            name.as_ptr().cast_mut().cast(),
            1,
            wdk_sys::MINIPORT_REG_DWORD,
            buffer.as_ptr(),
            &raw mut length,
        )
    };
    // SAFETY: Storport's buffer has 4 bytes, which it filled if it says so.
    let value = (read != 0 && length == 4)
        .then(|| unsafe { buffer.cast::<u32>().as_ptr().read_unaligned() });
    // SAFETY: the buffer is not used again.
    unsafe { storage::StorPortFreeRegistryBuffer(extension, buffer.as_ptr()) };
    value
}

/// StorPortNotification(BusChangeDetected).
pub(crate) fn bus_change_detected(adapter: &Header, path: u8) {
    // SAFETY: the arguments are those of the notification, of which C passes
    // the UCHAR as an int.
    unsafe {
        storage::StorPortNotification(
            notification::BusChangeDetected,
            adapter.device_extension(),
            i32::from(path),
        );
    }
}

/// StorPortNotification(ResetDetected).
pub(crate) fn reset_detected(adapter: &Header, path: u8) {
    // SAFETY: as above.
    unsafe {
        storage::StorPortNotification(
            notification::ResetDetected,
            adapter.device_extension(),
            i32::from(path),
        );
    }
}

/// StorPortPause for so many seconds: whether it is done.
pub(crate) fn pause(adapter: &Header, seconds: u32) -> bool {
    // SAFETY: no requirement but the extension.
    let done = unsafe { storage::StorPortPause(adapter.device_extension(), seconds) };
    done != 0
}

/// StorPortResume: whether it is done.
pub(crate) fn resume(adapter: &Header) -> bool {
    // SAFETY: as above.
    let done = unsafe { storage::StorPortResume(adapter.device_extension()) };
    done != 0
}

/// StorPortBusy until so many requests are completed: whether it is done.
pub(crate) fn busy(adapter: &Header, requests: u32) -> bool {
    // SAFETY: as above.
    let done = unsafe { storage::StorPortBusy(adapter.device_extension(), requests) };
    done != 0
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
