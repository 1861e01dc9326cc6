//! The functions of storport.sys that `crates/storport` calls.
//!
//! Most functions of `storport.h` are inline functions that call `StorPortNotification` or
//! `StorPortExtendedFunction`. The functions here read the variadic arguments in the order and with
//! the types that the header passes.

use std::{
    collections::VecDeque,
    ptr,
    sync::{MutexGuard, atomic::Ordering},
};

use wdk_sys::{
    _SCSI_NOTIFICATION_TYPE as notification, _STORPORT_FUNCTION_CODE as extended, BOOLEAN,
    HW_PASSIVE_INITIALIZE_ROUTINE, HW_STATE_CHANGE, HW_TIMER, HW_WORKITEM, INTERFACE_TYPE,
    LARGE_INTEGER, MESSAGE_INTERRUPT_INFORMATION, PERF_CONFIGURATION_DATA,
    PPORT_CONFIGURATION_INFORMATION, PROCESSOR_NUMBER, PSCSI_REQUEST_BLOCK,
    PSTOR_SCATTER_GATHER_LIST, PSTOR_SYNCHRONIZED_ACCESS, PVOID, SCSI_NOTIFICATION_TYPE,
    STARTIO_PERFORMANCE_PARAMETERS, STOR_ADDR_BTL8, STOR_DPC, STOR_LOCK_HANDLE,
    STOR_LOG_EVENT_DETAILS, STOR_PHYSICAL_ADDRESS, STOR_SPINLOCK, STORPORT_FUNCTION_CODE, ULONG,
};

use super::{
    Interrupts,
    adapter::{Adapter, REGISTERS_AT},
    deferred::{self, Deferred, QueuedDpc, RegistryRoutine},
    processor::{self, Kind},
    queued_lock::Word,
    request::{self, Memory, Sent},
};

/// `STOR_STATUS_SUCCESS` (`storport.h`).
const SUCCESS: ULONG = 0;
/// `STOR_STATUS_INVALID_DEVICE_REQUEST`.
const INVALID_DEVICE_REQUEST: ULONG = 0xC100_0008;
/// `STOR_STATUS_UNSUCCESSFUL`.
const UNSUCCESSFUL: ULONG = 0xC100_0001;

/// Reads the next argument. Each argument is read once, in the order and with the type that the
/// inline function of `storport.h` passes.
macro_rules! argument {
    ($arguments:ident, $type:ty) => {{
        // SAFETY: The inline function passes an argument of this type.
        unsafe { $arguments.next_arg::<$type>() }
    }};
}

/// Reads the next argument, which is a function or null.
macro_rules! routine {
    ($arguments:ident, $type:ty) => {{
        let routine = argument!($arguments, PVOID);
        // SAFETY: The argument is a function of this type or null.
        unsafe { std::mem::transmute::<PVOID, $type>(routine) }
    }};
}

/// Reads the next argument, which points to a variable of the miniport, and stores a value there.
macro_rules! answer {
    ($arguments:ident, $type:ty, $value:expr) => {{
        let place = argument!($arguments, *mut $type);
        let value: $type = $value;
        // SAFETY: The pointer is to a variable of the miniport.
        unsafe { place.write(value) };
    }};
}

#[unsafe(no_mangle)]
unsafe extern "C" fn StorPortNotification(
    kind: SCSI_NOTIFICATION_TYPE,
    extension: PVOID,
    mut arguments: ...
) {
    let adapter = processor::adapter(extension);
    match kind {
        notification::RequestComplete => {
            let srb: PSCSI_REQUEST_BLOCK = argument!(arguments, PSCSI_REQUEST_BLOCK);
            // SAFETY: The miniport owns the SRB. Miri reports it if it does not.
            unsafe { Sent::complete(srb) };
        }
        notification::EnablePassiveInitialization => {
            let routine = routine!(arguments, HW_PASSIVE_INITIALIZE_ROUTINE);
            let mut place = adapter.passive_initialize.lock().expect("no panic");
            answer!(arguments, ULONG, place.is_none().into());
            *place = routine;
        }
        notification::InitializeDpc | notification::InitializeThreadedDpc => {
            let dpc = argument!(arguments, *mut STOR_DPC);
            let routine = argument!(arguments, PVOID);
            let mut object = deferred::DPC_OBJECT;
            if kind == notification::InitializeThreadedDpc {
                object = deferred::THREADED_DPC_OBJECT;
                let _context = argument!(arguments, PVOID);
                let _importance = argument!(arguments, i32);
            }
            refuse_queued(adapter, dpc);
            // SAFETY: The pointer is to a DPC object of the miniport.
            unsafe { deferred::initialise(dpc, object, routine) };
        }
        notification::IssueDpc => {
            let dpc = argument!(arguments, *mut STOR_DPC);
            let arguments_of_dpc = [argument!(arguments, PVOID), argument!(arguments, PVOID)];
            // SAFETY: The pointer is to a DPC object of the miniport.
            let _: &Word = unsafe { deferred::initialised(dpc) };
            let mut queue = queued_dpcs(adapter);
            let fresh = !queue.iter().any(|queued| queued.dpc == dpc);
            if fresh {
                queue.push_back(QueuedDpc {
                    dpc,
                    arguments: arguments_of_dpc,
                });
            }
            answer!(arguments, ULONG, fresh.into());
        }
        notification::RequestTimerCall => {
            let routine = routine!(arguments, HW_TIMER);
            let microseconds = argument!(arguments, ULONG);
            let mut timer = adapter.timer.lock().expect("no panic");
            *timer = if microseconds == 0 { None } else { routine };
        }
        notification::StateChangeDetectedCall => {
            let _entity = argument!(arguments, ULONG);
            let address = argument!(arguments, *mut STOR_ADDR_BTL8);
            let _attributes = argument!(arguments, ULONG);
            let routine = routine!(arguments, HW_STATE_CHANGE).expect("a routine");
            let context = argument!(arguments, PVOID);
            let run = move |extension| {
                // SAFETY: The miniport keeps the address until its callback.
                let kind = unsafe { address.read() }.Type;
                assert_eq!(kind, wdk_sys::STOR_ADDRESS_TYPE_BTL8 as u16);
                // SAFETY: The arguments are those that `storport.h` requires.
                unsafe { routine(extension, context, kind.cast_signed(), address.cast(), 0) };
            };
            let mut changes = adapter.state_changes.lock().expect("no panic");
            changes.push_back(Deferred(Box::new(run)));
            answer!(arguments, ULONG, SUCCESS);
        }
        notification::AcquireSpinLock => {
            let lock = argument!(arguments, STOR_SPINLOCK);
            let context = argument!(arguments, *mut STOR_DPC);
            let handle = argument!(arguments, *mut STOR_LOCK_HANDLE);
            let word = if context.is_null() {
                ptr::null()
            } else {
                // SAFETY: The pointer is to a DPC object, because no other lock has a context.
                ptr::from_ref(unsafe { deferred::initialised(context) })
            };
            // SAFETY: The miniport must keep the rules of the lock. Miri reports it if it does not.
            unsafe { adapter.acquire(lock, word, handle) };
        }
        notification::ReleaseSpinLock => {
            let handle = argument!(arguments, *mut STOR_LOCK_HANDLE);
            // SAFETY: as above.
            unsafe { adapter.release(handle) };
        }
        notification::ResetDetected | notification::BusChangeDetected => {
            let path = argument!(arguments, i32);
            assert_eq!(path, 0, "Storport: the bus does not exist");
        }
        other => panic!("Storport: notification {other} is not modelled"),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn StorPortExtendedFunction(
    code: STORPORT_FUNCTION_CODE,
    extension: PVOID,
    mut arguments: ...
) -> ULONG {
    let adapter = processor::adapter(extension);
    match code {
        extended::ExtFunctionAcquireSpinLock => {
            let lock = argument!(arguments, STOR_SPINLOCK);
            let dpc = argument!(arguments, *mut STOR_DPC);
            let handle = argument!(arguments, *mut STOR_LOCK_HANDLE);
            // SAFETY: `crates/storport` takes only locks of DPC objects with this function.
            let word = unsafe { deferred::initialised(dpc) };
            // SAFETY: As in `StorPortNotification`.
            unsafe { adapter.acquire(lock, word, handle) };
        }
        extended::ExtFunctionAcquireMSISpinLock => {
            adapter.acquire_message(argument!(arguments, ULONG));
            answer!(arguments, ULONG, 2);
        }
        extended::ExtFunctionReleaseMSISpinLock => {
            let message = argument!(arguments, ULONG);
            let irql = argument!(arguments, ULONG);
            assert_eq!(
                irql, 2,
                "Storport: wrong old IRQL in the release of a message lock"
            );
            adapter.release_message(message);
        }
        extended::ExtFunctionGetMessageInterruptInformation => {
            let message = argument!(arguments, ULONG);
            if !matches!(adapter.machine.interrupts, Interrupts::Messages(n) if message < n) {
                return INVALID_DEVICE_REQUEST;
            }
            let known = MESSAGE_INTERRUPT_INFORMATION {
                MessageId: message,
                ..Default::default()
            };
            answer!(arguments, MESSAGE_INTERRUPT_INFORMATION, known);
        }
        extended::ExtFunctionGetSystemAddress => {
            let srb = argument!(arguments, PSCSI_REQUEST_BLOCK);
            if adapter.maps_nothing.load(Ordering::Relaxed) {
                return UNSUCCESSFUL;
            }
            // SAFETY: The miniport owns the SRB.
            let sent = unsafe { Sent::of(srb) };
            // SAFETY: `of` returns the request of the SRB, which is not completed.
            let data = unsafe { &(*sent).data };
            answer!(arguments, PVOID, data.0.at::<u8>(0).cast());
        }
        extended::ExtFunctionInitializePerformanceOptimizations => {
            let query = argument!(arguments, i32) != 0;
            let data = argument!(arguments, *mut PERF_CONFIGURATION_DATA);
            // SAFETY: The pointer is to a structure of the miniport.
            let data = unsafe { &mut *data };
            let offered = match adapter.machine.channels {
                0 => 0,
                _ => wdk_sys::STOR_PERF_CONCURRENT_CHANNELS,
            };
            if query {
                data.Flags = offered;
                return SUCCESS;
            }
            if data.Flags & !offered != 0 {
                return UNSUCCESSFUL;
            }
            assert!(
                data.ConcurrentChannels > 1,
                "Storport: the number of channels is wrong"
            );
            adapter.concurrent.store(true, Ordering::Relaxed);
        }
        extended::ExtFunctionAllocatePool => {
            let bytes = argument!(arguments, ULONG);
            let _tag = argument!(arguments, ULONG);
            answer!(arguments, PVOID, adapter.allocate(bytes));
        }
        extended::ExtFunctionInitializeWorker => answer!(arguments, PVOID, adapter.allocate(8)),
        extended::ExtFunctionFreePool | extended::ExtFunctionFreeWorker => {
            adapter.free(argument!(arguments, PVOID));
        }
        extended::ExtFunctionQueueWorkItem => {
            let routine = routine!(arguments, HW_WORKITEM).expect("a routine");
            let worker = argument!(arguments, PVOID);
            let argument = argument!(arguments, PVOID);
            // SAFETY: The arguments are those that `storport.h` requires.
            let run = move |extension| unsafe { routine(extension, argument, worker) };
            let mut work = adapter.work.lock().expect("no panic");
            work.push_back(Deferred(Box::new(run)));
        }
        extended::ExtFunctionEnableRegistryKeyNotification => {
            let routine = routine!(arguments, RegistryRoutine);
            *adapter.registry.lock().expect("no panic") = routine;
        }
        extended::ExtFunctionGetStartIoPerformanceParameters => {
            let _srb = argument!(arguments, PSCSI_REQUEST_BLOCK);
            let parameters = argument!(arguments, *mut STARTIO_PERFORMANCE_PARAMETERS);
            // SAFETY: The pointer is to a structure of the miniport.
            let parameters = unsafe { &mut *parameters };
            parameters.MessageNumber = 1;
            parameters.ChannelNumber = 0;
        }
        extended::ExtFunctionGetCurrentProcessorNumber => {
            let here = PROCESSOR_NUMBER {
                Group: 1,
                Number: processor::number(),
                Reserved: 0,
            };
            answer!(arguments, PROCESSOR_NUMBER, here);
        }
        extended::ExtFunctionGetActiveGroupCount => answer!(arguments, u16, 2),
        extended::ExtFunctionGetGroupAffinity => {
            let _group = argument!(arguments, i32);
            answer!(arguments, usize, 0b11);
        }
        extended::ExtFunctionQueryPerformanceCounter => {
            let now = adapter.milliseconds.load(Ordering::Relaxed).cast_signed();
            answer!(arguments, LARGE_INTEGER, LARGE_INTEGER { QuadPart: 1000 });
            answer!(arguments, LARGE_INTEGER, LARGE_INTEGER { QuadPart: now });
        }
        extended::ExtFunctionLogSystemEvent => {
            let details = argument!(arguments, *mut STOR_LOG_EVENT_DETAILS);
            // SAFETY: The structure and the memory that it points to belong to the miniport.
            unsafe { read_event(details) };
            answer!(arguments, ULONG, 0);
        }
        _ => return UNSUCCESSFUL,
    }
    SUCCESS
}

/// The queued DPCs of an adapter. A dump stack has none.
fn queued_dpcs(adapter: &Adapter) -> MutexGuard<'_, VecDeque<QueuedDpc>> {
    assert!(
        !adapter.machine.dump,
        "Storport: a DPC object is used in a dump stack"
    );
    adapter.dpcs.lock().expect("no panic")
}

/// Panics if the DPC object is queued: initialising it again would break the queue.
fn refuse_queued(adapter: &Adapter, dpc: *const STOR_DPC) {
    assert!(
        !queued_dpcs(adapter)
            .iter()
            .any(|queued| ptr::eq(queued.dpc, dpc)),
        "Storport: a DPC object is initialised while it is queued"
    );
}

/// Reads all the memory that an event points to.
///
/// # Safety
/// `details` is the argument that the miniport passes to StorPortLogSystemEvent.
unsafe fn read_event(details: *const STOR_LOG_EVENT_DETAILS) {
    // SAFETY: the caller's promise.
    let details = unsafe { details.read() };
    for index in 0..details.DumpDataSize as usize {
        let byte = details.DumpData.cast::<u8>().wrapping_add(index);
        // SAFETY: the caller's promise.
        std::hint::black_box(unsafe { byte.read() });
    }
    for index in 0..details.StringCount as usize {
        let place = details.StringList.wrapping_add(index);
        // SAFETY: the caller's promise.
        let mut character: *const u16 = unsafe { place.read() };
        // SAFETY: The string ends with a zero.
        while unsafe { character.read() } != 0 {
            character = character.wrapping_add(1);
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn StorPortPause(extension: PVOID, _seconds: ULONG) -> BOOLEAN {
    let adapter = processor::adapter(extension);
    adapter.paused.store(true, Ordering::Relaxed);
    1
}

#[unsafe(no_mangle)]
extern "C" fn StorPortResume(extension: PVOID) -> BOOLEAN {
    let adapter = processor::adapter(extension);
    adapter.paused.store(false, Ordering::Relaxed);
    1
}

#[unsafe(no_mangle)]
extern "C" fn StorPortBusy(extension: PVOID, _requests: ULONG) -> BOOLEAN {
    processor::adapter(extension);
    1
}

#[unsafe(no_mangle)]
unsafe extern "C" fn StorPortAllocateRegistryBuffer(
    extension: PVOID,
    length: *mut ULONG,
) -> *mut u8 {
    let adapter = processor::adapter(extension);
    // SAFETY: The pointer is to a variable of the miniport.
    adapter.allocate(unsafe { length.read() }).cast()
}

/// Returns 7 for every value of the registry.
#[unsafe(no_mangle)]
unsafe extern "C" fn StorPortRegistryRead(
    extension: PVOID,
    _name: *mut u8,
    _global: ULONG,
    _kind: ULONG,
    buffer: *mut u8,
    length: *mut ULONG,
) -> BOOLEAN {
    processor::adapter(extension);
    // SAFETY: The pointer is to a variable of the miniport.
    assert_eq!(unsafe { length.read() }, 4);
    // SAFETY: The buffer is that of StorPortAllocateRegistryBuffer.
    unsafe { buffer.cast::<u32>().write_unaligned(7) };
    1
}

#[unsafe(no_mangle)]
extern "C" fn StorPortFreeRegistryBuffer(extension: PVOID, buffer: *mut u8) {
    processor::adapter(extension).free(buffer.cast());
}

#[unsafe(no_mangle)]
unsafe extern "C" fn StorPortSynchronizeAccess(
    extension: PVOID,
    routine: PSTOR_SYNCHRONIZED_ACCESS,
    context: PVOID,
) -> BOOLEAN {
    let adapter = processor::adapter(extension);
    let routine = routine.expect("a routine");
    // SAFETY: The arguments are those that `storport.h` requires.
    adapter.holding(Kind::Interrupt, || unsafe { routine(extension, context) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn StorPortGetScatterGatherList(
    extension: PVOID,
    srb: PSCSI_REQUEST_BLOCK,
) -> PSTOR_SCATTER_GATHER_LIST {
    processor::adapter(extension);
    // SAFETY: The miniport owns the SRB.
    let sent = unsafe { Sent::of(srb) };
    // SAFETY: `of` returns the request of an SRB. This only takes an address.
    let list = unsafe { &(*sent).list };
    request::address(list.as_ref()).cast()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn StorPortGetUncachedExtension(
    extension: PVOID,
    config: PPORT_CONFIGURATION_INFORMATION,
    bytes: ULONG,
) -> PVOID {
    let adapter = processor::adapter(extension);
    // SAFETY: The pointer is to the ConfigInfo of HwFindAdapter.
    let extension_bytes = unsafe { (*config).SrbExtensionSize };
    assert!(
        extension_bytes != 0,
        "Storport: the uncached extension is taken before SrbExtensionSize is set"
    );
    let (memory, _) = adapter
        .uncached
        .get_or_init(|| (Memory::uninitialised(bytes as usize), bytes));
    memory.at::<u8>(0).cast()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn StorPortGetPhysicalAddress(
    extension: PVOID,
    srb: PSCSI_REQUEST_BLOCK,
    address: PVOID,
    length: *mut ULONG,
) -> STOR_PHYSICAL_ADDRESS {
    let adapter = processor::adapter(extension);
    assert!(srb.is_null());
    let (memory, bytes) = adapter.uncached.get().expect("an uncached extension");
    assert_eq!(memory.at::<u8>(0).addr(), address.addr());
    // SAFETY: The pointer is to a variable of the miniport.
    unsafe { length.write(*bytes) };
    STOR_PHYSICAL_ADDRESS {
        // The device reaches the memory by this address.
        QuadPart: address.expose_provenance() as i64,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn StorPortGetBusData(
    extension: PVOID,
    _kind: ULONG,
    _bus: ULONG,
    _slot: ULONG,
    buffer: PVOID,
    length: ULONG,
) -> ULONG {
    let space = processor::adapter(extension).device.configuration();
    assert_eq!(length, 256);
    // SAFETY: The pointer is to a buffer of the miniport.
    unsafe { buffer.cast::<[u8; 256]>().write(space) };
    length
}

#[unsafe(no_mangle)]
unsafe extern "C" fn StorPortGetDeviceBase(
    extension: PVOID,
    _bus_type: INTERFACE_TYPE,
    _bus: ULONG,
    address: STOR_PHYSICAL_ADDRESS,
    bytes: ULONG,
    _in_io_space: BOOLEAN,
) -> PVOID {
    let adapter = processor::adapter(extension);
    // SAFETY: Every bit pattern is an integer.
    let address = unsafe { address.QuadPart };
    assert_eq!(
        (address.cast_unsigned(), bytes),
        (REGISTERS_AT, adapter.device.length())
    );
    adapter.registers.at::<u8>(0).cast()
}

#[unsafe(no_mangle)]
extern "C" fn StorPortStallExecution(microseconds: ULONG) {
    assert!(
        microseconds <= 100_000,
        "Storport: stall of more than 0.1 s (0xF1/0x2001)"
    );
    processor::current().device.go_on();
    for _ in 0..microseconds {
        std::thread::yield_now();
    }
}
