//! The functions of StorPortExtendedFunction for processors, which are in one group and one node,
//! and for ETW events, features, power and dumps.

use super::{
    super::{
        abi::{
            self, Status, Structure,
            calls::Call,
            group_affinity,
            wdk::{
                STOR_STATUS_BUFFER_TOO_SMALL, STOR_STATUS_INVALID_PARAMETER,
                STOR_STATUS_UNSUCCESSFUL,
            },
        },
        callbacks::Callback,
        port::Port,
    },
    output,
};
use testbed_machine::cpu;

/// The PROCESSOR_NUMBER of the calling CPU, in group 0.
pub(super) fn processor_number() -> u32 {
    cpu::current_number() << 16
}

fn all_processors() -> usize {
    usize::MAX >> (usize::BITS - cpu::count())
}

pub(super) fn get_processor_index_from_number(call: &mut Call, _: &'static Port) -> Status {
    let number = call.required()?;
    let to = call.structure();
    let number = number.get::<u32>(abi::value());
    let (group, index) = (number as u16, u32::from((number >> 16) as u8));
    if group != 0 || index >= cpu::count() {
        return Err(STOR_STATUS_INVALID_PARAMETER);
    }
    output(to, index)
}

pub(super) fn get_group_affinity(call: &mut Call, _: &'static Port) -> Status {
    let group = call.u32() as u16;
    let to = call.structure();
    if group != 0 {
        return Err(STOR_STATUS_INVALID_PARAMETER);
    }
    output(to, all_processors())
}

pub(super) fn get_node_affinity(call: &mut Call, _: &'static Port) -> Status {
    let node = call.u32();
    let to = call.structure();
    if node != 0 || to.is_null() {
        return Err(STOR_STATUS_INVALID_PARAMETER);
    }
    to.fill(group_affinity::SIZE, 0);
    to.set(group_affinity::Mask, all_processors());
    Ok(())
}

pub(super) fn get_node_affinity2(call: &mut Call, _: &'static Port) -> Status {
    let (node, to) = (call.u32(), call.structure());
    let (count, required) = (call.u32() as u16, call.structure());
    if node != 0 {
        return Err(STOR_STATUS_INVALID_PARAMETER);
    }
    if !required.is_null() {
        output(required, 1u16)?;
    }
    if count == 0 || to.is_null() {
        return Err(STOR_STATUS_BUFFER_TOO_SMALL);
    }
    to.fill(group_affinity::SIZE, 0);
    to.set(group_affinity::Mask, all_processors());
    Ok(())
}

pub(super) fn log_hardware_error(call: &mut Call, port: &'static Port) -> Status {
    let (_address, id) = (call.address(), call.u32());
    let text = wide_string(call.structure());
    port.event(format_args!("StorPortEtwLogError {id}: {text}"));
    Ok(())
}

pub(super) fn etw_channel_event(call: &mut Call, port: &'static Port) -> Status {
    let (_address, _channel) = (call.address(), call.u32());
    log_etw_event(call, port)
}

pub(super) fn etw_event(call: &mut Call, port: &'static Port) -> Status {
    let _address = call.address();
    log_etw_event(call, port)
}

pub(super) fn log_etw_event(call: &mut Call, port: &'static Port) -> Status {
    let id = call.u32();
    let text = wide_string(call.structure());
    port.event(format_args!("ETW event {id}: {text}"));
    Ok(())
}

pub(super) fn telemetry(port: &'static Port) -> Status {
    port.event(format_args!("telemetry"));
    Ok(())
}

/// A NUL-terminated UTF-16 string, up to the length of a line.
pub(super) fn wide_string(text: Structure) -> String {
    const LONGEST: usize = 256;
    if text.is_null() {
        return String::new();
    }
    let units = (0..LONGEST)
        .map(|index| text.offset(2 * index).get::<u16>(abi::value()))
        .take_while(|unit| *unit != 0);
    char::decode_utf16(units)
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

pub(super) fn get_d3_cold_support(call: &mut Call, _: &'static Port) -> Status {
    let _address = call.address();
    output(call.structure(), 0u8)
}

/// Accepts a call without an effect here, if it comes from these callbacks.
pub(super) fn accept_in(allowed: &[Callback], call: &Call, port: &Port) -> Status {
    if call.check_callback(port, allowed) {
        Ok(())
    } else {
        Err(STOR_STATUS_UNSUCCESSFUL)
    }
}

pub(super) fn set_feature_list(call: &mut Call, port: &'static Port) -> Status {
    let (_count, features) = (call.u32(), call.address());
    if !call.check_callback(port, &[Callback::HwFindAdapter]) {
        return Err(STOR_STATUS_UNSUCCESSFUL);
    }
    if features == 0 {
        return Err(STOR_STATUS_INVALID_PARAMETER);
    }
    Ok(())
}
