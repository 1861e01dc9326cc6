//! One virtqueue and the thread that serves it.
//!
//! A notification wakes the thread. It serves requests in the order in which they were made
//! available, and interrupts the driver once for each batch. The crate `virtio-queue`
//! implements the ring.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VRING_AVAIL_F_NO_INTERRUPT};
use virtio_queue::{DescriptorChain, Error, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use testbed_virtio::driver_errors::DriverErrors;

use testbed_machine::schedule::{self, Guard, Mutex, Point, Thread};

use super::{
    blk_request::{Buffers, Outcome, Terms},
    faults::Served,
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
    queue: Queue,
    terms: Terms,
    /// The heads of chains that never complete.
    stalled: Vec<u16>,
    /// Whether it serves nothing more.
    stuck: bool,
}

/// The working memory of a queue's thread.
#[derive(Default)]
struct Work<'m> {
    buffers: Buffers<'m>,
    /// Chains that were taken from the available ring and not yet served.
    chains: Vec<DescriptorChain<&'m GuestMemoryMmap>>,
}

/// A queue, its notification flag, and its counters.
#[derive(Debug, Default)]
pub(super) struct QueueWorker {
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
    /// The number of requests that were taken from the ring.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Whether requests may be taken.
    pub(super) fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    /// Enables the queue with the driver's ring, of at most `most` descriptors. Returns false, and records a driver
    /// error, if that is impossible.
    pub(super) fn enable(
        &self,
        most: u16,
        terms: Terms,
        memory: &GuestMemoryMmap,
        driver_errors: &DriverErrors,
    ) -> bool {
        let queue = match checked(most, &terms, memory) {
            Ok(queue) => queue,
            Err(why) => {
                driver_errors.add(format!("a queue was enabled with {why} (VIRTIO 1.3 §2.7)"));
                return false;
            }
        };
        if !used_ring_is_fresh(&queue, memory) {
            driver_errors.add(
                "the used ring was not zeroed before its queue was enabled (VIRTIO 1.3 §2.7.10.1)",
            );
        }
        *self.lock() = Some(Active {
            queue,
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

    /// Increments `used.idx` in memory without a used element.
    pub(super) fn glitch(&self, memory: &GuestMemoryMmap) {
        if let Some(active) = self.lock().as_ref() {
            let next = active.queue.next_used().wrapping_add(1);
            // Cannot fail: `checked` made sure that the ring is in memory.
            let _ = publish_used(&active.queue, memory, next);
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
            active.queue.disable_notification(memory)?;
            while self.batch(active, core, work)? {}
            if !self.is_live() || active.stuck {
                return Ok(());
            }
            let more = active.queue.enable_notification(memory)?;
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
        let waiting = active.queue.avail_idx(memory, Ordering::Acquire)?;
        if waiting.0 == active.queue.next_avail() && work.chains.is_empty() {
            return Ok(false);
        }
        let faults = core.faults();
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
            let available = active.queue.iter(memory)?;
            work.chains.extend(available.take(room));
            if work.chains.is_empty() {
                break;
            }
            let chain = work.chains.remove(schedule::pick(work.chains.len()));
            schedule::point(Point::Available);
            schedule::delay();
            let head = chain.head_index();
            taken = true;
            self.requests.fetch_add(1, Ordering::Relaxed);
            if active.stalled.contains(&head) {
                core.driver_errors.add(
                    "a descriptor chain was made available again while the device had it (VIRTIO \
                     1.3 §2.7.13)",
                );
            }
            let outcome = work.buffers.serve(memory, chain, disk);
            match outcome {
                Outcome::Done(written) => {
                    active.stuck = self.record(active, core, work)?;
                    let written = faults.used_length.unwrap_or(written);
                    match faults.used_id {
                        None => active.queue.add_used(memory, head, written)?,
                        Some(id) => add_wrong_used(&mut active.queue, memory, id, written)?,
                    }
                    if active.stuck {
                        let next = active.queue.next_used().wrapping_add(1);
                        publish_used(&active.queue, memory, next)?;
                    }
                    schedule::point(Point::Used);
                    requests += 1;
                    bytes += work.buffers.data_bytes();
                }
                Outcome::Stalled => active.stalled.push(head),
                Outcome::Unanswerable(why) => {
                    end = Err(Broken(why));
                    break;
                }
            }
        }
        // `virtio-queue` does not count wrong elements.
        let wanted = faults.used_id.is_some() || active.stuck;
        if requests > 0 && (interrupt_wanted(active, memory, &core.driver_errors)? || wanted) {
            schedule::delay();
            core.queue_used();
        }
        schedule::point(Point::Interrupt);
        end?;
        if active.stuck {
            return Ok(false);
        }
        if !taken && self.is_live() {
            return Err(Broken("the available ring cannot be read any more".into()));
        }
        Ok(taken)
    }

    /// Records the request that was served last, before the driver can see that it is used.
    /// Returns whether a glitch must follow.
    fn record(&self, active: &Active, core: &Core, work: &mut Work<'_>) -> Result<bool, Broken> {
        let Some(served) = work.buffers.take_served() else {
            return Ok(false);
        };
        let available = active.queue.avail_idx(&core.memory, Ordering::Acquire)?;
        let not_taken = available.0.wrapping_sub(active.queue.next_avail());
        Ok(core.activity().record(Served {
            waiting: not_taken.wrapping_add(work.chains.len() as u16),
            ..served
        }))
    }

    fn lock(&self) -> Guard<'_, Option<Active>> {
        self.active.lock()
    }
}

/// The queue that the driver set up, if it is valid.
fn checked(most: u16, terms: &Terms, memory: &GuestMemoryMmap) -> Result<Queue, String> {
    let ring = terms.ring;
    let why = |error: Error| error.to_string();
    let mut queue = Queue::new(most).map_err(why)?;
    queue.try_set_size(ring.size).map_err(why)?;
    let [desc, driver, device] = [ring.descriptors, ring.available, ring.used].map(GuestAddress);
    queue.try_set_desc_table_address(desc).map_err(why)?;
    queue.try_set_avail_ring_address(driver).map_err(why)?;
    queue.try_set_used_ring_address(device).map_err(why)?;
    queue.set_event_idx(terms.agreed & 1 << VIRTIO_RING_F_EVENT_IDX != 0);
    queue.set_ready(true);
    if !queue.is_valid(memory) {
        return Err(format!(
            "rings that are not completely in memory: descriptors at {:#x}, available ring at {:#x}, used \
             ring at {:#x}",
            ring.descriptors, ring.available, ring.used
        ));
    }
    Ok(queue)
}

/// Adds a used element with an id that may be invalid.
fn add_wrong_used(
    queue: &mut Queue,
    memory: &GuestMemoryMmap,
    id: u32,
    length: u32,
) -> Result<(), Broken> {
    let next = queue.next_used();
    let at = queue.used_ring() + 4 + 8 * u64::from(next % queue.size());
    memory.write_slice(
        &[id.to_le_bytes(), length.to_le_bytes()].concat(),
        GuestAddress(at),
    )?;
    queue.set_next_used(next.wrapping_add(1));
    publish_used(queue, memory, queue.next_used())
}

/// Stores `used.idx`.
fn publish_used(queue: &Queue, memory: &GuestMemoryMmap, index: u16) -> Result<(), Broken> {
    let at = GuestAddress(queue.used_ring() + 2);
    Ok(memory.store(index.to_le(), at, Ordering::Release)?)
}

/// Whether the driver zeroed `flags` and `idx` of the used ring.
fn used_ring_is_fresh(queue: &Queue, memory: &GuestMemoryMmap) -> bool {
    let flags: Result<u16, _> = memory.load(GuestAddress(queue.used_ring()), Ordering::Acquire);
    let index = queue.used_idx(memory, Ordering::Acquire);
    flags.is_ok_and(|flags| flags == 0) && index.is_ok_and(|index| index.0 == 0)
}

/// Whether the driver wants an interrupt for the used elements.
///
/// `virtio-queue` decides by `used_event`. It ignores the flag that replaces it without
/// EVENT_IDX (VIRTIO 1.3 §2.7.7).
fn interrupt_wanted(
    active: &mut Active,
    memory: &GuestMemoryMmap,
    driver_errors: &DriverErrors,
) -> Result<bool, Broken> {
    let wanted = active.queue.needs_notification(memory)?;
    let flags: u16 = memory.load(GuestAddress(active.queue.avail_ring()), Ordering::Relaxed)?;
    let no_interrupt = VRING_AVAIL_F_NO_INTERRUPT as u16;
    let event_idx = active.queue.event_idx_enabled();
    let allowed = if event_idx { 0 } else { no_interrupt };
    let flags = u16::from_le(flags);
    if flags & !allowed != 0 {
        driver_errors.add(format!(
            "the available ring's flags are {flags:#x} {} EVENT_IDX (VIRTIO 1.3 §2.7.7.1)",
            if event_idx { "with" } else { "without" }
        ));
    }
    Ok(wanted && (event_idx || flags & no_interrupt == 0))
}

/// Why the device cannot go on.
struct Broken(String);

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self(match error {
            Error::InvalidAvailRingIndex => {
                "the available index went back, or on by more than the queue holds (VIRTIO 1.3 \
                 §2.7.6.1)"
                    .into()
            }
            other => format!("the virtqueue cannot be used: {other}"),
        })
    }
}

impl From<GuestMemoryError> for Broken {
    fn from(error: GuestMemoryError) -> Self {
        Self(error.to_string())
    }
}
