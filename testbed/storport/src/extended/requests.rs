//! The functions of StorPortExtendedFunction for requests, units and memory.

use super::{
    super::{
        abi::{
            self, Status, Structure,
            calls::Call,
            startio_performance_parameters as start_io,
            startio_performance_parameters_v2 as start_io2, stor_request_info_v1 as request_info,
            wdk::{
                STOR_STATUS_INSUFFICIENT_RESOURCES, STOR_STATUS_INVALID_DEVICE_REQUEST,
                STOR_STATUS_INVALID_PARAMETER, STOR_STATUS_NOT_IMPLEMENTED,
                STOR_STATUS_UNSUCCESSFUL,
            },
        },
        callbacks::Callback,
        exports,
        pool::PoolKind,
        port::Port,
        request::Address,
        srb::Slot,
        violations::Rule,
    },
    output,
    system::processor_number,
};

pub(super) fn allocate_pool(call: &mut Call, port: &'static Port) -> Status {
    let (bytes, _tag) = (call.u32(), call.u32());
    let to = call.structure();
    allocated(to, port.allocate(PoolKind::Pool, bytes as usize))
}

fn allocated(to: Structure, address: usize) -> Status {
    output(to, address)?;
    match address {
        0 => Err(STOR_STATUS_INSUFFICIENT_RESOURCES),
        _ => Ok(()),
    }
}

pub(super) fn free(call: &mut Call, port: &'static Port, kind: PoolKind) -> Status {
    let address = call.address();
    if port.free(kind, address) {
        Ok(())
    } else {
        Err(STOR_STATUS_INVALID_PARAMETER)
    }
}

/// Allocates contiguous memory between two physical addresses that crosses no multiple of a
/// boundary, unless that is 0.
pub(super) fn contiguous(call: &mut Call, port: &'static Port, kind: PoolKind) -> usize {
    let bytes = call.u64() as usize;
    let (lowest, highest, boundary) = (call.u64(), call.u64(), call.u64());
    let (_cache, _node) = (call.u32(), call.u32());
    let address = port.allocate(kind, bytes);
    let Some(first) = port.machine.memory().physical(address) else {
        return 0;
    };
    let last = first + (bytes as u64).max(1) - 1;
    let crosses = boundary != 0 && first / boundary != last / boundary;
    if first < lowest || last > highest || crosses {
        port.free(kind, address);
        return 0;
    }
    address
}

pub(super) fn allocate_contiguous_memory(call: &mut Call, port: &'static Port) -> Status {
    exports::check_wait(port, format_args!("contiguous memory"));
    let address = contiguous(call, port, PoolKind::Contiguous);
    allocated(call.structure(), address)
}

pub(super) fn allocate_dma_memory(call: &mut Call, port: &'static Port) -> Status {
    exports::check_wait(port, format_args!("DMA memory"));
    let address = contiguous(call, port, PoolKind::Dma);
    allocated(call.structure(), address)?;
    let physical = port.machine.memory().physical(address).unwrap_or(0);
    output(call.structure(), physical)
}

pub(super) fn get_system_address(call: &mut Call, port: &'static Port) -> Status {
    let srb = call.address();
    let to = call.structure();
    let data = port.srb_of_miniport(srb).and_then(Slot::data);
    match data {
        Some(address) => output(to, address),
        None => Err(STOR_STATUS_INVALID_PARAMETER),
    }
}

pub(super) fn get_start_io_perf_params(call: &mut Call, port: &'static Port) -> Status {
    let srb = call.address();
    let to = call.structure();
    let known = port.srb_of_miniport(srb);
    // storport-rules.md Routines.
    if known.is_some_and(|slot| !slot.is_with_miniport()) {
        port.violation(
            Rule::DdiCallback,
            format_args!("StorPortGetStartIoPerfParams before HwStartIo has the request"),
        );
        return Err(STOR_STATUS_INVALID_PARAMETER);
    }
    if known.is_none() || to.is_null() {
        return Err(STOR_STATUS_INVALID_PARAMETER);
    }
    let size = to.get(start_io::Size) as usize;
    if size < start_io::SIZE {
        return Err(STOR_STATUS_INVALID_PARAMETER);
    }
    let (message, channel) = port.start_io_parameters();
    to.set(start_io::MessageNumber, message);
    to.set(start_io::ChannelNumber, channel);
    if size >= start_io2::SIZE && to.get(start_io::Version) >= 2 {
        to.set(start_io2::InitiatingProcessor, processor_number());
    }
    Ok(())
}

pub(super) fn get_request_info(call: &mut Call, port: &'static Port) -> Status {
    let srb = call.address();
    let to = call.structure();
    let Some(slot) = port.srb_of_miniport(srb) else {
        return Err(STOR_STATUS_INVALID_PARAMETER);
    };
    if to.is_null() {
        return Err(STOR_STATUS_INVALID_PARAMETER);
    }
    let cdb = port.srbs().view(slot).cdb();
    // WRITE with 6, 10, 12 and 16 bytes.
    let is_write = matches!(cdb[0], 0x0A | 0x2A | 0xAA | 0x8A);
    // IoPriorityNormal (wdm.h).
    to.set(request_info::PriorityHint, 2);
    to.set(request_info::Flags, 0);
    to.set(request_info::Key, 0);
    to.set(request_info::Length, slot.data_bytes());
    to.set(request_info::IsWriteRequest, u8::from(is_write));
    Ok(())
}

/// No request has an ETW activity ID, because there is no tracing.
pub(super) fn get_activity_id(call: &mut Call, port: &'static Port) -> Status {
    let srb = call.address();
    let to = call.address();
    if to == 0 || port.srb_of_miniport(srb).is_none() {
        return Err(STOR_STATUS_INVALID_PARAMETER);
    }
    Err(STOR_STATUS_UNSUCCESSFUL)
}

/// The limit cannot change after the adapter has started.
pub(super) fn update_adapter_max_io(call: &mut Call, port: &'static Port) -> Status {
    let allowed = [Callback::HwInitialize, Callback::HwPassiveInitialize];
    if !call.check_callback(port, &allowed) {
        return Err(STOR_STATUS_INVALID_DEVICE_REQUEST);
    }
    port.statistics.not_implemented(call.function);
    Err(STOR_STATUS_NOT_IMPLEMENTED)
}

pub(super) fn get_system_port_number(call: &mut Call, _: &'static Port) -> Status {
    let address = call.required()?;
    address.set(abi::stor_addr_btl8::Port, 0);
    Ok(())
}

pub(super) fn set_unit_attributes(call: &mut Call, port: &'static Port) -> Status {
    let address = call.structure();
    let attributes = call.u32();
    // Four bits are defined.
    if address.is_null() || attributes >> 4 != 0 {
        return Err(STOR_STATUS_INVALID_PARAMETER);
    }
    let unit = Address {
        path: address.get(abi::stor_addr_btl8::Path),
        target: address.get(abi::stor_addr_btl8::Target),
        lun: address.get(abi::stor_addr_btl8::Lun),
    };
    let is_btl8 =
        u32::from(address.get(abi::stor_addr_btl8::Type)) == abi::wdk::STOR_ADDRESS_TYPE_BTL8;
    let Some(unit) = port.units.get(unit).filter(|_| is_btl8) else {
        return Err(STOR_STATUS_INVALID_PARAMETER);
    };
    // storport-rules.md Routines.
    if !port.has_inquiry_out(unit.number) {
        port.violation(
            Rule::DdiCallback,
            format_args!(
                "StorPortSetUnitAttributes, and no INQUIRY of the unit is being completed"
            ),
        );
    }
    Ok(())
}
