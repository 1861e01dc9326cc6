//! ETW events, features, power and dumps.

use super::{
    super::{
        abi::{
            self, Structure,
            calls::Call,
            stor_status::{
                STOR_STATUS_INVALID_PARAMETER, STOR_STATUS_SUCCESS, STOR_STATUS_UNSUCCESSFUL,
            },
        },
        callbacks::Callback,
        port::Port,
    },
    output,
};

pub(super) fn log_hardware_error(call: &mut Call, port: &'static Port) -> u32 {
    let (_address, id) = (call.address(), call.u32());
    let text = wide_string(call.structure());
    port.event(format_args!("StorPortEtwLogError {id}: {text}"));
    STOR_STATUS_SUCCESS
}

pub(super) fn etw_channel_event(call: &mut Call, port: &'static Port) -> u32 {
    let (_address, _channel) = (call.address(), call.u32());
    log_etw_event(call, port)
}

pub(super) fn etw_event(call: &mut Call, port: &'static Port) -> u32 {
    let _address = call.address();
    log_etw_event(call, port)
}

pub(super) fn log_etw_event(call: &mut Call, port: &'static Port) -> u32 {
    let id = call.u32();
    let text = wide_string(call.structure());
    port.event(format_args!("ETW event {id}: {text}"));
    STOR_STATUS_SUCCESS
}

pub(super) fn telemetry(port: &'static Port) -> u32 {
    port.event(format_args!("telemetry"));
    STOR_STATUS_SUCCESS
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

pub(super) fn get_d3_cold_support(call: &mut Call, _: &'static Port) -> u32 {
    let _address = call.address();
    output(call.structure(), 0u8)
}

/// Accepts a call without an effect here, if it comes from these callbacks.
pub(super) fn accept_in(allowed: &[Callback], call: &Call, port: &Port) -> u32 {
    if call.check_callback(port, allowed) {
        STOR_STATUS_SUCCESS
    } else {
        STOR_STATUS_UNSUCCESSFUL
    }
}

pub(super) fn set_feature_list(call: &mut Call, port: &'static Port) -> u32 {
    let (_count, features) = (call.u32(), call.address());
    if !call.check_callback(port, &[Callback::HwFindAdapter]) {
        return STOR_STATUS_UNSUCCESSFUL;
    }
    if features == 0 {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    STOR_STATUS_SUCCESS
}
