//! Who waits for whose lock. A wait that closes a circle would never end: it is
//! found when it begins, and all who are in it are named.
//!
//! Only waits that last are noted, and under one mutex; a free lock costs
//! nothing here.
#![expect(
    unsafe_code,
    reason = "reads the holders of locks that others wait for"
)]

use std::{
    fmt,
    ptr::NonNull,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use super::violations::places;
use testbed_machine::{cpu::irql, trap::Calls};

/// A thread that waits, as it is told of.
#[derive(Clone, Debug)]
pub(super) struct Waiter {
    /// Its number among those that take locks.
    pub(super) thread: u32,
    /// Its name.
    pub(super) name: String,
    /// The CPU that it acts for.
    pub(super) cpu: u32,
    /// Its IRQL when it began to wait.
    pub(super) irql: u8,
    /// The callback that it is in.
    pub(super) callback: &'static str,
    /// What it waits for.
    pub(super) wanted: String,
    /// What it holds.
    pub(super) held: Vec<String>,
    /// Where in the driver it waits.
    pub(super) calls: Calls,
}

struct Wait {
    waiter: Waiter,
    /// The holder's place in the lock.
    holder: NonNull<AtomicU32>,
}

// SAFETY: what `holder` points to is an atomic that stays where it is until its
// waiter has taken the entry out.
unsafe impl Send for Wait {}

impl Wait {
    /// The thread that has the lock now; 0 for nobody.
    fn holder(&self) -> u32 {
        // SAFETY: see above; the entry is in the table, whose mutex the caller
        // holds.
        unsafe { self.holder.as_ref() }.load(Ordering::Acquire)
    }
}

static WAITS: Mutex<Vec<Wait>> = Mutex::new(Vec::new());

fn waits() -> MutexGuard<'static, Vec<Wait>> {
    WAITS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A wait that goes on; dropping it ends it.
#[must_use]
pub(super) struct Waiting<'lock> {
    thread: u32,
    _lock: &'lock AtomicU32,
}

impl<'lock> Waiting<'lock> {
    /// Notes that `waiter` waits for the lock whose holder is at `holder`. If
    /// that closes a circle it is given to `told`.
    pub(super) fn begin(
        waiter: Waiter,
        holder: &'lock AtomicU32,
        told: impl FnOnce(&Circle),
    ) -> Self {
        let thread = waiter.thread;
        let mut waits = waits();
        waits.push(Wait {
            waiter,
            holder: NonNull::from(holder),
        });
        let circle = circle(&waits, waits.len() - 1);
        drop(waits);
        if let Some(circle) = circle {
            told(&circle);
        }
        Self {
            thread,
            _lock: holder,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        waits().retain(|wait| wait.waiter.thread != self.thread);
    }
}

/// The circle that the wait at `last` is in. Who holds a lock may let go of it
/// while this looks, unless it is in a circle itself: what was found is
/// looked at once more, and then was so all the time from the last one on, who
/// is this very thread, backwards.
fn circle(waits: &[Wait], last: usize) -> Option<Circle> {
    let once = || {
        let mut members = vec![last];
        loop {
            let holder = waits[*members.last()?].holder();
            let next = waits
                .iter()
                .position(|wait| holder != 0 && wait.waiter.thread == holder)?;
            if next == last {
                return Some(members);
            }
            if members.contains(&next) {
                // A circle of others, who have told of it.
                return None;
            }
            members.push(next);
        }
    };
    let members = once()?;
    (once()? == members).then(|| {
        Circle(
            members
                .into_iter()
                .map(|member| waits[member].waiter.clone())
                .collect(),
        )
    })
}

/// Those who wait for each other, each for the next, the last for the first.
#[derive(Debug)]
pub(super) struct Circle(Vec<Waiter>);

impl Circle {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for Circle {
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

    fn wait(thread: u32, holder: &AtomicU32) -> Wait {
        Wait {
            waiter: waiter(thread),
            holder: NonNull::from(holder),
        }
    }

    fn members(waits: &[Wait], last: usize) -> Option<Vec<u32>> {
        let circle = circle(waits, last)?;
        Some(circle.0.iter().map(|waiter| waiter.thread).collect())
    }

    #[test]
    fn a_chain_that_ends_at_a_thread_that_runs_is_no_circle() {
        let (first, second) = (AtomicU32::new(2), AtomicU32::new(3));
        let waits = [wait(1, &first), wait(2, &second)];

        assert_eq!(members(&waits, 0), None);
        assert_eq!(members(&waits, 1), None);
    }

    #[test]
    fn a_circle_is_named_from_the_last_one_on() {
        let locks = [2, 3, 1].map(AtomicU32::new);
        let waits: Vec<_> = (1..)
            .zip(&locks)
            .map(|(thread, lock)| wait(thread, lock))
            .collect();

        assert_eq!(members(&waits, 0), Some(vec![1, 2, 3]));
        assert_eq!(members(&waits, 2), Some(vec![3, 1, 2]));
    }

    #[test]
    fn who_waits_beside_a_circle_is_not_in_it() {
        let locks = [2, 1, 2].map(AtomicU32::new);
        let waits: Vec<_> = (1..)
            .zip(&locks)
            .map(|(thread, lock)| wait(thread, lock))
            .collect();

        assert_eq!(members(&waits, 2), None);
        assert_eq!(members(&waits, 1), Some(vec![2, 1]));
    }

    #[test]
    fn a_circle_tells_who_waits_for_what_and_holds_what() {
        let circle = Circle(vec![waiter(0), waiter(1)]);

        assert_eq!(
            circle.to_string(),
            "\n  CPU 0, thread cpu 0, in HwBuildIo at IRQL 2 (DISPATCH_LEVEL): waits for Dpc 0, \
             which CPU 1 (thread cpu 1) holds\n    holds: Dpc 9\n  CPU 1, thread cpu 1, in \
             HwBuildIo at IRQL 2 (DISPATCH_LEVEL): waits for Dpc 1, which CPU 0 (thread cpu 0) \
             holds\n    holds: Dpc 9"
        );
    }

    #[test]
    fn a_wait_that_is_over_is_forgotten() {
        let lock = AtomicU32::new(77_000_001);

        drop(Waiting::begin(waiter(77_000_000), &lock, |circle| {
            panic!("{circle}");
        }));

        assert!(waits().iter().all(|wait| wait.waiter.thread != 77_000_000));
    }
}
