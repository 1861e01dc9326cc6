//! The functions of storport.sys that `crates/storport` calls.
//!
//! Most functions of `storport.h` are inline functions that call `StorPortNotification` or
//! `StorPortExtendedFunction`. The functions here read the variadic arguments in the order and with
//! the types that the header passes.

use std::{ptr, sync::atomic::Ordering};

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
    later::{self, QueuedDpc, RegistryRoutine, StateChange, WorkItem},
    processor,
    queued_lock::Word,
    request::{self, Memory, Sent},
};

/// `STOR_STATUS_SUCCESS` (`storport.h`).
const SUCCESS: ULONG = 0;
/// `STOR_STATUS_INVALID_DEVICE_REQUEST`.
const INVALID_DEVICE_REQUEST: ULONG = 0xC100_0008;
/// `STOR_STATUS_UNSUCCESSFUL`.
const UNSUCCESSFUL: ULONG = 0xC100_0001;

#[unsafe(no_mangle)]
unsafe extern "C" fn StorPortNotification(
    kind: SCSI_NOTIFICATION_TYPE,
    extension: PVOID,
    mut arguments: ...
) {
    let adapter = processor::adapter(extension);
    // Each argument is read once, in the order and with the type that the inline function of
    // `storport.h` passes.
    macro_rules! argument {
        ($type:ty) => {{
            // SAFETY: The inline function passes an argument of this type.
            unsafe { arguments.next_arg::<$type>() }
        }};
    }
    match kind {
        notification::RequestComplete => {
            let srb: PSCSI_REQUEST_BLOCK = argument!(PSCSI_REQUEST_BLOCK);
            // SAFETY: The miniport owns the SRB. Miri reports it if it does not.
            unsafe { Sent::complete(srb) };
        }
        notification::EnablePassiveInitialization => {
            let routine = argument!(PVOID);
            let enabled = argument!(*mut ULONG);
            // SAFETY: The argument is a function of this type or null.
            let routine =
                unsafe { std::mem::transmute::<PVOID, HW_PASSIVE_INITIALIZE_ROUTINE>(routine) };
            let mut place = adapter.passive_initialize.lock().expect("no panic");
            let fresh = place.is_none();
            *place = routine;
            drop(place);
            // SAFETY: The pointer is to a variable of the miniport.
            unsafe { enabled.write(fresh.into()) };
        }
        notification::InitializeDpc => {
            assert!(
                !adapter.machine.dump,
                "Storport: a DPC object is used in a dump stack"
            );
            let dpc = argument!(*mut STOR_DPC);
            let routine = argument!(PVOID);
            refuse_queued(adapter, dpc);
            // SAFETY: The pointer is to a DPC object of the miniport.
            unsafe { later::initialise(dpc, later::DPC_OBJECT, routine) };
        }
        notification::InitializeThreadedDpc => {
            assert!(
                !adapter.machine.dump,
                "Storport: a DPC object is used in a dump stack"
            );
            let dpc = argument!(*mut STOR_DPC);
            let routine = argument!(PVOID);
            let _context = argument!(PVOID);
            let _importance = argument!(i32);
            refuse_queued(adapter, dpc);
            // SAFETY: The pointer is to a DPC object of the miniport.
            unsafe { later::initialise(dpc, later::THREADED_DPC_OBJECT, routine) };
        }
        notification::IssueDpc => {
            assert!(
                !adapter.machine.dump,
                "Storport: a DPC object is used in a dump stack"
            );
            let dpc = argument!(*mut STOR_DPC);
            let arguments = [argument!(PVOID), argument!(PVOID)];
            let queued = argument!(*mut ULONG);
            // SAFETY: The pointer is to a DPC object of the miniport.
            let _: &Word = unsafe { later::initialised(dpc) };
            let mut queue = adapter.dpcs.lock().expect("no panic");
            let fresh = !queue.iter().any(|queued| queued.dpc == dpc);
            if fresh {
                queue.push_back(QueuedDpc { dpc, arguments });
            }
            drop(queue);
            // SAFETY: The pointer is to a variable of the miniport.
            unsafe { queued.write(fresh.into()) };
        }
        notification::RequestTimerCall => {
            let routine = argument!(PVOID);
            let microseconds = argument!(ULONG);
            // SAFETY: The argument is a function of this type.
            let routine = unsafe { std::mem::transmute::<PVOID, HW_TIMER>(routine) };
            let mut timer = adapter.timer.lock().expect("no panic");
            *timer = if microseconds == 0 { None } else { routine };
        }
        notification::StateChangeDetectedCall => {
            let _entity = argument!(ULONG);
            let address = argument!(*mut STOR_ADDR_BTL8);
            let _attributes = argument!(ULONG);
            let routine = argument!(PVOID);
            let context = argument!(PVOID);
            let status = argument!(*mut ULONG);
            // SAFETY: The argument is a function of this type.
            let routine = unsafe { std::mem::transmute::<PVOID, HW_STATE_CHANGE>(routine) };
            let mut changes = adapter.state_changes.lock().expect("no panic");
            changes.push_back(StateChange {
                address,
                routine,
                context,
            });
            drop(changes);
            // SAFETY: The pointer is to a variable of the miniport.
            unsafe { status.write(SUCCESS) };
        }
        notification::AcquireSpinLock => {
            let lock = argument!(STOR_SPINLOCK);
            let context = argument!(*mut STOR_DPC);
            let handle = argument!(*mut STOR_LOCK_HANDLE);
            let word = if context.is_null() {
                ptr::null()
            } else {
                // SAFETY: The pointer is to a DPC object, because no other lock has a context.
                ptr::from_ref(unsafe { later::initialised(context) })
            };
            // SAFETY: The miniport must keep the rules of the lock. Miri reports it if it does not.
            unsafe { adapter.acquire(lock, word, handle) };
        }
        notification::ReleaseSpinLock => {
            let handle = argument!(*mut STOR_LOCK_HANDLE);
            // SAFETY: as above.
            unsafe { adapter.release(handle) };
        }
        notification::ResetDetected | notification::BusChangeDetected => {
            assert_eq!(argument!(i32), 0, "Storport: the bus does not exist");
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
    macro_rules! argument {
        ($type:ty) => {{
            // SAFETY: As in `StorPortNotification`.
            unsafe { arguments.next_arg::<$type>() }
        }};
    }
    match code {
        extended::ExtFunctionAcquireSpinLock => {
            let lock = argument!(STOR_SPINLOCK);
            let dpc = argument!(*mut STOR_DPC);
            let handle = argument!(*mut STOR_LOCK_HANDLE);
            // SAFETY: `crates/storport` takes only locks of DPC objects with this function.
            let word = unsafe { later::initialised(dpc) };
            // SAFETY: As in `StorPortNotification`.
            unsafe { adapter.acquire(lock, word, handle) };
            SUCCESS
        }
        extended::ExtFunctionAcquireMSISpinLock => {
            let message = argument!(ULONG);
            let irql = argument!(*mut ULONG);
            adapter.acquire_message(message);
            // SAFETY: The pointer is to a variable of the miniport.
            unsafe { irql.write(2) };
            SUCCESS
        }
        extended::ExtFunctionReleaseMSISpinLock => {
            let message = argument!(ULONG);
            assert_eq!(
                argument!(ULONG),
                2,
                "Storport: wrong old IRQL in the release of a message lock"
            );
            adapter.release_message(message);
            SUCCESS
        }
        extended::ExtFunctionGetMessageInterruptInformation => {
            let message = argument!(ULONG);
            let information = argument!(*mut MESSAGE_INTERRUPT_INFORMATION);
            if !matches!(adapter.machine.interrupts, Interrupts::Messages(n) if message < n) {
                return INVALID_DEVICE_REQUEST;
            }
            let known = MESSAGE_INTERRUPT_INFORMATION {
                MessageId: message,
                ..Default::default()
            };
            // SAFETY: The pointer is to a structure of the miniport.
            unsafe { information.write(known) };
            SUCCESS
        }
        extended::ExtFunctionGetSystemAddress => {
            let srb = argument!(PSCSI_REQUEST_BLOCK);
            let address = argument!(*mut PVOID);
            if adapter.maps_nothing.load(Ordering::Relaxed) {
                return UNSUCCESSFUL;
            }
            // SAFETY: The miniport owns the SRB.
            let sent = unsafe { Sent::of(srb) };
            // SAFETY: `of` returns the request of the SRB, which is not completed.
            let data = unsafe { &(*sent).data };
            // SAFETY: The pointer is to a variable of the miniport.
            unsafe { address.write(data.0.at::<u8>(0).cast()) };
            SUCCESS
        }
        extended::ExtFunctionInitializePerformanceOptimizations => {
            let query = argument!(i32) != 0;
            let data = argument!(*mut PERF_CONFIGURATION_DATA);
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
            SUCCESS
        }
        extended::ExtFunctionAllocatePool => {
            let bytes = argument!(ULONG);
            let _tag = argument!(ULONG);
            let memory = argument!(*mut PVOID);
            // SAFETY: The pointer is to a variable of the miniport.
            unsafe { memory.write(adapter.allocate(bytes)) };
            SUCCESS
        }
        extended::ExtFunctionInitializeWorker => {
            let worker = argument!(*mut PVOID);
            // SAFETY: The pointer is to a variable of the miniport.
            unsafe { worker.write(adapter.allocate(8)) };
            SUCCESS
        }
        extended::ExtFunctionFreePool | extended::ExtFunctionFreeWorker => {
            adapter.free(argument!(PVOID));
            SUCCESS
        }
        extended::ExtFunctionQueueWorkItem => {
            let routine = argument!(PVOID);
            let worker = argument!(PVOID);
            let argument = argument!(PVOID);
            // SAFETY: The argument is a function of this type.
            let routine = unsafe { std::mem::transmute::<PVOID, HW_WORKITEM>(routine) };
            let mut work = adapter.work.lock().expect("no panic");
            work.push_back(WorkItem {
                routine,
                argument,
                worker,
            });
            SUCCESS
        }
        extended::ExtFunctionEnableRegistryKeyNotification => {
            let routine = argument!(PVOID);
            // SAFETY: The argument is a function of this type.
            let routine = unsafe { std::mem::transmute::<PVOID, RegistryRoutine>(routine) };
            *adapter.registry.lock().expect("no panic") = routine;
            SUCCESS
        }
        extended::ExtFunctionGetStartIoPerformanceParameters => {
            let _srb = argument!(PSCSI_REQUEST_BLOCK);
            let parameters = argument!(*mut STARTIO_PERFORMANCE_PARAMETERS);
            // SAFETY: The pointer is to a structure of the miniport.
            let parameters = unsafe { &mut *parameters };
            parameters.MessageNumber = 1;
            parameters.ChannelNumber = 0;
            SUCCESS
        }
        extended::ExtFunctionGetCurrentProcessorNumber => {
            let number = argument!(*mut PROCESSOR_NUMBER);
            let here = PROCESSOR_NUMBER {
                Group: 1,
                Number: 3,
                Reserved: 0,
            };
            // SAFETY: The pointer is to a structure of the miniport.
            unsafe { number.write(here) };
            SUCCESS
        }
        extended::ExtFunctionGetActiveGroupCount => {
            let count = argument!(*mut u16);
            // SAFETY: The pointer is to a variable of the miniport.
            unsafe { count.write(2) };
            SUCCESS
        }
        extended::ExtFunctionGetGroupAffinity => {
            let _group = argument!(i32);
            let mask = argument!(*mut usize);
            // SAFETY: The pointer is to a variable of the miniport.
            unsafe { mask.write(0b11) };
            SUCCESS
        }
        extended::ExtFunctionQueryPerformanceCounter => {
            let frequency = argument!(*mut LARGE_INTEGER);
            let counter = argument!(*mut LARGE_INTEGER);
            let now = adapter.milliseconds.load(Ordering::Relaxed).cast_signed();
            // SAFETY: The pointer is to a variable of the miniport.
            unsafe { frequency.write(LARGE_INTEGER { QuadPart: 1000 }) };
            // SAFETY: The pointer is to a variable of the miniport.
            unsafe { counter.write(LARGE_INTEGER { QuadPart: now }) };
            SUCCESS
        }
        extended::ExtFunctionLogSystemEvent => {
            let details = argument!(*mut STOR_LOG_EVENT_DETAILS);
            let most_bytes = argument!(*mut ULONG);
            // SAFETY: The structure and the memory that it points to belong to the miniport.
            unsafe { read_event(details) };
            // SAFETY: The pointer is to a variable of the miniport.
            unsafe { most_bytes.write(0) };
            SUCCESS
        }
        _ => UNSUCCESSFUL,
    }
}

/// Panics if the DPC object is queued: initialising it again would break the queue.
fn refuse_queued(adapter: &Adapter, dpc: *const STOR_DPC) {
    let queue = adapter.dpcs.lock().expect("no panic");
    let queued = queue.iter().any(|queued| ptr::eq(queued.dpc, dpc));
    assert!(
        !queued,
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
    adapter.synchronized(|| unsafe { routine(extension, context) })
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
    std::thread::yield_now();
}
