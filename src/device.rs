//! The life cycle of the device: start, reset, restart, removal.
//!
//! ```text
//!             start               no notification is being sent
//!   Reset ─────────────→ Live → Stopping ────────────────→ Resetting
//!     ↑  ↖ start failed: reset again, later                  │
//!     └──────────────────────── the device confirms ─────────┤
//!                     the status reads as all ones: Removed ←┘
//! ```
//!
//! Nothing here waits. [`Life::attend`] makes the next step, if one is due, and returns what
//! the callback must do next: request the timer, pause or resume Storport, log events. The
//! DPC, HwTimer and HwResetBus call it. HwPassiveInitialize calls [`Life::start`], and
//! ScsiRestartAdapter calls [`Life::restart`]. In a dump stack HwInitialize calls `start`, and
//! HwInterrupt, which is polled there, runs the DPC.
//!
//! While the device is being reset, new requests are completed as BUSY, and requests in
//! flight stay in flight. Until the device confirms the reset, it may write to their memory
//! (VIRTIO 1.3 §3.3.1; V15).
//!
//! A step runs under the StartIo lock. It opens each queue only briefly, and accesses registers and
//! completes requests while none is open, because both may take long and HwStartIo waits for a
//! queue that is open.

use core::{num::NonZero, sync::atomic::Ordering};

use storport::{Failure, StartedSrb};
use virtio::{
    blk::CacheMode,
    transport::{
        Device, EnabledQueue, Failed, Features, Health, Live, Negotiated, Quiet, Removed, Reset,
        ResetPoll, Resetting, RingPlacement,
    },
};

use crate::{
    driver::Adapter,
    error::{Error, QueueFault},
    events::Event,
    io::{Admission, Queue, RequestQueue},
    registers::{NotifyRegister, Window},
    report::{Report, bits, number, restart_text, text},
};

/// A time or a duration, in microseconds. Arithmetic with `core::time::Duration` can panic.
pub type Microseconds = u64;

const MILLISECOND: Microseconds = 1000;
const SECOND: Microseconds = 1000 * MILLISECOND;

/// The interval at which the driver polls a device that is being reset.
pub const TICK: Microseconds = 10 * MILLISECOND;

/// The assumed duration of a step in a dump stack, which has no reliable clock: about the time
/// between two polls.
pub const POLL: Microseconds = 100;

/// How long requests wait for the device to confirm a reset. After that time new requests
/// fail, and the driver polls the device every [`SLOW_TICK`].
const RESET_PATIENCE: Microseconds = 10 * SECOND;

/// The polling interval after [`RESET_PATIENCE`].
const SLOW_TICK: Microseconds = SECOND;

/// How many resets the driver may decide on itself within [`RESET_WINDOW`]. At the next one the
/// driver gives the device up. It also gives the device up after this many failed starts in
/// a row.
const MAX_RESETS: usize = 8;

/// The time within which [`MAX_RESETS`] counts resets.
const RESET_WINDOW: Microseconds = 60 * SECOND;

/// The pause before the second attempt to start the device. It doubles with each
/// further attempt.
const FIRST_RETRY: Microseconds = 100 * MILLISECOND;

/// The time after which Storport ends a pause on its own, in seconds. All attempts to start a
/// device together take less, if the device confirms each reset at once.
const PAUSE_SECONDS: u32 = 60;

/// A stage of the device's life cycle.
pub enum Stage<'a> {
    /// It has confirmed a reset.
    Reset(Device<Window<'a>, Reset>),
    /// It processes requests.
    Live(Device<Window<'a>, Live>),
    /// It must be reset, once no notification is being sent.
    Stopping(Device<Window<'a>, Live>),
    /// It is being reset, and has not confirmed that yet.
    Resetting(Device<Window<'a>, Resetting>),
    /// It is gone.
    Removed(Device<Window<'a>, Removed>),
    /// Placeholder while a step moves the device to its next stage.
    Taken,
}

/// The messages (MSI-X vectors) of the device.
#[derive(Clone, Copy, Debug)]
pub struct Messages {
    /// How many messages are connected. Without any the device interrupts by its pin.
    connected: u16,
    /// How many queues are in use. Message *n* is for the used buffers of queue *n*.
    queues: u16,
}

impl Messages {
    /// Distributes `connected` messages among at most `queues` queues: message *n* for queue *n*,
    /// and the next one for configuration changes. With too few messages, fewer queues are in use.
    /// A single message is the first queue's. Without messages one queue is in use.
    pub fn distribute(connected: u16, queues: u16) -> Self {
        Self {
            connected,
            queues: connected.saturating_sub(1).clamp(1, queues.max(1)),
        }
    }

    /// The number of queues that are in use, at least 1.
    pub fn queues(self) -> u16 {
        self.queues
    }

    /// The message for the used buffers of a queue. `None` if the device interrupts by its pin.
    fn of_queue(self, number: u16) -> Option<u16> {
        (self.connected > 0).then_some(number)
    }

    /// The message for configuration changes. `None` if there is no message left for them. The
    /// driver then notices that the device asks for a reset when a request times out.
    fn of_config(self) -> Option<u16> {
        (self.connected > self.queues).then_some(self.queues)
    }
}

/// Why [`Life::attend`] is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// The next step may be due.
    Poll,
    /// Storport wants every request back.
    Reset,
}

/// What a callback must do after [`Life::attend`].
#[derive(Debug, Default)]
#[must_use]
pub struct Actions {
    /// Pause Storport for this many seconds.
    pub pause: Option<u32>,
    /// Resume Storport.
    pub resume: bool,
    /// Request the timer for this many microseconds from now.
    pub timer: Option<NonZero<u32>>,
    /// Log these events.
    pub reports: [Option<Report>; 4],
}

impl Actions {
    fn report(&mut self, report: Report) {
        if let Some(place) = self.reports.iter_mut().find(|place| place.is_none()) {
            *place = Some(report);
        }
    }
}

/// How a step of the life cycle opens queues: under their locks, or in a callback in which
/// no other callback accesses them.
pub trait OpenQueues<'a> {
    /// Runs `run` with the open queue.
    fn with<R>(&mut self, queue: &RequestQueue<'a>, run: impl FnOnce(&mut Queue<'a>) -> R) -> R;
}

/// The life cycle of the device, under the StartIo lock.
pub struct Life<'a> {
    stage: Stage<'a>,
    accepted: Features,
    messages: Messages,
    /// The times of the resets that the driver decided on itself, in ascending order.
    own_resets: [Option<Microseconds>; MAX_RESETS],
    /// How often the device was reset since it was found.
    resets: u32,
    /// The number of starts that failed in a row.
    failed_starts: u32,
    /// The time that has passed since the device was found: see
    /// [`pass_time`](Self::pass_time).
    now: Microseconds,
    /// The clock at the last step. `None` if it failed then.
    clock: Option<Microseconds>,
    /// When the current reset began.
    reset_at: Microseconds,
    /// The earliest time of the next start, after a start that failed.
    start_at: Microseconds,
    /// How requests fail after the device was given up or removed. `None` before.
    closed: Option<Failure>,
    /// The number of requests in flight when the status read as all ones, as that of a removed
    /// device does. The poll of the reset shows whether the device is there.
    seemed_gone: Option<u32>,
    /// Whether the reset was reported as overdue.
    overdue: bool,
    /// Whether Storport is paused. `None` after a restart, when a pause from before the stop
    /// may still be in effect.
    paused: Option<bool>,
    /// An initiator's request for the reset that is in progress. The queue keeps a second one
    /// until the end of the reset.
    reset_request: Option<StartedSrb<'a>>,
}

impl<'a> Life<'a> {
    /// Makes the life cycle of a device that is reset or being reset. `accepted` is the features
    /// that the driver will accept.
    pub fn new(stage: Stage<'a>, accepted: Features) -> Self {
        Self {
            stage,
            accepted,
            messages: Messages::distribute(0, 1),
            own_resets: [None; MAX_RESETS],
            resets: 0,
            failed_starts: 0,
            now: 0,
            clock: None,
            reset_at: 0,
            start_at: 0,
            closed: None,
            seemed_gone: None,
            overdue: false,
            paused: Some(false),
            reset_request: None,
        }
    }

    /// Starts the device for the first time. Does nothing if the device has not confirmed its
    /// reset yet: [`attend`](Self::attend) then continues that reset, and starts the device.
    ///
    /// # Errors
    /// Why the start failed. The device is being reset then.
    pub fn start(
        &mut self,
        adapter: &Adapter<'a>,
        queues: &mut impl OpenQueues<'a>,
        messages: Messages,
    ) -> Result<(), Error> {
        self.set_messages(adapter, messages);
        match self.bring_up(adapter, queues) {
            // No initiator has switched the write cache yet.
            None | Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(error),
        }
    }

    /// Polls the reset of a device whose start failed, once. Returns whether the device
    /// accesses no memory any more.
    pub fn is_quiet(&mut self) -> bool {
        self.stage = match core::mem::replace(&mut self.stage, Stage::Taken) {
            Stage::Resetting(device) => match device.poll() {
                ResetPoll::Done(device) => Stage::Reset(device),
                ResetPoll::Removed(device) => Stage::Removed(device),
                ResetPoll::Pending(device) => Stage::Resetting(device),
            },
            other => other,
        };
        matches!(self.stage, Stage::Reset(_) | Stage::Removed(_))
    }

    /// Begins a reset after a stop, at any stage. [`attend`](Self::attend) continues it.
    pub fn restart(
        &mut self,
        adapter: &Adapter<'a>,
        queues: &mut impl OpenQueues<'a>,
        messages: Messages,
    ) {
        self.set_messages(adapter, messages);
        self.own_resets = [None; MAX_RESETS];
        self.failed_starts = 0;
        self.closed = None;
        // The clock may have started again from 0.
        self.clock = None;
        self.paused = None;
        self.begin_reset(adapter, queues);
    }

    /// Sets the messages, and so the queues that are in use.
    fn set_messages(&mut self, adapter: &Adapter<'a>, messages: Messages) {
        self.messages = messages;
        adapter.active.store(messages.queues(), Ordering::Relaxed);
    }

    /// Advances `now` by the time since the last step. If the clock fails or goes back, `now`
    /// advances by `unclocked`. Otherwise a step that waits for a time would wait for ever.
    fn pass_time(&mut self, clock: Option<Microseconds>, unclocked: Microseconds) {
        let passed = clock
            .zip(self.clock)
            .and_then(|(clock, before)| clock.checked_sub(before));
        self.now = self.now.saturating_add(passed.unwrap_or(unclocked));
        self.clock = clock;
    }

    /// Makes the next step of the life cycle, if one is due. `clock` is the current time, or
    /// `None` if the clock failed.
    pub fn attend(
        &mut self,
        adapter: &Adapter<'a>,
        queues: &mut impl OpenQueues<'a>,
        demand: Demand,
        clock: Option<Microseconds>,
    ) -> Actions {
        self.pass_time(clock, adapter.unclocked_step);
        let mut actions = Actions::default();
        let (mut is_requested, mut fault, mut in_flight) = (false, None, 0_u32);
        for (number, queue) in (0..).zip(adapter.queues.iter()) {
            queues.with(queue, |queue| {
                is_requested |= queue.is_reset_requested();
                if self.reset_request.is_none() {
                    self.reset_request = queue.take_reset_request();
                }
                fault = fault.or(queue.fault().map(|fault| QueueFault {
                    queue: number,
                    fault,
                }));
                in_flight = in_flight.saturating_add(queue.in_flight().into());
            });
        }
        if let Stage::Live(device) = &self.stage {
            let is_wanted = is_requested || demand == Demand::Reset;
            let health = device.health();
            if self.needs_reset(health, fault, is_wanted, in_flight, &mut actions) {
                close_to_requests(adapter, queues);
                self.stage = match core::mem::replace(&mut self.stage, Stage::Taken) {
                    Stage::Live(device) => Stage::Stopping(device),
                    other => other,
                };
            }
        }
        self.advance(adapter, queues, &mut actions);
        self.settle(adapter, queues, &mut actions);
        actions
    }

    /// Returns whether a live device must be reset, and reports why. `is_wanted` says whether
    /// Storport or an initiator wants a reset.
    fn needs_reset(
        &mut self,
        health: Health,
        fault: Option<QueueFault>,
        is_wanted: bool,
        in_flight: u32,
        actions: &mut Actions,
    ) -> bool {
        let own = match (health, fault) {
            // `advance` reports that when it polls the reset, which shows whether it is gone.
            (Health::Gone, _) => {
                self.seemed_gone = Some(in_flight);
                return true;
            }
            (_, Some(fault)) => {
                actions.report(Report::violation(Event::ProtocolViolation, fault));
                true
            }
            (Health::NeedsReset, None) => {
                actions.report(Report::new(Event::ResetRequested, []));
                true
            }
            (Health::Working, None) if is_wanted => false,
            (Health::Working, None) => return false,
        };
        self.report_reset(in_flight, actions);
        if own {
            self.count_own_reset(actions);
        }
        true
    }

    /// Reports a reset of a device with `in_flight` requests in flight.
    fn report_reset(&mut self, in_flight: u32, actions: &mut Actions) {
        self.resets = self.resets.saturating_add(1);
        let inserts = [number(self.resets), number(in_flight)];
        actions.report(Report::new(Event::DeviceReset, inserts));
    }

    /// Counts a reset that the driver decided on itself. Gives the device up if there were too
    /// many.
    fn count_own_reset(&mut self, actions: &mut Actions) {
        let first = self.own_resets.first().copied().flatten();
        let too_many = first.is_some_and(|first| self.now.saturating_sub(first) < RESET_WINDOW);
        self.own_resets.rotate_left(1);
        if let Some(last) = self.own_resets.last_mut() {
            *last = Some(self.now);
        }
        if too_many {
            // The device is still reset, so that requests in flight can be completed.
            self.closed = Some(Failure::NoHba);
            let resets = u64::try_from(MAX_RESETS).unwrap_or(0);
            let inserts = [number(resets), number(RESET_WINDOW / SECOND)];
            actions.report(Report::new(Event::DeviceFailed, inserts));
        }
    }

    /// Begins a reset of the device, at any stage, and stops the submission of requests.
    fn begin_reset(&mut self, adapter: &Adapter<'a>, queues: &mut impl OpenQueues<'a>) {
        close_to_requests(adapter, queues);
        self.reset_at = self.now;
        self.start_at = 0;
        self.overdue = false;
        self.stage = match core::mem::replace(&mut self.stage, Stage::Taken) {
            Stage::Reset(device) => Stage::Resetting(device.begin_reset()),
            Stage::Live(device) | Stage::Stopping(device) => Stage::Resetting(device.begin_reset()),
            Stage::Resetting(device) => Stage::Resetting(device.begin_reset()),
            Stage::Removed(device) => Stage::Resetting(device.begin_reset()),
            Stage::Taken => Stage::Taken,
        };
    }

    /// Moves the device as far as possible now: begins its reset, polls it, completes the
    /// requests in flight once it is confirmed, and starts the device again.
    fn advance(
        &mut self,
        adapter: &Adapter<'a>,
        queues: &mut impl OpenQueues<'a>,
        actions: &mut Actions,
    ) {
        // A notification must not reach the device between the reset and DRIVER_OK (V13). No
        // other notification begins now, because the queues are closed to requests.
        if matches!(self.stage, Stage::Stopping(_)) && !is_notifying(adapter, queues) {
            self.begin_reset(adapter, queues);
        }
        self.stage = match core::mem::replace(&mut self.stage, Stage::Taken) {
            Stage::Resetting(device) => match device.poll() {
                ResetPoll::Done(device) => {
                    self.overdue = false;
                    if let Some(in_flight) = self.seemed_gone.take() {
                        self.report_reset(in_flight, actions);
                        self.count_own_reset(actions);
                    }
                    let failure = self.closed.unwrap_or(Failure::BusReset);
                    fail_in_flight(adapter, queues, device.quiet(), failure);
                    Stage::Reset(device)
                }
                ResetPoll::Removed(device) => {
                    fail_in_flight(adapter, queues, device.quiet(), Failure::NoDevice);
                    self.closed = Some(Failure::NoDevice);
                    self.seemed_gone = None;
                    actions.report(Report::vanished());
                    Stage::Removed(device)
                }
                ResetPoll::Pending(device) => {
                    let again = self.overdue;
                    self.note_overdue(device.status().bits(), actions);
                    // The device may have missed the first write.
                    Stage::Resetting(if again { device.begin_reset() } else { device })
                }
            },
            other => other,
        };
        if self.closed.is_some() || self.now < self.start_at {
            return;
        }
        match self.bring_up(adapter, queues) {
            None => {}
            Some(Ok(report)) => {
                self.failed_starts = 0;
                if let Some(report) = report {
                    actions.report(report);
                }
            }
            Some(Err(error)) => self.retry(adapter, queues, &error, actions),
        }
    }

    /// Starts a device that has confirmed a reset, with the features and the ring that it had
    /// before, and opens the queue to requests. Returns `None` if the device cannot be started
    /// yet. Also returns an event if the write cache could not be switched to the mode that it
    /// had before.
    ///
    /// # Errors
    /// Why a step failed. Another reset has begun then.
    fn bring_up(
        &mut self,
        adapter: &Adapter<'a>,
        queues: &mut impl OpenQueues<'a>,
    ) -> Option<Result<Option<Report>, Error>> {
        if !matches!(self.stage, Stage::Reset(_)) {
            return None;
        }
        adapter.starting.store(true, Ordering::SeqCst);
        let result = self.start_unless_stopped(adapter, queues);
        adapter.starting.store(false, Ordering::SeqCst);
        result
    }

    /// As [`bring_up`](Self::bring_up), for a device that has confirmed a reset.
    /// `adapter.starting` is set.
    fn start_unless_stopped(
        &mut self,
        adapter: &Adapter<'a>,
        queues: &mut impl OpenQueues<'a>,
    ) -> Option<Result<Option<Report>, Error>> {
        if adapter.stopped.load(Ordering::SeqCst) {
            return None;
        }
        let Stage::Reset(device) = core::mem::replace(&mut self.stage, Stage::Taken) else {
            return None;
        };
        let messages = self.messages;
        let started = start_device(device, self.accepted, |device| {
            for (number, queue) in (0..).zip(adapter.active_queues()) {
                let ring = queues.with(queue, |queue| queue.ring().placement());
                match enable_queue(device, number, ring, messages.of_queue(number)) {
                    Ok(enabled) => queues.with(queue, |queue| queue.enabled = Some(enabled)),
                    // The device has no resources for more messages, so it has fewer queues.
                    Err(virtio::Error::VectorRefused { .. }) if number > 0 => {
                        adapter.active.store(number, Ordering::Relaxed);
                        break;
                    }
                    Err(error) => return Err(error),
                }
                // After the first queue, because the device may have resources for one message, and
                // cannot be used without that queue's.
                if number == 0
                    && let Some(message) = messages.of_config()
                {
                    // If it fails, the driver notices that the device asks for a reset when a
                    // request times out.
                    let _: Result<(), virtio::Error> = device.route_config(message);
                }
            }
            Ok(())
        });
        let (stage, result) = match started {
            Ok(device) => open_queues(device, adapter, queues),
            Err((device, error)) => (Stage::Resetting(device), Err(error)),
        };
        self.stage = stage;
        Some(result)
    }

    /// Resets a device whose start failed, and sets the time of its next start. Gives the device
    /// up after [`MAX_RESETS`] failed starts in a row.
    fn retry(
        &mut self,
        adapter: &Adapter<'a>,
        queues: &mut impl OpenQueues<'a>,
        error: &Error,
        actions: &mut Actions,
    ) {
        let pause = FIRST_RETRY.saturating_mul(1_u64.wrapping_shl(self.failed_starts));
        self.failed_starts = self.failed_starts.saturating_add(1);
        self.begin_reset(adapter, queues);
        self.start_at = self.now.saturating_add(pause);
        if usize::try_from(self.failed_starts).is_ok_and(|failed| failed >= MAX_RESETS) {
            self.closed = Some(Failure::NoHba);
            let inserts = [text(restart_text(error))];
            actions.report(Report::new(Event::RestartFailed, inserts));
        }
    }

    /// Reports a reset that takes too long, once.
    fn note_overdue(&mut self, status: u8, actions: &mut Actions) {
        let waited = self.now.saturating_sub(self.reset_at);
        if self.overdue || waited < RESET_PATIENCE {
            return;
        }
        self.overdue = true;
        let inserts = [number(waited / MILLISECOND), bits(status)];
        actions.report(Report::new(Event::ResetUnconfirmed, inserts));
    }

    /// Derives three things from the stage: whether the queue accepts requests, whether
    /// Storport is paused, and when the timer expires. Completes an initiator's requests for a
    /// reset that is over.
    fn settle(
        &mut self,
        adapter: &Adapter<'a>,
        queues: &mut impl OpenQueues<'a>,
        actions: &mut Actions,
    ) {
        let closed = self.closed.or(self.overdue.then_some(Failure::NoHba));
        if let Some(failure) = closed {
            for queue in adapter.queues.iter() {
                end_reset(queue, queues, Admission::Closed(failure));
            }
        }
        let is_live = matches!(self.stage, Stage::Live(_));
        let waits = !is_live && closed.is_none();
        if waits && self.paused != Some(true) {
            actions.pause = Some(PAUSE_SECONDS);
        }
        actions.resume = !waits && self.paused != Some(false);
        self.paused = Some(waits);
        // Before the resume that follows: see `carry_out`.
        adapter.waits.store(waits, Ordering::SeqCst);
        let tick = match self.stage {
            Stage::Resetting(_) if closed.is_some() => Some(SLOW_TICK),
            Stage::Resetting(_) | Stage::Stopping(_) => Some(TICK),
            Stage::Reset(_) if waits => Some(TICK),
            _ => None,
        };
        actions.timer = tick
            .and_then(|tick| u32::try_from(tick).ok())
            .and_then(NonZero::new);
        if waits {
            return;
        }
        if let Some(srb) = self.reset_request.take() {
            answer_reset_request(srb, closed);
        }
    }
}

/// Stops the submission of requests to all queues.
fn close_to_requests<'a>(adapter: &Adapter<'a>, queues: &mut impl OpenQueues<'a>) {
    for queue in adapter.queues.iter() {
        queues.with(queue, |queue| queue.admit(Admission::Wait));
    }
}

/// Whether a notification of any queue is being sent.
fn is_notifying<'a>(adapter: &Adapter<'a>, queues: &mut impl OpenQueues<'a>) -> bool {
    let mut all = adapter.queues.iter();
    all.any(|queue| queues.with(queue, |_| !queue.notifying.is_empty()))
}

/// Completes all requests in flight with `failure`, and empties the queues. `quiet` proves that
/// the device accesses no memory. Requests that are prepared become stale, which HwStartIo
/// detects.
fn fail_in_flight<'a>(
    adapter: &Adapter<'a>,
    queues: &mut impl OpenQueues<'a>,
    quiet: Quiet<'_>,
    failure: Failure,
) {
    for queue in adapter.queues.iter() {
        while let Some(srb) = queues.with(queue, |locked| locked.reclaim(quiet, queue.slots)) {
            srb.fail(failure);
        }
    }
}

/// Ends the wait of requests for a reset: sets whether they are submitted from now on, and
/// completes an initiator's second request for the reset. A request that comes later needs a
/// reset of its own.
fn end_reset<'a>(
    queue: &RequestQueue<'a>,
    queues: &mut impl OpenQueues<'a>,
    admission: Admission<'a>,
) {
    let closed = match &admission {
        Admission::Closed(failure) => Some(*failure),
        _ => None,
    };
    let second = queues.with(queue, |queue| {
        queue.admit(admission);
        queue.take_reset_request()
    });
    if let Some(srb) = second {
        answer_reset_request(srb, closed);
    }
}

/// Completes an initiator's request for a reset that is over. `closed` is how requests fail if
/// the device does not work.
fn answer_reset_request(srb: StartedSrb<'_>, closed: Option<Failure>) {
    match closed {
        None => srb.succeed_control(),
        Some(failure) => srb.fail(failure),
    }
}

/// Opens the queues of a device that was just started to requests. Returns the new stage, and the
/// result of [`Life::bring_up`].
fn open_queues<'a>(
    device: Device<Window<'a>, Live>,
    adapter: &Adapter<'a>,
    queues: &mut impl OpenQueues<'a>,
) -> (Stage<'a>, Result<Option<Report>, Error>) {
    for (number, queue) in (0..).zip(adapter.active_queues()) {
        // Nothing is in flight, so a device that follows the protocol has returned nothing.
        if let Err(fault) = queues.with(queue, |queue| queue.ring().rearm_interrupts()) {
            let error = Error::Violation(QueueFault {
                queue: number,
                fault,
            });
            return (Stage::Resetting(device.begin_reset()), Err(error));
        }
    }
    if adapter.stopped.load(Ordering::SeqCst) {
        // ScsiStopAdapter was called meanwhile. ScsiRestartAdapter continues from here.
        return (Stage::Resetting(device.begin_reset()), Ok(None));
    }
    let report = restore_cache_mode(adapter, CacheMode::new(&device).as_ref());
    for queue in adapter.active_queues() {
        // Each queue that is in use was enabled.
        if let Some(enabled) = queues.with(queue, |queue| queue.enabled.take()) {
            let admission = Admission::Open {
                notifier: device.notifier(enabled),
                cache_mode: CacheMode::new(&device),
            };
            end_reset(queue, queues, admission);
        }
    }
    (Stage::Live(device), Ok(report))
}

/// Switches the write cache back to the mode that an initiator chose, because a reset may
/// have changed it. Returns an event if the device does not switch it.
fn restore_cache_mode(
    adapter: &Adapter<'_>,
    cache_mode: Option<&CacheMode<Window<'_>>>,
) -> Option<Report> {
    let cache_mode = cache_mode?;
    let wanted = adapter.disk.write_cache.policy();
    if cache_mode.get() == wanted || cache_mode.set(wanted).is_ok() {
        return None;
    }
    // MODE SENSE must report the mode that the device is in.
    adapter.disk.write_cache.switch(cache_mode.get());
    Some(Report::cache_mode_unchanged(wanted))
}

/// Starts a device that has confirmed a reset: features, queues, DRIVER_OK. `set_up` sets up the
/// queues and the messages.
///
/// # Errors
/// Why a step failed, and the device, whose reset has begun.
#[expect(
    clippy::result_large_err,
    reason = "either way the result holds the device"
)]
pub fn start_device<'a>(
    device: Device<Window<'a>, Reset>,
    accepted: Features,
    set_up: impl FnOnce(&mut Device<Window<'a>, Negotiated>) -> Result<(), virtio::Error>,
) -> Result<Device<Window<'a>, Live>, (Device<Window<'a>, Resetting>, Error)> {
    let refused = |failed: Failed<Window<'a>>, offered| {
        let error = failed.error;
        let error = Error::Device { error, offered };
        (failed.device.begin_reset(), error)
    };
    let device = device.acknowledge().map_err(|failed| refused(failed, 0))?;
    let offered = Features::from(device.offered()).bits();
    let mut device = device
        .accept(accepted.get())
        .map_err(|failed| refused(failed, offered))?;
    if let Err(error) = set_up(&mut device) {
        return Err((device.begin_reset(), Error::Device { error, offered }));
    }
    device.start().map_err(|failed| refused(failed, offered))
}

/// Sets up queue `number` with its ring and its message.
///
/// # Errors
/// Why the device does not have the queue.
pub fn enable_queue<'a>(
    device: &mut Device<Window<'a>, Negotiated>,
    number: u16,
    ring: RingPlacement,
    message: Option<u16>,
) -> Result<EnabledQueue<NotifyRegister<'a>>, virtio::Error> {
    let found = device.find_queue(number, ring.size)?;
    if let Some(message) = message {
        device.route_queue(&found, message)?;
    }
    device.enable_queue(found, ring)
}
