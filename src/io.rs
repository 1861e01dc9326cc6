//! A request from HwBuildIo, which builds it, through HwStartIo, which submits it, to
//! the DPC, which completes it.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use scsi::{Lba, Lun, MediaOp, ModeChange, ModeSelect, Outcome, Sense, WriteCache};
use storport::{
    Address, BuildIo, DataError, Direction, Failure, Function, Scope, Srb, StartIo, StartedSrb,
    StorStatus, Table,
    level::{self, Below},
};
use virtio::{
    blk::{self, CacheMode, Refused, RequestError},
    slots::{Prepared, Slot, SlotAllocator, Staged},
    split_queue::{Flight, Rejection, RingFault, SplitQueue, Used},
    transport::{Notifier, Quiet},
};

use crate::{
    driver::Adapter,
    events::Event,
    registers::{Window, segments},
    report::{Report, number},
};

/// Requests that are taken off the used ring while the queue's lock is held once.
const BATCH: usize = 16;

/// Batches that one DPC completes before it issues the next DPC for the rest: as many
/// requests as the largest queue holds.
const TURNS: usize = (virtio::slots::MAX_SLOTS as usize) / BATCH;

/// More bytes than the longest answer to a command that needs no device has.
const LONGEST_REPLY: usize = 256;

/// What a request asks of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read data, from this block on.
    Read(Lba),
    /// Write data, from this block on.
    Write(Lba),
    /// Write data that must be durable when the request ends (FUA). A flush
    /// follows in the same slot.
    DurableWrite(Lba),
    /// The flush of a durable write.
    FlushOfWrite(Lba),
    /// Make completed writes durable.
    Flush,
    /// Switch the device's write cache, and flush what it holds.
    SwitchCache {
        /// On, or off.
        on: bool,
    },
}

/// What HwBuildIo passes to HwStartIo.
pub enum Request {
    /// A request for the device, complete in its slot.
    Device {
        /// The request, until HwStartIo publishes it or a reset reclaims its slot.
        staged: Staged,
        /// What the request asks of the device.
        op: Op,
        /// Bytes of data.
        bytes: u32,
    },
    /// Reset the device: its logical unit, target and bus are reset together.
    Reset,
}

/// A request in flight.
pub struct InFlight<'a> {
    srb: StartedSrb<'a>,
    op: Op,
    bytes: u32,
}

/// The table of requests in flight. A payload of `None` is the driver's own request
/// for the disk's identity, at start.
pub type Flights<'a> = Table<'a, Option<Flight<Option<InFlight<'a>>>>>;

/// What the queue's lock protects: the ring, and whether requests may go to it.
pub struct Queue<'a> {
    ring: SplitQueue<'a, Flights<'a>>,
    admission: Admission<'a>,
    /// How often the requests were taken back. What was taken off the used ring
    /// before belongs to no later run of the device.
    reclaims: u32,
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

/// A request that the queue does not take, with its slot.
struct NotSubmitted<'a> {
    srb: Srb<'a>,
    slot: Option<Slot>,
    answer: Answer,
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
    pub fn new(ring: SplitQueue<'a, Flights<'a>>) -> Self {
        Self {
            ring,
            admission: Admission::Wait,
            reclaims: 0,
            reset: None,
        }
    }

    /// The ring, to be given to the device.
    pub fn ring(&mut self) -> &mut SplitQueue<'a, Flights<'a>> {
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

    /// Whether the device's write cache is on. `None` while it cannot be asked.
    fn is_cache_on(&self) -> Option<bool> {
        match &self.admission {
            Admission::Open {
                cache_mode: Some(cache_mode),
                ..
            } => Some(cache_mode.get() == blk::WriteCache::WriteBack),
            _ => None,
        }
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
    /// staged requests are stale.
    pub fn reclaim(&mut self, quiet: Quiet<'_>, slots: &SlotAllocator, failure: Failure) {
        self.reclaims = self.reclaims.wrapping_add(1);
        self.ring.reclaim(quiet, slots, |slot, in_flight| {
            slots.release(slot);
            if let Some(InFlight { srb, .. }) = in_flight {
                srb.fail(failure);
            }
        });
    }

    /// Publishes a request of HwStartIo. Returns the notifier if the device wants a
    /// notification. The caller sends it without the lock, since that may take long.
    #[inline]
    fn submit(
        &mut self,
        slots: &SlotAllocator,
        staged: Staged,
        srb: Srb<'a>,
        op: Op,
        bytes: u32,
    ) -> Result<Option<Notifier<Window<'a>>>, NotSubmitted<'a>> {
        let Ok(prepared) = self.ring.unstage(slots, staged) else {
            // A reset took the slot.
            return Err(NotSubmitted {
                srb,
                slot: None,
                answer: Answer::Busy,
            });
        };
        let not_now = |prepared: Prepared, srb, answer| NotSubmitted {
            srb,
            slot: Some(prepared.into_slot()),
            answer,
        };
        let (notifier, cache_mode) = match &self.admission {
            Admission::Open {
                notifier,
                cache_mode,
            } => (notifier, cache_mode),
            Admission::Wait => return Err(not_now(prepared, srb, Answer::Busy)),
            Admission::Closed(failure) => {
                return Err(not_now(prepared, srb, Answer::Fail(*failure)));
            }
        };
        if let Op::SwitchCache { on } = op
            && !switch_cache(cache_mode.as_ref(), on)
        {
            let sense = Sense::INTERNAL_TARGET_FAILURE;
            return Err(not_now(prepared, srb, Answer::Refuse(sense)));
        }
        let published = self.ring.publish(prepared, srb, |srb| {
            Some(InFlight {
                srb: srb.started(),
                op,
                bytes,
            })
        });
        match published {
            Ok(()) => Ok(self.ring.notification_needed().then(|| notifier.clone())),
            Err(rejected) => {
                let answer = match rejected.reason {
                    Rejection::Faulty(_) => Answer::Busy,
                    Rejection::ForeignSlot | Rejection::ChainLength => {
                        Answer::Fail(Failure::InvalidRequest)
                    }
                };
                Err(not_now(rejected.prepared, rejected.given, answer))
            }
        }
    }

    /// Publishes the driver's own request for the disk's identity. Returns whether the
    /// device wants a notification.
    pub fn submit_identify(&mut self, prepared: Prepared) -> Result<bool, Slot> {
        match self.ring.publish(prepared, (), |()| None) {
            Ok(()) => Ok(self.ring.notification_needed()),
            Err(rejected) => Err(rejected.prepared.into_slot()),
        }
    }

    /// Publishes the flush of a durable write. Returns the notifier as
    /// [`submit`](Self::submit) does.
    fn submit_flush(
        &mut self,
        prepared: Prepared,
        write: InFlight<'a>,
        reclaims: u32,
    ) -> Result<Option<Notifier<Window<'a>>>, (Slot, InFlight<'a>)> {
        let notifier = match &self.admission {
            Admission::Open { notifier, .. } if reclaims == self.reclaims => notifier,
            _ => return Err((prepared.into_slot(), write)),
        };
        match self.ring.publish(prepared, write, Some) {
            Ok(()) => Ok(self.ring.notification_needed().then(|| notifier.clone())),
            Err(rejected) => Err((rejected.prepared.into_slot(), rejected.given)),
        }
    }

    /// Takes a request back that the device returned without having finished it. One
    /// of before a reset comes back: the device has confirmed since then that it does
    /// not use it.
    fn take_back(&mut self, used: UsedRequest<'a>, reclaims: u32) -> Option<UsedRequest<'a>> {
        if reclaims != self.reclaims {
            return Some(used);
        }
        self.ring.take_back(used);
        None
    }

    /// Takes finished requests off the used ring, until `batch` is full or nothing
    /// is left.
    fn take_used(&mut self, batch: &mut Batch<'a>) -> Drained {
        for place in batch {
            match self.ring.pop_used() {
                Ok(Some(used)) => *place = Some(used),
                Ok(None) if self.ring.rearm_interrupts() => return Drained::More,
                Ok(None) => return Drained::All,
                Err(_) => return Drained::Faulty,
            }
        }
        Drained::More
    }

    /// Takes the answer to the driver's own request off the used ring.
    pub fn take_one(&mut self) -> Result<Option<Used<Option<InFlight<'a>>>>, RingFault> {
        self.ring.pop_used()
    }
}

/// A place for each request of a batch.
type Batch<'a> = [Option<UsedRequest<'a>>; BATCH];

/// A request that the device has returned.
type UsedRequest<'a> = Used<Option<InFlight<'a>>>;

/// Switches the device's write cache. Returns false if the device does not switch it.
#[cold]
fn switch_cache(cache_mode: Option<&CacheMode<Window<'_>>>, on: bool) -> bool {
    let mode = if on {
        blk::WriteCache::WriteBack
    } else {
        blk::WriteCache::WriteThrough
    };
    cache_mode.is_some_and(|cache_mode| cache_mode.set(mode).is_ok())
}

/// HwBuildIo: answers an SRB, or makes a request of it.
pub fn build<'a>(
    adapter: &Adapter<'a>,
    cx: &BuildIo<'_, 'a>,
    srb: Srb<'a>,
) -> Option<(Srb<'a>, Request)> {
    let function = srb.function();
    if let Some(failure) = absent_unit(function, srb.address()) {
        srb.fail(failure);
        return None;
    }
    match function {
        Function::ExecuteScsi => execute(adapter, cx, srb),
        Function::Flush | Function::Shutdown => flush(adapter, srb, Op::Flush, 0),
        // The driver keeps no state for a unit. Changes of the adapter's state come
        // through HwAdapterControl.
        Function::Pnp { .. } | Function::Power => {
            srb.succeed(0);
            None
        }
        Function::ResetBus | Function::ResetDevice | Function::ResetLogicalUnit => {
            Some((srb, Request::Reset))
        }
        Function::Other(_) => {
            srb.fail(Failure::InvalidRequest);
            None
        }
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

/// Carries out a CDB, or makes a request of it.
fn execute<'a>(
    adapter: &Adapter<'a>,
    cx: &BuildIo<'_, 'a>,
    mut srb: Srb<'a>,
) -> Option<(Srb<'a>, Request)> {
    let lun = Lun(u16::from(srb.address().lun));
    let outcome = match adapter.disk.execute(lun, srb.cdb()) {
        Ok(outcome) => outcome,
        Err(sense) => {
            refuse(srb, sense);
            return None;
        }
    };
    // The initiator's buffer may be mapped for the other direction alone.
    if srb.data_length() != 0 && !srb.direction().allows(data_direction(&outcome)) {
        srb.fail(Failure::InvalidRequest);
        return None;
    }
    match outcome {
        Outcome::Good => srb.succeed(0),
        Outcome::Data(reply) => {
            let mut bytes = [0; LONGEST_REPLY];
            let length = reply.write_to(&mut bytes);
            let bytes = bytes.get(..length).unwrap_or_default();
            if bytes.is_empty() || srb.data_length() == 0 {
                srb.succeed(0);
                return None;
            }
            let written = cx.data_in(&mut srb).map(|mut data| data.write(0, bytes));
            match written {
                Ok(written) => srb.succeed(u32::try_from(written).unwrap_or(0)),
                Err(error) => fail_unreachable(srb, error),
            }
        }
        Outcome::ModeSelect(select) => return select_mode(adapter, cx, srb, select),
        Outcome::Media(MediaOp::Flush) => return flush(adapter, srb, Op::Flush, 0),
        // FUA asks a read for what the medium holds. The device's cache holds the
        // same data, and virtio has no read that bypasses it.
        Outcome::Media(MediaOp::Read { extent, .. }) => {
            return transfer(adapter, cx, srb, Op::Read(extent.lba()), extent);
        }
        Outcome::Media(MediaOp::Write { extent, fua }) => {
            let lba = extent.lba();
            let op = if fua {
                Op::DurableWrite(lba)
            } else {
                Op::Write(lba)
            };
            return transfer(adapter, cx, srb, op, extent);
        }
    }
    None
}

/// The direction of a command's data, as SRBs have it.
fn data_direction(outcome: &Outcome<'_>) -> Direction {
    match outcome.direction() {
        scsi::Direction::None => Direction::None,
        scsi::Direction::DataIn => Direction::In,
        scsi::Direction::DataOut => Direction::Out,
    }
}

/// Builds a read or a write.
fn transfer<'a>(
    adapter: &Adapter<'a>,
    cx: &BuildIo<'_, 'a>,
    srb: Srb<'a>,
    op: Op,
    extent: scsi::Extent,
) -> Option<(Srb<'a>, Request)> {
    let blocks = u32::try_from(extent.blocks().0).unwrap_or(0);
    let (Ok(extent), Some(list)) = (
        adapter.config.extent(extent.lba().0, blocks),
        cx.scatter_gather(&srb),
    ) else {
        srb.fail(Failure::InvalidRequest);
        return None;
    };
    let Some(slot) = adapter.slots.reserve() else {
        srb.busy();
        return None;
    };
    let prepared = if matches!(op, Op::Read(_)) {
        adapter.requests.read(slot, extent, segments(list))
    } else {
        adapter.requests.write(slot, extent, segments(list))
    };
    stage(adapter, srb, prepared, op, extent.bytes())
}

/// Builds a flush, if the device has a cache to flush.
fn flush<'a>(
    adapter: &Adapter<'a>,
    srb: Srb<'a>,
    op: Op,
    bytes: u32,
) -> Option<(Srb<'a>, Request)> {
    if adapter.disk.write_cache.get() == WriteCache::Absent {
        srb.succeed(bytes);
        return None;
    }
    let Some(slot) = adapter.slots.reserve() else {
        srb.busy();
        return None;
    };
    stage(adapter, srb, adapter.requests.flush(slot), op, bytes)
}

/// Checks a parameter list of MODE SELECT, and builds what it asks for.
#[cold]
fn select_mode<'a>(
    adapter: &Adapter<'a>,
    cx: &BuildIo<'_, 'a>,
    mut srb: Srb<'a>,
    select: ModeSelect,
) -> Option<(Srb<'a>, Request)> {
    let mut list = [0; ModeSelect::MAX_LENGTH as usize];
    let list = list.get_mut(..select.length()).unwrap_or_default();
    // The initiator may change its buffer at any time: it is copied once.
    let copied = match cx.data_out(&mut srb) {
        Ok(data) => data.read(0, list),
        Err(error) => {
            fail_unreachable(srb, error);
            return None;
        }
    };
    let length = u32::try_from(select.length()).unwrap_or(0);
    match select.parse(&adapter.disk, list.get(..copied).unwrap_or_default()) {
        Ok(ModeChange::None) => srb.succeed(length),
        Ok(ModeChange::WriteCache(on)) => {
            return flush(adapter, srb, Op::SwitchCache { on }, length);
        }
        Err(sense) => refuse(srb, sense),
    }
    None
}

/// Stages a request for HwStartIo.
fn stage<'a>(
    adapter: &Adapter<'a>,
    srb: Srb<'a>,
    prepared: Result<Prepared, Refused>,
    op: Op,
    bytes: u32,
) -> Option<(Srb<'a>, Request)> {
    match prepared {
        Ok(prepared) => {
            let staged = adapter.slots.stage(prepared);
            Some((srb, Request::Device { staged, op, bytes }))
        }
        Err(refused) => {
            // The data does not fit the CDB, or exceeds the limits that Storport knows.
            adapter.slots.release(refused.slot);
            srb.fail(Failure::InvalidRequest);
            None
        }
    }
}

/// HwStartIo: gives a request to the device.
pub fn start<'a>(adapter: &Adapter<'a>, cx: &mut StartIo<'_, 'a>, srb: Srb<'a>, request: Request) {
    let Request::Device { staged, op, bytes } = request else {
        return start_reset(adapter, cx, srb);
    };
    let submitted = adapter.queue.with(cx, |queue| {
        queue.submit(&adapter.slots, staged, srb, op, bytes)
    });
    match submitted {
        Ok(Some(notifier)) => notifier.notify(),
        Ok(None) => {}
        Err(not_submitted) => answer(adapter, cx, not_submitted, op),
    }
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
fn answer<'a>(
    adapter: &Adapter<'a>,
    cx: &mut StartIo<'_, 'a>,
    not_submitted: NotSubmitted<'a>,
    op: Op,
) {
    let NotSubmitted { srb, slot, answer } = not_submitted;
    if let Some(slot) = slot {
        adapter.slots.release(slot);
    }
    match answer {
        Answer::Busy => {
            // The request waits for a reset: the DPC makes its next step, if one is due.
            adapter.attention.issue(cx);
            srb.busy();
        }
        Answer::Fail(failure) => srb.fail(failure),
        Answer::Refuse(sense) => {
            if let Op::SwitchCache { on } = op {
                Report::cache_mode_unchanged(on).log_in_start_io(cx);
            }
            refuse(srb, sense);
        }
    }
}

/// Completes what the device has finished. The lock is held while requests are
/// taken off the used ring, not while they are completed.
pub fn drain<'a, S>(adapter: &Adapter<'a>, cx: &mut S) -> Drained
where
    S: Scope<'a>,
    S::Level: Below<level::DpcHeld>,
{
    for _ in 0..TURNS {
        let mut batch: Batch<'a> = [const { None }; BATCH];
        let (mut drained, reclaims) = adapter.queue.with(cx, |queue| {
            let drained = queue.take_used(&mut batch);
            (drained, queue.reclaims)
        });
        for place in &mut batch {
            let Some(used) = place.take() else {
                break;
            };
            if !complete(adapter, cx, used, reclaims) {
                drained = Drained::Faulty;
            }
        }
        if drained != Drained::More {
            return drained;
        }
    }
    Drained::More
}

/// Completes a request that the device has returned, and frees its slot. Returns
/// false if the device returned it without a status, so has not finished it.
fn complete<'a, S>(adapter: &Adapter<'a>, cx: &mut S, used: UsedRequest<'a>, reclaims: u32) -> bool
where
    S: Scope<'a>,
    S::Level: Below<level::DpcHeld>,
{
    let outcome = adapter.requests.outcome(&used);
    if outcome == Err(RequestError::NoStatus) {
        let stale = adapter
            .queue
            .with(cx, |queue| queue.take_back(used, reclaims));
        let Some(Used { slot, payload, .. }) = stale else {
            return false;
        };
        adapter.slots.release(slot);
        if let Some(InFlight { srb, .. }) = payload {
            srb.fail(Failure::BusReset);
        }
        return true;
    }
    if used.is_short() {
        adapter.short_used.count(used.written, used.writable);
    }
    let Used { slot, payload, .. } = used;
    let Some(InFlight { srb, op, bytes }) = payload else {
        adapter.slots.release(slot);
        return true;
    };
    if let (Ok(()), Op::DurableWrite(lba)) = (outcome, op) {
        let op = Op::FlushOfWrite(lba);
        let write = InFlight { srb, op, bytes };
        flush_write(adapter, cx, slot, write, reclaims);
        return true;
    }
    adapter.slots.release(slot);
    if let Op::SwitchCache { on } = op {
        record_switch(adapter, cx, on, outcome.is_ok());
    }
    match (outcome, op) {
        (Ok(()), _) => srb.succeed(bytes),
        (Err(RequestError::Io), Op::Read(lba)) => refuse(srb, Sense::read_failed(lba)),
        (Err(RequestError::Io), Op::Write(lba) | Op::DurableWrite(lba) | Op::FlushOfWrite(lba)) => {
            refuse(srb, Sense::write_failed(lba))
        }
        (Err(RequestError::Io), Op::Flush | Op::SwitchCache { .. }) => {
            refuse(srb, Sense::FLUSH_FAILED);
        }
        (Err(_), _) => refuse(srb, Sense::INTERNAL_TARGET_FAILURE),
    }
    true
}

/// Tells initiators how the write cache was switched. One that is on is said to be
/// on even if the flush failed, or if the switch was the first of two whose flushes
/// ended in the other order: an initiator would miss data, not a flush too many.
#[cold]
fn record_switch<'a, S>(adapter: &Adapter<'a>, cx: &mut S, on: bool, is_flushed: bool)
where
    S: Scope<'a>,
    S::Level: Below<level::DpcHeld>,
{
    let is_on = adapter.queue.with(cx, |queue| queue.is_cache_on());
    let is_on = is_on.unwrap_or(on);
    if is_on || is_flushed {
        adapter.disk.write_cache.set(is_on);
    }
}

/// Follows a durable write by its flush, in the same slot. The device's cache may
/// be flushed only now: a flush covers the writes that were completed before it
/// (VIRTIO 1.3 §5.2.6).
#[cold]
fn flush_write<'a, S>(
    adapter: &Adapter<'a>,
    cx: &mut S,
    slot: Slot,
    write: InFlight<'a>,
    reclaims: u32,
) where
    S: Scope<'a>,
    S::Level: Below<level::DpcHeld>,
{
    let prepared = match adapter.requests.flush(slot) {
        Ok(prepared) => prepared,
        Err(refused) => {
            // The device has no flush, so its writes are durable.
            adapter.slots.release(refused.slot);
            return write.srb.succeed(write.bytes);
        }
    };
    let submitted = adapter
        .queue
        .with(cx, |queue| queue.submit_flush(prepared, write, reclaims));
    match submitted {
        Ok(Some(notifier)) => notifier.notify(),
        Ok(None) => {}
        Err((slot, write)) => {
            // The device is being reset. A started request cannot be completed as
            // BUSY, so it fails, and the initiator sends the write again.
            adapter.slots.release(slot);
            write.srb.fail(Failure::BusReset);
        }
    }
}

/// Completes with CHECK CONDITION.
#[cold]
fn refuse<S>(srb: Srb<'_, S>, sense: Sense) {
    let mut buffer = [0; Sense::FIXED_LENGTH];
    let length = sense.write_to(&mut buffer);
    srb.check_condition(buffer.get(..length).unwrap_or_default());
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
