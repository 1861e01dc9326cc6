//! Schedules the machine's threads, and keeps its time.
//!
//! In an ordinary run the host schedules the threads and time is the host's. After [`begin`]
//! one thread runs at a time. At a scheduling point it may be preempted, and where it waits
//! another thread runs. A random generator with the given seed chooses when and which. Time is
//! virtual: each point takes two microseconds, and when all threads wait, time jumps to the
//! next due time. So the same seed gives the same run.
//!
//! All waits of the testbed are in this module. The holder of a [`std::sync::Mutex`] must not
//! pass a point or wait, because a thread that blocks on the mutex would keep all others from
//! running. Waking others is not a scheduling point.
//!
//! Observers, such as a progress bar, are ordinary threads of the host. They must not wake
//! threads of the machine or take its locks.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fmt::Write as _,
    io,
    ops::{Deref, DerefMut, RangeInclusive},
    sync::{
        Condvar, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{lock, trap};

/// The virtual time that a point takes, in nanoseconds.
const STEP: u64 = 2000;

/// One in this many calls of the miniport's routines gets a point at a random instruction.
const AIM: u32 = 4;

/// The longest jump of virtual time, in nanoseconds. Only housekeeping is due later, so the
/// machine counts as hung.
const NOTHING_FOR: u64 = 3_600_000_000_000;

/// A scheduling point, where another thread may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Point {
    /// A routine of the miniport will run.
    Routine = 1,
    /// A routine of the miniport has returned.
    Return,
    /// The miniport called Storport or the kernel.
    Call,
    /// The call of Storport or the kernel will return.
    CallEnd,
    /// A spin lock will be acquired.
    Acquire,
    /// A spin lock was released.
    Release,
    /// A DPC will run.
    Dpc,
    /// A register or port was read or written.
    Register,
    /// The device took an available request.
    Available,
    /// The device marked a request as used.
    Used,
    /// The device sent an interrupt, or found that none is needed.
    Interrupt,
    /// A chosen instruction of the miniport will run.
    Instruction,
    /// A thread yields.
    Yield,
    /// A thread waits.
    Wait,
    /// A thread was started.
    Start,
    /// A thread has ended.
    End,
}

/// Whether a seed decides.
static ON: AtomicBool = AtomicBool::new(false);
/// The number of the running thread.
static RUNNING: AtomicU32 = AtomicU32::new(0);
/// Virtual time in nanoseconds.
static NOW: AtomicU64 = AtomicU64::new(0);
/// The number of points so far.
static POINTS: AtomicU64 = AtomicU64::new(0);
/// Only the running thread locks this, so nothing waits for it.
static SCHEDULE: std::sync::Mutex<Option<Schedule>> = std::sync::Mutex::new(None);

/// The number of an observer.
const NONE: u32 = u32::MAX;

thread_local! {
    static ME: Cell<u32> = const { Cell::new(NONE) };
}

/// A summary of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// A hash of all points in order, each with its thread and kind.
    pub digest: u64,
    /// The number of points.
    pub points: u64,
    /// The number of points at chosen instructions of the miniport.
    pub instructions: u64,
    /// The number of thread switches.
    pub switches: u64,
    /// Virtual time.
    pub time: Duration,
}

/// Begins scheduling by the seed. The calling thread must be the machine's only thread.
pub fn begin(seed: u64) {
    let mut schedule = Schedule::new(seed);
    ME.set(schedule.add("main".to_owned()));
    schedule.threads[0].host = Some(thread::current());
    *lock(&SCHEDULE) = Some(schedule);
    RUNNING.store(0, Ordering::SeqCst);
    ON.store(true, Ordering::SeqCst);
}

/// Whether a seed decides.
#[inline]
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Whether a seed decides about the calling thread.
#[inline]
fn is_scheduled() -> bool {
    is_on() && ME.get() != NONE
}

/// Virtual time in nanoseconds.
pub(crate) fn now() -> u64 {
    NOW.load(Ordering::Relaxed)
}

/// The number of points so far. It does not change while a thread runs without a point.
pub fn points() -> u64 {
    POINTS.load(Ordering::Relaxed)
}

/// The summary so far, if a seed decides.
#[must_use]
pub fn trace() -> Option<Trace> {
    with(|schedule| schedule.trace())
}

/// Passes a scheduling point.
#[inline]
pub fn point(kind: Point) {
    if is_scheduled() {
        step(kind, Leave::May);
    }
}

/// Notes that the miniport's routine at this address will run. An instruction that is reachable
/// from it may become a point.
pub fn enter(routine: usize) {
    if is_scheduled() {
        step(Point::Routine, Leave::May);
        with(|schedule| schedule.aim(routine));
    }
}

/// Passes the point at the chosen instruction.
pub(crate) fn interrupted() {
    if ME.get() != NONE {
        step(Point::Instruction, Leave::Should);
    }
}

/// Yields to the other threads.
pub fn yield_now() {
    if is_scheduled() {
        step(Point::Yield, Leave::Should);
    } else {
        thread::yield_now();
    }
}

/// Waits for a time.
pub fn sleep(time: Duration) {
    if is_scheduled() {
        let until = now().saturating_add(nanoseconds(time));
        wait(Why::Time, Some(until));
    } else {
        thread::sleep(time);
    }
}

/// Waits as an idle processor does.
pub fn stall(time: Duration) {
    if is_scheduled() {
        return sleep(time);
    }
    let start = std::time::Instant::now();
    while start.elapsed() < time {
        thread::yield_now();
    }
}

/// A number below `count`: 0 in an ordinary run, random under a seed.
pub fn pick(count: usize) -> usize {
    match count {
        0 | 1 => 0,
        _ => with(|schedule| schedule.random.random_range(0..count)).unwrap_or(0),
    }
}

/// A number in the range: `usual` in an ordinary run, random under a seed.
pub fn vary(range: RangeInclusive<u32>, usual: u32) -> u32 {
    with(|schedule| schedule.random.random_range(range)).unwrap_or(usual)
}

/// In a run with a seed, delays the device sometimes, and rarely for long.
pub fn delay() {
    let most = match vary(0..=63, 63) {
        0 => 2000,
        1..=3 => 128,
        4..=11 => 8,
        _ => return,
    };
    sleep(Duration::from_micros(u64::from(vary(1..=most, 1))));
}

/// A thread of the machine.
#[derive(Clone, Debug)]
pub struct Thread {
    host: thread::Thread,
    number: u32,
}

impl Thread {
    /// Ends its current or its next [`park`].
    pub fn unpark(&self) {
        if with(|schedule| schedule.unpark(self.number)).is_none() {
            self.host.unpark();
        }
    }
}

/// The calling thread.
pub fn current() -> Thread {
    Thread {
        host: thread::current(),
        number: ME.get(),
    }
}

/// Waits for [`Thread::unpark`]. May return without one.
pub fn park() {
    if is_scheduled() {
        wait(Why::Parked, None);
    } else {
        thread::park();
    }
}

/// The handle of a spawned thread.
#[derive(Debug)]
pub struct Handle {
    host: thread::JoinHandle<()>,
    number: u32,
}

impl Handle {
    /// The thread.
    pub fn thread(&self) -> Thread {
        Thread {
            host: self.host.thread().clone(),
            number: self.number,
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// The payload of its panic.
    pub fn join(self) -> thread::Result<()> {
        while with(|schedule| !schedule.has_ended(self.number)).unwrap_or(false) {
            wait(Why::End(self.number), None);
        }
        self.host.join()
    }
}

/// Spawns a thread of the machine.
///
/// # Errors
/// Errors of the host.
pub fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<Handle> {
    let number = with(|schedule| schedule.add(name.to_owned())).unwrap_or(NONE);
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _end = (number != NONE).then(|| Turn::first(number));
        run();
    });
    match spawned {
        Ok(host) => {
            with(|schedule| schedule.start(number, host.thread().clone()));
            point(Point::Start);
            Ok(Handle { host, number })
        }
        Err(refused) => Err(refused),
    }
}

/// The life of a thread under a schedule. It waits for its first turn; its drop lets another
/// run.
struct Turn(u32);

impl Turn {
    fn first(number: u32) -> Self {
        ME.set(number);
        wait_for_turn(number);
        Self(number)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = with(|schedule| schedule.end(self.0));
        ME.set(NONE);
        if let Some(next) = next {
            hand_to(&next);
        }
    }
}

/// A condition variable. Its mutex guards the data that the condition is about.
#[derive(Debug, Default)]
pub struct Condition(Condvar);

impl Condition {
    /// Creates it without waiters.
    pub const fn new() -> Self {
        Self(Condvar::new())
    }

    fn why(&self, what: &'static str) -> Why {
        Why::At(std::ptr::from_ref(self).addr(), what)
    }

    /// Releases `guard`, waits for [`Self::changed`] or until `until` in nanoseconds of the
    /// machine's clock, and locks `mutex` again. May return without a change.
    pub fn wait<'a, T>(
        &self,
        mutex: &'a std::sync::Mutex<T>,
        guard: MutexGuard<'a, T>,
        until: Option<u64>,
        what: &'static str,
    ) -> MutexGuard<'a, T> {
        if is_scheduled() {
            drop(guard);
            wait(self.why(what), until);
            return lock(mutex);
        }
        match until {
            None => self.0.wait(guard).unwrap_or_else(PoisonError::into_inner),
            Some(until) => {
                let rest = Duration::from_nanos(until.saturating_sub(super::clock::now()));
                self.0
                    .wait_timeout(guard, rest)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        }
    }

    /// Wakes all waiters.
    pub fn changed(&self) {
        if is_on() {
            wake(self.why(""));
        } else {
            self.0.notify_all();
        }
    }
}

/// A mutex whose holder may pass points and wait.
#[derive(Debug, Default)]
pub struct Mutex<T>(std::sync::Mutex<T>);

/// The guard of a locked [`Mutex`].
#[derive(Debug)]
pub struct Guard<'a, T> {
    held: MutexGuard<'a, T>,
    // Fields drop in order, so this runs after the unlock.
    _release: Release,
}

/// Wakes the threads that wait for a mutex.
#[derive(Debug)]
struct Release(usize);

impl Drop for Release {
    fn drop(&mut self) {
        if is_on() {
            wake(Why::At(self.0, ""));
        }
    }
}

impl<T> Mutex<T> {
    /// Locks the mutex, ignoring poisoning.
    pub fn lock(&self) -> Guard<'_, T> {
        let place = std::ptr::from_ref(self).addr();
        let held = loop {
            if !is_scheduled() {
                break lock(&self.0);
            }
            match self.0.try_lock() {
                Ok(held) => break held,
                Err(TryLockError::Poisoned(held)) => break held.into_inner(),
                Err(TryLockError::WouldBlock) => wait(Why::At(place, "a mutex"), None),
            };
        };
        Guard {
            held,
            _release: Release(place),
        }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.held
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.held
    }
}

/// Waits for [`free`] of the lock at `place`. Does nothing unless a seed decides.
pub fn wait_for_lock(place: usize) {
    wait(Why::At(place, "a spin lock"), None);
}

/// Wakes the threads that wait for the lock at `place`.
#[inline]
pub fn free(place: usize) {
    if is_on() {
        wake(Why::At(place, ""));
    }
}

/// What a thread waits for.
#[derive(Clone, Copy, Debug)]
enum Why {
    Time,
    Parked,
    End(u32),
    /// A place in memory, and a description of it.
    At(usize, &'static str),
}

impl Why {
    /// Whether an event of kind `event` ends the wait.
    fn is_ended_by(self, event: Self) -> bool {
        match (self, event) {
            (Self::End(ended), Self::End(number)) => ended == number,
            (Self::At(place, _), Self::At(changed, _)) => place == changed,
            _ => false,
        }
    }
}

/// Whether a thread can run on after a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    /// It can.
    May,
    /// It can, but another thread is preferred.
    Should,
    /// It cannot.
    Must,
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Calls `work` with the schedule. Returns `None` if no seed decides.
fn with<R>(work: impl FnOnce(&mut Schedule) -> R) -> Option<R> {
    if !is_on() {
        return None;
    }
    lock(&SCHEDULE).as_mut().map(work)
}

fn step(kind: Point, leave: Leave) {
    let me = ME.get();
    run_next(with(|schedule| schedule.step(me, kind, leave)));
}

fn wait(why: Why, until: Option<u64>) {
    let me = ME.get();
    run_next(with(|schedule| schedule.wait(me, why, until)));
}

/// Lets the thread run that was chosen, if it is another.
fn run_next(chosen: Option<Option<Thread>>) {
    if let Some(next) = chosen.flatten() {
        hand_to(&next);
        wait_for_turn(ME.get());
    }
}

fn wake(event: Why) {
    with(|schedule| schedule.wake(event));
}

fn hand_to(next: &Thread) {
    RUNNING.store(next.number, Ordering::Release);
    next.host.unpark();
}

fn wait_for_turn(me: u32) {
    while RUNNING.load(Ordering::Acquire) != me {
        thread::park();
    }
}

/// How the scheduler chooses the next thread, until a new plan replaces this one.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Whether the thread with the highest priority runs. The running thread gets the lowest at
    /// each switch (as in "A randomized scheduler with probabilistic guarantees of finding
    /// bugs", Burckhardt et al. 2010). Otherwise any thread runs.
    priorities: bool,
    /// A switch happens about every this many points.
    points: u32,
}

/// A thread of the machine's.
struct Known {
    name: String,
    host: Option<thread::Thread>,
    state: State,
    /// Its next wait for an unpark ends at once.
    unparked: bool,
    priority: i64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Ready,
    Waits { why: Why, until: Option<u64> },
    Ended,
}

struct Schedule {
    threads: Vec<Known>,
    /// Runnable threads, sorted by number.
    ready: Vec<u32>,
    random: StdRng,
    plan: Plan,
    /// Points until the next plan.
    plan_left: u32,
    /// Points until the plan makes a switch.
    change_left: u32,
    /// Lower than all priorities.
    lowest: i64,
    /// The next due time; `u64::MAX` if nothing is due.
    due: u64,
    /// Virtual time. `active` is the time of the last activity of the miniport.
    now: u64,
    active: u64,
    /// The summary, without the time.
    trace: Trace,
    /// The reachable instructions, by routine of the miniport.
    reachable: BTreeMap<usize, Vec<usize>>,
}

impl Schedule {
    fn new(seed: u64) -> Self {
        Self {
            threads: Vec::new(),
            ready: Vec::new(),
            random: StdRng::seed_from_u64(seed),
            plan: Plan {
                priorities: false,
                points: 1,
            },
            plan_left: 0,
            change_left: 0,
            lowest: 0,
            due: u64::MAX,
            now: 0,
            active: 0,
            trace: Trace::default(),
            reachable: BTreeMap::new(),
        }
    }

    fn trace(&self) -> Trace {
        Trace {
            time: Duration::from_nanos(self.now),
            ..self.trace
        }
    }

    fn add(&mut self, name: String) -> u32 {
        let number = self.threads.len() as u32;
        let priority = self.random.random_range(1..=1_000_000);
        self.threads.push(Known {
            name,
            host: None,
            state: State::Ready,
            unparked: false,
            priority,
        });
        if number == 0 {
            self.ready.push(0);
        }
        number
    }

    /// Makes thread `number` runnable: the host has created it.
    fn start(&mut self, number: u32, host: thread::Thread) {
        self.threads[number as usize].host = Some(host);
        self.make_ready(number);
    }

    fn has_ended(&self, number: u32) -> bool {
        matches!(self.threads[number as usize].state, State::Ended)
    }

    fn make_ready(&mut self, number: u32) {
        self.threads[number as usize].state = State::Ready;
        if let Err(place) = self.ready.binary_search(&number) {
            self.ready.insert(place, number);
        }
    }

    /// Passes a point of the calling thread. Returns the next thread to run, if it is another.
    fn step(&mut self, me: u32, kind: Point, leave: Leave) -> Option<Thread> {
        if matches!(kind, Point::Routine | Point::Return) {
            self.active = self.now;
        }
        self.pass(me, kind);
        self.choose(me, leave)
    }

    /// Sets, now and then, a breakpoint at an instruction that is reachable from the routine.
    /// Other threads may run when it is hit.
    fn aim(&mut self, routine: usize) {
        if !self.random.random_ratio(1, AIM) {
            return;
        }
        trap::clear_breakpoint();
        let reachable = self
            .reachable
            .entry(routine)
            .or_insert_with(|| trap::reachable_from(routine));
        if !reachable.is_empty() {
            trap::set_breakpoint(reachable[self.random.random_range(0..reachable.len())]);
        }
    }

    fn pass(&mut self, me: u32, kind: Point) {
        let trace = &mut self.trace;
        trace.instructions += u64::from(kind == Point::Instruction);
        let word = u64::from(me) << 8 | kind as u64;
        trace.digest = (trace.digest.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        trace.points += 1;
        POINTS.store(trace.points, Ordering::Relaxed);
        self.set_time(self.now + STEP);
    }

    fn set_time(&mut self, now: u64) {
        self.now = now;
        NOW.store(now, Ordering::Relaxed);
        if now >= self.due {
            self.wake_where(|_, until| until.is_some_and(|until| until <= now));
        }
    }

    /// Makes the calling thread wait. Returns the next thread to run, if it is another.
    fn wait(&mut self, me: u32, why: Why, until: Option<u64>) -> Option<Thread> {
        let this = &mut self.threads[me as usize];
        if matches!(why, Why::Parked) && std::mem::take(&mut this.unparked) {
            return self.step(me, Point::Wait, Leave::May);
        }
        this.state = State::Waits { why, until };
        self.ready.retain(|ready| *ready != me);
        self.due = self.due.min(until.unwrap_or(u64::MAX));
        self.pass(me, Point::Wait);
        self.choose(me, Leave::Must)
    }

    fn wake(&mut self, event: Why) {
        self.wake_where(|why, _| why.is_ended_by(event));
    }

    fn unpark(&mut self, number: u32) {
        let thread = &mut self.threads[number as usize];
        match thread.state {
            State::Waits {
                why: Why::Parked, ..
            } => self.make_ready(number),
            _ => thread.unparked = true,
        }
    }

    fn wake_where(&mut self, ends: impl Fn(Why, Option<u64>) -> bool) {
        self.due = u64::MAX;
        for number in 0..self.threads.len() {
            if let State::Waits { why, until } = self.threads[number].state {
                if ends(why, until) {
                    self.make_ready(number as u32);
                } else {
                    self.due = self.due.min(until.unwrap_or(u64::MAX));
                }
            }
        }
    }

    /// Ends the calling thread. Returns the next thread to run.
    fn end(&mut self, me: u32) -> Thread {
        self.threads[me as usize].state = State::Ended;
        self.ready.retain(|ready| *ready != me);
        self.wake(Why::End(me));
        self.pass(me, Point::End);
        self.make_sure_one_is_ready();
        let next = self.chosen(me, Leave::Must);
        self.handle(next)
    }

    fn choose(&mut self, me: u32, leave: Leave) -> Option<Thread> {
        self.make_sure_one_is_ready();
        let next = self.chosen(me, leave);
        if next == me {
            return None;
        }
        self.trace.switches += 1;
        Some(self.handle(next))
    }

    fn handle(&self, number: u32) -> Thread {
        match &self.threads[number as usize].host {
            Some(host) => Thread {
                host: host.clone(),
                number,
            },
            // Only threads that the host created are ready.
            None => self.stop("the testbed itself scheduled a thread that was not started"),
        }
    }

    fn chosen(&mut self, me: u32, leave: Leave) -> u32 {
        self.plan_left = match self.plan_left.checked_sub(1) {
            Some(left) => left,
            None => self.make_plan(),
        };
        let change = self.change_left == 0;
        if change {
            self.change_left = self.random.random_range(1..=2 * self.plan.points);
        }
        self.change_left -= 1;
        if self.plan.priorities {
            if change || leave == Leave::Should {
                self.lowest -= 1;
                self.threads[me as usize].priority = self.lowest;
            }
            let priority = |number: &&u32| self.threads[**number as usize].priority;
            return self
                .ready
                .iter()
                .max_by_key(priority)
                .copied()
                .unwrap_or(me);
        }
        if !change && leave == Leave::May {
            return me;
        }
        let place = self.random.random_range(0..self.ready.len());
        match self.ready[place] {
            any if any == me => self.ready[(place + 1) % self.ready.len()],
            any => any,
        }
    }

    /// Makes the next plan. Returns its length in points.
    fn make_plan(&mut self) -> u32 {
        self.change_left = 0;
        let priorities = !self.random.random::<bool>();
        let points = if priorities { 5..=10 } else { 2..=8 };
        self.plan = Plan {
            priorities,
            points: 1 << self.random.random_range(points),
        };
        if priorities {
            for thread in &mut self.threads {
                thread.priority = self.random.random_range(1..=1_000_000);
            }
            self.lowest = 0;
        }
        1 << self.random.random_range(8..=13)
    }

    /// Advances time to what is due, if no thread can run.
    fn make_sure_one_is_ready(&mut self) {
        while self.ready.is_empty() {
            if self.due == u64::MAX {
                self.stop("every thread waits, and no timer is set");
            }
            if self.due - self.active.min(self.due) > NOTHING_FOR {
                self.stop("the miniport was not called for an hour, and every thread waits");
            }
            self.set_time(self.due.max(self.now));
        }
    }

    /// Stops the machine, because nothing can happen any more.
    fn stop(&self, why: &str) -> ! {
        let mut text = String::new();
        for (number, thread) in self.threads.iter().enumerate() {
            let State::Waits { why, until } = thread.state else {
                continue;
            };
            let name = &thread.name;
            let _ = match why {
                Why::Time => write!(text, "\n  {name}: for a time"),
                Why::Parked => write!(text, "\n  {name}: for a wake-up"),
                Why::End(other) => {
                    let other = &self.threads[other as usize].name;
                    write!(text, "\n  {name}: for the end of {other}")
                }
                Why::At(place, what) => {
                    // Other threads that wait for the same place; the address differs from run
                    // to run.
                    let with = self.threads.iter().enumerate().find(|(other, thread)| {
                        *other != number
                            && matches!(thread.state, State::Waits { why, .. }
                                if why.is_ended_by(Why::At(place, "")))
                    });
                    let _ = write!(text, "\n  {name}: for {what}");
                    match with {
                        Some((_, other)) => write!(text, ", as {} does", other.name),
                        None => Ok(()),
                    }
                }
            };
            if let Some(until) = until {
                let seconds = Duration::from_nanos(until).as_secs_f64();
                let _ = write!(text, ", until {seconds:.6} s");
            }
        }
        trap::stop_machine(format_args!("deadlock: {why}. The threads wait:{text}"))
    }
}

#[cfg(test)]
mod tests;
