//! An adapter's sleep: ScsiStopAdapter, its function without power, and
//! ScsiRestartAdapter or what takes its place.
//!
//! Documented (SCSI_ADAPTER_CONTROL_TYPE): no request is out and the cache was
//! flushed before ScsiStopAdapter; the miniport is not called until it is
//! restarted; its resources and extensions stay. ScsiSetRunningConfig comes
//! before ScsiRestartAdapter, when the interrupt is not connected yet. Without
//! ScsiRestartAdapter HwFindAdapter and HwInitialize are called again, the
//! first at DISPATCH_LEVEL (HW_FIND_ADAPTER).
//!
//! Not documented, and chosen here: power requests go to the units and then to
//! the adapter, and come back in the other order; the function loses all it
//! knew, and the bus driver restores its configuration space before the
//! miniport is called; HwPassiveInitialize follows a HwInitialize that enables
//! it, this time as well.

use super::{
    abi::{control, srb_status},
    adapter::{ControlCalls, RestartError, Resume},
    callbacks::{self, Callback},
    control_request::{ControlRequest, PowerAction, PowerState, Recipient},
    life_cycle,
    plug_and_play::{self, Saved},
    port::Port,
    request::Address,
    spin_locks::LockId,
    units::closed,
};
use testbed_machine::cpu::irql;

/// One sleep. The calling thread is no CPU, and all programs have finished.
pub(super) fn restart(port: &'static Port) -> Result<(), RestartError> {
    if port.supports(control::ScsiAdapterPower) {
        return Err(RestartError::AdapterPower);
    }
    send_power(port, PowerState::D3, PowerAction::Sleep)?;
    port.gate.close(closed::STOPPED);
    let outstanding = port.gate.outstanding();
    if outstanding > 0 {
        return Err(RestartError::Outstanding(outstanding));
    }
    let stopped = port.control_adapter(control::ScsiStopAdapter);
    if stopped != control::ScsiAdapterControlSuccess {
        return Err(RestartError::Refused("ScsiStopAdapter", stopped));
    }
    if let Some(controller) = port.interrupts.get() {
        controller.disconnect();
    }
    // The DPCs that interrupts queued before.
    life_cycle::on_each_cpu(port, |_, _| {});
    port.fall_asleep();

    let saved = Saved::of(port.function.as_ref());
    port.function.power_cycle();
    saved.restore(port.function.as_ref());

    port.wake_up();
    resume(port)?;
    port.gate.open(closed::STOPPED);
    send_power(port, PowerState::D0, PowerAction::None)?;
    port.let_in();
    Ok(())
}

/// Has the miniport take its function into use again.
fn resume(port: &'static Port) -> Result<(), RestartError> {
    if port.settings.resume == Resume::Restart && port.supports(control::ScsiRestartAdapter) {
        if port.supports(control::ScsiSetRunningConfig) {
            port.call_control(control::ScsiSetRunningConfig, irql::PASSIVE);
        }
        connect(port);
        let restarted = port.beside_optional(|| port.control_adapter(control::ScsiRestartAdapter));
        if restarted != control::ScsiAdapterControlSuccess {
            return Err(RestartError::Refused("ScsiRestartAdapter", restarted));
        }
        return Ok(());
    }
    life_cycle::find_adapter_again(port)?;
    connect(port);
    life_cycle::initialize(port)?;
    Ok(())
}

fn connect(port: &Port) {
    let Some(controller) = port.interrupts.get() else {
        return;
    };
    if port.messages() > 0 {
        plug_and_play::unmask_messages(&port.function, super::interrupts::Controller::cpu_of);
    }
    controller.connect();
}

/// Flushes the cache on the way down, and sends the power requests: to the
/// adapter last on the way down and first on the way up.
fn send_power(
    port: &'static Port,
    state: PowerState,
    action: PowerAction,
) -> Result<(), RestartError> {
    let units = port.units.addresses();
    if state == PowerState::D3 {
        for unit in &units {
            flush(port, *unit)?;
        }
    }
    let units = units.into_iter().map(Recipient::Unit);
    let mut recipients: Vec<_> = units.chain([Recipient::Adapter]).collect();
    if state == PowerState::D0 {
        recipients.reverse();
    }
    for recipient in recipients {
        life_cycle::send_control(port, ControlRequest::Power(recipient, state, action));
    }
    Ok(())
}

/// A disk whose cache was not written must not lose its power.
fn flush(port: &'static Port, unit: Address) -> Result<(), RestartError> {
    let status = life_cycle::send_control(port, ControlRequest::Flush(unit));
    if status != srb_status::SRB_STATUS_SUCCESS && port.configuration().caches_data {
        return Err(RestartError::Cache(status));
    }
    Ok(())
}

impl Port {
    /// Whether HwAdapterControl supports `kind`.
    pub(super) fn supports(&self, kind: u32) -> bool {
        self.controls
            .get()
            .and_then(|controls| controls.get(kind as usize))
            == Some(&true)
    }

    /// HwAdapterControl for `kind` at `level`: its status.
    fn call_control(&'static self, kind: u32, level: u8) -> u32 {
        self.call_control_with(kind, level, 0)
    }

    /// [`Self::call_control`] with Parameters.
    pub(super) fn call_control_with(&'static self, kind: u32, level: u8, parameters: usize) -> u32 {
        let arguments = [self.extension(), kind as usize, parameters];
        let routine = self.registration().adapter_control;
        self.call_about(Callback::HwAdapterControl, kind, level, routine, arguments) as u32
    }

    /// ScsiStopAdapter or ScsiRestartAdapter, called as the settings say: two
    /// pages disagree on it (storport-rules.md X1).
    pub(super) fn control_adapter(&'static self, kind: u32) -> u32 {
        match self.settings.control_calls {
            ControlCalls::Strict => self.call_control(kind, irql::DEVICE),
            ControlCalls::UnderInterruptLock => {
                self.lock(LockId::Interrupt);
                let status = self.call_control(kind, irql::DEVICE);
                self.unlock();
                status
            }
            ControlCalls::Passive => self.call_control(kind, irql::PASSIVE),
        }
    }

    /// Whether the calling thread is in a HwAdapterControl that stops or restarts the
    /// adapter, and is called as the stricter of the two pages has it.
    pub(super) fn is_strict_control(&self) -> bool {
        let kind = callbacks::current_argument();
        callbacks::current() == Callback::HwAdapterControl
            && matches!(kind, control::ScsiStopAdapter | control::ScsiRestartAdapter)
            && self.settings.control_calls != ControlCalls::Passive
    }
}
