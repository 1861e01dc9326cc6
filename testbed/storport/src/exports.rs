//! The functions that storport.sys exports.

use std::{fmt, time::Duration};

use super::{
    abi::{
        calls::{Call, exports},
        ntstatus, port_configuration_information as info, wdk,
    },
    adapter::FailingExport,
    callbacks::{self, Callback},
    configuration::Registration,
    extended, notifications,
    pool::PoolKind,
    port::{Placed, Port, Uncached},
    spin_locks::LockId,
    statistics::Counter,
    units::{Unit, closed},
    violations::Rule,
};
use testbed_machine::{
    cpu::{self, irql},
    memory::Placement,
    pci::BarKind,
    schedule::{self, Point},
};

pub(super) fn resolve(function: &str) -> Option<usize> {
    EXPORTS
        .iter()
        .find(|(name, _)| *name == function)
        .map(|(_, entry)| *entry as usize)
}

exports! {
    StorPortInitialize: initialize,
    StorPortNotification: notifications::notification,
    StorPortExtendedFunction: extended::extended_function,

    StorPortGetUncachedExtension: get_uncached_extension,
    StorPortGetDeviceBase: get_device_base,
    StorPortFreeDeviceBase: free_device_base,
    StorPortGetBusData: get_bus_data,
    StorPortSetBusDataByOffset: set_bus_data_by_offset,
    StorPortValidateRange: validate_range,
    StorPortGetMessageInterruptInformation: get_message_interrupt_information,

    StorPortGetPhysicalAddress: get_physical_address,
    StorPortGetVirtualAddress: get_virtual_address,
    StorPortGetScatterGatherList: get_scatter_gather_list,
    StorPortGetLogicalUnit: get_logical_unit,
    // Both types have the same 64 bits here. The conversion to ULONG drops the upper half.
    StorPortConvertPhysicalAddressToUlong: |mut call| call.u32() as usize,
    StorPortConvertUlongToPhysicalAddress: |mut call| call.address(),
    StorPortMoveMemory: move_memory,

    StorPortBusy: |call| busy(call, Of::Adapter),
    StorPortDeviceBusy: |call| busy(call, Of::Unit),
    StorPortReady: |call| resume(call, Of::Adapter, closed::BUSY),
    StorPortDeviceReady: |call| resume(call, Of::Unit, closed::BUSY),
    StorPortPause: |call| pause(call, Of::Adapter),
    StorPortPauseDevice: |call| pause(call, Of::Unit),
    StorPortResume: |call| resume(call, Of::Adapter, closed::PAUSED),
    StorPortResumeDevice: |call| resume(call, Of::Unit, closed::PAUSED),
    StorPortSetDeviceQueueDepth: set_device_queue_depth,
    StorPortCompleteRequest: complete_request,
    StorPortSynchronizeAccess: synchronize_access,

    StorPortStallExecution: stall_execution,
    StorPortQuerySystemTime: query_system_time,
    StorPortDebugPrint: debug_print,
    StorPortLogError: log_error,
    StorPortAllocateRegistryBuffer: allocate_registry_buffer,
    StorPortFreeRegistryBuffer: free_registry_buffer,
    StorPortRegistryRead: registry_read,
    StorPortRegistryWrite: registry_write,

    StorPortReadRegisterUchar: |call| read_one(call, 1, Port::read_register),
    StorPortReadRegisterUshort: |call| read_one(call, 2, Port::read_register),
    StorPortReadRegisterUlong: |call| read_one(call, 4, Port::read_register),
    StorPortReadRegisterBufferUchar: |call| read_many(call, 1, 1, Port::read_register),
    StorPortReadRegisterBufferUshort: |call| read_many(call, 2, 2, Port::read_register),
    StorPortReadRegisterBufferUlong: |call| read_many(call, 4, 4, Port::read_register),
    StorPortWriteRegisterUchar: |call| write_one(call, 1, Port::write_register),
    StorPortWriteRegisterUshort: |call| write_one(call, 2, Port::write_register),
    StorPortWriteRegisterUlong: |call| write_one(call, 4, Port::write_register),
    StorPortWriteRegisterBufferUchar: |call| write_many(call, 1, 1, Port::write_register),
    StorPortWriteRegisterBufferUshort: |call| write_many(call, 2, 2, Port::write_register),
    StorPortWriteRegisterBufferUlong: |call| write_many(call, 4, 4, Port::write_register),
    StorPortReadPortUchar: |call| read_one(call, 1, Port::read_port),
    StorPortReadPortUshort: |call| read_one(call, 2, Port::read_port),
    StorPortReadPortUlong: |call| read_one(call, 4, Port::read_port),
    StorPortReadPortBufferUchar: |call| read_many(call, 1, 0, Port::read_port),
    StorPortReadPortBufferUshort: |call| read_many(call, 2, 0, Port::read_port),
    StorPortReadPortBufferUlong: |call| read_many(call, 4, 0, Port::read_port),
    StorPortWritePortUchar: |call| write_one(call, 1, Port::write_port),
    StorPortWritePortUshort: |call| write_one(call, 2, Port::write_port),
    StorPortWritePortUlong: |call| write_one(call, 4, Port::write_port),
    StorPortWritePortBufferUchar: |call| write_many(call, 1, 0, Port::write_port),
    StorPortWritePortBufferUshort: |call| write_many(call, 2, 0, Port::write_port),
    StorPortWritePortBufferUlong: |call| write_many(call, 4, 0, Port::write_port),
}

/// The offset of a dump stack's uncached extension in its page. Existing miniports rely on this
/// alignment at most (storport-rules.md D6).
const DUMP_UNCACHED: usize = 16;

/// BOOLEAN.
const TRUE: usize = 1;
const FALSE: usize = 0;

fn initialize(mut call: Call) -> usize {
    let objects = [call.address(), call.address()];
    let data = call.structure();
    let port = callbacks::current_port().filter(|_| callbacks::current() == Callback::DriverEntry);
    let Some(port) = port else {
        if let Some(port) = callbacks::current_port() {
            port.violation(
                Rule::DdiCallback,
                format_args!("StorPortInitialize outside DriverEntry"),
            );
        }
        return ntstatus::STATUS_INVALID_PARAMETER as usize;
    };
    // DriverEntry of a dump stack got NULLs.
    let objects_missing = objects.contains(&0) && !port.is_dump();
    if objects_missing || data.is_null() {
        port.violation(
            Rule::DdiArgument,
            format_args!("StorPortInitialize with a NULL argument"),
        );
        return ntstatus::STATUS_INVALID_PARAMETER as usize;
    }
    let status = match Registration::read(port, data) {
        Ok(registration) => match port.registration.set(registration) {
            Ok(()) => ntstatus::STATUS_SUCCESS,
            // The first call counts.
            Err(_) => ntstatus::STATUS_INVALID_PARAMETER,
        },
        Err(status) => status,
    };
    status as usize
}

impl Call {
    /// Whether the running callback may call the function. Reports a violation
    /// (storport-rules.md Routines).
    pub(super) fn check_callback(&self, port: &Port, allowed: &[Callback]) -> bool {
        let callback = callbacks::current();
        let fits = allowed.contains(&callback);
        if !fits {
            let names: Vec<_> = allowed.iter().map(|allowed| allowed.name()).collect();
            port.violation(
                Rule::DdiCallback,
                format_args!(
                    "{} in {}, not in {}",
                    self.function,
                    callback.name(),
                    names.join(" or ")
                ),
            );
        }
        fits
    }

    /// Whether the IRQL is not above `highest`. Reports a violation (storport-rules.md IRQL).
    pub(super) fn check_irql(&self, port: &Port, highest: u8) -> bool {
        let level = cpu::current_irql();
        if level > highest {
            // For a dump stack, IRQLs above PASSIVE_LEVEL are documented, but HIGH_LEVEL only
            // for HwFindAdapter.
            let is_chosen = port.is_dump()
                && highest >= irql::DISPATCH
                && callbacks::current() != Callback::HwFindAdapter;
            let rule = if is_chosen {
                Rule::DdiDumpStack
            } else if port.is_strict_control() {
                Rule::StopAtDirql
            } else {
                Rule::DdiIrql
            };
            port.violation(
                rule,
                format_args!(
                    "{} at IRQL {level}; the highest is {highest}",
                    self.function
                ),
            );
        }
        level <= highest
    }

    /// Whether `port` is that of a dump stack without the function. Reports a violation.
    pub(super) fn is_lacking(&self, port: &Port) -> bool {
        port.lacks(self.function)
    }
}

pub(super) fn fails(port: &Port, export: FailingExport) -> bool {
    port.settings.failing_export == Some(export)
}

fn get_uncached_extension(mut call: Call) -> usize {
    let port = call.port();
    let config_info = call.structure();
    let bytes = call.u32() as usize;
    let allowed = call.check_callback(port, &[Callback::HwFindAdapter]);
    if let Some(uncached) = port.uncached.get() {
        return uncached.memory.address();
    }
    if !allowed || fails(port, FailingExport::GetUncachedExtension) {
        return 0;
    }
    let memory = port.machine.memory();
    let offset = if port.is_dump() { DUMP_UNCACHED } else { 0 };
    let Ok(block) = memory.allocate(offset + bytes, Placement::Contiguous) else {
        return 0;
    };
    let uncached = port.uncached.get_or_init(|| Uncached {
        memory: Placed { block, offset },
        bytes: bytes as u32,
        srb_extension: config_info.get(info::SrbExtensionSize),
    });
    uncached.memory.address()
}

fn get_device_base(mut call: Call) -> usize {
    let port = call.port();
    let (_bus_type, _bus) = (call.u32(), call.u32());
    let address = call.u64();
    let (bytes, in_io_space) = (call.u32(), call.u8());
    let kind = match in_io_space {
        0 => BarKind::Memory,
        _ => BarKind::Io,
    };
    if fails(port, FailingExport::GetDeviceBase) {
        return 0;
    }
    port.device_base(kind, address, bytes)
}

fn free_device_base(mut call: Call) -> usize {
    let port = call.port();
    let address = call.address();
    call.check_callback(port, &[Callback::HwFindAdapter]);
    port.free_device_base(address);
    0
}

fn get_bus_data(mut call: Call) -> usize {
    let port = call.port();
    let kind = call.u32();
    let (_bus, _slot) = (call.u32(), call.u32());
    let buffer = call.structure();
    let bytes = call.u32() as usize;
    port.check_bus_data(call.function);
    if kind != wdk::PCIConfiguration {
        return 0;
    }
    let most = match fails(port, FailingExport::GetBusData) {
        true => 64,
        false => 256,
    };
    let mut data = vec![0; bytes.min(most)];
    port.function.config_read(0, &mut data);
    buffer.write(&data);
    data.len()
}

fn set_bus_data_by_offset(mut call: Call) -> usize {
    let port = call.port();
    let kind = call.u32();
    let (_bus, _slot) = (call.u32(), call.u32());
    let buffer = call.structure();
    let (offset, bytes) = (call.u32() as usize, call.u32() as usize);
    port.check_bus_data(call.function);
    if kind != wdk::PCIConfiguration || offset + bytes > 256 {
        return 0;
    }
    let data = buffer.bytes(bytes);
    port.function.config_write(offset as u16, &data);
    bytes
}

fn deprecated(port: &Port, call: &Call) {
    port.violation(
        Rule::DdiDeprecated,
        format_args!("{} is deprecated", call.function),
    );
}

fn validate_range(mut call: Call) -> usize {
    let port = call.port();
    deprecated(port, &call);
    TRUE
}

fn get_message_interrupt_information(mut call: Call) -> usize {
    let port = call.port();
    let message = call.u32();
    let to = call.structure();
    usize::from(extended::message_information(port, message, to).is_ok())
}

fn get_physical_address(mut call: Call) -> usize {
    let port = call.port();
    let _srb = call.address();
    let address = call.address();
    let length = call.structure();
    // The length is that of the physically contiguous run, which ends with the allocation.
    let run = port.machine.memory().run(address, 1 << 31);
    if !length.is_null() {
        let bytes = run.map_or(0, |(_, bytes)| bytes);
        length.set(super::abi::value(), bytes as u32);
    }
    run.map_or(0, |(physical, _)| physical as usize)
}

fn get_virtual_address(mut call: Call) -> usize {
    let port = call.port();
    let physical = call.u64();
    port.machine.memory().virtual_address(physical).unwrap_or(0)
}

fn get_scatter_gather_list(mut call: Call) -> usize {
    let port = call.port();
    let srb = call.address();
    match port.srb_of_miniport(srb) {
        Some(_) if fails(port, FailingExport::GetScatterGatherList) => 0,
        Some(slot) => slot.list().unwrap_or(0),
        None => 0,
    }
}

fn get_logical_unit(mut call: Call) -> usize {
    let port = call.port();
    let address = call.unit_address();
    // storport-rules.md O9: at DISPATCH_LEVEL, the function takes the interrupt lock.
    if cpu::current_irql() == irql::DISPATCH && !port.holds(LockId::Interrupt) {
        port.lock(LockId::Interrupt);
        let extension = port.unit_extension(address);
        port.unlock();
        return extension;
    }
    port.unit_extension(address)
}

fn move_memory(mut call: Call) -> usize {
    let (to, from) = (call.structure(), call.structure());
    let bytes = call.u32() as usize;
    // The ranges may overlap, hence the copy.
    to.write(&from.bytes(bytes));
    0
}

/// The queue that a function is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Adapter,
    /// The unit whose address is the next argument.
    Unit,
}

/// The unit; `Some(None)` is the adapter. `None` is a unit that does not exist.
fn queue(call: &mut Call, port: &Port, of: Of) -> Option<Option<&'static Unit>> {
    match of {
        Of::Adapter => Some(None),
        Of::Unit => call.unit(port).map(Some),
    }
}

fn busy(mut call: Call, of: Of) -> usize {
    let port = call.port();
    let queue = queue(&mut call, port, of);
    let completions = call.u32();
    port.statistics.count(Counter::Busy);
    if let Some(unit) = queue {
        port.gate_of(unit).busy(completions);
    }
    usize::from(queue.is_some())
}

fn pause(mut call: Call, of: Of) -> usize {
    let port = call.port();
    let queue = queue(&mut call, port, of);
    let seconds = call.u32();
    port.statistics.count(Counter::Pauses);
    if of == Of::Adapter && fails(port, FailingExport::Pause) {
        return FALSE;
    }
    if let Some(unit) = queue {
        port.pause(unit, Duration::from_secs(seconds.into()));
    }
    usize::from(queue.is_some())
}

fn resume(mut call: Call, of: Of, reason: u32) -> usize {
    let port = call.port();
    let queue = queue(&mut call, port, of);
    if let Some(unit) = queue {
        port.resume(unit, reason);
    }
    usize::from(queue.is_some())
}

fn set_device_queue_depth(mut call: Call) -> usize {
    let port = call.port();
    let unit = call.unit(port);
    let depth = call.u32();
    let Some(unit) = unit else {
        port.violation(
            Rule::QueueDepth,
            format_args!("StorPortSetDeviceQueueDepth before the unit's first INQUIRY"),
        );
        return FALSE;
    };
    if depth == 0 {
        port.violation(
            Rule::QueueDepth,
            format_args!("StorPortSetDeviceQueueDepth with a depth of 0; it is refused"),
        );
        return FALSE;
    }
    unit.gate.set_limit(port.depth(depth));
    port.admit();
    TRUE
}

fn complete_request(mut call: Call) -> usize {
    let port = call.port();
    let address = call.unit_address();
    let status = call.u8();
    port.violation(
        Rule::DdiPortOnly,
        format_args!(
            "StorPortCompleteRequest({}, {}, {}, {status:#04x}) completes requests without the \
             miniport; the call was ignored",
            address.path, address.target, address.lun
        ),
    );
    0
}

fn synchronize_access(mut call: Call) -> usize {
    let port = call.port();
    let (routine, context) = (call.routine(), call.address());
    if port.has_no_locks() {
        return port.run_unlocked(routine, context);
    }
    port.synchronize_access(routine, context)
}

fn stall_execution(mut call: Call) -> usize {
    let microseconds = call.u32();
    if let Some(port) = callbacks::current_port() {
        check_stall(port, microseconds);
    }
    stall(Duration::from_micros(u64::from(microseconds)));
    0
}

/// Stalls the processor. At DISPATCH_LEVEL and above, the stall counts for the callback.
pub(super) fn stall(time: Duration) {
    if cpu::current_irql() >= irql::DISPATCH {
        callbacks::stalled(time);
    }
    schedule::stall(time);
}

/// Checks a stall (storport-rules.md 0xF1/0x2001).
pub(super) fn check_stall(port: &Port, microseconds: u32) {
    if microseconds > 100_000 {
        port.violation(
            Rule::Stall,
            format_args!("a stall of {microseconds} microseconds; at most 100000 are allowed"),
        );
    } else {
        check_wait(port, format_args!("a stall of {microseconds} microseconds"));
    }
}

/// Reports a wait in HwStartIo, as SpNoWait and StorPortStartIo do. Their lists do not contain
/// StorPortAllocatePool, and HwStorStartIo's page allows it in full duplex, so it is allowed
/// here. In half duplex, HwStartIo runs above the IRQL for that function (storport-rules.md X8).
pub(super) fn check_wait(port: &Port, what: fmt::Arguments<'_>) {
    if callbacks::current() == Callback::HwStartIo {
        port.violation(Rule::StartIoWait, format_args!("{what} in HwStartIo"));
    }
}

fn query_system_time(mut call: Call) -> usize {
    let to = call.structure();
    let time = callbacks::current_port().map_or_else(testbed_machine::time::system_time, |port| {
        let (system_time, _) = port.time();
        system_time
    });
    to.set(super::abi::value(), time);
    0
}

/// Prints nothing, as without a debugger.
fn debug_print(_call: Call) -> usize {
    0
}

fn log_error(mut call: Call) -> usize {
    let port = call.port();
    let _srb = call.address();
    let address = call.unit_address();
    let (code, id) = (call.u32(), call.u32());
    deprecated(port, &call);
    port.event(format_args!(
        "StorPortLogError: path {} target {} LUN {}: error {code}, unique id {id:#x}",
        address.path, address.target, address.lun
    ));
    0
}

fn allocate_registry_buffer(mut call: Call) -> usize {
    let port = call.port();
    let length = call.structure();
    if call.is_lacking(port) {
        return 0;
    }
    call.check_irql(port, irql::PASSIVE);
    let bytes: u32 = length.get(super::abi::value());
    port.allocate(PoolKind::Registry, bytes as usize)
}

fn free_registry_buffer(mut call: Call) -> usize {
    let port = call.port();
    let address = call.address();
    port.free(PoolKind::Registry, address);
    0
}

/// Returns no values. The length 0 means an error other than a small buffer.
fn registry_read(mut call: Call) -> usize {
    let port = call.port();
    let _name = call.string();
    let (_global, _kind, _buffer) = (call.u32(), call.u32(), call.address());
    let length = call.structure();
    if !call.is_lacking(port) {
        call.check_irql(port, irql::PASSIVE);
    }
    if !length.is_null() {
        length.set(super::abi::value(), 0u32);
    }
    FALSE
}

/// Fails: the testbed has no registry.
fn registry_write(mut call: Call) -> usize {
    let port = call.port();
    if call.is_lacking(port) {
        return FALSE;
    }
    call.check_irql(port, irql::PASSIVE);
    port.statistics.not_implemented(call.function);
    FALSE
}

type Read = fn(&Port, usize, &mut [u8]);
type Write = fn(&Port, usize, &[u8]);

fn read_one(mut call: Call, width: usize, read: Read) -> usize {
    let port = call.port_of_callback();
    let address = call.address();
    let mut data = [0; 8];
    read(port, address, &mut data[..width]);
    usize::from_le_bytes(data)
}

fn write_one(mut call: Call, width: usize, write: Write) -> usize {
    let port = call.port_of_callback();
    let address = call.address();
    let data = call.u64().to_le_bytes();
    write(port, address, &data[..width]);
    0
}

/// Registers are `step` bytes apart, with 0 for a port.
fn read_many(mut call: Call, width: usize, step: usize, read: Read) -> usize {
    let port = call.port_of_callback();
    let (address, buffer, count) = (call.address(), call.structure(), call.u32() as usize);
    for index in 0..count {
        let mut data = [0; 8];
        read(port, address + index * step, &mut data[..width]);
        buffer.offset(index * width).write(&data[..width]);
    }
    0
}

fn write_many(mut call: Call, width: usize, step: usize, write: Write) -> usize {
    let port = call.port_of_callback();
    let (address, buffer, count) = (call.address(), call.structure(), call.u32() as usize);
    for index in 0..count {
        let data = buffer.offset(index * width).bytes(width);
        write(port, address + index * step, &data);
    }
    0
}
