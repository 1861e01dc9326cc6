//! Time-outs: requests that the miniport keeps longer than their TimeOutValue, the resets that
//! follow, and the check of the requests after a reset.
//!
//! Documented ("Multi-Tier Reset in Storport"): An SRB resets the logical unit. If that fails, an
//! SRB resets the target, and if that fails, HwResetBus resets the bus. Not documented, and
//! chosen here: what counts as a failure (see [`Escalation::Tiers`]), that requests stay with the
//! miniport and their time-outs start again if HwResetBus returns FALSE, and what a pause does to
//! time-outs ([`PausedTimeOuts`]).

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    abi::wdk,
    adapter::{Escalation, PausedTimeOuts},
    callbacks::Callback,
    control_request::ControlRequest,
    port::Port,
    report::ResetRow,
    request::{Address, Completion, Program, Request},
    spin_locks::LockId,
    srb::{Slot, recovery},
    units::closed,
    violations::Rule,
};
use testbed_machine::{
    clock,
    cpu::{self, Deferred, irql},
    trap,
};

/// The time-out of a unit or target reset, if the settings have none.
const TIER_TIME_OUT: Duration = Duration::from_secs(10);

/// The periodic check of an adapter's requests, a DPC on CPU 0.
pub(super) struct Tick(pub(super) &'static Port);

#[derive(Debug, Default)]
pub(super) struct Recovery {
    reset_at: AtomicU64,
    /// Since when requests wait although none is in flight; 0 if they do not.
    stalled_since: AtomicU64,
    checked_at: AtomicU64,
    in_tier: AtomicBool,
    tier_deadline: AtomicU64,
}

/// A program that waits for the reset of a unit or target, and starts the next step of
/// [`Escalation::Tiers`] if it fails.
struct Tier {
    port: &'static Port,
    reset: ControlRequest,
    /// The request that timed out, and the time when it was sent.
    late: (u32, u64),
    cause: String,
    over: bool,
}

impl Program for Tier {
    fn start(&mut self, _: &mut dyn FnMut(Request)) {}

    fn completed(&mut self, completion: Completion, _: &mut dyn FnMut(Request)) {
        self.over = true;
        let port = self.port;
        if !port.recovery.in_tier.swap(false, Ordering::AcqRel) {
            // The bus was reset in the meantime.
            return;
        }
        let (number, sent) = self.late;
        let slot = port.srbs().slot(number);
        let is_back = !slot.is_with_miniport() || slot.sent.load(Ordering::Relaxed) != sent;
        if completion.srb_status == wdk::SRB_STATUS_SUCCESS && is_back {
            port.event(format_args!("{:?} ended {}", self.reset, self.cause));
            return;
        }
        let cause = std::mem::take(&mut self.cause);
        match self.reset {
            ControlRequest::ResetUnit(unit) => {
                port.send_tier(ControlRequest::ResetDevice(unit), self.late, cause);
            }
            _ => port.machine.cpus()[0].post(Box::new(move || {
                let before = cpu::set_irql(irql::DISPATCH);
                port.reset_bus(0, cause);
                cpu::set_irql(before);
            })),
        }
    }

    fn finished(&self) -> bool {
        self.over
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl Deferred for Tick {
    fn run(&self, _: usize, _: usize) {
        let port = self.0;
        if port.is_stopped() {
            return;
        }
        port.check_time_outs();
        let again: &'static Self = port.tick();
        port.machine
            .clock()
            .after(port.settings.tick, 0, again, 0, 0);
    }
}

impl Port {
    fn check_time_outs(&'static self) {
        let now = clock::now();
        self.suspend_time_outs(now);
        self.check_recovery(now);
        self.check_stall(now);
        let late = (0..).zip(self.srbs().slots()).find(|(_, slot)| {
            // Reads the state first: the deadline was set before it.
            slot.is_with_miniport()
                && slot.deadline.load(Ordering::Relaxed) < now
                && slot.recovery.load(Ordering::Relaxed) == recovery::NONE
        });
        let Some((number, slot)) = late else {
            return;
        };
        let unit = self
            .units
            .numbered(slot.unit.load(Ordering::Relaxed))
            .map_or_else(Address::default, |unit| unit.address);
        let cause = self.describe(slot, now);
        let recovery = &self.recovery;
        if self.settings.escalation == Escalation::Bus {
            self.reset_bus(unit.path, cause);
        } else if !recovery.in_tier.load(Ordering::Acquire) {
            let late = (number, slot.sent.load(Ordering::Relaxed));
            self.send_tier(ControlRequest::ResetUnit(unit), late, cause);
        } else if recovery.tier_deadline.load(Ordering::Relaxed) < now {
            recovery.in_tier.store(false, Ordering::Release);
            self.reset_bus(unit.path, cause);
        }
    }

    /// Sends the reset of a unit or target, from CPU 0 at PASSIVE_LEVEL.
    fn send_tier(&'static self, reset: ControlRequest, late: (u32, u64), cause: String) {
        let time_out = self.settings.timeout.unwrap_or(TIER_TIME_OUT);
        let deadline = clock::now() + time_out.as_nanos() as u64;
        let recovery = &self.recovery;
        recovery.tier_deadline.store(deadline, Ordering::Relaxed);
        recovery.in_tier.store(true, Ordering::Release);
        self.event(format_args!("{reset:?}: {cause}"));
        let tier = Tier {
            port: self,
            reset,
            late,
            cause,
            over: false,
        };
        self.machine.cpus()[0].post(Box::new(move || {
            self.cpu_queue(0)
                .send_control(reset, Box::new(tier), Arc::default());
        }));
    }

    /// Extends the deadlines by the time since the last check, or since the request was sent, if
    /// the adapter is paused and the settings suspend time-outs.
    fn suspend_time_outs(&self, now: u64) {
        let before = self.recovery.checked_at.swap(now, Ordering::Relaxed);
        let holds = self.settings.paused_time_outs == PausedTimeOuts::Stop
            && self.gate.is_closed_by(closed::PAUSED);
        if holds {
            for slot in self.srbs().slots() {
                if slot.is_with_miniport() {
                    let since = before.max(slot.sent.load(Ordering::Relaxed));
                    let paused = now.saturating_sub(since);
                    slot.deadline.fetch_add(paused, Ordering::Relaxed);
                }
            }
        }
    }

    fn describe(&self, slot: &Slot, now: u64) -> String {
        let age = now.saturating_sub(slot.sent.load(Ordering::Relaxed));
        let address = self
            .units
            .numbered(slot.unit.load(Ordering::Relaxed))
            .map(|unit| unit.address)
            .unwrap_or_default();
        let cdb = self.srbs().view(slot).cdb();
        format!(
            "request {:02x} to path {} target {} LUN {}, {:.1} s old",
            cdb[0],
            address.path,
            address.target,
            address.lun,
            Duration::from_nanos(age).as_secs_f64()
        )
    }

    /// Calls HwResetBus at DISPATCH_LEVEL with the StartIo lock and all channels, and the
    /// adapter's gate closed (storport-rules.md Callbacks). Takes the channels first, because
    /// HwStartIo may take the StartIo lock while it holds a channel.
    pub(super) fn reset_bus(&'static self, path: u8, cause: String) {
        self.gate.close(closed::RESET);
        self.lock(LockId::AllChannels);
        self.lock(LockId::StartIo);
        let half = !self.full_duplex();
        if half {
            self.lock(LockId::Interrupt);
        }
        let mut outstanding = 0;
        for slot in self.srbs().slots() {
            if slot.is_with_miniport() {
                outstanding += 1;
                slot.recovery.store(recovery::RESET, Ordering::Relaxed);
            }
        }
        let level = if half { irql::DEVICE } else { irql::DISPATCH };
        let arguments = [self.extension(), usize::from(path)];
        let routine = self.registration().reset_bus;
        let result = self.call(Callback::HwResetBus, level, routine, arguments);
        if half {
            self.unlock();
        }
        self.unlock();
        self.unlock();
        let now = clock::now();
        self.recovery.reset_at.store(now, Ordering::Relaxed);
        let accepted = result as u8 != 0;
        if accepted {
            self.complete_held();
        } else {
            self.time_out_again(now);
        }
        let row = ResetRow {
            cause,
            outstanding,
            accepted,
        };
        self.event(format_args!(
            "129: reset to the adapter of {}: {}",
            self.driver(),
            row.cause
        ));
        self.statistics.rare().resets.push(row);
        self.gate.open(closed::RESET);
        let hold = self.configuration().reset_hold;
        if hold.is_zero() {
            self.admit();
        } else {
            self.pause(None, hold);
        }
    }

    /// HwResetBus returned FALSE: restarts the time-outs of the miniport's requests.
    fn time_out_again(&self, now: u64) {
        let time_out = self.settings.timeout.unwrap_or(TIER_TIME_OUT);
        for slot in self.srbs().slots() {
            if slot.is_with_miniport() {
                slot.deadline
                    .store(now + time_out.as_nanos() as u64, Ordering::Relaxed);
                slot.recovery.store(recovery::NONE, Ordering::Relaxed);
            }
        }
    }

    /// Reports the requests that the miniport did not complete in HwResetBus.
    fn check_recovery(&'static self, now: u64) {
        let reset_at = self.recovery.reset_at.load(Ordering::Relaxed);
        for slot in self.srbs().slots() {
            let left = slot.is_with_miniport()
                && slot.recovery.load(Ordering::Relaxed) != recovery::NONE
                && slot.sent.load(Ordering::Relaxed) < reset_at;
            if !left {
                continue;
            }
            let what = self.describe(slot, now);
            if slot.recovery.swap(recovery::LOST, Ordering::Relaxed) == recovery::RESET {
                self.violation_of(
                    Callback::HwResetBus,
                    Rule::SrbAfterReset,
                    format_args!("HwResetBus did not complete {what}"),
                );
            } else if now - reset_at > self.callback_limit {
                trap::stop_machine(format_args!(
                    "{}: the run cannot continue: {:?} after HwResetBus, the miniport still has {what}",
                    self.driver(),
                    Duration::from_nanos(now - reset_at)
                ));
            }
        }
    }

    /// Stops the machine if requests wait but nothing will admit them.
    fn check_stall(&self, now: u64) {
        let since = &self.recovery.stalled_since;
        let stalled = self.units.waiting() > 0
            && self.gate.outstanding() == 0
            && !self.gate.is_closed_by(closed::PAUSED | closed::RESET)
            && !self.units.is_any_paused();
        if !stalled {
            since.store(0, Ordering::Relaxed);
        } else if since.load(Ordering::Relaxed) == 0 {
            since.store(now, Ordering::Relaxed);
        } else if now - since.load(Ordering::Relaxed) > 6 * self.callback_limit {
            trap::stop_machine(format_args!(
                "{}: {} requests wait, but none is in flight{}",
                self.driver(),
                self.units.waiting(),
                if self.gate.is_closed_by(closed::LINK_DOWN) {
                    ": it reported LinkDown, but not LinkUp"
                } else {
                    ""
                }
            ));
        }
    }
}
