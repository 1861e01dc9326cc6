//! A request from HwBuildIo, which builds it, through HwStartIo, which submits it, to
//! the DPC, which completes it.
//!
//! On its way a request is an `Srb` and a `MediaOp`, then [`Prepared`] in its slot, then
//! [`InFlight`] in the ring's table, and last a [`Completion`].

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arrayvec::ArrayVec;
use scsi::{
    Lun, MediaOp, ModeSelect, Outcome, Reply, Sense,
    block::{CachePolicy, Extent},
};
use storport::{
    Address, BuildIo, DataError, Direction, Element, Failure, Function, Scope, Srb, StartIo,
    StartedSrb, StorStatus, Table,
    level::{self, Below},
};
use virtio::{
    blk::{CacheMode, RequestError, Segment},
    slots::{Prepared, Slot, SlotAllocator},
    split_queue::{NotPublished, Rejection, RingFault, SplitQueue, Used},
    transport::{Notifier, Quiet},
};

use crate::{
    driver::Adapter,
    events::Event,
    registers::Window,
    report::{Report, number},
};

/// Requests that are taken off the used ring while the queue's lock is held once.
const BATCH: usize = 16;

/// Batches that one DPC completes before it issues the next DPC for the rest: as many
/// requests as the largest queue holds.
const TURNS: usize = (virtio::slots::MAX_SLOTS as usize) / BATCH;

/// More bytes than the longest answer to a command that needs no device has.
const LONGEST_REPLY: usize = 256;

/// What HwBuildIo passes to HwStartIo.
pub enum Request {
    /// A request for the device.
    Device {
        /// The request, until HwStartIo publishes it or a reset reclaims its slot.
        prepared: Prepared,
        /// What the request asks of the device.
        op: MediaOp,
    },
    /// Reset the device: its logical unit, target and bus are reset together.
    Reset,
}

/// A request in flight.
pub struct InFlight<'a> {
    srb: StartedSrb<'a>,
    /// What the request asks of the device. A durable write whose data is written is
    /// in flight again, as a plain write, while its flush is.
    op: MediaOp,
}

/// The table of requests in flight.
pub type Requests<'a> = Table<'a, Option<InFlight<'a>>>;

/// A request that the device has returned, with its outcome.
struct Completion<'a> {
    srb: StartedSrb<'a>,
    op: MediaOp,
    outcome: Result<(), RequestError>,
}

/// What the queue's lock protects: the ring, and whether requests may go to it.
pub struct Queue<'a> {
    ring: SplitQueue<'a, Requests<'a>>,
    admission: Admission<'a>,
    /// An initiator's request to reset the device, until that is done.
    reset: Option<StartedSrb<'a>>,
}

/// Whether requests may go to the device.
pub enum Admission<'a> {
    /// They may: the device is live.
    Open {
        /// The queue's notifier.
        notifier: Notifier<Window<'a>>,
        /// How to switch the device's write cache, if it can be switched.
        cache_mode: Option<CacheMode<Window<'a>>>,
    },
    /// Not now: the device is being reset. Requests are completed as BUSY.
    Wait,
    /// They fail: the device was given up, is gone, or has not confirmed its reset
    /// for too long.
    Closed(Failure),
}

/// How to complete a request that the queue does not take.
enum Answer {
    Busy,
    Fail(Failure),
    Refuse(Sense),
}

/// How far the used ring was drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Nothing is left.
    All,
    /// Something may be left.
    More,
    /// The queue is faulty.
    Faulty,
}

impl<'a> Queue<'a> {
    /// A queue whose device does not run yet.
    pub fn new(ring: SplitQueue<'a, Requests<'a>>) -> Self {
        Self {
            ring,
            admission: Admission::Wait,
            reset: None,
        }
    }

    /// The ring, to be given to the device.
    pub fn ring(&mut self) -> &mut SplitQueue<'a, Requests<'a>> {
        &mut self.ring
    }

    /// Sets whether requests may go to the device.
    pub fn admit(&mut self, admission: Admission<'a>) {
        self.admission = admission;
    }

    /// The protocol violation that marked the queue faulty.
    pub fn fault(&self) -> Option<RingFault> {
        self.ring.fault()
    }

    /// How many requests the device has.
    pub fn in_flight(&self) -> u16 {
        self.ring.in_flight()
    }

    /// Whether an initiator asks for a reset.
    pub fn is_reset_requested(&self) -> bool {
        self.reset.is_some()
    }

    /// Takes the initiator's request to reset the device.
    pub fn take_reset_request(&mut self) -> Option<StartedSrb<'a>> {
        self.reset.take()
    }

    /// Keeps an initiator's request to reset the device. Returns it if there is one
    /// already.
    fn request_reset(&mut self, srb: Srb<'a>) -> Option<Srb<'a>> {
        if self.reset.is_some() {
            return Some(srb);
        }
        self.reset = Some(srb.started());
        None
    }

    /// Completes all requests in flight as failed. The device is quiet: it has
    /// confirmed a reset or is gone, and writes to no memory. HwStartIo finds that
    /// prepared requests are stale.
    pub fn reclaim(&mut self, quiet: Quiet<'_>, slots: &SlotAllocator, failure: Failure) {
        self.ring
            .reclaim(quiet, slots, |InFlight { srb, .. }| srb.fail(failure));
    }
}

/// HwBuildIo: answers an SRB, or prepares a request for the device.
#[inline]
pub fn build<'a>(
    adapter: &Adapter<'a>,
    cx: &mut BuildIo<'_, 'a>,
    srb: Srb<'a>,
) -> Option<(Srb<'a>, Request)> {
    let function = srb.function();
    if function != Function::ExecuteScsi {
        return build_control(adapter, cx, srb, function);
    }
    let address = srb.address();
    if address.path != 0 || address.target != 0 {
        let failure = absent_unit(function, address);
        return fail(srb, failure.unwrap_or(Failure::InvalidRequest));
    }
    match adapter.disk.execute(Lun(address.lun.into()), srb.cdb()) {
        Ok(Outcome::Media(op)) => match op {
            MediaOp::Read(extent) | MediaOp::Write(extent) | MediaOp::DurableWrite(extent) => {
                transfer(adapter, cx, srb, op, extent)
            }
            MediaOp::Flush | MediaOp::SwitchCache(_) => flush(adapter, cx, srb, op),
        },
        Ok(Outcome::Good) => succeed(srb),
        Ok(Outcome::Data(reply)) => answer(cx, srb, reply),
        Ok(Outcome::ModeSelect(select)) => select_mode(adapter, cx, srb, select),
        Err(sense) => refuse(srb, sense),
    }
}

/// Prepares a read or a write.
#[inline]
fn transfer<'a>(
    adapter: &Adapter<'a>,
    cx: &mut BuildIo<'_, 'a>,
    srb: Srb<'a>,
    op: MediaOp,
    extent: Extent,
) -> Option<(Srb<'a>, Request)> {
    let (slots, requests) = (&adapter.slots, &adapter.requests);
    if !direction_fits(&srb, op.direction()) {
        return fail(srb, Failure::InvalidRequest);
    }
    let Some(list) = cx.scatter_gather(&srb) else {
        return fail(srb, Failure::InvalidRequest);
    };
    let Some(slot) = slots.reserve() else {
        return busy(srb);
    };
    let elements = list.elements();
    let prepared = match op {
        MediaOp::Read(_) => requests.read(slots, slot, extent, elements, segment),
        _ => requests.write(slots, slot, extent, elements, segment),
    };
    match prepared {
        Ok(prepared) => Some((srb, Request::Device { prepared, op })),
        Err(refused) => {
            // The data does not fit the CDB, or exceeds the limits that Storport knows.
            release(adapter, cx, refused.slot);
            fail(srb, Failure::InvalidRequest)
        }
    }
}

/// Prepares a flush. A switch of the write cache is one too: HwStartIo switches the
/// cache before it publishes the flush.
#[cold]
fn flush<'a>(
    adapter: &Adapter<'a>,
    cx: &mut BuildIo<'_, 'a>,
    srb: Srb<'a>,
    op: MediaOp,
) -> Option<(Srb<'a>, Request)> {
    let Some(slot) = adapter.slots.reserve() else {
        return busy(srb);
    };
    match adapter.requests.flush(&adapter.slots, slot) {
        Ok(prepared) => Some((srb, Request::Device { prepared, op })),
        Err(refused) => {
            release(adapter, cx, refused.slot);
            fail(srb, Failure::InvalidRequest)
        }
    }
}

/// An element of Storport's scatter/gather list, as the virtio crate takes it.
#[inline]
fn segment(element: &Element) -> Segment {
    Segment {
        address: element.address(),
        length: element.length(),
    }
}

/// Whether the initiator's buffer is mapped for data of this direction. A buffer
/// without data fits any.
#[inline]
fn direction_fits(srb: &Srb<'_>, direction: scsi::Direction) -> bool {
    let data = match direction {
        scsi::Direction::None => Direction::None,
        scsi::Direction::DataIn => Direction::In,
        scsi::Direction::DataOut => Direction::Out,
    };
    srb.direction().allows(data) || srb.data_length() == 0
}

/// Releases a slot without a request, under the queue's lock.
#[cold]
fn release<'a>(adapter: &Adapter<'a>, cx: &mut BuildIo<'_, 'a>, slot: Slot) {
    adapter
        .queue
        .with(cx, |queue| queue.ring.release(&adapter.slots, slot));
}

/// Answers a command with data that needs no device.
#[cold]
fn answer<'a>(
    cx: &BuildIo<'_, 'a>,
    mut srb: Srb<'a>,
    reply: Reply<'_>,
) -> Option<(Srb<'a>, Request)> {
    let mut bytes = [0; LONGEST_REPLY];
    let length = reply.write_to(&mut bytes);
    let bytes = bytes.get(..length).unwrap_or_default();
    if bytes.is_empty() || srb.data_length() == 0 {
        return succeed(srb);
    }
    if !direction_fits(&srb, scsi::Direction::DataIn) {
        return fail(srb, Failure::InvalidRequest);
    }
    let written = cx.data_in(&mut srb).map(|mut data| data.write(0, bytes));
    match written {
        Ok(written) => srb.succeed(u32::try_from(written).unwrap_or(0)),
        Err(error) => fail_unreachable(srb, error),
    }
    None
}

/// Completes a command without data.
#[cold]
fn succeed<'a>(srb: Srb<'a>) -> Option<(Srb<'a>, Request)> {
    srb.succeed(0);
    None
}

/// Checks a parameter list of MODE SELECT, and prepares what it asks for.
#[cold]
fn select_mode<'a>(
    adapter: &Adapter<'a>,
    cx: &mut BuildIo<'_, 'a>,
    mut srb: Srb<'a>,
    select: ModeSelect,
) -> Option<(Srb<'a>, Request)> {
    if !direction_fits(&srb, scsi::Direction::DataOut) {
        return fail(srb, Failure::InvalidRequest);
    }
    let mut list = [0; ModeSelect::MAX_LENGTH];
    let list = list.get_mut(..select.length()).unwrap_or_default();
    // The initiator may change its buffer at any time: it is copied once.
    let copied = match cx.data_out(&mut srb) {
        Ok(data) => data.read(0, list),
        Err(error) => {
            fail_unreachable(srb, error);
            return None;
        }
    };
    match select.parse(&adapter.disk, list.get(..copied).unwrap_or_default()) {
        Ok(Some(op)) => return flush(adapter, cx, srb, op),
        Ok(None) => srb.succeed(u32::try_from(select.length()).unwrap_or(0)),
        Err(sense) => return refuse(srb, sense),
    }
    None
}

/// Answers an SRB that is not a SCSI command, or prepares what it asks for.
#[cold]
fn build_control<'a>(
    adapter: &Adapter<'a>,
    cx: &mut BuildIo<'_, 'a>,
    srb: Srb<'a>,
    function: Function,
) -> Option<(Srb<'a>, Request)> {
    if let Some(failure) = absent_unit(function, srb.address()) {
        return fail(srb, failure);
    }
    match function {
        Function::ResetBus | Function::ResetDevice | Function::ResetLogicalUnit => {
            Some((srb, Request::Reset))
        }
        Function::Flush | Function::Shutdown if adapter.disk.write_cache.is_present() => {
            flush(adapter, cx, srb, MediaOp::Flush)
        }
        // The driver keeps no state for a unit. Changes of the adapter's state come
        // through HwAdapterControl.
        Function::Flush | Function::Shutdown | Function::Pnp { .. } | Function::Power => {
            srb.succeed(0);
            None
        }
        Function::ExecuteScsi | Function::Other(_) => fail(srb, Failure::InvalidRequest),
    }
}

/// Why a request fails that goes to a unit that is not there. A CDB for another
/// logical unit is answered as SCSI demands.
fn absent_unit(function: Function, address: Address) -> Option<Failure> {
    let needs_unit = matches!(
        function,
        Function::Flush | Function::Shutdown | Function::ResetLogicalUnit
    );
    let needs_target =
        needs_unit || matches!(function, Function::ExecuteScsi | Function::ResetDevice);
    if !needs_target && function != Function::ResetBus {
        None
    } else if address.path != 0 {
        Some(Failure::InvalidPathId)
    } else if needs_target && address.target != 0 {
        Some(Failure::InvalidTargetId)
    } else if needs_unit && address.lun != 0 {
        Some(Failure::InvalidLun)
    } else {
        None
    }
}

/// Fails a request in HwBuildIo.
#[cold]
fn fail<'a>(srb: Srb<'a>, failure: Failure) -> Option<(Srb<'a>, Request)> {
    srb.fail(failure);
    None
}

/// Sends a request back to Storport, which sends it again later.
#[cold]
fn busy<'a>(srb: Srb<'a>) -> Option<(Srb<'a>, Request)> {
    srb.busy();
    None
}

/// Refuses a command in HwBuildIo.
#[cold]
fn refuse<'a>(srb: Srb<'a>, sense: Sense) -> Option<(Srb<'a>, Request)> {
    check_condition(srb, sense);
    None
}

/// Completes a request whose data cannot be reached.
#[cold]
fn fail_unreachable(srb: Srb<'_>, error: DataError) {
    match error {
        DataError::Direction(_) => srb.fail(Failure::InvalidRequest),
        DataError::NotMapped(StorStatus::INSUFFICIENT_RESOURCES) => srb.busy(),
        DataError::NotMapped(_) => srb.fail(Failure::Error),
    }
}

/// HwStartIo: gives a request to the device.
#[inline]
pub fn start<'a>(adapter: &Adapter<'a>, cx: &mut StartIo<'_, 'a>, srb: Srb<'a>, request: Request) {
    let Request::Device { prepared, op } = request else {
        return start_reset(adapter, cx, srb);
    };
    let submitted = adapter
        .queue
        .with(cx, |queue| queue.submit(&adapter.slots, prepared, srb, op));
    match submitted {
        Ok(Some(notifier)) => notifier.notify(),
        Ok(None) => {}
        Err((srb, answer)) => complete_unsubmitted(adapter, cx, srb, op, answer),
    }
}

impl<'a> Queue<'a> {
    /// Publishes a request of HwStartIo. Returns the notifier if the device wants a
    /// notification. The caller sends it without the lock, since that may take long.
    #[inline]
    fn submit(
        &mut self,
        slots: &SlotAllocator,
        prepared: Prepared,
        srb: Srb<'a>,
        op: MediaOp,
    ) -> Result<Option<Notifier<Window<'a>>>, (Srb<'a>, Answer)> {
        let notifier = match self.admitted(op) {
            Ok(notifier) => notifier.clone(),
            Err(answer) => {
                self.ring.cancel(slots, prepared);
                return Err((srb, answer));
            }
        };
        let start = |srb: Srb<'a>| InFlight {
            srb: srb.started(),
            op,
        };
        match self.ring.publish(slots, prepared, srb, start) {
            Ok(()) => Ok(self.ring.notification_needed().then_some(notifier)),
            Err(NotPublished { given, reason }) => Err((
                given,
                match reason {
                    // A reset comes, or came.
                    Rejection::Faulty(_) | Rejection::Stale => Answer::Busy,
                    Rejection::Unfit => Answer::Fail(Failure::InvalidRequest),
                },
            )),
        }
    }

    /// The queue's notifier, if the request may go to the device now.
    #[inline]
    fn admitted(&self, op: MediaOp) -> Result<&Notifier<Window<'a>>, Answer> {
        let (notifier, cache_mode) = match &self.admission {
            Admission::Open {
                notifier,
                cache_mode,
            } => (notifier, cache_mode),
            Admission::Wait => return Err(Answer::Busy),
            Admission::Closed(failure) => return Err(Answer::Fail(*failure)),
        };
        if let MediaOp::SwitchCache(switch) = op
            && !switch_cache(cache_mode.as_ref(), switch.policy)
        {
            return Err(Answer::Refuse(Sense::INTERNAL_TARGET_FAILURE));
        }
        Ok(notifier)
    }
}

/// Switches the device's write cache. Returns false if the device does not switch it.
#[cold]
fn switch_cache(cache_mode: Option<&CacheMode<Window<'_>>>, policy: CachePolicy) -> bool {
    cache_mode.is_some_and(|cache_mode| cache_mode.set(policy).is_ok())
}

/// Keeps a request to reset the device, and issues the DPC that begins the reset.
#[cold]
fn start_reset<'a>(adapter: &Adapter<'a>, cx: &mut StartIo<'_, 'a>, srb: Srb<'a>) {
    let second = adapter.queue.with(cx, |queue| queue.request_reset(srb));
    if let Some(srb) = second {
        return srb.busy();
    }
    adapter.attention.issue(cx);
}

/// Completes a request that the queue did not take.
#[cold]
fn complete_unsubmitted<'a>(
    adapter: &Adapter<'a>,
    cx: &mut StartIo<'_, 'a>,
    srb: Srb<'a>,
    op: MediaOp,
    answer: Answer,
) {
    match answer {
        Answer::Busy => {
            // The request waits for a reset: the DPC makes its next step, if one is due.
            adapter.attention.issue(cx);
            srb.busy();
        }
        Answer::Fail(failure) => srb.fail(failure),
        Answer::Refuse(sense) => {
            if let MediaOp::SwitchCache(switch) = op {
                Report::cache_mode_unchanged(switch.policy).log_in_start_io(cx);
            }
            check_condition(srb, sense);
        }
    }
}

/// The requests of a batch, by their outcome.
#[derive(Default)]
struct Batch<'a> {
    /// Those that succeeded, with the bytes of data that moved.
    succeeded: ArrayVec<(StartedSrb<'a>, u32), BATCH>,
    /// Those that failed.
    failed: ArrayVec<(StartedSrb<'a>, Sense), BATCH>,
}

impl<'a> Batch<'a> {
    #[inline]
    fn is_full(&self) -> bool {
        self.succeeded.is_full() || self.failed.is_full()
    }

    /// Adds a request to a batch that is not full.
    #[inline]
    fn push(&mut self, completion: Completion<'a>) {
        let Completion { srb, op, outcome } = completion;
        match outcome {
            Ok(()) => {
                let _: Result<(), _> = self.succeeded.try_push((srb, op.bytes()));
            }
            Err(error) => self.push_failed(srb, sense_of(error, op)),
        }
    }

    #[cold]
    fn push_failed(&mut self, srb: StartedSrb<'a>, sense: Sense) {
        let _: Result<(), _> = self.failed.try_push((srb, sense));
    }

    /// Completes the requests.
    #[inline]
    fn complete(&mut self) {
        for (srb, bytes) in self.succeeded.drain(..) {
            srb.succeed(bytes);
        }
        if !self.failed.is_empty() {
            self.complete_failed();
        }
    }

    #[cold]
    fn complete_failed(&mut self) {
        for (srb, sense) in self.failed.drain(..) {
            check_condition(srb, sense);
        }
    }
}

/// Completes what the device has finished. The lock is held while requests are
/// taken off the used ring, not while they are completed.
#[inline]
pub fn drain<'a, S>(adapter: &Adapter<'a>, cx: &mut S) -> Drained
where
    S: Scope<'a>,
    S::Level: Below<level::DpcHeld>,
{
    for _ in 0..TURNS {
        let mut batch = Batch::default();
        let (drained, notifier) = adapter
            .queue
            .with(cx, |queue| queue.take_used(adapter, &mut batch));
        if let Some(notifier) = notifier {
            notifier.notify();
        }
        batch.complete();
        if drained != Drained::More {
            return drained;
        }
    }
    Drained::More
}

impl<'a> Queue<'a> {
    /// Takes finished requests off the used ring, until `batch` is full or nothing
    /// is left. Returns the notifier if a flush was published that the device must be
    /// notified of.
    #[inline(always)]
    fn take_used(
        &mut self,
        adapter: &Adapter<'a>,
        batch: &mut Batch<'a>,
    ) -> (Drained, Option<Notifier<Window<'a>>>) {
        let mut notifier = None;
        while !batch.is_full() {
            match self.ring.pop_used() {
                Ok(Some(used)) => {
                    if let Some(completion) = self.take_one(adapter, used, &mut notifier) {
                        batch.push(completion);
                    }
                }
                Ok(None) if self.ring.rearm_interrupts() => break,
                Ok(None) => return (Drained::All, notifier),
                Err(_) => return (Drained::Faulty, notifier),
            }
        }
        (Drained::More, notifier)
    }

    /// Reads the outcome of a request that the device has returned, and releases its
    /// slot. Returns `None` if the request stays in flight.
    #[inline(always)]
    fn take_one(
        &mut self,
        adapter: &Adapter<'a>,
        used: Used<InFlight<'a>>,
        notifier: &mut Option<Notifier<Window<'a>>>,
    ) -> Option<Completion<'a>> {
        let outcome = adapter.requests.outcome(&used.slot);
        if outcome == Err(RequestError::NoStatus) {
            // The device has not finished it. The next `pop_used` returns the fault.
            self.ring.take_back(used);
            return None;
        }
        let Used {
            slot,
            payload: InFlight { srb, op },
            written,
        } = used;
        adapter.short_used.check(written, op);
        if let (Ok(()), MediaOp::DurableWrite(extent)) = (outcome, op) {
            return self.flush_write(adapter, slot, srb, extent, notifier);
        }
        self.ring.release(&adapter.slots, slot);
        if let MediaOp::SwitchCache(switch) = op {
            self.record_switch(adapter, switch.policy, outcome.is_ok());
        }
        Some(Completion { srb, op, outcome })
    }

    /// Follows a write with FUA by its flush, in the same slot. The device's cache may
    /// be flushed only now: a flush covers the writes that were completed before it
    /// (VIRTIO 1.3 §5.2.6).
    #[cold]
    fn flush_write(
        &mut self,
        adapter: &Adapter<'a>,
        slot: Slot,
        srb: StartedSrb<'a>,
        extent: Extent,
        notifier: &mut Option<Notifier<Window<'a>>>,
    ) -> Option<Completion<'a>> {
        let op = MediaOp::Write(extent);
        let prepared = match adapter.requests.flush(&adapter.slots, slot) {
            Ok(prepared) => prepared,
            Err(refused) => {
                // The device has no flush, so its writes are durable.
                self.ring.release(&adapter.slots, refused.slot);
                let outcome = Ok(());
                return Some(Completion { srb, op, outcome });
            }
        };
        let Admission::Open { notifier: open, .. } = &self.admission else {
            self.ring.cancel(&adapter.slots, prepared);
            return fail_started(srb);
        };
        let write = InFlight { srb, op };
        let published = self
            .ring
            .publish(&adapter.slots, prepared, write, |write| write);
        match published {
            Ok(()) => {
                if self.ring.notification_needed() {
                    *notifier = Some(open.clone());
                }
                None
            }
            Err(NotPublished { given, .. }) => fail_started(given.srb),
        }
    }

    /// Tells initiators how the write cache was switched. One that is on is said to be
    /// on even if the flush failed, or if the switch was the first of two whose flushes
    /// ended in the other order: an initiator would miss data, not a flush too many.
    #[cold]
    fn record_switch(&self, adapter: &Adapter<'a>, policy: CachePolicy, is_flushed: bool) {
        let policy = match &self.admission {
            Admission::Open {
                cache_mode: Some(cache_mode),
                ..
            } => cache_mode.get(),
            _ => policy,
        };
        if policy == CachePolicy::WriteBack || is_flushed {
            adapter.disk.write_cache.switch(policy);
        }
    }
}

/// Fails a write whose flush cannot be published, because the device is being reset. A
/// started request cannot be completed as BUSY; the initiator sends the write again.
fn fail_started<'a>(srb: StartedSrb<'a>) -> Option<Completion<'a>> {
    srb.fail(Failure::BusReset);
    None
}

/// The sense data of a request that failed.
#[cold]
fn sense_of(error: RequestError, op: MediaOp) -> Sense {
    match (error, op) {
        (RequestError::Io, MediaOp::Read(extent)) => Sense::read_failed(extent.lba()),
        (RequestError::Io, MediaOp::Write(extent) | MediaOp::DurableWrite(extent)) => {
            Sense::write_failed(extent.lba())
        }
        (RequestError::Io, MediaOp::Flush | MediaOp::SwitchCache(_)) => Sense::FLUSH_FAILED,
        (_, _) => Sense::INTERNAL_TARGET_FAILURE,
    }
}

/// Completes with CHECK CONDITION.
#[cold]
fn check_condition<S>(srb: Srb<'_, S>, sense: Sense) {
    let mut buffer = [0; Sense::FIXED_LENGTH];
    let length = sense.write_to(&mut buffer);
    srb.check_condition(buffer.get(..length).unwrap_or_default());
}

/// Counts requests whose used length the device understated. The status decides how
/// they are completed, so this is only for the log and for a debugger.
#[derive(Debug, Default)]
pub struct ShortUsed {
    /// The first of them: bytes reported in the upper half, bytes writable in the
    /// lower.
    first: AtomicU64,
    /// How many there were. Processors that count at the same time may lose one.
    count: AtomicU32,
}

impl ShortUsed {
    /// Counts a request if the device reports fewer bytes as `written` than it was
    /// allowed to write: the data of a read, and the status.
    #[inline]
    fn check(&self, written: u32, op: MediaOp) {
        let data = match op {
            MediaOp::Read(extent) => extent.bytes(),
            _ => 0,
        };
        // Does not wrap: an extent has 2^31 bytes at most.
        let writable = data.wrapping_add(1);
        if written < writable {
            self.count(written, writable);
        }
    }

    #[cold]
    fn count(&self, written: u32, writable: u32) {
        let count = self.count.load(Ordering::Relaxed);
        if count == 0 {
            let first = u64::from(written) << 32 | u64::from(writable);
            self.first.store(first, Ordering::Relaxed);
        }
        self.count.store(count.saturating_add(1), Ordering::Relaxed);
    }

    /// The event for the first of them, once.
    #[inline]
    pub fn take_report(&self) -> Option<Report> {
        if self.first.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.report()
    }

    #[cold]
    fn report(&self) -> Option<Report> {
        let first = self.first.swap(0, Ordering::Relaxed);
        let (written, writable) = (first >> 32, first & u64::from(u32::MAX));
        let inserts = [number(written), number(writable)];
        (first != 0).then(|| Report::new(Event::UsedLengthShort, inserts))
    }
}
