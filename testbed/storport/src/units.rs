//! Logical units and their queues: how many requests the miniport has at a time.
//!
//! A request passes two gates, that of its unit and that of the adapter. If a gate is closed or
//! full, the issuing CPU waits in the unit's queue. A request that leaves a gate admits the first
//! one that waits.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{lock, port::Port, request::Address};
use testbed_machine::{
    cpu::{self, Deferred},
    memory::Block,
};

/// The reasons why a gate is closed, as bits.
pub(super) mod closed {
    /// StorPortBusy or StorPortDeviceBusy.
    pub(crate) const BUSY: u32 = 1;
    /// StorPortPause or StorPortPauseDevice.
    pub(crate) const PAUSED: u32 = 2;
    /// A bus reset is in progress.
    pub(crate) const RESET: u32 = 4;
    /// LinkDown.
    pub(crate) const LINK_DOWN: u32 = 8;
    /// The adapter is being stopped.
    pub(crate) const STOPPED: u32 = 16;
}

/// A limit on the requests in flight, which can also be closed.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// The requests that have entered.
    outstanding: AtomicU32,
    limit: AtomicU32,
    closed: AtomicU32,
    /// The number of completions until BUSY ends.
    busy: AtomicU32,
    /// The number of the last pause: the end of an older pause does nothing.
    pauses: AtomicU32,
}

impl Gate {
    pub(super) fn outstanding(&self) -> u32 {
        self.outstanding.load(Ordering::Relaxed)
    }

    pub(super) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    pub(super) fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::SeqCst);
    }

    pub(super) fn is_closed_by(&self, reason: u32) -> bool {
        self.closed.load(Ordering::Relaxed) & reason != 0
    }

    pub(super) fn close(&self, reason: u32) {
        self.closed.fetch_or(reason, Ordering::SeqCst);
    }

    /// Removes a reason for which the gate is closed.
    pub(super) fn open(&self, reason: u32) {
        self.closed.fetch_and(!reason, Ordering::SeqCst);
    }

    /// Closes the gate until `completions` requests have left, or all that have entered.
    pub(super) fn busy(&self, completions: u32) {
        let wait = completions.min(self.outstanding());
        if wait > 0 {
            self.busy.store(wait, Ordering::SeqCst);
            self.close(closed::BUSY);
        }
    }

    /// Enters even if the gate is closed or full, for control requests.
    fn pass(&self) {
        self.outstanding.fetch_add(1, Ordering::SeqCst);
    }

    fn enter(&self) -> bool {
        self.closed.load(Ordering::SeqCst) == 0
            && self
                .outstanding
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| {
                    (now < self.limit()).then_some(now + 1)
                })
                .is_ok()
    }

    fn leave(&self) {
        let before = self.outstanding.fetch_sub(1, Ordering::SeqCst);
        if self.is_closed_by(closed::BUSY) {
            let counted = self
                .busy
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| now.checked_sub(1));
            if before == 1 || matches!(counted, Ok(0 | 1) | Err(_)) {
                self.open(closed::BUSY);
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Unit {
    pub(super) address: Address,
    pub(super) number: u32,
    pub(super) gate: Gate,
    /// The CPUs that wait, one entry per request.
    waiting: Mutex<VecDeque<u32>>,
    waiting_count: AtomicU32,
    /// The unit's extension, allocated on first use.
    extension: OnceLock<Option<Block>>,
    /// The 8-bit queue tags in use.
    tags: [AtomicU64; 4],
}

impl Unit {
    fn lock(&self) -> MutexGuard<'_, VecDeque<u32>> {
        lock(&self.waiting)
    }

    /// A free 8-bit queue tag. There is one, because the unit's depth is lower than the number of
    /// tags.
    pub(super) fn take_tag(&self) -> u8 {
        loop {
            for (index, word) in self.tags.iter().enumerate() {
                let used = word.load(Ordering::Relaxed);
                let bit = used.trailing_ones();
                if bit < 64 && word.fetch_or(1 << bit, Ordering::Relaxed) & 1 << bit == 0 {
                    return (index as u32 * 64 + bit) as u8;
                }
            }
        }
    }

    pub(super) fn free_tag(&self, tag: u8) {
        let bit = 1 << (tag % 64);
        self.tags[usize::from(tag / 64)].fetch_and(!bit, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
pub(super) struct Units {
    /// By number.
    all: Mutex<Vec<&'static Unit>>,
    /// The number of waiting requests of all units.
    waiting_count: AtomicU32,
}

impl Units {
    /// The unit at `address`, if requests were sent to it.
    pub(super) fn get(&self, address: Address) -> Option<&'static Unit> {
        let all = lock(&self.all);
        all.iter().copied().find(|unit| unit.address == address)
    }

    pub(super) fn numbered(&self, number: u32) -> Option<&'static Unit> {
        lock(&self.all).get(number as usize).copied()
    }

    fn all(&self) -> Vec<&'static Unit> {
        lock(&self.all).clone()
    }

    pub(super) fn addresses(&self) -> Vec<Address> {
        self.all().iter().map(|unit| unit.address).collect()
    }

    pub(super) fn is_any_paused(&self) -> bool {
        self.all()
            .iter()
            .any(|unit| unit.gate.is_closed_by(closed::PAUSED))
    }

    pub(super) fn waiting(&self) -> u32 {
        self.waiting_count.load(Ordering::Relaxed)
    }

    /// The unit at `address`, which is created if it is not there.
    fn add(&self, address: Address, depth: u32) -> &'static Unit {
        let mut all = lock(&self.all);
        if let Some(known) = all.iter().find(|unit| unit.address == address) {
            return known;
        }
        let unit: &'static Unit = Box::leak(Box::new(Unit {
            address,
            number: all.len() as u32,
            gate: Gate::default(),
            waiting: Mutex::default(),
            waiting_count: AtomicU32::new(0),
            extension: OnceLock::new(),
            tags: Default::default(),
        }));
        unit.gate.set_limit(depth);
        all.push(unit);
        unit
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// At the front, for a request that was admitted before.
    First,
    Last,
}

struct PauseEnd {
    port: &'static Port,
    /// The paused unit, or `None` for the adapter.
    unit: Option<&'static Unit>,
}

impl Deferred for PauseEnd {
    fn run(&self, number: usize, _: usize) {
        let gate = self.port.gate_of(self.unit);
        if gate.pauses.load(Ordering::SeqCst) as usize == number {
            gate.open(closed::PAUSED);
            self.port.admit();
        }
    }
}

impl Port {
    /// The unit at `address`, which is created on first use.
    pub(super) fn unit(&self, address: Address) -> &'static Unit {
        self.units.get(address).unwrap_or_else(|| {
            let configuration = self.configuration();
            let initial = configuration
                .initial_depth
                .min(configuration.max_ios_per_unit);
            self.units.add(address, self.depth(initial))
        })
    }

    /// The queue depth if the miniport requests `wanted`. Only queue tags limit it: no page names
    /// a limit, and drivers that do not set MaxIOsPerLun leave it at 255 and request more later.
    pub(super) fn depth(&self, wanted: u32) -> u32 {
        wanted.min(self.configuration().tags).max(1)
    }

    /// Whether one of the two gates is closed to requests of `unit`.
    pub(super) fn is_closed(&self, unit: &Unit) -> bool {
        unit.gate.is_closed_by(u32::MAX) || self.gate.is_closed_by(u32::MAX)
    }

    /// Enters both gates with a request of `unit`, if possible.
    pub(super) fn try_enter(&self, unit: &Unit) -> bool {
        if !unit.gate.enter() {
            return false;
        }
        if self.gate.enter() {
            return true;
        }
        unit.gate.outstanding.fetch_sub(1, Ordering::SeqCst);
        false
    }

    /// Enters both gates with a control request.
    pub(super) fn pass(&self, unit: &Unit) {
        unit.gate.pass();
        self.gate.pass();
    }

    /// Leaves both gates with a request of `unit`.
    pub(super) fn leave(&'static self, unit: &Unit) {
        unit.gate.leave();
        self.gate.leave();
        if self.units.waiting() > 0 {
            self.admit();
        }
    }

    /// Puts CPU `cpu` in the queue of `unit`.
    pub(super) fn wait_at(&'static self, unit: &'static Unit, cpu: u32, place: Position) {
        let mut waiting = unit.lock();
        match place {
            Position::First => waiting.push_front(cpu),
            Position::Last => waiting.push_back(cpu),
        }
        unit.waiting_count.fetch_add(1, Ordering::SeqCst);
        self.units.waiting_count.fetch_add(1, Ordering::SeqCst);
        drop(waiting);
        // A request may have left before this one was in the queue.
        self.admit_at(unit);
    }

    pub(super) fn has_waiting(&self, unit: &Unit) -> bool {
        unit.waiting_count.load(Ordering::SeqCst) > 0
    }

    pub(super) fn admit(&'static self) {
        for unit in self.units.all() {
            if self.has_waiting(unit) {
                self.admit_at(unit);
            }
        }
    }

    fn admit_at(&'static self, unit: &'static Unit) {
        let mut waiting = unit.lock();
        while !waiting.is_empty() && self.try_enter(unit) {
            if let Some(cpu) = waiting.pop_front() {
                unit.waiting_count.fetch_sub(1, Ordering::SeqCst);
                self.units.waiting_count.fetch_sub(1, Ordering::SeqCst);
                self.cpu_queue(cpu).grant(unit);
            }
        }
    }

    /// The gate of a unit, or of the adapter.
    pub(super) fn gate_of(&self, unit: Option<&'static Unit>) -> &Gate {
        unit.map_or(&self.gate, |unit| &unit.gate)
    }

    /// Closes a gate for a time.
    pub(super) fn pause(&'static self, unit: Option<&'static Unit>, time: Duration) {
        let gate = self.gate_of(unit);
        let number = gate.pauses.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        gate.close(closed::PAUSED);
        // Leaked, because pauses are rare.
        let end: &'static PauseEnd = Box::leak(Box::new(PauseEnd { port: self, unit }));
        self.machine
            .clock()
            .after(time, cpu::current_number(), end, number as usize, 0);
    }

    /// Opens a gate: StorPortResume, StorPortResumeDevice, StorPortReady, StorPortDeviceReady and
    /// LinkUp.
    pub(super) fn resume(&'static self, unit: Option<&'static Unit>, reason: u32) {
        self.gate_of(unit).open(reason);
        self.admit();
    }

    /// StorPortGetLogicalUnit: the address of the unit's extension, or 0.
    pub(super) fn unit_extension(&self, address: Address) -> usize {
        let bytes = self.configuration().unit_extension_bytes as usize;
        let Some(unit) = self.units.get(address) else {
            return 0;
        };
        if bytes == 0 {
            return 0;
        }
        unit.extension
            .get_or_init(|| {
                self.machine
                    .memory()
                    .allocate(bytes, testbed_machine::memory::Placement::Scattered)
                    .ok()
            })
            .as_ref()
            .map_or(0, Block::address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(limit: u32) -> Gate {
        let gate = Gate::default();
        gate.set_limit(limit);
        gate
    }

    #[test]
    fn a_gate_lets_as_many_through_as_its_limit() {
        let gate = gate(2);

        assert!(gate.enter() && gate.enter());
        assert!(!gate.enter());
        gate.leave();
        assert!(gate.enter());
    }

    #[test]
    fn a_busy_gate_opens_after_as_many_have_left_as_was_said() {
        let gate = gate(4);
        assert!((0..3).all(|_| gate.enter()));

        gate.busy(2);

        assert!(!gate.enter());
        gate.leave();
        assert!(!gate.enter());
        gate.leave();
        assert!(gate.enter());
    }

    #[test]
    fn a_busy_gate_opens_when_all_have_left_whatever_was_said() {
        let gate = gate(4);
        assert!(gate.enter());

        gate.busy(100);

        assert!(!gate.enter());
        gate.leave();
        assert!(gate.enter());
    }

    #[test]
    fn a_gate_with_nothing_outstanding_is_not_busy() {
        let gate = gate(1);

        gate.busy(3);

        assert!(gate.enter());
    }

    #[test]
    fn queue_tags_in_use_differ() {
        let units = Units::default();
        let unit = units.add(Address::default(), 254);

        let mut tags: Vec<_> = (0..254).map(|_| unit.take_tag()).collect();
        tags.sort_unstable();
        tags.dedup();

        assert_eq!(tags.len(), 254);
        unit.free_tag(17);
        assert_eq!(unit.take_tag(), 17);
    }
}
