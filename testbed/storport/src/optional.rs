//! Optional callbacks, called when a test asks for it. Windows may call them at any time after
//! HwFindAdapter: their pages name an IRQL, but no order.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::{
    abi::{stor_addr_btl8 as btl8, wdk},
    adapter::{OptionalCallback, OptionalCallbacks},
    callbacks::Callback,
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
                let kind = wdk::ScsiAdapterSurpriseRemoval;
                self.supports(kind)
                    .then(|| self.call_control(kind, irql::PASSIVE))
            }
            OptionalCallback::UnitStart(unit) => {
                let kind = wdk::ScsiUnitStart;
                let routine = self.registration().unit_control;
                let arguments = [self.extension(), kind as usize, self.address_of(unit)?];
                self.supports_unit(kind).then(|| {
                    self.call_passive(Callback::HwUnitControl, kind, routine, arguments) as u32
                })
            }
        }
    }

    /// A STOR_ADDR_BTL8 that is not freed, because such calls are few.
    fn address_of(&self, unit: Address) -> Option<usize> {
        let address = life_cycle::leak(self, btl8::SIZE).ok()?;
        address.set(btl8::Type, wdk::STOR_ADDRESS_TYPE_BTL8 as u16);
        address.set(btl8::AddressLength, wdk::STOR_ADDR_BTL8_ADDRESS_LENGTH);
        address.set(btl8::Path, unit.path);
        address.set(btl8::Target, unit.target);
        address.set(btl8::Lun, unit.lun);
        Some(address.address())
    }

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
