//! Optional callbacks, called when a test asks for it. Windows may call them at any time after
//! HwFindAdapter: their pages name an IRQL, but no order.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::{
    abi::{
        Structure, control, srb, stor_adapter_control_power as adapter_power,
        stor_addr_btl8 as btl8, stor_power_control_header as header,
        stor_unit_control_power as unit_power,
    },
    adapter::{OptionalCallback, OptionalCallbacks},
    callbacks::Callback,
    control_request::PowerAction,
    life_cycle,
    port::Port,
    request::Address,
};
use testbed_machine::cpu::irql;

impl Port {
    /// Calls an optional callback. Returns its status (0 for HwTracingEnabled), or `None` if the
    /// miniport does not have it.
    pub(super) fn call_optional(&'static self, callback: OptionalCallback) -> Option<u32> {
        match callback {
            OptionalCallback::Tracing(enabled) => {
                let routine = self.registration().tracing_enabled;
                let arguments = [self.extension(), usize::from(enabled)];
                (!routine.is_none()).then(|| {
                    self.call_passive(Callback::HwTracingEnabled, 0, routine, arguments);
                    0
                })
            }
            OptionalCallback::SurpriseRemoval => {
                self.call_adapter(control::ScsiAdapterSurpriseRemoval, irql::PASSIVE, 0)
            }
            OptionalCallback::AdapterPower(state) => {
                let power = self.memory(adapter_power::SIZE)?;
                // STOR_POWER_CONTROL_HEADER has version 1.
                power.set(header::Version, 1);
                power.set(header::Size, header::SIZE as u32);
                power.set(adapter_power::PowerAction, PowerAction::None.value());
                power.set(adapter_power::PowerState, state.value());
                self.call_adapter(control::ScsiAdapterPower, irql::DISPATCH, power.address())
            }
            OptionalCallback::UnitPower(unit, state) => {
                let power = self.memory(unit_power::SIZE)?;
                power.set(unit_power::Address, self.address_of(unit)?);
                power.set(unit_power::PowerAction, PowerAction::None.value());
                power.set(unit_power::PowerState, state.value());
                self.call_unit(control::ScsiUnitPower, irql::DISPATCH, power.address())
            }
            OptionalCallback::UnitStart(unit) => {
                let address = self.address_of(unit)?;
                self.call_unit(control::ScsiUnitStart, irql::PASSIVE, address)
            }
            OptionalCallback::UnitSurpriseRemoval(unit) => {
                let address = self.address_of(unit)?;
                self.call_unit(control::ScsiUnitSurpriseRemoval, irql::PASSIVE, address)
            }
        }
    }

    /// Zeroed memory for the parameters of a callback. It is not freed, because such calls are
    /// few.
    fn memory(&self, bytes: usize) -> Option<Structure> {
        let memory = life_cycle::leak(self, bytes).ok()?;
        memory.fill(bytes, 0);
        Some(memory)
    }

    /// A STOR_ADDR_BTL8.
    fn address_of(&self, unit: Address) -> Option<usize> {
        let address = self.memory(btl8::SIZE)?;
        address.set(btl8::Type, srb::STOR_ADDRESS_TYPE_BTL8 as u16);
        address.set(btl8::AddressLength, srb::STOR_ADDR_BTL8_ADDRESS_LENGTH);
        address.set(btl8::Path, unit.path);
        address.set(btl8::Target, unit.target);
        address.set(btl8::Lun, unit.lun);
        Some(address.address())
    }

    fn call_adapter(&'static self, kind: u32, level: u8, parameters: usize) -> Option<u32> {
        self.supports(kind)
            .then(|| self.call_control_with(kind, level, parameters))
    }

    fn call_unit(&'static self, kind: u32, level: u8, parameters: usize) -> Option<u32> {
        let routine = self.registration().unit_control;
        let arguments = [self.extension(), kind as usize, parameters];
        self.supports_unit(kind).then(|| {
            self.call_about(Callback::HwUnitControl, kind, level, routine, arguments) as u32
        })
    }

    /// Whether HwUnitControl supports `kind`.
    fn supports_unit(&self, kind: u32) -> bool {
        let types = self.unit_controls.get();
        types.and_then(|types| types.get(kind as usize)) == Some(&true)
    }

    /// Runs `start`, with optional callbacks at the same time if the settings say so.
    pub(super) fn with_optional_callbacks<T>(&'static self, start: impl FnOnce() -> T) -> T {
        if self.settings.optional_callbacks == OptionalCallbacks::OnDemand {
            return start();
        }
        let over = AtomicBool::new(false);
        let begun = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Acquire) {
                    for enabled in [true, false] {
                        self.call_optional(OptionalCallback::Tracing(enabled));
                    }
                    self.call_optional(OptionalCallback::UnitStart(Address::default()));
                    begun.store(true, Ordering::Release);
                }
            });
            while !begun.load(Ordering::Acquire) {
                thread::yield_now();
            }
            let result = start();
            over.store(true, Ordering::Release);
            result
        })
    }
}
