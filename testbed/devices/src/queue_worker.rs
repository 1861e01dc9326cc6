//! One virtqueue and the thread that serves it.
//!
//! A doorbell wakes the thread; it takes requests in the order in which they
//! were made available, carries each out, and interrupts the driver once for a
//! batch. The ring itself is `virtio-queue`'s.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VRING_AVAIL_F_NO_INTERRUPT};
use virtio_queue::{DescriptorChain, Error, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use testbed_machine::schedule::{self, Guard, Mutex, Point, Thread};

use super::{
    blk_request::{Buffers, Outcome, Terms},
    driver_errors::DriverErrors,
    faults::Served,
    virtio_blk::Core,
    virtio_pci::QueueRegisters,
};

/// An interrupt waits for at most so many requests behind the one that it is
/// for,
const BATCH_REQUESTS: u32 = 32;
/// and for at most so many bytes.
const BATCH_BYTES: usize = 256 * 1024;

/// Requests that the device may have taken and not yet carried out, where a
/// seed decides: they complete in any order.
const MOST_TAKEN: u32 = 16;

/// A queue in use.
#[derive(Debug)]
struct Active {
    queue: Queue,
    terms: Terms,
    /// Chains that never complete, by their heads.
    stalled: Vec<u16>,
    /// Nothing more is served.
    stuck: bool,
}

/// What a queue's thread works with.
#[derive(Default)]
struct Work<'m> {
    buffers: Buffers<'m>,
    /// Taken from the available ring, and not yet carried out.
    chains: Vec<DescriptorChain<&'m GuestMemoryMmap>>,
}

/// A queue, its doorbell, and what it counted.
#[derive(Debug, Default)]
pub(super) struct QueueWorker {
    /// The queue, once the driver enabled it. Held while a batch is served.
    active: Mutex<Option<Active>>,
    /// Requests may be taken: set from DRIVER_OK to the next reset.
    live: AtomicBool,
    /// A doorbell rang.
    rung: AtomicBool,
    /// The thread serves nothing: [`Self::serve_now`] does.
    by_hand: AtomicBool,
    thread: OnceLock<Thread>,
    requests: AtomicU64,
}

impl QueueWorker {
    /// How many requests were taken from the ring.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Whether doorbells count.
    pub(super) fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    /// Takes the queue into use as the driver set it up. False, with a
    /// error, if that can't work.
    pub(super) fn enable(
        &self,
        registers: &QueueRegisters,
        most: u16,
        terms: Terms,
        memory: &GuestMemoryMmap,
        driver_errors: &DriverErrors,
    ) -> bool {
        let queue = match checked(registers, most, terms, memory) {
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

    /// Lets the queue be served, if the driver enabled it.
    pub(super) fn start(&self) {
        self.live.store(self.lock().is_some(), Ordering::Release);
    }

    /// Stops serving after the request at hand, and gives the queue back. When
    /// this returns, nothing touches the driver's memory.
    pub(super) fn reset(&self) {
        self.live.store(false, Ordering::Release);
        *self.lock() = None;
    }

    /// Increments `used.idx` in memory without a used element.
    pub(super) fn glitch(&self, memory: &GuestMemoryMmap) {
        if let Some(active) = self.lock().as_ref() {
            let next = active.queue.next_used().wrapping_add(1);
            // The ring is all memory: `checked` has seen to that.
            let _ = publish_used(&active.queue, memory, next);
        }
    }

    /// Stops serving after the request at hand; the queue stays what it is.
    pub(super) fn halt(&self) {
        self.live.store(false, Ordering::Release);
    }

    /// Rings the doorbell.
    pub(super) fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        self.wake();
    }

    /// Wakes the thread, for a doorbell or to see that it has to end.
    pub(super) fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Has the queue be served by [`Self::serve_now`] alone, and waits until its
    /// thread serves nothing.
    pub(super) fn by_hand(&self) {
        self.by_hand.store(true, Ordering::Release);
        drop(self.lock());
    }

    /// Serves what is available on the calling thread, if a doorbell rang.
    pub(super) fn serve_now(&self, index: u16, core: &Core) {
        if self.rung.swap(false, Ordering::Acquire) {
            self.serve(index, core, &mut Work::default());
        }
    }

    /// What the queue's thread does until the function stops.
    pub(super) fn run(&self, index: u16, core: &Core) {
        let _ = self.thread.set(schedule::current());
        let mut work = Work::default();
        while !core.stopping() {
            let by_hand = self.by_hand.load(Ordering::Acquire);
            if !by_hand && self.rung.swap(false, Ordering::Acquire) {
                self.serve(index, core, &mut work);
                work.chains.clear();
            } else {
                schedule::park();
            }
        }
    }

    /// Serves what is available.
    fn serve<'m>(&self, index: u16, core: &'m Core, work: &mut Work<'m>) {
        let mut guard = self.lock();
        // The doorbell may have been one for before a reset.
        let served = |active: &&mut Active| self.is_live() && !active.stuck;
        let Some(active) = guard.as_mut().filter(served) else {
            return;
        };
        if let Err(why) = self.drain(index, active, core, work) {
            self.halt();
            drop(guard);
            core.stop_working(&why);
        }
    }

    /// Serves until nothing is available.
    ///
    /// The ring is not watched any longer than that: where driver and device
    /// share few processors, a watching thread takes from the driver what it
    /// waits for.
    fn drain<'m>(
        &self,
        index: u16,
        active: &mut Active,
        core: &'m Core,
        work: &mut Work<'m>,
    ) -> Result<(), String> {
        let memory = core.memory();
        loop {
            active
                .queue
                .disable_notification(memory)
                .map_err(|error| broken(&error))?;
            while self.batch(index, active, core, work)? {}
            if !self.is_live() || active.stuck {
                return Ok(());
            }
            let more = active
                .queue
                .enable_notification(memory)
                .map_err(|error| broken(&error))?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Serves one batch and interrupts for it. False: nothing was available.
    fn batch<'m>(
        &self,
        index: u16,
        active: &mut Active,
        core: &'m Core,
        work: &mut Work<'m>,
    ) -> Result<bool, String> {
        let memory = core.memory();
        let waiting = active
            .queue
            .avail_idx(memory, Ordering::Acquire)
            .map_err(|error| broken(&error))?;
        if waiting.0 == active.queue.next_avail() && work.chains.is_empty() {
            return Ok(false);
        }
        let faults = core.faults();
        if !faults.latency.is_zero() {
            schedule::sleep(faults.latency);
        }
        let disk = core.disk(&faults);
        let mut taken = false;
        let mut requests = 0;
        let mut bytes = 0;
        let mut end = Ok(());
        let most_requests = schedule::vary(1..=BATCH_REQUESTS, BATCH_REQUESTS);
        let most_taken = schedule::vary(1..=MOST_TAKEN, 1) as usize;
        while requests < most_requests && bytes < BATCH_BYTES && self.is_live() && !active.stuck {
            let room = most_taken.saturating_sub(work.chains.len());
            let available = active.queue.iter(memory).map_err(|error| broken(&error))?;
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
                core.driver_errors().add(
                    "a descriptor chain was made available again while the device had it (VIRTIO \
                     1.3 §2.7.13)",
                );
            }
            let outcome =
                work.buffers
                    .serve(memory, chain, &active.terms, disk, core.driver_errors());
            match outcome {
                Outcome::Done(written) => {
                    active.stuck = self.record(active, core, work)?;
                    let written = faults.used_length.unwrap_or(written);
                    match faults.used_id {
                        None => active
                            .queue
                            .add_used(memory, head, written)
                            .map_err(|error| broken(&error))?,
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
                    end = Err(why);
                    break;
                }
            }
        }
        // `virtio-queue` does not count wrong elements.
        let wanted = faults.used_id.is_some() || active.stuck;
        if requests > 0 && (interrupt_wanted(active, memory, core.driver_errors())? || wanted) {
            schedule::delay();
            core.queue_used(index);
        }
        schedule::point(Point::Interrupt);
        end?;
        if active.stuck {
            return Ok(false);
        }
        if !taken && self.is_live() {
            return Err("the available ring cannot be read any more".into());
        }
        Ok(taken)
    }

    /// Records the request that was served last, before the driver can see it;
    /// whether a glitch is to follow.
    fn record(&self, active: &Active, core: &Core, work: &mut Work<'_>) -> Result<bool, String> {
        let Some(served) = work.buffers.take_served() else {
            return Ok(false);
        };
        let available = active
            .queue
            .avail_idx(core.memory(), Ordering::Acquire)
            .map_err(|error| broken(&error))?;
        let not_taken = available.0.wrapping_sub(active.queue.next_avail());
        Ok(core.oddities().record(Served {
            waiting: not_taken.wrapping_add(work.chains.len() as u16),
            ..served
        }))
    }

    fn lock(&self) -> Guard<'_, Option<Active>> {
        self.active.lock()
    }
}

/// The queue that the driver set up, if it can be one.
fn checked(
    registers: &QueueRegisters,
    most: u16,
    terms: Terms,
    memory: &GuestMemoryMmap,
) -> Result<Queue, String> {
    let why = |error: Error| error.to_string();
    let mut queue = Queue::new(most).map_err(why)?;
    queue.try_set_size(registers.size).map_err(why)?;
    let [desc, driver, device] =
        [registers.desc, registers.driver, registers.device].map(GuestAddress);
    queue.try_set_desc_table_address(desc).map_err(why)?;
    queue.try_set_avail_ring_address(driver).map_err(why)?;
    queue.try_set_used_ring_address(device).map_err(why)?;
    queue.set_event_idx(terms.agreed & 1 << VIRTIO_RING_F_EVENT_IDX != 0);
    queue.set_ready(true);
    if !queue.is_valid(memory) {
        return Err(format!(
            "rings that are not completely in memory: descriptors at {:#x}, available ring at {:#x}, used \
             ring at {:#x}",
            registers.desc, registers.driver, registers.device
        ));
    }
    Ok(queue)
}

/// Adds a used element with an id that the queue may not have.
fn add_wrong_used(
    queue: &mut Queue,
    memory: &GuestMemoryMmap,
    id: u32,
    length: u32,
) -> Result<(), String> {
    let next = queue.next_used();
    let at = queue.used_ring() + 4 + 8 * u64::from(next % queue.size());
    memory
        .write_slice(
            &[id.to_le_bytes(), length.to_le_bytes()].concat(),
            GuestAddress(at),
        )
        .map_err(|error| error.to_string())?;
    queue.set_next_used(next.wrapping_add(1));
    publish_used(queue, memory, queue.next_used())
}

/// Stores `used.idx`.
fn publish_used(queue: &Queue, memory: &GuestMemoryMmap, index: u16) -> Result<(), String> {
    memory
        .store(
            index.to_le(),
            GuestAddress(queue.used_ring() + 2),
            Ordering::Release,
        )
        .map_err(|error| error.to_string())
}

/// Whether the driver zeroed `flags` and `idx` of the used ring.
fn used_ring_is_fresh(queue: &Queue, memory: &GuestMemoryMmap) -> bool {
    let flags: Result<u16, _> = memory.load(GuestAddress(queue.used_ring()), Ordering::Acquire);
    let index = queue.used_idx(memory, Ordering::Acquire);
    flags.is_ok_and(|flags| flags == 0) && index.is_ok_and(|index| index.0 == 0)
}

/// Whether the driver wants an interrupt for what was put into the used ring.
///
/// `virtio-queue` decides by `used_event`; the flag that takes its place
/// without EVENT_IDX it does not read (VIRTIO 1.3 §2.7.7).
fn interrupt_wanted(
    active: &mut Active,
    memory: &GuestMemoryMmap,
    driver_errors: &DriverErrors,
) -> Result<bool, String> {
    let wanted = active
        .queue
        .needs_notification(memory)
        .map_err(|error| broken(&error))?;
    let flags: u16 = memory
        .load(GuestAddress(active.queue.avail_ring()), Ordering::Relaxed)
        .map_err(|error| error.to_string())?;
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

/// What to say of an error of `virtio-queue`.
fn broken(error: &Error) -> String {
    match error {
        Error::InvalidAvailRingIndex => {
            "the available index went back, or on by more than the queue holds (VIRTIO 1.3 §2.7.6.1)"
                .into()
        }
        other => format!("the virtqueue cannot be used: {other}"),
    }
}
