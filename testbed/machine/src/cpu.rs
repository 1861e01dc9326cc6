//! Virtual CPUs. Each is a thread with an IRQL, a queue of DPCs, and jobs that run at
//! PASSIVE_LEVEL.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    sync::{
        Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering, fence},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    lock,
    schedule::{self, Point, Thread},
};

/// Interrupt request levels of x64 Windows (`wdm.h`).
pub mod irql {
    /// Ordinary thread execution.
    pub const PASSIVE: u8 = 0;
    /// Asynchronous procedure calls are disabled.
    pub const APC: u8 = 1;
    /// The scheduler and DPCs.
    pub const DISPATCH: u8 = 2;
    /// The IRQL that the testbed assigns to the device's interrupts.
    pub const DEVICE: u8 = 9;
    /// All interrupts are masked.
    pub const HIGH: u8 = 15;

    /// The level's name in parentheses, which messages append to its number.
    #[must_use]
    pub fn name(level: u8) -> &'static str {
        match level {
            PASSIVE => " (PASSIVE_LEVEL)",
            APC => " (APC_LEVEL)",
            DISPATCH => " (DISPATCH_LEVEL)",
            DEVICE => " (device)",
            HIGH => " (HIGH_LEVEL)",
            _ => "",
        }
    }
}

thread_local! {
    static IRQL: Cell<u8> = const { Cell::new(irql::PASSIVE) };
    static NUMBER: Cell<u32> = const { Cell::new(0) };
    /// The sources that this CPU polls, in order.
    static SOURCES: RefCell<Vec<&'static dyn Source>> = const { RefCell::new(Vec::new()) };
}

/// The number of CPUs; one until there is a machine.
static COUNT: AtomicU32 = AtomicU32::new(1);

/// How long an idle CPU spins before its thread sleeps: about the cost of waking it.
const IDLE_SPIN: Duration = Duration::from_micros(5);

/// The IRQL of the calling thread; PASSIVE on a thread that is not a CPU.
#[must_use]
pub fn current_irql() -> u8 {
    IRQL.get()
}

/// Sets the IRQL of the calling thread and returns the previous one.
pub fn set_irql(level: u8) -> u8 {
    IRQL.replace(level)
}

/// The number of the virtual CPU that the calling thread acts for; 0 if it acts for none.
#[must_use]
pub fn current_number() -> u32 {
    NUMBER.get()
}

/// The number of virtual CPUs in the machine.
#[must_use]
pub fn count() -> u32 {
    COUNT.load(Ordering::Relaxed)
}

/// Makes the calling thread act for CPU `number`.
pub fn act_for(number: u32) {
    NUMBER.set(number);
}

/// Sets the number of CPUs. The machine calls this once.
pub(crate) fn set_count(count: u32) {
    COUNT.store(count, Ordering::Relaxed);
}

/// A DPC. It runs at DISPATCH_LEVEL on the CPU whose queue it is in, with the two arguments
/// with which it was queued.
pub trait Deferred: Send + Sync {
    /// Runs the DPC.
    fn run(&self, first: usize, second: usize);
}

/// A source of work. The CPU polls it in each round of its loop.
pub trait Source: Send + Sync {
    /// Whether there is work for the calling CPU.
    fn ready(&self) -> bool;
    /// Does the work. Called at PASSIVE_LEVEL.
    fn serve(&self);
}

/// Work at PASSIVE_LEVEL.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

struct Queued {
    deferred: &'static dyn Deferred,
    first: usize,
    second: usize,
}

/// A virtual CPU as other threads see it.
pub struct Cpu {
    number: u32,
    thread: OnceLock<Thread>,
    /// Whether its thread sleeps or is about to.
    idle: AtomicBool,
    dpcs: Mutex<VecDeque<Queued>>,
    dpcs_waiting: AtomicU32,
    jobs: Mutex<VecDeque<Job>>,
    jobs_waiting: AtomicU32,
}

/// Whether only one thread of the CPUs and the workers works at a time: the one that holds
/// [`TURN`].
static ONE_AT_A_TIME: AtomicBool = AtomicBool::new(false);
static TURN: Mutex<()> = Mutex::new(());

/// From now on, no CPU and no worker begins work while another works. The counter needs this,
/// because it counts one thread. Work that waits for other work would wait for ever.
pub fn work_one_at_a_time() {
    ONE_AT_A_TIME.store(true, Ordering::Relaxed);
}

/// Waits until no other thread works, if they work one at a time. The result must be kept during
/// the work.
pub(crate) fn take_turn() -> Option<MutexGuard<'static, ()>> {
    ONE_AT_A_TIME.load(Ordering::Relaxed).then(|| lock(&TURN))
}

impl Cpu {
    pub(crate) fn new(number: u32) -> Self {
        Self {
            number,
            thread: OnceLock::new(),
            idle: AtomicBool::new(false),
            dpcs: Mutex::default(),
            dpcs_waiting: AtomicU32::new(0),
            jobs: Mutex::default(),
            jobs_waiting: AtomicU32::new(0),
        }
    }

    /// Starts its thread. It runs until the process ends.
    pub(crate) fn start(&'static self) -> io::Result<()> {
        let handle = schedule::spawn(&format!("cpu {}", self.number), move || {
            let _end = EndOnPanic;
            act_for(self.number);
            self.run();
        })?;
        // Cannot fail: the machine calls this function once.
        let _ = self.thread.set(handle.thread());
        Ok(())
    }

    /// The number, from 0.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Whether its thread has nothing to do. Such a thread polls its sources as soon as it is
    /// woken.
    pub fn is_idle(&self) -> bool {
        self.idle.load(Ordering::SeqCst)
    }

    /// Appends `deferred` to the DPC queue.
    pub fn queue_dpc(&self, deferred: &'static dyn Deferred, first: usize, second: usize) {
        let mut dpcs = lock(&self.dpcs);
        dpcs.push_back(Queued {
            deferred,
            first,
            second,
        });
        self.dpcs_waiting.store(dpcs.len() as u32, Ordering::SeqCst);
        drop(dpcs);
        self.wake();
    }

    /// Removes `deferred` from the DPC queue. Returns whether it was there.
    pub fn cancel_dpc(&self, deferred: &'static dyn Deferred) -> bool {
        let mut dpcs = lock(&self.dpcs);
        let before = dpcs.len();
        dpcs.retain(|queued| !std::ptr::addr_eq(queued.deferred, deferred));
        self.dpcs_waiting.store(dpcs.len() as u32, Ordering::SeqCst);
        dpcs.len() < before
    }

    /// Queues `job`, which runs at PASSIVE_LEVEL.
    pub fn post(&self, job: Job) {
        lock(&self.jobs).push_back(job);
        self.jobs_waiting.fetch_add(1, Ordering::SeqCst);
        self.wake();
    }

    /// Makes the CPU poll its sources.
    pub fn wake(&self) {
        // Pairs with the fence in `rest`: either this thread sees the CPU idle, or the CPU sees
        // the new work.
        fence(Ordering::SeqCst);
        if self.idle.load(Ordering::Relaxed)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Adds a source to the calling CPU.
    pub fn add_source(source: &'static dyn Source) {
        SOURCES.with_borrow_mut(|sources| sources.push(source));
    }

    /// Removes a source from the calling CPU. A source may not call this.
    pub fn remove_source(source: &'static dyn Source) {
        SOURCES.with_borrow_mut(|sources| {
            sources.retain(|known| !std::ptr::addr_eq(*known, source));
        });
    }

    /// Runs the queued DPCs. Must be called on the CPU's own thread.
    pub fn run_dpcs(&self) {
        while self.dpcs_waiting.load(Ordering::Acquire) != 0 {
            let mut dpcs = lock(&self.dpcs);
            let Some(queued) = dpcs.pop_front() else {
                break;
            };
            self.dpcs_waiting
                .store(dpcs.len() as u32, Ordering::Relaxed);
            drop(dpcs);
            schedule::point(Point::Dpc);
            let before = set_irql(irql::DISPATCH);
            queued.deferred.run(queued.first, queued.second);
            set_irql(before);
        }
    }

    fn run(&self) {
        loop {
            let turn = take_turn();
            self.work();
            drop(turn);
            self.rest();
        }
    }

    /// Does one round: serves each source that is ready, with the DPCs that it queued, then
    /// runs one job.
    fn work(&self) {
        let mut index = 0;
        while let Some(source) = source(index) {
            if source.ready() {
                source.serve();
            }
            self.run_dpcs();
            index += 1;
        }
        self.run_dpcs();
        if self.jobs_waiting.load(Ordering::Acquire) != 0 {
            let job = lock(&self.jobs).pop_front();
            if let Some(job) = job {
                self.jobs_waiting.fetch_sub(1, Ordering::Relaxed);
                job();
            }
        }
    }

    fn ready(&self) -> bool {
        self.dpcs_waiting.load(Ordering::Acquire) != 0
            || self.jobs_waiting.load(Ordering::Acquire) != 0
            || SOURCES.with_borrow(|sources| sources.iter().any(|source| source.ready()))
    }

    /// Waits until there is work: spins for a while, then sleeps.
    fn rest(&self) {
        if self.ready() {
            return;
        }
        self.idle.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let mut until = Instant::now() + IDLE_SPIN;
        while !self.ready() {
            if !schedule::is_on() && Instant::now() < until {
                std::hint::spin_loop();
            } else {
                schedule::park();
                until = Instant::now() + IDLE_SPIN;
            }
        }
        // Before the sources are polled again: callers of `is_idle` rely on that.
        self.idle.swap(false, Ordering::SeqCst);
    }
}

/// Ends the process if a CPU's thread panics, so that nothing waits for its requests for ever.
struct EndOnPanic;

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

fn source(index: usize) -> Option<&'static dyn Source> {
    SOURCES.with_borrow(|sources| sources.get(index).copied())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    struct Tell(Mutex<mpsc::Sender<(usize, usize, u8, u32)>>);

    impl Deferred for Tell {
        fn run(&self, first: usize, second: usize) {
            let seen = (first, second, current_irql(), current_number());
            lock(&self.0).send(seen).unwrap();
        }
    }

    fn started(number: u32) -> &'static Cpu {
        let cpu: &'static Cpu = Box::leak(Box::new(Cpu::new(number)));
        cpu.start().unwrap();
        cpu
    }

    #[test]
    fn a_dpc_runs_at_dispatch_on_the_cpu_it_was_queued_to_in_order() {
        let cpu = started(3);
        let (send, receive) = mpsc::channel();
        let tell: &'static Tell = Box::leak(Box::new(Tell(Mutex::new(send))));

        cpu.queue_dpc(tell, 1, 2);
        cpu.queue_dpc(tell, 3, 4);

        assert_eq!(receive.recv().unwrap(), (1, 2, irql::DISPATCH, 3));
        assert_eq!(receive.recv().unwrap(), (3, 4, irql::DISPATCH, 3));
    }

    #[test]
    fn a_job_runs_at_passive_after_the_dpcs_before_it() {
        let cpu = started(1);
        let (send, receive) = mpsc::channel();
        let tell: &'static Tell = Box::leak(Box::new(Tell(Mutex::new(send.clone()))));

        cpu.post(Box::new(move || {
            // Queued by the CPU itself, so it cannot run before the job ends.
            cpu.queue_dpc(tell, 7, 7);
            cpu.post(Box::new(move || {
                send.send((8, 8, current_irql(), current_number())).unwrap();
            }));
        }));

        assert_eq!(receive.recv().unwrap(), (7, 7, irql::DISPATCH, 1));
        assert_eq!(receive.recv().unwrap(), (8, 8, irql::PASSIVE, 1));
    }

    #[test]
    fn a_cancelled_dpc_does_not_run() {
        let cpu: &'static Cpu = Box::leak(Box::new(Cpu::new(0)));
        let (send, receive) = mpsc::channel();
        let tell: &'static Tell = Box::leak(Box::new(Tell(Mutex::new(send))));
        cpu.queue_dpc(tell, 1, 1);

        assert!(cpu.cancel_dpc(tell));
        assert!(!cpu.cancel_dpc(tell));

        cpu.run_dpcs();
        assert!(receive.try_recv().is_err());
    }
}
