//! The machine's time: a monotonic clock in nanoseconds, and alarms that queue DPCs.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::schedule::{self, Condition};
use crate::{
    cpu::{Cpu, Deferred},
    lock,
};

static START: OnceLock<Instant> = OnceLock::new();

/// Nanoseconds since the first call in this process.
pub fn now() -> u64 {
    if schedule::is_on() {
        return schedule::now();
    }
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// [`now`] as an `Instant`.
pub fn instant() -> Instant {
    if schedule::is_on() {
        return *START.get_or_init(Instant::now) + Duration::from_nanos(schedule::now());
    }
    Instant::now()
}

struct Alarm {
    cpu: &'static Cpu,
    deferred: &'static dyn Deferred,
    first: usize,
    second: usize,
}

/// Alarms by their due time. A sequence number orders those that are due at the same time.
type Alarms = BTreeMap<(u64, u64), Alarm>;

/// Queues DPCs at set times. An alarm cannot be cancelled: the DPC checks its arguments to find
/// out whether it is still wanted.
pub struct AlarmClock {
    cpus: &'static [Cpu],
    alarms: Mutex<Alarms>,
    sequence: AtomicU64,
    changed: Condition,
}

impl AlarmClock {
    /// Starts the clock of a machine with these CPUs.
    pub(super) fn start(cpus: &'static [Cpu]) -> io::Result<&'static Self> {
        let clock: &'static Self = Box::leak(Box::new(Self {
            cpus,
            alarms: Mutex::default(),
            sequence: AtomicU64::new(0),
            changed: Condition::new(),
        }));
        schedule::spawn("clock", move || clock.run())?;
        Ok(clock)
    }

    /// Queues `deferred` to CPU `cpu` after `delay`.
    pub fn after(
        &self,
        delay: Duration,
        cpu: u32,
        deferred: &'static dyn Deferred,
        first: usize,
        second: usize,
    ) {
        let due = now().saturating_add(delay.as_nanos() as u64);
        let alarm = Alarm {
            cpu: &self.cpus[cpu as usize % self.cpus.len()],
            deferred,
            first,
            second,
        };
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        lock(&self.alarms).insert((due, sequence), alarm);
        self.changed.changed();
    }

    fn run(&self) {
        let mut alarms = lock(&self.alarms);
        loop {
            match alarms.first_entry() {
                Some(next) if next.key().0 <= now() => {
                    let alarm = next.remove();
                    alarm
                        .cpu
                        .queue_dpc(alarm.deferred, alarm.first, alarm.second);
                }
                next => {
                    let due = next.map(|next| next.key().0);
                    alarms = self.changed.wait(&self.alarms, alarms, due, "an alarm");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    struct Tell(Mutex<mpsc::Sender<usize>>);

    impl Deferred for Tell {
        fn run(&self, first: usize, _second: usize) {
            self.0.lock().unwrap().send(first).unwrap();
        }
    }

    #[test]
    fn alarms_ring_in_the_order_of_their_times_not_before_them() {
        let cpus: &'static [Cpu] = Vec::leak(vec![Cpu::new(0)]);
        cpus[0].start().unwrap();
        let clock = AlarmClock::start(cpus).unwrap();
        let (send, receive) = mpsc::channel();
        let tell: &'static Tell = Box::leak(Box::new(Tell(Mutex::new(send))));
        let start = Instant::now();

        clock.after(Duration::from_millis(20), 0, tell, 2, 0);
        clock.after(Duration::from_millis(5), 0, tell, 1, 0);

        assert_eq!(receive.recv().unwrap(), 1);
        assert!(start.elapsed() >= Duration::from_millis(5));
        assert_eq!(receive.recv().unwrap(), 2);
        assert!(start.elapsed() >= Duration::from_millis(20));
    }
}
