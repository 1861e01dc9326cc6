//! Timers, work items, delays and events.

use std::time::Duration;

use super::{
    super::{
        abi::{
            self,
            calls::Call,
            stor_status::{
                STOR_STATUS_INVALID_IRQL, STOR_STATUS_INVALID_PARAMETER, STOR_STATUS_SUCCESS,
            },
        },
        callbacks::{self, Callback},
        events, exports,
        port::Port,
    },
    output,
};
use testbed_machine::{
    cpu::{self, irql},
    schedule,
};

pub(super) fn initialize_timer(call: &mut Call, port: &'static Port) -> u32 {
    let to = call.structure();
    if to.is_null() {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    output(to, port.initialize_timer())
}

pub(super) fn request_timer(call: &mut Call, port: &'static Port) -> u32 {
    let (handle, routine, context) = (call.address(), call.routine(), call.address());
    let microseconds = call.u64();
    port.request_timer(handle, routine, context, microseconds)
}

pub(super) fn initialize_worker(call: &mut Call, port: &'static Port) -> u32 {
    let to = call.structure();
    if to.is_null() {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    output(to, port.initialize_worker())
}

pub(super) fn queue_work_item(call: &mut Call, port: &'static Port) -> u32 {
    let (routine, handle, context) = (call.routine(), call.address(), call.address());
    if routine.is_none() {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    port.queue_work(handle, routine, context)
}

/// Sleeps below DISPATCH_LEVEL, stalls at or above it (storport-rules.md IRQL).
pub(super) fn delay_execution(call: &mut Call, port: &'static Port) -> u32 {
    let microseconds = call.u32();
    let time = Duration::from_micros(u64::from(microseconds));
    if cpu::current_irql() < irql::DISPATCH {
        schedule::sleep(time);
    } else {
        exports::check_stall(port, microseconds);
        exports::stall(time);
    }
    STOR_STATUS_SUCCESS
}

pub(super) fn query_performance_counter(call: &mut Call, _: &'static Port) -> u32 {
    let (frequency, counter) = (call.structure(), call.structure());
    if !frequency.is_null() {
        output(frequency, testbed_machine::time::FREQUENCY);
    }
    output(counter, testbed_machine::time::interrupt_time())
}

pub(super) fn initialize_event(call: &mut Call, _: &'static Port) -> u32 {
    let event = call.structure();
    let (kind, state) = (call.u32(), call.u8() != 0);
    if event.is_null() {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    events::initialize(event, kind, state)
}

pub(super) fn set_event(call: &mut Call, _: &'static Port) -> u32 {
    let event = call.structure();
    if event.is_null() {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    events::set(event);
    STOR_STATUS_SUCCESS
}

pub(super) fn wait_for_single_object(call: &mut Call, port: &'static Port) -> u32 {
    let event = call.structure();
    let (_alertable, timeout) = (call.u8(), call.structure());
    if event.is_null() {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    let timeout = match timeout.address() {
        0 => None,
        _ => Some(timeout.get::<u64>(abi::value()) as i64),
    };
    if timeout != Some(0) {
        call.function = "StorPortWaitForSingleObject with a time-out";
        if callbacks::current() == Callback::HwStartIo {
            exports::check_wait(port, format_args!("{}", call.function));
            return STOR_STATUS_INVALID_IRQL;
        }
        if !call.check_irql(port, irql::APC) {
            return STOR_STATUS_INVALID_IRQL;
        }
    }
    events::wait(event, timeout)
}
