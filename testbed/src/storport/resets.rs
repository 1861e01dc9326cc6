//! Time-outs: requests that the miniport has for longer than their
//! TimeOutValue, the bus reset that follows, and what it must have completed.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{
    callbacks::Callback,
    port::Port,
    report::ResetRow,
    spin_locks::LockId,
    srb::{Slot, recovery},
    units::closed,
    violations::Rule,
};
use crate::{
    cpu::{Deferred, irql},
    machine::clock,
    trap,
};

/// Looks at an adapter's requests once a tick, as a DPC on CPU 0.
pub(super) struct Tick(pub(super) &'static Port);

/// What time-outs know between ticks.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// When the last reset was made.
    reset_at: AtomicU64,
    /// Since when requests wait though nothing is outstanding; 0 if they don't.
    stalled_since: AtomicU64,
}

impl Deferred for Tick {
    fn run(&self, _: usize, _: usize) {
        let port = self.0;
        if port.is_stopped() {
            return;
        }
        port.look_for_time_outs();
        let again: &'static Self = port.tick();
        port.machine
            .clock()
            .after(port.settings.tick, 0, again, 0, 0);
    }
}

impl Port {
    fn look_for_time_outs(&'static self) {
        let now = clock::now();
        self.check_recovery(now);
        self.check_stall(now);
        let late = self.srbs().slots().iter().find(|slot| {
            // The owner first: what it sees began with this deadline.
            slot.is_with_miniport()
                && slot.deadline.load(Ordering::Relaxed) < now
                && slot.recovery.load(Ordering::Relaxed) == recovery::NONE
        });
        if let Some(slot) = late {
            let path = self
                .units
                .numbered(slot.unit.load(Ordering::Relaxed))
                .map_or(0, |unit| unit.address.path);
            self.reset_bus(path, self.describe(slot, now));
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

    /// HwResetBus at DISPATCH_LEVEL with the StartIo lock and all channels, the
    /// adapter's queues closed (rule book 2). The channels come first: who has
    /// one may take the StartIo lock in HwStartIo.
    fn reset_bus(&'static self, path: u8, cause: String) {
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
        let arguments = [self.extension(), usize::from(path), 0, 0, 0, 0];
        let routine = self.registration().reset_bus;
        let result = self.call(Callback::HwResetBus, level, routine, arguments);
        if half {
            self.unlock();
        }
        self.unlock();
        self.unlock();
        self.recovery
            .reset_at
            .store(clock::now(), Ordering::Relaxed);
        let row = ResetRow {
            cause,
            outstanding,
            accepted: result as u8 != 0,
        };
        self.event(format_args!(
            "129: reset to the adapter of {}: {}",
            self.driver(),
            row.cause
        ));
        self.statistics.reset(row);
        self.gate.open(closed::RESET);
        let hold = self.configuration().reset_hold;
        if hold.is_zero() {
            self.let_in();
        } else {
            self.pause_for(None, hold);
        }
    }

    /// What the miniport still has of what it had when the bus was reset.
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
                    format_args!("HwResetBus left it with the miniport: {what}"),
                );
            } else if now - reset_at > self.callback_limit {
                trap::stop_machine(format_args!(
                    "{}: no way on: {:?} after HwResetBus it still has {what}",
                    self.driver(),
                    Duration::from_nanos(now - reset_at)
                ));
            }
        }
    }

    /// Requests that nothing will let in.
    fn check_stall(&self, now: u64) {
        let since = &self.recovery.stalled_since;
        let stalled = self.units.in_line() > 0
            && self.gate.outstanding() == 0
            && !self.gate.is_closed_by(closed::PAUSED | closed::RESET)
            && !self.units.is_any_paused();
        if !stalled {
            since.store(0, Ordering::Relaxed);
        } else if since.load(Ordering::Relaxed) == 0 {
            since.store(now, Ordering::Relaxed);
        } else if now - since.load(Ordering::Relaxed) > 6 * self.callback_limit {
            trap::stop_machine(format_args!(
                "{}: {} requests wait and nothing is outstanding{}",
                self.driver(),
                self.units.in_line(),
                if self.gate.is_closed_by(closed::LINK_DOWN) {
                    ": it said LinkDown and not LinkUp"
                } else {
                    ""
                }
            ));
        }
    }
}
