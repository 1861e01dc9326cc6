//! Detects deadlocks: reports a wait that completes a cycle of threads, in which each waits for a
//! lock that the next one holds.
//!
//! Only waits that outlast the first spins are recorded here, under one mutex.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{lock, violations::places};
use testbed_machine::{cpu::irql, trap::Calls};

/// A waiting thread, as a report describes it.
#[derive(Clone, Debug)]
pub(super) struct Waiter {
    /// Its number (`held_locks`).
    pub(super) thread: u32,
    pub(super) name: String,
    pub(super) cpu: u32,
    pub(super) irql: u8,
    pub(super) callback: &'static str,
    pub(super) wanted: String,
    pub(super) held: Vec<String>,
    /// The driver's calls that led to the wait.
    pub(super) calls: Calls,
}

struct Wait {
    waiter: Waiter,
    /// The number of the thread that holds the lock, or 0.
    holder: Arc<AtomicU32>,
}

static WAITS: Mutex<Vec<Wait>> = Mutex::new(Vec::new());

fn waits() -> MutexGuard<'static, Vec<Wait>> {
    lock(&WAITS)
}

/// A wait of the thread with this number. Dropping it ends the wait.
#[must_use]
pub(super) struct Waiting(u32);

impl Waiting {
    /// Begins a wait for the lock whose holder is `holder`. If the wait closes a cycle, calls
    /// `report`.
    pub(super) fn begin(
        waiter: Waiter,
        holder: Arc<AtomicU32>,
        report: impl FnOnce(&Cycle),
    ) -> Self {
        let thread = waiter.thread;
        let mut waits = waits();
        waits.push(Wait { waiter, holder });
        let cycle = cycle(&waits, waits.len() - 1);
        drop(waits);
        if let Some(cycle) = cycle {
            report(&cycle);
        }
        Self(thread)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        waits().retain(|wait| wait.waiter.thread != self.0);
    }
}

/// The cycle that contains the wait at `last`, which is the calling thread's. A thread may
/// release its lock during the search, so the search is repeated: a cycle that was found
/// twice is real, because none of its threads can run.
fn cycle(waits: &[Wait], last: usize) -> Option<Cycle> {
    let once = || {
        let mut members = vec![last];
        loop {
            let holder = waits[*members.last()?].holder.load(Ordering::Acquire);
            let next = waits
                .iter()
                .position(|wait| holder != 0 && wait.waiter.thread == holder)?;
            if next == last {
                return Some(members);
            }
            if members.contains(&next) {
                // A cycle without `last`, which was reported when it was closed.
                return None;
            }
            members.push(next);
        }
    };
    let members = once()?;
    (once()? == members).then(|| {
        Cycle(
            members
                .into_iter()
                .map(|member| waits[member].waiter.clone())
                .collect(),
        )
    })
}

/// Threads of which each waits for the next, and the last for the first.
#[derive(Debug)]
pub(super) struct Cycle(Vec<Waiter>);

impl Cycle {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let next = self.0.iter().cycle().skip(1);
        for (waiter, next) in self.0.iter().zip(next) {
            let none = "nothing".to_owned();
            write!(
                f,
                "\n  CPU {}, thread {}, in {} at IRQL {}{}: waits for {}, which CPU {} (thread \
                 {}) holds\n    holds: {}",
                waiter.cpu,
                waiter.name,
                waiter.callback,
                waiter.irql,
                irql::name(waiter.irql),
                waiter.wanted,
                next.cpu,
                next.name,
                if waiter.held.is_empty() {
                    none
                } else {
                    waiter.held.join(", ")
                },
            )?;
            for (index, place) in places(waiter.calls.walk()).iter().enumerate() {
                let start = if index == 0 {
                    "waits at: "
                } else {
                    "          "
                };
                write!(f, "\n    {start}{place}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(thread: u32) -> Waiter {
        Waiter {
            thread,
            name: format!("cpu {thread}"),
            cpu: thread,
            irql: 2,
            callback: "HwBuildIo",
            wanted: format!("Dpc {thread}"),
            held: vec!["Dpc 9".to_owned()],
            calls: Calls::default(),
        }
    }

    /// Threads 1, 2, …, each waiting for a lock that the given thread holds.
    fn waits_for(holders: &[u32]) -> Vec<Wait> {
        let wait = |(thread, holder): (u32, &u32)| Wait {
            waiter: waiter(thread),
            holder: Arc::new(AtomicU32::new(*holder)),
        };
        (1..).zip(holders).map(wait).collect()
    }

    fn members(waits: &[Wait], last: usize) -> Option<Vec<u32>> {
        let cycle = cycle(waits, last)?;
        Some(cycle.0.iter().map(|waiter| waiter.thread).collect())
    }

    #[test]
    fn a_chain_that_ends_at_a_running_thread_is_no_cycle() {
        let waits = waits_for(&[2, 3]);

        assert_eq!(members(&waits, 0), None);
        assert_eq!(members(&waits, 1), None);
    }

    #[test]
    fn a_cycle_begins_with_the_last_wait() {
        let waits = waits_for(&[2, 3, 1]);

        assert_eq!(members(&waits, 0), Some(vec![1, 2, 3]));
        assert_eq!(members(&waits, 2), Some(vec![3, 1, 2]));
    }

    #[test]
    fn a_thread_that_waits_for_a_cycle_is_not_in_it() {
        let waits = waits_for(&[2, 1, 2]);

        assert_eq!(members(&waits, 2), None);
        assert_eq!(members(&waits, 1), Some(vec![2, 1]));
    }

    #[test]
    fn a_cycle_is_printed_with_the_wanted_and_held_locks() {
        let cycle = Cycle(vec![waiter(0), waiter(1)]);

        assert_eq!(
            cycle.to_string(),
            "\n  CPU 0, thread cpu 0, in HwBuildIo at IRQL 2 (DISPATCH_LEVEL): waits for Dpc 0, \
             which CPU 1 (thread cpu 1) holds\n    holds: Dpc 9\n  CPU 1, thread cpu 1, in \
             HwBuildIo at IRQL 2 (DISPATCH_LEVEL): waits for Dpc 1, which CPU 0 (thread cpu 0) \
             holds\n    holds: Dpc 9"
        );
    }

    #[test]
    fn a_finished_wait_is_forgotten() {
        let lock = Arc::new(AtomicU32::new(77_000_001));

        drop(Waiting::begin(waiter(77_000_000), lock, |cycle| {
            panic!("{cycle}");
        }));

        assert!(waits().iter().all(|wait| wait.waiter.thread != 77_000_000));
    }
}
