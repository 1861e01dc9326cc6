//! Processors, in one group and one node.

use super::{
    super::{
        abi::{
            self,
            calls::Call,
            group_affinity,
            stor_status::{
                STOR_STATUS_BUFFER_TOO_SMALL, STOR_STATUS_INVALID_PARAMETER, STOR_STATUS_SUCCESS,
            },
        },
        port::Port,
    },
    output,
};
use testbed_machine::cpu;

/// The PROCESSOR_NUMBER of the calling CPU, in group 0.
pub(super) fn processor_number() -> u32 {
    cpu::current_number() << 16
}

fn all_processors() -> u64 {
    u64::MAX >> (64 - cpu::count())
}

pub(super) fn get_processor_index_from_number(call: &mut Call, _: &'static Port) -> u32 {
    let number = call.structure();
    let to = call.structure();
    if number.is_null() {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    let number = number.get::<u32>(abi::value());
    let (group, index) = (number as u16, u32::from((number >> 16) as u8));
    if group != 0 || index >= cpu::count() {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    output(to, index)
}

pub(super) fn get_group_affinity(call: &mut Call, _: &'static Port) -> u32 {
    let group = call.u32() as u16;
    let to = call.structure();
    if group != 0 {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    output(to, all_processors())
}

pub(super) fn get_node_affinity(call: &mut Call, _: &'static Port) -> u32 {
    let node = call.u32();
    let to = call.structure();
    if node != 0 || to.is_null() {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    to.fill(group_affinity::SIZE, 0);
    to.set(group_affinity::Mask, all_processors());
    STOR_STATUS_SUCCESS
}

pub(super) fn get_node_affinity2(call: &mut Call, _: &'static Port) -> u32 {
    let (node, to) = (call.u32(), call.structure());
    let (count, required) = (call.u32() as u16, call.structure());
    if node != 0 {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    if !required.is_null() {
        output(required, 1u16);
    }
    if count == 0 || to.is_null() {
        return STOR_STATUS_BUFFER_TOO_SMALL;
    }
    to.fill(group_affinity::SIZE, 0);
    to.set(group_affinity::Mask, all_processors());
    STOR_STATUS_SUCCESS
}
