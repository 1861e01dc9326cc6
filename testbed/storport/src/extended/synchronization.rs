//! The functions of StorPortExtendedFunction for locks, DPCs, messages, timers, work items, delays
//! and events.

use std::time::Duration;

use super::{
    super::{
        abi::{
            self, Status, Structure,
            calls::Call,
            message_interrupt_information as msi, stor_dpc_watchdog_information as dpc_watchdog,
            wdk::{
                self, STOR_STATUS_INVALID_DEVICE_REQUEST, STOR_STATUS_INVALID_IRQL,
                STOR_STATUS_INVALID_PARAMETER, STOR_STATUS_UNSUCCESSFUL,
            },
        },
        callbacks::{self, Callback},
        events, exports,
        held_locks::Form,
        interrupts::Controller,
        plug_and_play,
        port::Port,
        violations::Rule,
    },
    output,
};
use testbed_machine::{
    cpu::{self, irql},
    schedule,
};

pub(super) fn acquire_msi_spin_lock(call: &mut Call, port: &'static Port) -> Status {
    let message = call.u32();
    let to = call.structure();
    if port.has_no_locks() {
        return output(to, u32::from(cpu::current_irql()));
    }
    let old_irql = port.acquire_message_for_miniport(message)?;
    output(to, u32::from(old_irql))
}

pub(super) fn release_msi_spin_lock(call: &mut Call, port: &'static Port) -> Status {
    let (message, old_irql) = (call.u32(), call.u32());
    if port.is_dump() {
        return Ok(());
    }
    port.release_message_for_miniport(message, old_irql)
}

pub(super) fn acquire_spin_lock_ex(call: &mut Call, port: &'static Port) -> Status {
    let (lock, context) = (call.u32(), call.structure());
    let handle = call.structure();
    if port.has_no_locks() {
        return Ok(());
    }
    port.acquire_for_miniport(Form::Extended, lock, context, handle)
}

pub(super) fn cancel_dpc(call: &mut Call, port: &'static Port) -> Status {
    let dpc = call.structure();
    let to = call.structure();
    output(to, u8::from(port.cancel_dpc(dpc)))
}

pub(super) fn get_msi_info(call: &mut Call, port: &'static Port) -> Status {
    let message = call.u32();
    let to = call.structure();
    message_information(port, message, to)
}

/// StorPortGetMSIInfo and StorPortGetMessageInterruptInformation.
pub(crate) fn message_information(port: &Port, message: u32, to: Structure) -> Status {
    if callbacks::current() == Callback::HwMSInterruptRoutine {
        port.violation(
            Rule::DdiCallback,
            format_args!("StorPortGetMSIInfo in HwMSInterruptRoutine"),
        );
    }
    if port.messages() == 0 {
        return Err(STOR_STATUS_INVALID_DEVICE_REQUEST);
    }
    if message >= port.messages() || to.is_null() {
        return Err(STOR_STATUS_INVALID_PARAMETER);
    }
    let cpu = Controller::cpu_of(message);
    let vector = plug_and_play::FIRST_VECTOR + message;
    to.set(msi::MessageId, message);
    to.set(msi::MessageData, vector);
    to.set(
        msi::MessageAddress,
        plug_and_play::message_address(cpu) as usize,
    );
    to.set(msi::InterruptVector, vector);
    to.set(msi::InterruptLevel, u32::from(irql::DEVICE));
    to.set(msi::InterruptMode, wdk::Latched);
    Ok(())
}

pub(super) fn get_message_of_processor(call: &mut Call, port: &'static Port) -> Status {
    let processor = call.u32();
    let to = call.structure();
    let message = (0..port.messages()).find(|message| Controller::cpu_of(*message) == processor);
    match message {
        Some(message) => output(to, message),
        None => Err(STOR_STATUS_INVALID_PARAMETER),
    }
}

pub(super) fn initialize_perf_opts(call: &mut Call, port: &'static Port) -> Status {
    let query = call.u8() != 0;
    let data = call.structure();
    port.performance_options(query, data)
}

pub(super) fn query_dpc_watchdog_information(call: &mut Call, _: &'static Port) -> Status {
    let to = call.required()?;
    if cpu::current_irql() < irql::DISPATCH {
        return Err(STOR_STATUS_UNSUCCESSFUL);
    }
    // There are no limits; the watchdog stops a DPC that does not return.
    to.set(dpc_watchdog::DpcTimeLimit, 0);
    to.set(dpc_watchdog::DpcTimeCount, 0);
    to.set(dpc_watchdog::DpcWatchdogLimit, 0);
    to.set(dpc_watchdog::DpcWatchdogCount, 0);
    Ok(())
}

pub(super) fn initialize_timer(call: &mut Call, port: &'static Port) -> Status {
    let to = call.required()?;
    output(to, port.initialize_timer())
}

pub(super) fn request_timer(call: &mut Call, port: &'static Port) -> Status {
    let (handle, routine, context) = (call.address(), call.routine(), call.address());
    let microseconds = call.u64();
    port.request_timer(handle, routine, context, microseconds)
}

pub(super) fn initialize_worker(call: &mut Call, port: &'static Port) -> Status {
    let to = call.required()?;
    output(to, port.initialize_worker())
}

pub(super) fn queue_work_item(call: &mut Call, port: &'static Port) -> Status {
    let (routine, handle, context) = (call.routine(), call.address(), call.address());
    if routine.is_none() {
        return Err(STOR_STATUS_INVALID_PARAMETER);
    }
    port.queue_work(handle, routine, context)
}

/// Sleeps below DISPATCH_LEVEL, stalls at or above it (storport-rules.md IRQL).
pub(super) fn delay_execution(call: &mut Call, port: &'static Port) -> Status {
    let microseconds = call.u32();
    let time = Duration::from_micros(u64::from(microseconds));
    if cpu::current_irql() < irql::DISPATCH {
        schedule::sleep(time);
    } else {
        exports::check_stall(port, microseconds);
        exports::stall(time);
    }
    Ok(())
}

pub(super) fn query_performance_counter(call: &mut Call, _: &'static Port) -> Status {
    let (frequency, counter) = (call.structure(), call.structure());
    if !frequency.is_null() {
        output(frequency, testbed_machine::time::FREQUENCY)?;
    }
    output(counter, testbed_machine::time::interrupt_time())
}

pub(super) fn initialize_event(call: &mut Call, _: &'static Port) -> Status {
    let event = call.required()?;
    let (kind, state) = (call.u32(), call.u8() != 0);
    events::initialize(event, kind, state)
}

pub(super) fn set_event(call: &mut Call, _: &'static Port) -> Status {
    let event = call.required()?;
    events::set(event);
    Ok(())
}

pub(super) fn wait_for_single_object(call: &mut Call, port: &'static Port) -> Status {
    let event = call.required()?;
    let (_alertable, timeout) = (call.u8(), call.structure());
    let timeout = match timeout.address() {
        0 => None,
        _ => Some(timeout.get::<u64>(abi::value()) as i64),
    };
    if timeout != Some(0) {
        call.function = "StorPortWaitForSingleObject with a time-out";
        if callbacks::current() == Callback::HwStartIo {
            exports::check_wait(port, format_args!("{}", call.function));
            return Err(STOR_STATUS_INVALID_IRQL);
        }
        if !call.check_irql(port, irql::APC) {
            return Err(STOR_STATUS_INVALID_IRQL);
        }
    }
    events::wait(event, timeout)
}
