//! One virtqueue and the thread that serves it.
//!
//! A notification wakes the thread. It serves requests in the order in which they were made
//! available, and interrupts the driver once for each batch.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use vm_memory::GuestMemoryMmap;

use testbed_virtio::{chain::Chain, driver_errors::DriverErrors};

use testbed_machine::schedule::{self, Guard, Mutex, Point, Thread};

use super::{
    blk_request::{Buffers, Outcome, Terms},
    faults::{Glitch, Served},
    ring::{Broken, Ring},
    virtio_blk::Core,
};

/// The maximum number of later requests that an interrupt waits for.
const BATCH_REQUESTS: u32 = 32;
/// The maximum number of bytes in those requests.
const BATCH_BYTES: usize = 256 * 1024;

/// The maximum number of requests that the device takes before it serves them, where a seed
/// decides. They complete in any order.
const MOST_TAKEN: u32 = 16;

/// An enabled queue.
#[derive(Debug)]
struct Active {
    ring: Ring,
    terms: Terms,
    /// The ids of requests that never complete.
    stalled: Vec<u16>,
    /// Whether it serves nothing more.
    stuck: bool,
}

/// The working memory of a queue's thread.
#[derive(Default)]
struct Work<'m> {
    buffers: Buffers<'m>,
    /// Requests that were taken from the ring and not yet served.
    chains: Vec<Chain>,
}

/// A queue, its notification flag, and its counters.
#[derive(Debug)]
pub(super) struct QueueWorker {
    number: u16,
    /// The queue, once the driver enabled it. Locked while a batch is served.
    active: Mutex<Option<Active>>,
    /// Whether requests may be taken: from DRIVER_OK to the next reset.
    live: AtomicBool,
    /// Whether a notification has arrived.
    notified: AtomicBool,
    /// Whether the thread serves nothing, and [`Self::serve_now`] does.
    manual: AtomicBool,
    thread: OnceLock<Thread>,
    requests: AtomicU64,
}

impl QueueWorker {
    /// Queue `number` of the function.
    pub(super) fn new(number: u16) -> Self {
        Self {
            number,
            active: Mutex::default(),
            live: AtomicBool::new(false),
            notified: AtomicBool::new(false),
            manual: AtomicBool::new(false),
            thread: OnceLock::new(),
            requests: AtomicU64::new(0),
        }
    }

    /// The number of requests that were taken from the ring.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// The number of requests that were taken and never complete.
    pub(super) fn stalled(&self) -> usize {
        let active = self.lock();
        active.as_ref().map_or(0, |it| it.stalled.len())
    }

    /// Whether requests may be taken.
    pub(super) fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    /// Enables the queue with the driver's ring, of at most `most` descriptors. Returns false, and
    /// records a driver error, if that is impossible.
    pub(super) fn enable(
        &self,
        most: u16,
        terms: Terms,
        memory: &GuestMemoryMmap,
        driver_errors: &DriverErrors,
    ) -> bool {
        let ring = match Ring::new(most, &terms, memory) {
            Ok(ring) => ring,
            // V30, V50.
            Err(why) => {
                driver_errors.add(format!(
                    "a queue was enabled with {why} (VIRTIO 1.3 §2.7, 2.8)"
                ));
                return false;
            }
        };
        // V39.
        if !ring.is_fresh(memory) {
            driver_errors.add(
                "the ring was not zeroed before its queue was enabled (VIRTIO 1.3 §2.7.10.1, \
                 2.8.1)",
            );
        }
        *self.lock() = Some(Active {
            ring,
            terms,
            stalled: Vec::new(),
            stuck: false,
        });
        true
    }

    /// Starts service, if the driver enabled the queue.
    pub(super) fn start(&self) {
        self.live.store(self.lock().is_some(), Ordering::Release);
    }

    /// Stops after the current request and disables the queue. When this returns, nothing
    /// accesses the driver's memory.
    pub(super) fn reset(&self) {
        self.live.store(false, Ordering::Release);
        *self.lock() = None;
    }

    /// Marks one more request as used in memory, without returning one: see [`Ring::glitch`].
    pub(super) fn glitch(&self, memory: &GuestMemoryMmap) {
        if let Some(active) = self.lock().as_mut() {
            // Cannot fail: `Ring::new` made sure that the ring is in memory.
            let _ = active.ring.glitch(memory);
        }
    }

    /// Stops after the current request. The queue stays enabled.
    pub(super) fn halt(&self) {
        self.live.store(false, Ordering::Release);
    }

    /// Notifies the queue.
    pub(super) fn notify(&self) {
        self.notified.store(true, Ordering::Release);
        self.wake();
    }

    /// Wakes the thread, for a notification or to end it.
    pub(super) fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Leaves service to [`Self::serve_now`], and waits until the thread serves nothing.
    pub(super) fn serve_manually(&self) {
        self.manual.store(true, Ordering::Release);
        drop(self.lock());
    }

    /// Serves available requests on the calling thread, if there was a notification.
    pub(super) fn serve_now(&self, core: &Core) {
        if self.notified.swap(false, Ordering::Acquire) {
            self.serve(core, &mut Work::default());
        }
    }

    /// Runs the queue's thread until the function stops.
    pub(super) fn run(&self, core: &Core) {
        let _ = self.thread.set(schedule::current());
        let mut work = Work::default();
        while !core.stopping.load(Ordering::Acquire) {
            let manual = self.manual.load(Ordering::Acquire);
            if !manual && self.notified.swap(false, Ordering::Acquire) {
                self.serve(core, &mut work);
                work.chains.clear();
            } else {
                schedule::park();
            }
        }
    }

    /// Serves available requests.
    fn serve<'m>(&self, core: &'m Core, work: &mut Work<'m>) {
        let mut guard = self.lock();
        // The notification may be from before a reset.
        let served = |active: &&mut Active| self.is_live() && !active.stuck;
        let Some(active) = guard.as_mut().filter(served) else {
            return;
        };
        if let Err(Broken(why)) = self.drain(active, core, work) {
            self.halt();
            drop(guard);
            core.stop_working(&why);
        }
    }

    /// Serves until no request is available.
    ///
    /// The ring is not polled afterwards. Where driver and device share few processors, a
    /// polling thread would slow down the driver that it waits for.
    fn drain<'m>(
        &self,
        active: &mut Active,
        core: &'m Core,
        work: &mut Work<'m>,
    ) -> Result<(), Broken> {
        let memory = &core.memory;
        loop {
            active.ring.disable_notifications(memory)?;
            while self.batch(active, core, work)? {}
            if !self.is_live() || active.stuck {
                return Ok(());
            }
            let more = active.ring.enable_notifications(memory)?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Serves one batch and interrupts for it. Returns false if no request was available.
    fn batch<'m>(
        &self,
        active: &mut Active,
        core: &'m Core,
        work: &mut Work<'m>,
    ) -> Result<bool, Broken> {
        let memory = &core.memory;
        if active.ring.available(memory)? == 0 && work.chains.is_empty() {
            return Ok(false);
        }
        let faults = core.faults_of(self.number);
        if !faults.latency.is_zero() {
            schedule::sleep(faults.latency);
        }
        let disk = core.disk(&faults, active.terms);
        let mut taken = false;
        let mut requests = 0;
        let mut bytes = 0;
        let mut end = Ok(());
        let most_requests = schedule::vary(1..=BATCH_REQUESTS, BATCH_REQUESTS);
        let most_taken = schedule::vary(1..=MOST_TAKEN, 1) as usize;
        while requests < most_requests && bytes < BATCH_BYTES && self.is_live() && !active.stuck {
            let room = most_taken.saturating_sub(work.chains.len());
            let terms = &active.terms;
            let chains = &mut work.chains;
            if let Err(broken) = active
                .ring
                .take(memory, room, terms, &core.driver_errors, chains)
            {
                taken = true;
                end = Err(broken);
                break;
            }
            if work.chains.is_empty() {
                break;
            }
            let chain = work.chains.remove(schedule::pick(work.chains.len()));
            schedule::point(Point::Available);
            schedule::delay();
            taken = true;
            self.requests.fetch_add(1, Ordering::Relaxed);
            // V15.
            if active.stalled.contains(&chain.id) {
                core.driver_errors.add(
                    "a descriptor chain was made available again while the device had it (VIRTIO \
                     1.3 §2.7.13)",
                );
            }
            let outcome = work.buffers.serve(memory, &chain, disk);
            match outcome {
                Outcome::Done(written) => {
                    let glitch = self.record(active, core, work)?;
                    active.stuck = glitch.is_some();
                    let written = faults.used_length.unwrap_or(written);
                    let id = faults.used_id;
                    active.ring.finish(memory, &chain, written, id)?;
                    match glitch {
                        None => {}
                        Some(Glitch::Twice) => {
                            let id = id.or(Some(chain.id.into()));
                            active.ring.finish(memory, &chain, written, id)?;
                        }
                        Some(_) => active.ring.glitch(memory)?,
                    }
                    schedule::point(Point::Used);
                    requests += 1;
                    bytes += work.buffers.data_bytes();
                }
                Outcome::Stalled => active.stalled.push(chain.id),
                Outcome::Unanswerable(why) => {
                    end = Err(Broken(why));
                    break;
                }
            }
        }
        // `virtio-queue` does not count wrong elements.
        let wanted = faults.used_id.is_some() || active.stuck;
        if requests > 0 && (active.ring.interrupt_wanted(memory, &core.driver_errors)? || wanted) {
            schedule::delay();
            core.queue_used(self.number);
        }
        schedule::point(Point::Interrupt);
        end?;
        if active.stuck {
            return Ok(false);
        }
        if !taken && self.is_live() {
            return Err(Broken(
                "the available requests cannot be read any more".into(),
            ));
        }
        Ok(taken)
    }

    /// Records the request that was served last, before the driver can see that it is used.
    /// Returns the glitch that must follow.
    fn record(
        &self,
        active: &Active,
        core: &Core,
        work: &mut Work<'_>,
    ) -> Result<Option<Glitch>, Broken> {
        let Some(served) = work.buffers.take_served() else {
            return Ok(None);
        };
        let not_taken = active.ring.available(&core.memory)?;
        let waiting = not_taken.wrapping_add(work.chains.len() as u16);
        let served = Served { waiting, ..served };
        // In a packed ring without other requests, the driver's next descriptor would overwrite
        // a glitch.
        let lasts = waiting > 0 || !active.ring.is_packed();
        Ok(core.activity().record(self.number, served, lasts))
    }

    fn lock(&self) -> Guard<'_, Option<Active>> {
        self.active.lock()
    }
}
