//! The life of an adapter in its order (storport-rules.md C1): DriverEntry, HwFindAdapter,
//! connection of interrupts, HwInitialize, HwPassiveInitialize, query of control types, and at
//! the end ScsiStopAdapter.
//!
//! PASSIVE_LEVEL callbacks run here on a thread of their own, so that a CPU's DPCs run at the
//! same time, as they would preempt them.

use std::sync::Arc;

use super::{
    abi::{
        Routine, Structure, access_range, driver_object, ntstatus::STATUS_SUCCESS,
        port_configuration_information as info, scsi_supported_control_type_list as list,
        unicode_string, wdk,
    },
    adapter::{Once, StartError, StopError},
    callbacks::Callback,
    configuration::Configuration,
    control_request::{ControlRequest, PnpAction, PowerAction, PowerState, Recipient},
    cpu_queue::CpuQueue,
    interrupts::Controller,
    plug_and_play,
    port::{Placed, Port},
    request::Address,
    spin_locks::LockId,
    srb::{STATUS, SrbSettings, Srbs},
    units::closed,
    violations::Rule,
    watchdog,
};
use testbed_machine::{
    InterruptKind,
    cpu::{Cpu, irql, set_irql},
    mailbox::Mailbox,
    memory::{Block, PAGE, Placement},
    pci::BarKind,
    schedule, trap,
};

/// The function's slot on bus 0.
const SLOT: u32 = 4;
/// The level and vector of the pin.
const PIN: u32 = 11;
/// IO_TYPE_DRIVER (wdm.h).
const DRIVER_OBJECT_TYPE: u16 = 4;
/// The most requests of a CPU at a time.
const MOST_REQUESTS: u32 = 4096;

pub(super) fn refused(callback: Callback, why: impl Into<String>) -> StartError {
    StartError::Refused {
        callback: callback.name(),
        why: why.into(),
    }
}

/// Allocates memory for the driver that is never freed.
pub(super) fn leak(port: &Port, bytes: usize) -> Result<Structure, StartError> {
    let block = port
        .machine
        .memory()
        .allocate(bytes, Placement::Scattered)?;
    let block: &'static Block = Box::leak(Box::new(block));
    Ok(Structure::of(block))
}

pub(super) fn start(port: &'static Port, entry: Routine) -> Result<(), StartError> {
    watchdog::start(port)?;
    let started = start_in_order(port, entry);
    if started.is_err() {
        if let Some(controller) = port.interrupts.get() {
            controller.disconnect();
        }
        stopped(port);
    }
    started
}

/// Stops the function, and reports what the miniport did not free.
fn stopped(port: &Port) {
    port.stopped();
    port.function.stop();
    let mut leaks = port.pool_leaks();
    leaks.extend(port.later.leaks());
    port.statistics.rare().leaks = leaks;
}

fn start_in_order(port: &'static Port, entry: Routine) -> Result<(), StartError> {
    driver_entry(port, entry)?;
    make_extension(port, port.settings.extension_offset)?;
    let controller = Controller::start(port)?;
    let _ = port.interrupts.set(controller);
    trap::connect_ports(&port.function);
    let kind = plug_and_play::enable(&port.function, port.machine.interrupts());
    find_adapter(port, kind)?;
    connect_interrupts(port, kind, controller);
    initialize(port)?;
    query_control_types(port)?;
    accept_requests(port);
    Ok(())
}

/// Allocates the zeroed device extension at `offset` in its page.
pub(super) fn make_extension(port: &'static Port, offset: usize) -> Result<(), StartError> {
    let bytes = (port.registration().extension_bytes as usize).max(1);
    let memory = port.machine.memory();
    let block = memory.allocate(offset + bytes, Placement::Scattered)?;
    let _ = port.extension.set(Placed { block, offset });
    Ok(())
}

fn driver_entry(port: &'static Port, entry: Routine) -> Result<(), StartError> {
    let object = leak(port, driver_object::SIZE)?;
    object.set(driver_object::Type, DRIVER_OBJECT_TYPE);
    object.set(driver_object::Size, driver_object::SIZE as u16);
    let service = port.driver().trim_end_matches(".sys");
    let path: Vec<u8> =
        format!("\\Registry\\Machine\\System\\CurrentControlSet\\Services\\{service}")
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
    let string = leak(port, unicode_string::SIZE + path.len() + 2)?;
    let buffer = string.offset(unicode_string::SIZE);
    buffer.write(&path);
    string.set(unicode_string::Length, path.len() as u16);
    string.set(unicode_string::MaximumLength, path.len() as u16 + 2);
    string.set(unicode_string::Buffer, buffer.address());
    let arguments = [object.address(), string.address()];
    enter(port, entry, irql::PASSIVE, arguments)
}

pub(super) fn enter(
    port: &'static Port,
    entry: Routine,
    level: u8,
    arguments: [usize; 2],
) -> Result<(), StartError> {
    let status = port.call(Callback::DriverEntry, level, entry, arguments) as u32;
    if status != STATUS_SUCCESS {
        return Err(refused(
            Callback::DriverEntry,
            format!("returned NTSTATUS {status:#010x}"),
        ));
    }
    if port.registration.get().is_none() {
        return Err(refused(
            Callback::DriverEntry,
            "returned success and did not call StorPortInitialize",
        ));
    }
    Ok(())
}

fn find_adapter(port: &'static Port, kind: InterruptKind) -> Result<(), StartError> {
    let configuration = configure(port, kind, irql::PASSIVE)?;
    let _ = port.configuration.set(configuration);
    Ok(())
}

/// Calls HwFindAdapter instead of ScsiRestartAdapter: at DISPATCH_LEVEL, with the old device
/// extension (HW_FIND_ADAPTER; storport-rules.md Callbacks).
pub(super) fn find_adapter_again(port: &'static Port) -> Result<(), StartError> {
    let kind = match port.messages() {
        0 => InterruptKind::Line,
        _ => InterruptKind::Messages,
    };
    let configuration = configure(port, kind, irql::DISPATCH)?;
    if configuration != *port.configuration() {
        port.violation_of(
            Callback::HwFindAdapter,
            Rule::FindAdapter,
            format_args!("the second call changed the configuration: {configuration:?}"),
        );
    }
    Ok(())
}

/// Fills ConfigInfo and calls HwFindAdapter at `level`. Returns the configuration.
pub(super) fn configure(
    port: &'static Port,
    kind: InterruptKind,
    level: u8,
) -> Result<Configuration, StartError> {
    let registration = port.registration();
    let bars = plug_and_play::bars(port.function.as_ref());
    let ranges = bars.len().max(registration.access_ranges as usize);
    let ranges_at = info::SIZE.next_multiple_of(16);
    let argument_at = ranges_at + ranges * access_range::SIZE;
    let argument = port.settings.argument.as_bytes();
    let bytes = argument_at + argument.len() + 1;
    let to = match port.config_info.get() {
        Some(to) => *to,
        None => {
            let to = leak(port, bytes)?;
            let _ = port.config_info.set(to);
            to
        }
    };
    to.fill(bytes, 0);
    registration.fill(to, registration.srb_shape(port.settings.srb));
    port.fill_dump(to);
    to.set(info::SystemIoBusNumber, 0);
    to.set(info::SlotNumber, SLOT);
    to.set(info::NumberOfAccessRanges, ranges as u32);
    to.set(info::AccessRanges, to.offset(ranges_at).address());
    for ((_, bar), at) in bars.iter().zip((ranges_at..).step_by(access_range::SIZE)) {
        let range = to.offset(at);
        range.set(access_range::RangeStart, bar.address as usize);
        range.set(access_range::RangeLength, bar.bytes as u32);
        range.set(
            access_range::RangeInMemory,
            u8::from(bar.kind == BarKind::Memory),
        );
    }
    let (mode, vector) = match kind {
        InterruptKind::Messages => (wdk::Latched, plug_and_play::FIRST_VECTOR),
        InterruptKind::Line => (wdk::LevelSensitive, PIN),
    };
    to.set(info::InterruptMode, mode);
    to.set(info::BusInterruptVector, vector);
    to.set(info::BusInterruptLevel, u32::from(irql::DEVICE));
    to.offset(argument_at).write(argument);
    // HwContext and BusInformation are NULL for physical adapters.
    let again = leak(port, 1)?;
    let arguments = [
        port.extension(),
        0,
        0,
        to.offset(argument_at).address(),
        to.address(),
        again.address(),
    ];
    let result = port.call(
        Callback::HwFindAdapter,
        level,
        registration.find_adapter,
        arguments,
    ) as u32;
    let why = match result {
        wdk::SP_RETURN_FOUND => None,
        wdk::SP_RETURN_NOT_FOUND => Some("returned SP_RETURN_NOT_FOUND".into()),
        wdk::SP_RETURN_ERROR => Some("returned SP_RETURN_ERROR".into()),
        wdk::SP_RETURN_BAD_CONFIG => Some("returned SP_RETURN_BAD_CONFIG".into()),
        other => {
            let why = format!("returned {other}, which is not an SP_RETURN value");
            port.violation_of(
                Callback::HwFindAdapter,
                Rule::FindAdapter,
                format_args!("HwFindAdapter {why}"),
            );
            Some(why)
        }
    };
    if let Some(why) = why {
        return Err(refused(Callback::HwFindAdapter, why));
    }
    let mut configuration = Configuration::read(port, to);
    if kind == InterruptKind::Line || configuration.interrupt_mode == wdk::InterruptSupportNone {
        configuration.message_routine = Routine::NONE;
    }
    let asked = port
        .uncached
        .get()
        .map(|uncached| uncached.srb_extension as usize);
    if let Some(then) = asked
        && then != configuration.srb_extension_bytes
    {
        port.violation_of(
            Callback::HwFindAdapter,
            Rule::SrbExtensionSize,
            format_args!(
                "SrbExtensionSize was {then} when the uncached extension was requested, and is now \
                 {}",
                configuration.srb_extension_bytes
            ),
        );
    }
    Ok(configuration)
}

/// Connects the interrupts as the configuration requests (storport-rules.md
/// InterruptSynchronizationMode).
fn connect_interrupts(port: &Port, kind: InterruptKind, controller: &Controller) {
    let configuration = port.configuration();
    if configuration.message_routine.is_none() {
        if kind == InterruptKind::Messages {
            plug_and_play::enable(&port.function, InterruptKind::Line);
        }
    } else {
        if configuration.interrupt_mode == wdk::InterruptSynchronizePerMessage {
            port.locks.separate_messages(controller.messages());
        }
        let messages = controller.messages();
        plug_and_play::unmask_messages(&port.function, messages, Controller::cpu_of);
    }
    controller.connect();
}

pub(super) fn initialize(port: &'static Port) -> Result<(), StartError> {
    let routine = port.registration().initialize;
    let arguments = [port.extension()];
    let result = port.with_optional_callbacks(|| {
        port.lock(LockId::Interrupt);
        let result = port.call(Callback::HwInitialize, irql::DEVICE, routine, arguments);
        port.unlock();
        result
    });
    if result as u8 == 0 {
        return Err(refused(Callback::HwInitialize, "returned FALSE"));
    }
    let routine = port.passive_initialize();
    if !routine.is_none() {
        let result = port.call_passive(Callback::HwPassiveInitialize, 0, routine, arguments);
        if result as u8 == 0 {
            return Err(refused(Callback::HwPassiveInitialize, "returned FALSE"));
        }
    }
    Ok(())
}

/// Queries the control types that a control routine supports.
fn supported(
    port: &'static Port,
    callback: Callback,
    routine: Routine,
    query: u32,
    types: u32,
) -> Result<Vec<bool>, StartError> {
    let answers_at = list::SupportedTypeList.offset();
    let bytes = answers_at + types as usize;
    let page = leak(port, PAGE)?;
    // The list ends at the end of the page, so that an overrun faults where it happens.
    let to = page.offset(PAGE - bytes.next_multiple_of(4));
    to.set(list::MaxControlType, types);
    let arguments = [port.extension(), query as usize, to.address()];
    let status = port.call_passive(callback, query, routine, arguments) as u32;
    if status != wdk::ScsiAdapterControlSuccess {
        port.violation_of(
            callback,
            Rule::AdapterControl,
            format_args!(
                "{} answers the query for its control types with {status}",
                callback.name()
            ),
        );
    }
    let answers = to.offset(answers_at).bytes(types as usize);
    Ok(answers.into_iter().map(|answer| answer != 0).collect())
}

fn query_control_types(port: &'static Port) -> Result<(), StartError> {
    let registration = port.registration();
    let controls = supported(
        port,
        Callback::HwAdapterControl,
        registration.adapter_control,
        wdk::ScsiQuerySupportedControlTypes,
        wdk::ScsiAdapterControlMax,
    )?;
    for (name, kind) in [
        ("ScsiStopAdapter", wdk::ScsiStopAdapter),
        ("ScsiRestartAdapter", wdk::ScsiRestartAdapter),
    ] {
        if controls.get(kind as usize) != Some(&true) {
            port.violation_of(
                Callback::HwAdapterControl,
                Rule::AdapterControl,
                format_args!("HwAdapterControl does not support {name}"),
            );
        }
    }
    let _ = port.controls.set(controls);
    if !registration.unit_control.is_none() {
        let units = supported(
            port,
            Callback::HwUnitControl,
            registration.unit_control,
            wdk::ScsiQuerySupportedUnitControlTypes,
            wdk::ScsiUnitControlMax,
        )?;
        let _ = port.unit_controls.set(units);
    }
    Ok(())
}

fn accept_requests(port: &'static Port) {
    let configuration = port.configuration();
    let cpus = port.machine.cpus();
    let most = configuration.max_requests.min(MOST_REQUESTS);
    let settings = configuration.srb_settings(port.settings.checks);
    let srbs = Srbs::new(port.machine.memory(), settings, cpus.len() as u32, most);
    let _ = port.srbs.set(srbs);
    port.gate.set_limit(most);
    let queues = cpus.iter().map(|cpu| CpuQueue::new(port, cpu.number()));
    let _ = port.cpu_queues.set(queues.collect());
    on_each_cpu(port, |port, cpu| Cpu::add_source(port.cpu_queue(cpu)));
    port.machine
        .clock()
        .after(port.settings.tick, 0, port.tick(), 0, 0);
}

/// Runs `job` on CPU `cpu` at DISPATCH_LEVEL, and waits for it.
pub(super) fn on_cpu(port: &'static Port, cpu: usize, job: fn(&'static Port)) {
    let done: Arc<Mailbox<()>> = Arc::default();
    let tell = Arc::clone(&done);
    port.machine.cpus()[cpu].post(Box::new(move || {
        let before = set_irql(irql::DISPATCH);
        job(port);
        set_irql(before);
        port.machine.current_cpu().run_dpcs();
        tell.send(());
    }));
    done.receive("a CPU");
}

/// Runs `job` on each CPU, and waits for all and for the DPCs that were queued before.
pub(super) fn on_each_cpu(port: &'static Port, job: fn(&'static Port, u32)) {
    let done: Arc<Mailbox<()>> = Arc::default();
    for cpu in port.machine.cpus() {
        let done = Arc::clone(&done);
        cpu.post(Box::new(move || {
            job(port, cpu.number());
            done.send(());
        }));
    }
    for _ in port.machine.cpus() {
        done.receive("every CPU");
    }
}

/// Sends a control request on CPU 0, and waits for it. Returns its SRB status.
pub(super) fn send_control(port: &'static Port, control: ControlRequest) -> u8 {
    let mailbox: Arc<Mailbox<_>> = Arc::default();
    let returns = Arc::clone(&mailbox);
    port.machine.cpus()[0].post(Box::new(move || {
        let once = Box::<Once>::default();
        port.cpu_queue(0).send_control(control, once, returns);
    }));
    let (_, program) = mailbox.receive("the end of a request");
    let completion = Once::completion(program);
    port.check_control(control, completion.srb_status);
    completion.srb_status
}

pub(super) fn crash(port: &'static Port) {
    let halted: Arc<Mailbox<()>> = Arc::default();
    for cpu in port.machine.cpus() {
        let halted = Arc::clone(&halted);
        cpu.post(Box::new(move || {
            halted.send(());
            loop {
                schedule::park();
            }
        }));
    }
    for _ in port.machine.cpus() {
        halted.receive("every CPU to halt");
    }
    if let Some(controller) = port.interrupts.get() {
        controller.disconnect();
    }
    port.stopped();
}

/// Calls DriverEntry and removes an adapter that was not found. Returns the SRB status of its one
/// request, if it was completed.
pub(super) fn remove_unstarted(
    port: &'static Port,
    entry: Routine,
) -> Result<Option<u8>, StartError> {
    driver_entry(port, entry)?;
    make_extension(port, 0)?;
    let registration = port.registration();
    port.prepare_single(SrbSettings {
        shape: registration.srb_shape(port.settings.srb),
        extension_bytes: registration.srb_extension_bytes as usize,
        elements: 1,
        map_buffers: registration.map_buffers.into(),
        checks: port.settings.checks,
    })?;
    let removal = ControlRequest::Pnp(Recipient::Adapter, PnpAction::Remove);
    port.srbs()
        .fill(port.single_number(), &removal.request(), 0, 0);
    let srb = port.srbs().view(port.single());
    removal.write(srb);
    port.lock(LockId::StartIo);
    port.start_single(irql::DISPATCH);
    port.unlock();
    port.stopped();
    Ok(port.is_single_back().then(|| srb.status() & STATUS))
}

/// Shuts the system down: flushes the units, and sends shutdown and power requests. It is documented
/// that SRB_FUNCTION_SHUTDOWN comes after the last command. The remaining order is a choice.
pub(super) fn shut_down(port: &'static Port) {
    let (state, action) = (PowerState::D3, PowerAction::ShutdownOff);
    let units = port.units.addresses();
    let of_units = |make: fn(Address) -> ControlRequest| units.clone().into_iter().map(make);
    let requests = of_units(ControlRequest::Flush)
        .chain(of_units(ControlRequest::Shutdown))
        .chain(
            units
                .iter()
                .map(|unit| ControlRequest::Power(Recipient::Unit(*unit), state, action)),
        )
        .chain([ControlRequest::Power(Recipient::Adapter, state, action)]);
    for request in requests {
        send_control(port, request);
    }
}

pub(super) fn stop(port: &'static Port) -> Result<(), StopError> {
    port.gate.close(closed::STOPPED);
    let mut result = Ok(());
    if port.supports(wdk::ScsiStopAdapter) {
        let status = port.control_adapter(wdk::ScsiStopAdapter);
        if status != wdk::ScsiAdapterControlSuccess {
            result = Err(StopError::Refused(status));
        }
    }
    if let Some(controller) = port.interrupts.get() {
        controller.disconnect();
    }
    on_each_cpu(port, |port, cpu| {
        Cpu::remove_source(port.cpu_queue(cpu));
        if let Some(controller) = port.interrupts.get() {
            Cpu::remove_source(*controller);
        }
    });
    stopped(port);
    result
}
