//! What a miniport has called later: its timer, work, the end of a state
//! change, a change of the registry.
//!
//! Storport is given functions of the miniport's type, which a context does not
//! know: they lie in a table whose address the adapter's header keeps.
#![expect(unsafe_code, reason = "Storport is given functions to call")]

use core::{ptr, sync::atomic::Ordering};

use wdk_sys::{
    PVOID, SHORT, STATE_CHANGE_BUS, STATE_CHANGE_LUN, STATE_CHANGE_TARGET, STOR_ADDR_BTL8, ULONG,
};

use crate::{context::Changed, extension::Header, port, srb::Address};

/// The functions for one miniport's adapters.
pub struct Entries {
    /// HW_TIMER.
    pub(crate) timer: unsafe extern "C" fn(PVOID),
    /// HW_WORKITEM.
    pub(crate) work: unsafe extern "C" fn(PVOID, PVOID, PVOID),
    /// HW_STATE_CHANGE.
    pub(crate) state_change: unsafe extern "C" fn(PVOID, PVOID, SHORT, PVOID, ULONG),
    /// HW_REGISTRY_NOTIFICATION_ROUTINE.
    pub(crate) registry: unsafe extern "C" fn(PVOID),
}

impl Header {
    pub(crate) fn set_entries(&self, entries: &'static Entries) {
        self.entries
            .store(ptr::from_ref(entries).cast_mut(), Ordering::Relaxed);
    }

    fn entries(&self) -> Option<&'static Entries> {
        let entries = self.entries.load(Ordering::Relaxed);
        // SAFETY: null, or stored from a `&'static`.
        unsafe { entries.as_ref() }
    }

    /// RequestTimerCall; 0 microseconds cancel.
    pub(crate) fn set_timer(&self, microseconds: u32) {
        if let Some(entries) = self.entries() {
            // SAFETY: the function is one for this adapter's extension.
            unsafe { port::request_timer_call(self, entries.timer, microseconds) };
        }
    }

    /// Queues a work item of its own, which frees itself.
    ///
    /// # Safety
    /// Called at or below DISPATCH_LEVEL, not in a dump stack.
    pub(crate) unsafe fn queue_work(&self, argument: usize) -> bool {
        let Some(entries) = self.entries() else {
            return false;
        };
        // SAFETY: the caller's promise.
        let Some(worker) = (unsafe { port::initialize_worker(self) }) else {
            return false;
        };
        // SAFETY: the worker is fresh; the function is one for this adapter.
        let queued = unsafe { port::queue_work_item(self, entries.work, worker, argument) };
        if !queued {
            // SAFETY: it was not queued, so no one else has it.
            unsafe { port::free_worker(self, worker) };
        }
        queued
    }

    /// StorPortStateChangeDetected, one at a time.
    pub(crate) fn report_change(&self, changed: Changed) -> bool {
        let Some(entries) = self.entries() else {
            return false;
        };
        if !self.state.begin_state_change() {
            return false;
        }
        let (entity, Address { path, target, lun }) = match changed {
            Changed::Unit(address) => (STATE_CHANGE_LUN, address),
            Changed::Target(address) => (STATE_CHANGE_TARGET, address),
            Changed::Bus(address) => (STATE_CHANGE_BUS, address),
        };
        let address = STOR_ADDR_BTL8 {
            Type: wdk_sys::STOR_ADDRESS_TYPE_BTL8 as u16,
            AddressLength: wdk_sys::STOR_ADDR_BTL8_ADDRESS_LENGTH,
            Path: path,
            Target: target,
            Lun: lun,
            ..STOR_ADDR_BTL8::default()
        };
        // SAFETY: the place was taken above, and Storport gives it back by the
        // callback.
        unsafe { self.changed().write(address) };
        self.changed_entity.store(entity, Ordering::Relaxed);
        // SAFETY: the address stays as it is until the callback.
        let accepted = unsafe {
            port::state_change_detected(self, entity, self.changed(), entries.state_change)
        };
        if !accepted {
            self.state.end_state_change();
        }
        accepted
    }

    /// The change that was reported.
    ///
    /// # Safety
    /// Called by the callback that ends it.
    pub(crate) unsafe fn take_change(&self) -> Changed {
        // SAFETY: it was written before the report, and is not now.
        let address = unsafe { self.changed().read() };
        let address = Address {
            path: address.Path,
            target: address.Target,
            lun: address.Lun,
        };
        match self.changed_entity.load(Ordering::Relaxed) {
            STATE_CHANGE_LUN => Changed::Unit(address),
            STATE_CHANGE_TARGET => Changed::Target(address),
            _ => Changed::Bus(address),
        }
    }

    /// StorPortEnableRegistryKeyNotification.
    ///
    /// # Safety
    /// Called at PASSIVE_LEVEL, not in a dump stack.
    pub(crate) unsafe fn watch_registry(&self) -> bool {
        let Some(entries) = self.entries() else {
            return false;
        };
        // SAFETY: the caller's promise; the function is one for this adapter.
        unsafe { port::enable_registry_key_notification(self, entries.registry) }
    }
}
