//! What is counted while an adapter runs: without locks where requests pass,
//! for each CPU apart.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    callbacks::Callback,
    report::{CallbackRow, Report, ResetRow, SystemEvent},
};
use testbed_machine::cpu;

/// The most lines and events that are kept for the event log.
const EVENTS: usize = 1000;

#[derive(Debug, Default)]
struct Timed {
    count: AtomicU64,
    total: AtomicU64,
    max: AtomicU64,
    max_stalled: AtomicU64,
}

/// What one CPU, and the threads that act for it, count.
#[derive(Debug)]
#[repr(align(128))]
struct Shard {
    callbacks: [Timed; Callback::COUNT],
    completed: [AtomicU64; 64],
    retried: AtomicU64,
    interrupts: AtomicU64,
    unclaimed: AtomicU64,
    busy: AtomicU64,
    pauses: AtomicU64,
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            callbacks: std::array::from_fn(|_| Timed::default()),
            completed: [const { AtomicU64::new(0) }; 64],
            retried: AtomicU64::new(0),
            interrupts: AtomicU64::new(0),
            unclaimed: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            pauses: AtomicU64::new(0),
        }
    }
}

/// What happens seldom.
#[derive(Debug, Default)]
struct Seldom {
    resets: Vec<ResetRow>,
    not_implemented: BTreeMap<String, u64>,
    events: Vec<String>,
    system_events: Vec<SystemEvent>,
    leaks: Vec<String>,
    stray_messages: u64,
}

/// An adapter's counters.
#[derive(Debug)]
pub(super) struct Statistics {
    shards: Box<[Shard]>,
    seldom: Mutex<Seldom>,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Statistics {
    /// Counters for a machine of `cpus` CPUs.
    pub(super) fn new(cpus: usize) -> Self {
        Self {
            shards: (0..cpus).map(|_| Shard::default()).collect(),
            seldom: Mutex::default(),
        }
    }

    fn shard(&self) -> &Shard {
        &self.shards[cpu::current_number() as usize % self.shards.len()]
    }

    fn seldom(&self) -> MutexGuard<'_, Seldom> {
        self.seldom.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A callback took `nanoseconds`, and stalled at DISPATCH_LEVEL or above
    /// for `stalled` of them.
    pub(super) fn callback(&self, callback: Callback, nanoseconds: u64, stalled: u64) {
        let timed = &self.shard().callbacks[callback as usize];
        count(&timed.count);
        timed.total.fetch_add(nanoseconds, Ordering::Relaxed);
        if nanoseconds > timed.max.load(Ordering::Relaxed) {
            timed.max.fetch_max(nanoseconds, Ordering::Relaxed);
        }
        if stalled > 0 {
            timed.max_stalled.fetch_max(stalled, Ordering::Relaxed);
        }
    }

    /// A request was returned with this status.
    pub(super) fn completed(&self, status: u8) {
        count(&self.shard().completed[usize::from(status & 0x3f)]);
    }

    /// A request came back BUSY.
    pub(super) fn retried(&self) {
        count(&self.shard().retried);
    }

    /// An interrupt was delivered.
    pub(super) fn interrupt(&self, claimed: bool) {
        count(&self.shard().interrupts);
        if !claimed {
            count(&self.shard().unclaimed);
        }
    }

    /// The miniport said busy.
    pub(super) fn busy(&self) {
        count(&self.shard().busy);
    }

    /// The miniport asked for a pause.
    pub(super) fn pause(&self) {
        count(&self.shard().pauses);
    }

    /// A bus reset was made.
    pub(super) fn reset(&self, row: ResetRow) {
        self.seldom().resets.push(row);
    }

    /// The device sent a message that no vector was granted for.
    pub(super) fn stray_message(&self) {
        self.seldom().stray_messages += 1;
    }

    /// A function that the testbed does not model was called.
    pub(super) fn not_implemented(&self, function: impl Into<String>) {
        let function = function.into();
        *self.seldom().not_implemented.entry(function).or_default() += 1;
    }

    /// A line for the event log.
    pub(super) fn event(&self, line: String) {
        let mut seldom = self.seldom();
        if seldom.events.len() < EVENTS {
            seldom.events.push(line);
        }
    }

    /// An event of StorPortLogSystemEvent.
    pub(super) fn system_event(&self, event: SystemEvent) {
        let mut seldom = self.seldom();
        if seldom.system_events.len() < EVENTS {
            seldom.system_events.push(event);
        }
    }

    /// What was left when the adapter was stopped, or had failed to start.
    pub(super) fn set_leaks(&self, leaks: Vec<String>) {
        self.seldom().leaks = leaks;
    }

    /// How often a callback was called.
    pub(super) fn calls(&self, callback: Callback) -> u64 {
        self.sum(|shard| &shard.callbacks[callback as usize].count)
    }

    fn sum(&self, counter: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        self.shards
            .iter()
            .map(|shard| counter(shard).load(Ordering::Relaxed))
            .sum()
    }

    /// All of it; locks and violations are not counted here.
    pub(super) fn report(&self) -> Report {
        let row = |callback: Callback| {
            let place = callback as usize;
            let most = |counter: fn(&Timed) -> &AtomicU64| {
                let counters = self.shards.iter().map(|shard| &shard.callbacks[place]);
                let most = counters
                    .map(|timed| counter(timed).load(Ordering::Relaxed))
                    .max();
                Duration::from_nanos(most.unwrap_or(0))
            };
            CallbackRow {
                name: callback.name(),
                count: self.calls(callback),
                total: Duration::from_nanos(self.sum(|shard| &shard.callbacks[place].total)),
                max: most(|timed| &timed.max),
                max_stalled: most(|timed| &timed.max_stalled),
            }
        };
        let completed = (0..64u8)
            .map(|status| {
                let returned = self.sum(|shard| &shard.completed[usize::from(status)]);
                (status, returned)
            })
            .filter(|(_, returned)| *returned > 0)
            .collect();
        let seldom = self.seldom();
        Report {
            callbacks: Callback::ALL
                .iter()
                .map(|callback| row(*callback))
                .filter(|row| row.count > 0)
                .collect(),
            locks: Vec::new(),
            completed,
            retried: self.sum(|shard| &shard.retried),
            interrupts: self.sum(|shard| &shard.interrupts),
            unclaimed_interrupts: self.sum(|shard| &shard.unclaimed),
            dpcs: self.calls(Callback::HwDpcRoutine),
            busy: self.sum(|shard| &shard.busy),
            pauses: self.sum(|shard| &shard.pauses),
            resets: seldom.resets.clone(),
            not_implemented: seldom.not_implemented.clone(),
            events: seldom.events.clone(),
            system_events: seldom.system_events.clone(),
            leaks: seldom.leaks.clone(),
            stray_messages: seldom.stray_messages,
            violations: Vec::new(),
        }
    }
}
