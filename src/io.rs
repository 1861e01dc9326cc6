//! The path of a request: HwBuildIo builds it, HwStartIo submits it, and the DPC completes
//! it.
//!
//! On this path a request is first an `Srb` and a `MediaOp`, then a [`Prepared`] request in
//! its slot, then an [`InFlight`] request in the queue's table, and last one of a [`Batch`].

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrayvec::ArrayVec;
use scsi::{
    Lun, MediaOp, ModeSelect, Outcome, Reply, Sense,
    block::{CachePolicy, Extent},
};
use storport::{
    Address, BuildIo, DataError, Direction, DpcLocked, Element, Failure, Function, Scope, Srb,
    StartIo, StartedSrb, StorStatus, Table,
    level::{self, Below},
};
use virtio::{
    blk::{CacheMode, Refusal, Refused, RequestError, Requests, Segment},
    queue::{NotPublished, Rejection, RingFault, Used, VirtQueue},
    slots::{Prepared, Slot, SlotAllocator, SlotSize},
    transport::{EnabledQueue, Notifier, Quiet},
};

use crate::{
    driver::Adapter,
    events::Event,
    registers::{NotifyRegister, Window},
    report::{Report, number},
};

/// The maximum number of requests that are completed for one acquisition of the queue's
/// lock.
const BATCH: usize = 16;

/// How many batches one DPC completes before it issues the next DPC for the rest. Together
/// they are as many requests as the largest queue holds.
const TURNS: usize = (virtio::slots::MAX_SLOTS as usize) / BATCH;

/// The size of the buffer for the answer to a command that needs no device. Every answer is
/// shorter.
const LONGEST_REPLY: usize = 256;

/// What HwBuildIo passes to HwStartIo.
pub enum Request {
    /// A request for the device.
    Device {
        /// The request in its slot. It becomes stale if a reset or `complete_without_slot` frees
        /// the slot.
        prepared: Prepared,
        /// The operation that the request asks for.
        op: MediaOp,
    },
    /// Reset the device. A reset of the logical unit, the target or the bus is the same.
    Reset,
    /// A request for the device for which no slot is free. HwStartIo completes it, because in a
    /// dump stack only HwStartIo and polls make the next step of a reset, which frees slots.
    NoSlot,
}

/// A request in flight.
pub struct InFlight<'a> {
    srb: StartedSrb<'a>,
    /// The operation that the request asks for. After the data of a durable write is
    /// written, the request is in flight a second time, as a plain write, until its flush
    /// completes.
    op: MediaOp,
}

/// The table of requests in flight.
pub type InFlightTable<'a> = Table<'a, Option<InFlight<'a>>>;

/// One of the device's queues, and the memory of its requests. It has cache lines of its own, so
/// that processors that use different queues do not wait for each other's.
#[repr(align(64))]
pub struct RequestQueue<'a> {
    /// The ring, and the requests in flight.
    pub locked: DpcLocked<'a, Queue<'a>>,
    /// Which slots are free.
    pub slots: &'a SlotAllocator,
    /// The notifications that are being sent.
    pub notifying: Notifying,
    /// The shared memory of the slots, in which requests are prepared.
    pub requests: Requests<'a>,
}

/// The data under the queue's lock: the ring, and whether it takes requests.
pub struct Queue<'a> {
    ring: VirtQueue<'a, InFlightTable<'a>>,
    /// Shows that the device has enabled the queue, from then until DRIVER_OK.
    /// [`Life`](crate::device::Life) makes the notifier of it.
    pub enabled: Option<EnabledQueue<NotifyRegister<'a>>>,
    admission: Admission<'a>,
    /// An initiator's request to reset the device, until [`Life`](crate::device::Life) takes
    /// it. Only the first queue has one.
    reset: Option<StartedSrb<'a>>,
}

/// Whether requests are submitted to the device.
pub enum Admission<'a> {
    /// They are submitted: the device is live.
    Open {
        /// The queue's notifier.
        notifier: Notifier<NotifyRegister<'a>>,
        /// The device's `writeback` field. `None` if the write cache cannot be switched.
        cache_mode: Option<CacheMode<Window<'a>>>,
    },
    /// They are completed as BUSY: the device is being reset.
    Wait,
    /// They fail: the device was given up, is gone, or has not confirmed a reset for too
    /// long.
    Closed(Failure),
}

/// How to complete a request that the queue does not accept.
enum Answer {
    Busy,
    Fail(Failure),
    Refuse(Sense),
}

/// The result of draining a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// No finished request is left.
    All,
    /// Finished requests may be left.
    More,
    /// The queue is faulty.
    Faulty,
}

impl<'a> Queue<'a> {
    /// Makes a queue for a device that is not started yet.
    pub fn new(ring: VirtQueue<'a, InFlightTable<'a>>) -> Self {
        Self {
            ring,
            enabled: None,
            admission: Admission::Wait,
            reset: None,
        }
    }

    /// The ring, for the start of the device.
    pub fn ring(&mut self) -> &mut VirtQueue<'a, InFlightTable<'a>> {
        &mut self.ring
    }

    /// Sets whether requests are submitted to the device.
    pub fn admit(&mut self, admission: Admission<'a>) {
        self.admission = admission;
    }

    /// The protocol violation that marked the queue faulty.
    pub fn fault(&self) -> Option<RingFault> {
        self.ring.fault()
    }

    /// How many requests are in flight.
    pub fn in_flight(&self) -> u16 {
        self.ring.in_flight()
    }

    /// Whether an initiator's request to reset the device waits.
    pub fn is_reset_requested(&self) -> bool {
        self.reset.is_some()
    }

    /// Takes the initiator's request to reset the device.
    pub fn take_reset_request(&mut self) -> Option<StartedSrb<'a>> {
        self.reset.take()
    }

    /// Stores an initiator's request to reset the device. Returns `srb` if another request
    /// is stored already.
    fn request_reset(&mut self, srb: Srb<'a>) -> Option<Srb<'a>> {
        if self.reset.is_some() {
            return Some(srb);
        }
        self.reset = Some(srb.started());
        None
    }

    /// Takes the next request in flight out of the queue. Once there is none, empties the queue:
    /// see [`VirtQueue::reclaim`].
    pub fn reclaim(&mut self, quiet: Quiet<'_>, slots: &SlotAllocator) -> Option<StartedSrb<'a>> {
        let InFlight { srb, .. } = self.ring.reclaim(quiet, slots)?;
        Some(srb)
    }

    /// Returns the notification that the device needs for the requests that were published
    /// since the last call. Without a free place in `notifying` it is sent here.
    #[inline(always)]
    fn notification<'n>(&mut self, notifying: &'n Notifying) -> Option<Notification<'n, 'a>> {
        if !self.ring.notification_needed() {
            return None;
        }
        let Admission::Open { notifier, .. } = &self.admission else {
            return None;
        };
        let place = notifying.begin();
        if place.is_none() {
            notifier.notify();
        }
        place.map(|place| Notification {
            notifier: notifier.clone(),
            place,
        })
    }
}

/// The notifications that are being sent. They are sent after the queue's lock was released,
/// because a register write may take long. The device must not be reset before they are sent.
#[derive(Debug, Default)]
pub struct Notifying([AtomicBool; MAX_NOTIFYING]);

/// How many notifications can be sent at the same time without the queue's lock.
const MAX_NOTIFYING: usize = 8;

impl Notifying {
    /// Takes a free place. The caller holds the queue's lock.
    #[inline]
    fn begin(&self) -> Option<&AtomicBool> {
        // Only the holder of the lock sets a place, so a load and a store are enough.
        let place = self.0.iter().find(|place| !place.load(Ordering::Relaxed))?;
        place.store(true, Ordering::Relaxed);
        Some(place)
    }

    /// Whether no notification is being sent. The caller holds the queue's lock.
    pub fn is_empty(&self) -> bool {
        // Acquire, with the store in `Notification::send`: the reset that the caller begins comes
        // after the notification.
        !self.0.iter().any(|place| place.load(Ordering::Acquire))
    }
}

/// A notification to be sent after the queue's lock was released.
#[must_use = "the device waits for it, and is never reset without it"]
struct Notification<'n, 'a> {
    notifier: Notifier<NotifyRegister<'a>>,
    place: &'n AtomicBool,
}

impl Notification<'_, '_> {
    #[inline]
    fn send(self) {
        self.notifier.notify();
        self.place.store(false, Ordering::Release);
    }
}

/// HwBuildIo: completes an SRB that needs no device, or prepares a request for the device.
/// Returns `None` if it completed the SRB. Runs without a lock.
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
    if address.path == 0
        && address.target == 0
        && let Some(op) = adapter.disk.transfer(Lun(address.lun.into()), srb.cdb())
        && let Some(extent) = op.extent()
    {
        return transfer(adapter, cx, srb, op, extent);
    }
    build_command(adapter, cx, srb)
}

/// Completes a SCSI command that needs no device, or prepares the request that it needs.
#[inline(never)]
fn build_command<'a>(
    adapter: &Adapter<'a>,
    cx: &mut BuildIo<'_, 'a>,
    srb: Srb<'a>,
) -> Option<(Srb<'a>, Request)> {
    let address = srb.address();
    if address.path != 0 || address.target != 0 {
        let failure = absent_unit(Function::ExecuteScsi, address);
        return fail(srb, failure.unwrap_or(Failure::InvalidRequest));
    }
    match adapter.disk.execute(Lun(address.lun.into()), srb.cdb()) {
        Ok(Outcome::Media(op)) => match op.extent() {
            Some(extent) => transfer_elsewhere(adapter, cx, srb, op, extent),
            None => flush(adapter, cx, srb, op),
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
    let queue = adapter.queue_of_processor(cx);
    if direction_fits(&srb, op.direction())
        && queue.requests.slot_size(extent) == SlotSize::Small
        && let Some(slot) = queue.slots.reserve(SlotSize::Small)
    {
        return transfer_in(adapter, queue, slot, cx, srb, op, extent);
    }
    transfer_elsewhere(adapter, cx, srb, op, extent)
}

/// Prepares a read or a write that needs a large slot, or for which this processor's queue has no
/// free slot. It is a function of its own, because otherwise each request would pay for this case.
#[inline(never)]
fn transfer_elsewhere<'a>(
    adapter: &Adapter<'a>,
    cx: &mut BuildIo<'_, 'a>,
    srb: Srb<'a>,
    op: MediaOp,
    extent: Extent,
) -> Option<(Srb<'a>, Request)> {
    if !direction_fits(&srb, op.direction()) {
        return fail(srb, Failure::InvalidRequest);
    }
    // All queues have the same limits.
    match adapter.reserve(cx, adapter.first.requests.slot_size(extent)) {
        Some((queue, slot)) => transfer_in(adapter, queue, slot, cx, srb, op, extent),
        None => without_slot(srb),
    }
}

/// Prepares a read or a write in a slot of `queue`.
#[inline(always)]
fn transfer_in<'a>(
    adapter: &Adapter<'a>,
    queue: &'a RequestQueue<'a>,
    slot: Slot,
    cx: &mut BuildIo<'_, 'a>,
    srb: Srb<'a>,
    op: MediaOp,
    extent: Extent,
) -> Option<(Srb<'a>, Request)> {
    let Some(list) = cx.scatter_gather(&srb) else {
        release(queue, cx, slot);
        return fail(srb, Failure::InvalidRequest);
    };
    let (slots, requests) = (queue.slots, &queue.requests);
    let elements = list.elements();
    let prepared = match op {
        MediaOp::Read(_) => requests.read(slots, slot, extent, elements, segment),
        _ => requests.write(slots, slot, extent, elements, segment),
    };
    match prepared {
        Ok(prepared) => Some((srb, Request::Device { prepared, op })),
        Err(refused) => transfer_refused(adapter, queue, refused, cx, srb),
    }
}

/// Prepares a read or a write that was refused in a slot of `queue`: in a large slot, if the data
/// is too scattered for a small one. Otherwise fails the request, because its data does not fit the
/// CDB, or exceeds the limits that Storport knows.
#[cold]
#[inline(never)]
fn transfer_refused<'a>(
    adapter: &Adapter<'a>,
    queue: &'a RequestQueue<'a>,
    refused: Refused,
    cx: &mut BuildIo<'_, 'a>,
    srb: Srb<'a>,
) -> Option<(Srb<'a>, Request)> {
    let Refused { slot, reason } = refused;
    let was_small = slot.size() == SlotSize::Small;
    release(queue, cx, slot);
    if reason != Refusal::TooScattered || !was_small || !queue.requests.has_large_slots() {
        return fail(srb, Failure::InvalidRequest);
    }
    // Executed again, because parameters for the operation would cost every request.
    if let Ok(Outcome::Media(op)) = adapter.disk.execute(Lun(0), srb.cdb())
        && let Some(extent) = op.extent()
    {
        return match adapter.reserve(cx, SlotSize::Large) {
            Some((queue, slot)) => transfer_in(adapter, queue, slot, cx, srb, op, extent),
            None => without_slot(srb),
        };
    }
    fail(srb, Failure::InvalidRequest)
}

/// Prepares a flush. A switch of the write cache is a flush too: HwStartIo switches the
/// cache, and then publishes the flush.
#[cold]
fn flush<'a>(
    adapter: &Adapter<'a>,
    cx: &mut BuildIo<'_, 'a>,
    srb: Srb<'a>,
    op: MediaOp,
) -> Option<(Srb<'a>, Request)> {
    let reserved = match op {
        // All switches use the first queue, so its lock keeps two of them apart.
        MediaOp::SwitchCache(_) => adapter
            .first
            .slots
            .reserve(SlotSize::Small)
            .map(|slot| (adapter.first, slot)),
        _ => adapter.reserve(cx, SlotSize::Small),
    };
    let Some((queue, slot)) = reserved else {
        return without_slot(srb);
    };
    match queue.requests.flush(queue.slots, slot) {
        Ok(prepared) => Some((srb, Request::Device { prepared, op })),
        Err(refused) => {
            release(queue, cx, refused.slot);
            fail(srb, Failure::InvalidRequest)
        }
    }
}

/// Converts an element of Storport's scatter/gather list for the virtio crate.
#[inline]
fn segment(element: &Element) -> Segment {
    Segment {
        address: element.address(),
        length: element.length(),
    }
}

/// Whether the SRB's flags allow data in this direction. An SRB without data fits every
/// direction.
#[inline]
fn direction_fits(srb: &Srb<'_>, direction: scsi::Direction) -> bool {
    let data = match direction {
        scsi::Direction::None => Direction::None,
        scsi::Direction::DataIn => Direction::In,
        scsi::Direction::DataOut => Direction::Out,
    };
    srb.direction().allows(data) || srb.data_length() == 0
}

/// Releases a slot for which no request was prepared, under the queue's lock.
#[cold]
fn release<'a>(queue: &RequestQueue<'a>, cx: &mut BuildIo<'_, 'a>, slot: Slot) {
    queue
        .locked
        .with(cx, |open| open.ring.release(queue.slots, slot));
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

/// Checks the parameter list of MODE SELECT. Prepares a flush if the list switches the write
/// cache, and otherwise completes the command.
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
    // The initiator may write to its buffer at any time, so the list is copied once.
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

/// Completes an SRB that is not a SCSI command, or prepares the request that it needs.
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
        // The driver has no state for a unit, and HwAdapterControl handles the adapter's
        // state. So there is nothing to do.
        Function::Flush | Function::Shutdown | Function::Pnp { .. } | Function::Power => {
            srb.succeed_control();
            None
        }
        Function::ExecuteScsi | Function::Other(_) => fail(srb, Failure::InvalidRequest),
    }
}

/// Returns the failure for a request to a bus, target or logical unit that does not exist.
/// Returns `None` for a CDB to another logical unit: SCSI defines the answer.
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

/// Passes a request for which no slot is free to HwStartIo.
#[cold]
#[inline(never)]
fn without_slot<'a>(srb: Srb<'a>) -> Option<(Srb<'a>, Request)> {
    Some((srb, Request::NoSlot))
}

/// Completes a command with CHECK CONDITION in HwBuildIo.
#[cold]
fn refuse<'a>(srb: Srb<'a>, sense: Sense) -> Option<(Srb<'a>, Request)> {
    check_condition(srb, sense);
    None
}

/// Completes a request whose data cannot be accessed.
#[cold]
fn fail_unreachable(srb: Srb<'_>, error: DataError) {
    match error {
        DataError::Direction(_) => srb.fail(Failure::InvalidRequest),
        DataError::NotMapped(StorStatus::INSUFFICIENT_RESOURCES) => srb.busy(),
        DataError::NotMapped(_) => srb.fail(Failure::Error),
    }
}

/// HwStartIo: submits a request to the device.
#[inline]
pub fn start<'a>(adapter: &Adapter<'a>, cx: &mut StartIo<'_, 'a>, srb: Srb<'a>, request: Request) {
    let Request::Device { prepared, op } = request else {
        return start_other(adapter, cx, srb, request);
    };
    let Some(queue) = adapter.queues.get(usize::from(prepared.queue())) else {
        return srb.busy();
    };
    let mut notification = None;
    let submitted = queue.locked.with(cx, |open| {
        open.submit(adapter, queue, prepared, srb, op)?;
        // Not part of the result: its bytes would overlap those of an error, and every request
        // would pay for taking them apart.
        notification = open.notification(&queue.notifying);
        Ok(())
    });
    if let Some(notification) = notification {
        notification.send();
    }
    if let Err((srb, answer)) = submitted {
        complete_unsubmitted(adapter, cx, srb, op, answer);
    }
}

impl<'a> Queue<'a> {
    /// Publishes a request of HwStartIo.
    ///
    /// # Errors
    /// The SRB and how to complete it, if it was not published. Its slot is free.
    #[inline]
    fn submit(
        &mut self,
        adapter: &Adapter<'a>,
        queue: &RequestQueue<'a>,
        prepared: Prepared,
        srb: Srb<'a>,
        op: MediaOp,
    ) -> Result<(), (Srb<'a>, Answer)> {
        if let Err(answer) = self.check(adapter, op) {
            self.ring.cancel(queue.slots, prepared);
            return Err((srb, answer));
        }
        let start = |srb: Srb<'a>| InFlight {
            srb: srb.started(),
            op,
        };
        match self.ring.publish(queue.slots, prepared, srb, start) {
            Ok(()) => Ok(()),
            Err(NotPublished { given, reason }) => Err((
                given,
                match reason {
                    // The device will be reset, or the slot was freed by a reset or by
                    // `complete_without_slot`.
                    Rejection::Faulty(_) | Rejection::Stale => Answer::Busy,
                    Rejection::Unfit => Answer::Fail(Failure::InvalidRequest),
                },
            )),
        }
    }

    /// Checks whether a request may be submitted now. Switches the write cache if the request
    /// asks for that.
    ///
    /// # Errors
    /// How to complete the request otherwise.
    #[inline]
    fn check(&self, adapter: &Adapter<'a>, op: MediaOp) -> Result<(), Answer> {
        match &self.admission {
            Admission::Open { cache_mode, .. } => match op {
                MediaOp::SwitchCache(switch) => {
                    switch_cache(adapter, cache_mode.as_ref(), switch.policy())
                }
                _ => Ok(()),
            },
            Admission::Wait => Err(Answer::Busy),
            Admission::Closed(failure) => Err(Answer::Fail(*failure)),
        }
    }
}

/// Switches the device's write cache.
///
/// # Errors
/// How to complete the request, if the device did not switch its cache.
#[cold]
fn switch_cache<'a>(
    adapter: &Adapter<'a>,
    cache_mode: Option<&CacheMode<Window<'a>>>,
    policy: CachePolicy,
) -> Result<(), Answer> {
    let failed = Answer::Refuse(Sense::INTERNAL_TARGET_FAILURE);
    let Some(cache_mode) = cache_mode else {
        return Err(failed);
    };
    if policy == CachePolicy::WriteBack {
        // MODE SENSE reports a cache that is on as on: see `record_switch`.
        adapter.disk.write_cache.switch(policy);
    }
    if cache_mode.set(policy).is_ok() {
        return Ok(());
    }
    adapter.disk.write_cache.switch(cache_mode.get());
    Err(failed)
}

/// HwStartIo for a request that is not published. It is a function of its own, because a branch in
/// [`start`] for each kind of request would cost every request five instructions.
#[cold]
#[inline(never)]
fn start_other<'a>(
    adapter: &Adapter<'a>,
    cx: &mut StartIo<'_, 'a>,
    srb: Srb<'a>,
    request: Request,
) {
    match request {
        Request::NoSlot => complete_without_slot(adapter, cx, srb),
        // `start` publishes a request for the device, and does not pass it on.
        Request::Device { .. } | Request::Reset => start_reset(adapter, cx, srb),
    }
}

/// Completes a request for which no slot is free: as BUSY, so that Storport sends it again later,
/// or as failed if the device was given up, is gone, or has not confirmed its reset.
fn complete_without_slot<'a>(adapter: &Adapter<'a>, cx: &mut StartIo<'_, 'a>, srb: Srb<'a>) {
    let (mut closed, mut is_open) = (None, true);
    for queue in adapter.active_queues() {
        queue.locked.with(cx, |open| {
            // If Storport drops requests between HwBuildIo and HwStartIo, their slots stay taken.
            // Once nothing is in flight, no completion frees a slot, so they are freed here. A
            // request that Storport starts after all is completed as BUSY then.
            if open.in_flight() == 0 {
                open.ring.discard_prepared(queue.slots);
            }
            match open.admission {
                Admission::Open { .. } => {}
                Admission::Wait => is_open = false,
                Admission::Closed(failure) => (closed, is_open) = (Some(failure), false),
            }
        });
    }
    // A full queue of a live device is no reason for a step of the life cycle, which reads a
    // register: many large requests fill the large slots again and again.
    if !is_open {
        adapter.attention.issue(cx);
    }
    match closed {
        Some(failure) => srb.fail(failure),
        None => srb.busy(),
    }
}

/// Stores a request to reset the device, and issues the DPC that begins the reset. Completes
/// the request as BUSY if another is stored already.
fn start_reset<'a>(adapter: &Adapter<'a>, cx: &mut StartIo<'_, 'a>, srb: Srb<'a>) {
    let queue = adapter.first;
    let second = queue.locked.with(cx, |open| open.request_reset(srb));
    if let Some(srb) = second {
        return srb.busy();
    }
    adapter.attention.issue(cx);
}

/// Completes a request that the queue did not accept.
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
            // The device is being reset, or must be: the DPC makes the next step, if one is
            // due.
            adapter.attention.issue(cx);
            srb.busy();
        }
        Answer::Fail(failure) => srb.fail(failure),
        Answer::Refuse(sense) => {
            if let MediaOp::SwitchCache(switch) = op {
                Report::cache_mode_unchanged(switch.policy()).log_in_start_io(cx);
            }
            check_condition(srb, sense);
        }
    }
}

/// Requests that the device has returned, and that are completed without the lock.
#[derive(Default)]
struct Batch<'a> {
    /// The requests that succeeded, with the number of bytes that were transferred. It has 64 bits
    /// so that the pair has no padding, which would cost every request six instructions.
    succeeded: ArrayVec<(StartedSrb<'a>, u64), BATCH>,
    /// The requests that failed, with their sense data.
    failed: ArrayVec<(StartedSrb<'a>, Sense), BATCH>,
}

impl<'a> Batch<'a> {
    /// Adds a request that succeeded. The batch is not full.
    #[inline]
    fn push_succeeded(&mut self, srb: StartedSrb<'a>, bytes: u32) {
        let _: Result<(), _> = self.succeeded.try_push((srb, bytes.into()));
    }

    #[cold]
    fn push_failed(&mut self, srb: StartedSrb<'a>, sense: Sense) {
        let _: Result<(), _> = self.failed.try_push((srb, sense));
    }

    /// Completes the requests.
    #[inline]
    fn complete(&mut self) {
        for (srb, bytes) in self.succeeded.drain(..) {
            // The cast keeps the whole number.
            srb.succeed(bytes as u32);
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

/// Completes the requests that the device has finished. Holds the queue's lock while it takes them
/// off the ring, and not while it completes them.
#[inline]
pub fn drain<'a, S>(adapter: &Adapter<'a>, queue: &RequestQueue<'a>, cx: &mut S) -> Drained
where
    S: Scope<'a>,
    S::Level: Below<level::DpcHeld>,
{
    for _ in 0..TURNS {
        let mut batch = Batch::default();
        let (drained, notification) = queue
            .locked
            .with(cx, |open| open.take_used(adapter, queue, &mut batch));
        if let Some(notification) = notification {
            notification.send();
        }
        batch.complete();
        if drained != Drained::More {
            return drained;
        }
    }
    Drained::More
}

impl<'a> Queue<'a> {
    /// Takes finished requests off the ring, at most [`BATCH`] of them. Also returns the
    /// notification if flushes were published for which the device needs one.
    #[inline(always)]
    fn take_used<'n>(
        &mut self,
        adapter: &Adapter<'a>,
        queue: &'n RequestQueue<'a>,
        batch: &mut Batch<'a>,
    ) -> (Drained, Option<Notification<'n, 'a>>) {
        let mut flushes = false;
        let drained = self.take_batch(adapter, queue, batch, &mut flushes);
        let notification = if flushes {
            self.notification_of_flushes(queue)
        } else {
            None
        };
        (drained, notification)
    }

    /// As [`notification`](Self::notification), which is inlined in HwStartIo.
    #[cold]
    #[inline(never)]
    fn notification_of_flushes<'n>(
        &mut self,
        queue: &'n RequestQueue<'a>,
    ) -> Option<Notification<'n, 'a>> {
        self.notification(&queue.notifying)
    }

    /// As [`take_used`](Self::take_used). Sets `flushes` if a flush was published.
    #[inline(always)]
    fn take_batch(
        &mut self,
        adapter: &Adapter<'a>,
        queue: &RequestQueue<'a>,
        batch: &mut Batch<'a>,
        flushes: &mut bool,
    ) -> Drained {
        for _ in 0..BATCH {
            match self.ring.pop_used() {
                Ok(Some(used)) => self.take_one(adapter, queue, used, batch, flushes),
                Ok(None) => {
                    return match self.ring.rearm_interrupts() {
                        Ok(true) => Drained::More,
                        Ok(false) => Drained::All,
                        Err(_) => Drained::Faulty,
                    };
                }
                Err(_) => return Drained::Faulty,
            }
        }
        Drained::More
    }

    /// Reads the outcome of a request that the device has returned, releases its slot, and adds
    /// it to `batch`. A request without a status stays in flight. A durable write is followed by
    /// its flush instead, or completed here if that is impossible.
    #[inline(always)]
    fn take_one(
        &mut self,
        adapter: &Adapter<'a>,
        queue: &RequestQueue<'a>,
        used: Used<InFlight<'a>>,
        batch: &mut Batch<'a>,
        flushes: &mut bool,
    ) {
        let outcome = queue.requests.outcome(&used.slot);
        if outcome == Err(RequestError::NoStatus) {
            // The device returned the request before it finished it. The next `pop_used`
            // returns the fault.
            self.ring.take_back(used);
            return;
        }
        let Used {
            slot,
            payload: InFlight { srb, op },
            written,
        } = used;
        adapter.short_used.check(written, op);
        if let (Ok(()), MediaOp::DurableWrite(extent)) = (outcome, op) {
            return self.flush_write(queue, slot, srb, extent, batch, flushes);
        }
        self.ring.release(queue.slots, slot);
        if let MediaOp::SwitchCache(switch) = op {
            self.record_switch(adapter, switch.policy(), outcome.is_ok());
        }
        match outcome {
            Ok(()) => batch.push_succeeded(srb, op.bytes()),
            Err(error) => batch.push_failed(srb, sense_of(error, op)),
        }
    }

    /// Publishes the flush of a durable write (FUA) whose data is written, in the same slot.
    /// The flush must not be published earlier, because it covers only writes that were
    /// completed before it (VIRTIO 1.3 §5.2.6).
    #[cold]
    fn flush_write(
        &mut self,
        queue: &RequestQueue<'a>,
        slot: Slot,
        srb: StartedSrb<'a>,
        extent: Extent,
        batch: &mut Batch<'a>,
        flushes: &mut bool,
    ) {
        let op = MediaOp::Write(extent);
        let prepared = match queue.requests.flush(queue.slots, slot) {
            Ok(prepared) => prepared,
            Err(refused) => {
                // The device has no flush, so its writes are durable.
                self.ring.release(queue.slots, refused.slot);
                return batch.push_succeeded(srb, op.bytes());
            }
        };
        if !matches!(self.admission, Admission::Open { .. }) {
            self.ring.cancel(queue.slots, prepared);
            return fail_started(srb);
        }
        let write = InFlight { srb, op };
        let published = self
            .ring
            .publish(queue.slots, prepared, write, |write| write);
        match published {
            Ok(()) => *flushes = true,
            Err(NotPublished { given, .. }) => fail_started(given.srb),
        }
    }

    /// Records the new policy of the write cache, which MODE SENSE reports. A cache that is on
    /// is reported as on even if the flush failed, or if this is the first of two switches
    /// whose flushes ended in reverse order. Reporting it as off could cost an initiator its
    /// data. Reporting it as on costs at most a flush.
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

/// Fails a write whose flush cannot be published, because the device is being reset. A started
/// request cannot be completed as BUSY, but Windows retries one that fails with
/// SRB_STATUS_BUS_RESET.
fn fail_started(srb: StartedSrb<'_>) {
    srb.fail(Failure::BusReset);
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

/// Completes a request with CHECK CONDITION.
#[cold]
fn check_condition<S>(srb: Srb<'_, S>, sense: Sense) {
    let mut buffer = [0; Sense::FIXED_LENGTH];
    let length = sense.write_to(&mut buffer);
    srb.check_condition(buffer.get(..length).unwrap_or_default());
}

/// The first request whose used length is less than the device must have written. The status
/// alone decides how it is completed: this is only for the event log.
#[derive(Debug, Default)]
pub struct ShortUsed {
    /// The reported bytes in the upper half, the writable bytes in the lower half. 0 if there is
    /// none, or if an event was made of it.
    first: AtomicU64,
    /// Whether there was such a request.
    is_noted: AtomicBool,
}

impl ShortUsed {
    /// Notes a request if the device reports fewer bytes as `written` than it was
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
            self.note(written, writable);
        }
    }

    #[cold]
    fn note(&self, written: u32, writable: u32) {
        if !self.is_noted.swap(true, Ordering::Relaxed) {
            let first = u64::from(written) << 32 | u64::from(writable);
            self.first.store(first, Ordering::Relaxed);
        }
    }

    /// Returns the event for the first such request, once.
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
