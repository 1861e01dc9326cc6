//! The counters of an adapter. Those on the path of requests are per CPU and need no lock.

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    callbacks::Callback,
    lock,
    report::{CallbackRow, Report, SystemEvent},
};
use testbed_machine::cpu;

const EVENTS: usize = 1000;

#[derive(Debug, Default)]
struct Timed {
    count: AtomicU64,
    total: AtomicU64,
    max: AtomicU64,
    max_stalled: AtomicU64,
}

/// The counters of a CPU, and of the threads that act for it.
#[derive(Debug)]
#[repr(align(128))]
struct Shard {
    callbacks: [Timed; Callback::COUNT],
    completed: [AtomicU64; 64],
    counters: [AtomicU64; 5],
}

/// A counter of events on the path of requests.
#[derive(Clone, Copy, Debug)]
pub(super) enum Counter {
    /// Requests that were completed as BUSY.
    Retried,
    Interrupts,
    UnclaimedInterrupts,
    /// Calls of StorPortBusy and StorPortDeviceBusy.
    Busy,
    /// Calls of StorPortPause and StorPortPauseDevice.
    Pauses,
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            callbacks: std::array::from_fn(|_| Timed::default()),
            completed: [const { AtomicU64::new(0) }; 64],
            counters: Default::default(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Statistics {
    shards: Box<[Shard]>,
    /// Rare events. What the shards count is 0 here.
    rare: Mutex<Report>,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Statistics {
    pub(super) fn new(cpus: usize) -> Self {
        Self {
            shards: (0..cpus).map(|_| Shard::default()).collect(),
            rare: Mutex::default(),
        }
    }

    fn shard(&self) -> &Shard {
        &self.shards[cpu::current_number() as usize % self.shards.len()]
    }

    /// The counters of rare events.
    pub(super) fn rare(&self) -> MutexGuard<'_, Report> {
        lock(&self.rare)
    }

    /// Counts a call that took `nanoseconds`, of which it stalled for `stalled` at DISPATCH_LEVEL
    /// or above.
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

    pub(super) fn completed(&self, status: u8) {
        count(&self.shard().completed[usize::from(status & 0x3f)]);
    }

    pub(super) fn count(&self, counter: Counter) {
        count(&self.shard().counters[counter as usize]);
    }

    /// Counts a call of a function that the testbed does not emulate.
    pub(super) fn not_implemented(&self, function: impl Into<String>) {
        let function = function.into();
        *self.rare().not_implemented.entry(function).or_default() += 1;
    }

    pub(super) fn event(&self, line: String) {
        let mut rare = self.rare();
        if rare.events.len() < EVENTS {
            rare.events.push(line);
        }
    }

    pub(super) fn system_event(&self, event: SystemEvent) {
        let mut rare = self.rare();
        if rare.system_events.len() < EVENTS {
            rare.system_events.push(event);
        }
    }

    pub(super) fn calls(&self, callback: Callback) -> u64 {
        self.sum(|shard| &shard.callbacks[callback as usize].count)
    }

    fn sum(&self, counter: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        self.shards
            .iter()
            .map(|shard| counter(shard).load(Ordering::Relaxed))
            .sum()
    }

    /// The report, without locks and violations.
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
        let counter = |counter: Counter| self.sum(|shard| &shard.counters[counter as usize]);
        Report {
            callbacks: Callback::ALL
                .iter()
                .map(|callback| row(*callback))
                .filter(|row| row.count > 0)
                .collect(),
            completed,
            retried: counter(Counter::Retried),
            interrupts: counter(Counter::Interrupts),
            unclaimed_interrupts: counter(Counter::UnclaimedInterrupts),
            dpcs: self.calls(Callback::HwDpcRoutine),
            busy: counter(Counter::Busy),
            pauses: counter(Counter::Pauses),
            ..self.rare().clone()
        }
    }
}
