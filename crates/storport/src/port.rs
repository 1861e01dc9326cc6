//! The calls into storport.sys.
//!
//! Most functions of `storport.h` are inline functions that call one of two exported variadic
//! functions, so the bindings do not contain them. The tables below make these calls instead. Each
//! line has the code of a function, and the arguments that the inline function passes after the
//! device extension, with their types. A type must be one that C's default argument promotions do
//! not change. A BOOLEAN, UCHAR or USHORT is passed as an `int`.
#![expect(unsafe_code, reason = "these are the foreign functions")]

use core::{
    ffi::{CStr, c_void},
    mem::MaybeUninit,
    ptr::{self, NonNull},
};

use wdk_sys::{
    LARGE_INTEGER, MESSAGE_INTERRUPT_INFORMATION, PERF_CONFIGURATION_DATA,
    PORT_CONFIGURATION_INFORMATION, PROCESSOR_NUMBER, PSCSI_REQUEST_BLOCK,
    PSTOR_SYNCHRONIZED_ACCESS, PVOID, STARTIO_PERFORMANCE_PARAMETERS, STOR_ADDR_BTL8, STOR_DPC,
    STOR_LOCK_HANDLE, STOR_LOG_EVENT_DETAILS, STOR_SCATTER_GATHER_LIST, STOR_SPINLOCK, ULONG,
    storage,
};

use crate::{
    extension::Header,
    newer::{extended, notification},
    status::StorStatus,
};

/// A type that a variadic call passes unchanged.
trait Promoted {}
impl Promoted for i32 {}
impl Promoted for u32 {}
impl<T> Promoted for *mut T {}

const fn promoted<T: Promoted>() {}

/// The functions behind StorPortNotification.
macro_rules! notifications {
    ($($(#[$doc:meta])* $name:ident = $code:ident($($argument:ident: $type:ty),*);)*) => {$(
        $(#[$doc])*
        #[inline]
        pub(crate) unsafe fn $name(adapter: &Header $(, $argument: $type)*) {
            const { $(promoted::<$type>();)* }
            // SAFETY: `Header`'s invariant: this is the HwDeviceExtension. The table has the
            // arguments that the code takes. The caller promises that their values are valid.
            unsafe {
                storage::StorPortNotification(
                    notification::$code,
                    adapter.device_extension(),
                    $($argument,)*
                );
            }
        }
    )*};
}

/// The functions behind StorPortExtendedFunction.
macro_rules! extended_functions {
    ($($(#[$doc:meta])* $name:ident = $code:ident($($argument:ident: $type:ty),*);)*) => {$(
        $(#[$doc])*
        #[inline]
        pub(crate) unsafe fn $name(
            adapter: &Header
            $(, $argument: $type)*
        ) -> Result<(), StorStatus> {
            const { $(promoted::<$type>();)* }
            // SAFETY: As in `notifications`.
            StorStatus::check(unsafe {
                storage::StorPortExtendedFunction(
                    extended::$code,
                    adapter.device_extension(),
                    $($argument,)*
                )
            })
        }
    )*};
}

notifications! {
    /// StorPortNotification(RequestComplete). `srb` belongs to the miniport, its status is final,
    /// and nothing accesses it from now on.
    request_complete = RequestComplete(srb: PSCSI_REQUEST_BLOCK);
    /// StorPortNotification(ResetDetected).
    reset_detected = ResetDetected(path: i32);
    /// StorPortNotification(RequestTimerCall). `routine` may be called with the
    /// adapter's extension at any time. 0 `microseconds` cancels the timer.
    request_timer_call = RequestTimerCall(routine: PVOID, microseconds: u32);
    /// StorPortNotification(BusChangeDetected).
    bus_change_detected = BusChangeDetected(path: i32);
    /// StorPortEnablePassiveInitialization. Called in HwInitialize only.
    enable_passive_initialization =
        EnablePassiveInitialization(routine: PVOID, enabled: *mut ULONG);
    /// StorPortInitializeDpc. Called in HwPassiveInitialize, once for an object.
    initialize_dpc = InitializeDpc(dpc: *mut STOR_DPC, routine: PVOID);
    /// StorPortInitializeThreadedDpc. Called in HwPassiveInitialize, once for an object.
    /// `important` is a BOOLEAN.
    initialize_threaded_dpc = InitializeThreadedDpc(
        dpc: *mut STOR_DPC, routine: PVOID, context: PVOID, important: i32);
    /// StorPortIssueDpc. `dpc` is initialised.
    issue_dpc = IssueDpc(
        dpc: *mut STOR_DPC, first: PVOID, second: PVOID, queued: *mut ULONG);
    /// StorPortAcquireSpinLock. `dpc` is an initialised object or null, as `kind` requires. The
    /// callback may take the lock now. `handle` does not move until `release_spin_lock`.
    acquire_spin_lock = AcquireSpinLock(
        kind: STOR_SPINLOCK, dpc: *mut STOR_DPC, handle: *mut STOR_LOCK_HANDLE);
    /// StorPortReleaseSpinLock. `handle` belongs to the lock that was acquired last of those that
    /// are held.
    release_spin_lock = ReleaseSpinLock(handle: *mut STOR_LOCK_HANDLE);
    /// StorPortStateChangeDetected. `address` does not change until `routine` is called.
    state_change_detected = StateChangeDetectedCall(
        entity: u32, address: *mut STOR_ADDR_BTL8, attributes: u32, routine: PVOID,
        context: PVOID, status: *mut ULONG);
}

extended_functions! {
    /// StorPortAllocatePool. At or below DISPATCH_LEVEL, not in HwStartIo, not
    /// in a dump stack.
    allocate_pool = ExtFunctionAllocatePool(bytes: u32, tag: u32, memory: *mut PVOID);
    /// StorPortFreePool. At or below DISPATCH_LEVEL, not in HwStartIo, not in a dump stack.
    free_pool = ExtFunctionFreePool(memory: PVOID);
    /// StorPortGetMSIInfo. Not in HwMSInterruptRoutine.
    get_msi_info = ExtFunctionGetMessageInterruptInformation(
        message: u32, information: *mut MESSAGE_INTERRUPT_INFORMATION);
    /// StorPortInitializePerfOpts. In HwInitialize or HwPassiveInitialize only.
    /// `query` is a BOOLEAN.
    initialize_perf_opts = ExtFunctionInitializePerformanceOptimizations(
        query: i32, data: *mut PERF_CONFIGURATION_DATA);
    /// StorPortGetStartIoPerfParams. `srb` was passed to HwStartIo and is not completed.
    get_start_io_perf_params = ExtFunctionGetStartIoPerformanceParameters(
        srb: PSCSI_REQUEST_BLOCK, parameters: *mut STARTIO_PERFORMANCE_PARAMETERS);
    /// StorPortLogSystemEvent. At or below DISPATCH_LEVEL. `details` and the memory that it points
    /// to are valid during the call.
    log_system_event = ExtFunctionLogSystemEvent(
        details: *mut STOR_LOG_EVENT_DETAILS, most_bytes: *mut ULONG);
    /// StorPortGetCurrentProcessorNumber. At or below DISPATCH_LEVEL.
    get_current_processor_number =
        ExtFunctionGetCurrentProcessorNumber(number: *mut PROCESSOR_NUMBER);
    /// StorPortGetActiveGroupCount. At or below DISPATCH_LEVEL.
    get_active_group_count = ExtFunctionGetActiveGroupCount(count: *mut u16);
    /// StorPortGetGroupAffinity. At or below DISPATCH_LEVEL. `group` is a
    /// USHORT.
    get_group_affinity = ExtFunctionGetGroupAffinity(group: i32, mask: *mut usize);
    /// StorPortAcquireMSISpinLock. `message` has a lock of its own, and the callback may take it
    /// now.
    acquire_msi_spin_lock = ExtFunctionAcquireMSISpinLock(message: u32, irql: *mut ULONG);
    /// StorPortReleaseMSISpinLock. `irql` came from the acquisition.
    release_msi_spin_lock = ExtFunctionReleaseMSISpinLock(message: u32, irql: u32);
    /// StorPortGetSystemAddress. At or below DISPATCH_LEVEL. `srb` belongs to the miniport.
    get_system_address =
        ExtFunctionGetSystemAddress(srb: PSCSI_REQUEST_BLOCK, address: *mut PVOID);
    /// StorPortInitializeWorker. At or below DISPATCH_LEVEL.
    initialize_worker = ExtFunctionInitializeWorker(worker: *mut PVOID);
    /// StorPortQueueWorkItem. At or below DISPATCH_LEVEL. `worker` is
    /// initialised and not queued. `routine` may be called with the adapter's
    /// extension at any time.
    queue_work_item =
        ExtFunctionQueueWorkItem(routine: PVOID, worker: PVOID, context: PVOID);
    /// StorPortFreeWorker. At or below DISPATCH_LEVEL. `worker` is not queued,
    /// and not used again.
    free_worker = ExtFunctionFreeWorker(worker: PVOID);
    /// StorPortQueryPerformanceCounter, at any IRQL.
    query_performance_counter = ExtFunctionQueryPerformanceCounter(
        frequency: *mut LARGE_INTEGER, counter: *mut LARGE_INTEGER);
    /// StorPortAcquireSpinLockEx, as `acquire_spin_lock`.
    acquire_spin_lock_ex = ExtFunctionAcquireSpinLock(
        kind: STOR_SPINLOCK, dpc: *mut STOR_DPC, handle: *mut STOR_LOCK_HANDLE);
    /// StorPortEnableRegistryKeyNotification. At PASSIVE_LEVEL. `routine` may be
    /// called with the adapter's extension at any time.
    enable_registry_key_notification =
        ExtFunctionEnableRegistryKeyNotification(routine: PVOID);
}

/// StorPortIssueDpc, without arguments for the DPC. Has no effect if the DPC is queued already.
///
/// # Safety
/// `dpc` is an initialised object of the adapter.
#[inline]
pub(crate) unsafe fn issue(adapter: &Header, dpc: *mut STOR_DPC) {
    let mut queued: ULONG = 0;
    // SAFETY: The caller's promise. `queued` outlives the call.
    unsafe {
        issue_dpc(
            adapter,
            dpc,
            ptr::null_mut(),
            ptr::null_mut(),
            &raw mut queued,
        )
    };
}

/// StorPortSynchronizeAccess.
///
/// # Safety
/// The callback may take the interrupt lock now, and `routine` may be called
/// with `context`.
pub(crate) unsafe fn synchronize_access(
    adapter: &Header,
    routine: PSTOR_SYNCHRONIZED_ACCESS,
    context: PVOID,
) {
    // SAFETY: the caller's promise.
    unsafe { storage::StorPortSynchronizeAccess(adapter.device_extension(), routine, context) };
}

/// StorPortGetScatterGatherList.
///
/// # Safety
/// The SRB belongs to the miniport. The list is valid until the SRB is completed.
pub(crate) unsafe fn scatter_gather_list(
    adapter: &Header,
    srb: PSCSI_REQUEST_BLOCK,
) -> Option<NonNull<STOR_SCATTER_GATHER_LIST>> {
    // SAFETY: the caller's promise.
    let list = unsafe { storage::StorPortGetScatterGatherList(adapter.device_extension(), srb) };
    NonNull::new(list)
}

/// StorPortGetPhysicalAddress of memory that is not the data of an SRB. Returns the physical
/// address, and the number of contiguous bytes from there on.
///
/// # Safety
/// `address` lies in the uncached extension.
pub(crate) unsafe fn physical_address(
    adapter: &Header,
    address: NonNull<u8>,
) -> Option<(u64, u32)> {
    let mut length: ULONG = 0;
    // SAFETY: The caller's promise. A null SRB means that the address is not in the data of an SRB.
    let physical = unsafe {
        storage::StorPortGetPhysicalAddress(
            adapter.device_extension(),
            ptr::null_mut(),
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
/// Called in HwFindAdapter, with its ConfigInfo filled in.
pub(crate) unsafe fn uncached_extension(
    adapter: &Header,
    config: *mut PORT_CONFIGURATION_INFORMATION,
    bytes: u32,
) -> Option<NonNull<u8>> {
    // SAFETY: the caller's promise.
    let memory =
        unsafe { storage::StorPortGetUncachedExtension(adapter.device_extension(), config, bytes) };
    NonNull::new(memory.cast())
}

/// StorPortGetBusData of PCI configuration space. Returns the number of bytes that were read.
///
/// # Safety
/// Called in HwFindAdapter.
pub(crate) unsafe fn pci_configuration(
    adapter: &Header,
    bus: u32,
    slot: u32,
    into: &mut [u8; 256],
) -> u32 {
    // SAFETY: The buffer has 256 bytes. The rest is the caller's promise.
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
/// The arguments come from the ConfigInfo of HwFindAdapter.
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

/// The maximum stall that Storport's verifier accepts, in microseconds
/// (bug check 0xF1, 0x2001).
const LONGEST_STALL: u32 = 100_000;

/// StorPortStallExecution for `microseconds`, at most [`LONGEST_STALL`]. Runs at any IRQL.
pub(crate) fn stall(microseconds: u32) {
    // SAFETY: The routine only requires a bounded length.
    unsafe { storage::StorPortStallExecution(microseconds.min(LONGEST_STALL)) };
}

/// StorPortRegistryRead of a REG_DWORD below the service's Parameters\Device.
///
/// # Safety
/// At PASSIVE_LEVEL.
pub(crate) unsafe fn registry_u32(adapter: &Header, name: &CStr) -> Option<u32> {
    let extension = adapter.device_extension();
    let mut length: ULONG = 4;
    // SAFETY: the caller's promise.
    let buffer = unsafe { storage::StorPortAllocateRegistryBuffer(extension, &raw mut length) };
    let buffer = NonNull::new(buffer)?;
    length = 4;
    // SAFETY: The buffer is one of Storport, with `length` bytes. The name ends with a zero and is
    // only read.
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
    // SAFETY: Storport's buffer has 4 bytes, and Storport has filled them if `read` is not 0.
    let value = (read != 0 && length == 4)
        .then(|| unsafe { buffer.cast::<u32>().as_ptr().read_unaligned() });
    // SAFETY: The buffer is not used again.
    unsafe { storage::StorPortFreeRegistryBuffer(extension, buffer.as_ptr()) };
    value
}

/// StorPortPause for `seconds`. Returns false if Storport refuses.
pub(crate) fn pause(adapter: &Header, seconds: u32) -> bool {
    // SAFETY: `Header`'s invariant: this is the HwDeviceExtension.
    let done = unsafe { storage::StorPortPause(adapter.device_extension(), seconds) };
    done != 0
}

/// StorPortResume. Returns false if Storport refuses.
pub(crate) fn resume(adapter: &Header) -> bool {
    // SAFETY: as in `pause`.
    let done = unsafe { storage::StorPortResume(adapter.device_extension()) };
    done != 0
}

/// StorPortBusy until `requests` requests are completed. Returns false if Storport refuses.
pub(crate) fn busy(adapter: &Header, requests: u32) -> bool {
    // SAFETY: as in `pause`.
    let done = unsafe { storage::StorPortBusy(adapter.device_extension(), requests) };
    done != 0
}

/// StorPortInitialize.
///
/// # Safety
/// The arguments are DriverEntry's, and the table is filled in.
pub(crate) unsafe fn initialize(
    driver: *mut c_void,
    registry_path: *mut c_void,
    table: &mut MaybeUninit<wdk_sys::HW_INITIALIZATION_DATA>,
) -> ULONG {
    // SAFETY: the caller's promise.
    unsafe {
        storage::StorPortInitialize(driver, registry_path, table.as_mut_ptr(), ptr::null_mut())
    }
}
