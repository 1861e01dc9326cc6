//! Sleep and resume: ScsiStopAdapter, a power cycle of the function, and ScsiRestartAdapter or
//! its replacement.
//!
//! Documented (SCSI_ADAPTER_CONTROL_TYPE): Before ScsiStopAdapter, no request is in flight and
//! the cache is flushed. Until the restart, the miniport is not called, and its resources and
//! extensions stay. ScsiSetRunningConfig comes before ScsiRestartAdapter, while the interrupt is
//! not connected. Without ScsiRestartAdapter, HwFindAdapter and HwInitialize are called again,
//! HwFindAdapter at DISPATCH_LEVEL (HW_FIND_ADAPTER).
//!
//! Not documented, and chosen here: Power requests go to the units and then to the adapter, and
//! in the opposite order on resume. The function loses its state, and the bus driver restores its
//! configuration space before the miniport is called. HwPassiveInitialize is called again if
//! HwInitialize enables it.

use super::{
    abi::wdk,
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

/// Sleeps once. The calling thread is not a CPU, and all programs have finished.
pub(super) fn restart(port: &'static Port) -> Result<(), RestartError> {
    if port.supports(wdk::ScsiAdapterPower) {
        return Err(RestartError::AdapterPower);
    }
    send_power(port, PowerState::D3, PowerAction::Sleep)?;
    port.gate.close(closed::STOPPED);
    let outstanding = port.gate.outstanding();
    if outstanding > 0 {
        return Err(RestartError::Outstanding(outstanding));
    }
    let stopped = port.control_adapter(wdk::ScsiStopAdapter);
    if stopped != wdk::ScsiAdapterControlSuccess {
        return Err(RestartError::Refused("ScsiStopAdapter", stopped));
    }
    if let Some(controller) = port.interrupts.get() {
        controller.disconnect();
    }
    // Waits for the DPCs that interrupts queued.
    life_cycle::on_each_cpu(port, |_, _| {});
    port.fall_asleep();

    let saved = Saved::of(port.function.as_ref());
    port.function.power_cycle();
    saved.restore(port.function.as_ref());

    port.wake_up();
    resume(port)?;
    port.gate.open(closed::STOPPED);
    send_power(port, PowerState::D0, PowerAction::None)?;
    port.admit();
    Ok(())
}

fn resume(port: &'static Port) -> Result<(), RestartError> {
    if port.settings.resume == Resume::Restart && port.supports(wdk::ScsiRestartAdapter) {
        if port.supports(wdk::ScsiSetRunningConfig) {
            port.call_control(wdk::ScsiSetRunningConfig, irql::PASSIVE);
        }
        connect(port);
        let restarted =
            port.with_optional_callbacks(|| port.control_adapter(wdk::ScsiRestartAdapter));
        if restarted != wdk::ScsiAdapterControlSuccess {
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
    let messages = port.messages();
    if messages > 0 {
        let cpu_of = super::interrupts::Controller::cpu_of;
        plug_and_play::unmask_messages(&port.function, messages, cpu_of);
    }
    controller.connect();
}

/// Sends the power requests, to the adapter last for sleep and first for resume. Flushes the
/// units before sleep.
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

fn flush(port: &'static Port, unit: Address) -> Result<(), RestartError> {
    let status = life_cycle::send_control(port, ControlRequest::Flush(unit));
    if status != wdk::SRB_STATUS_SUCCESS && port.configuration().caches_data {
        return Err(RestartError::Cache(status));
    }
    Ok(())
}

impl Port {
    pub(super) fn supports(&self, kind: u32) -> bool {
        self.controls
            .get()
            .and_then(|controls| controls.get(kind as usize))
            == Some(&true)
    }

    /// Calls HwAdapterControl for `kind` at `level`. Returns its status.
    pub(super) fn call_control(&'static self, kind: u32, level: u8) -> u32 {
        let arguments = [self.extension(), kind as usize, 0];
        let routine = self.registration().adapter_control;
        self.call_about(Callback::HwAdapterControl, kind, level, routine, arguments) as u32
    }

    /// Calls ScsiStopAdapter or ScsiRestartAdapter as the settings say, because two pages
    /// disagree (storport-rules.md X1).
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

    /// Whether the calling thread stops or restarts the adapter in HwAdapterControl, under the
    /// stricter of the two pages.
    pub(super) fn is_strict_control(&self) -> bool {
        let kind = callbacks::current_argument();
        callbacks::current() == Callback::HwAdapterControl
            && matches!(kind, wdk::ScsiStopAdapter | wdk::ScsiRestartAdapter)
            && self.settings.control_calls != ControlCalls::Passive
    }
}
