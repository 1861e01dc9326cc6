//! The life cycle of the device: start, reset, restart, removal.
//!
//! ```text
//!             start                     begin_reset
//!   Reset ─────────────→ Live ───────────────────────────→ Resetting
//!     ↑  ↖ start failed: reset again, later                  │
//!     └──────────────────────── the device confirms ─────────┤
//!                             it reads as all ones: Removed ←┘
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

use core::{num::NonZero, sync::atomic::Ordering};

use storport::{Failure, StartedSrb};
use virtio::{
    blk::CacheMode,
    transport::{
        Device, Failure as Failed, Features, Health, Live, Notifier, Removed, Reset, ResetPoll,
        Resetting, RingPlacement,
    },
};

use crate::{
    driver::Adapter,
    error::Error,
    events::Event,
    io::{Admission, Queue},
    registers::Window,
    report::{Report, bits, number, restart_text, text},
};

/// The number of the device's only queue that the driver uses.
const QUEUE: u16 = 0;

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

/// How many resets the driver may decide on itself within [`WINDOW`]. At the next one the
/// driver gives the device up. It also gives the device up after this many failed starts in
/// a row.
const MAX_RESETS: usize = 8;

/// The time within which [`MAX_RESETS`] counts resets.
const WINDOW: Microseconds = 60 * SECOND;

/// The pause before the second attempt to start the device. It doubles with each
/// further attempt.
const FIRST_RETRY: Microseconds = 100 * MILLISECOND;

/// The time after which Storport ends a pause on its own, in seconds. All attempts to start a
/// device together take less, if the device confirms each reset at once.
const PAUSE_SECONDS: u32 = 60;

/// A stage of the device's life cycle.
enum Stage<'a> {
    /// It has confirmed a reset.
    Reset(Device<Window<'a>, Reset>),
    /// It processes requests.
    Live(Device<Window<'a>, Live>),
    /// It is being reset, and has not confirmed that yet.
    Resetting(Device<Window<'a>, Resetting>),
    /// It is gone.
    Removed(Device<Window<'a>, Removed>),
    /// Placeholder while a step moves the device to its next stage.
    Taken,
}

/// The MSI-X vectors of the device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vectors {
    /// The message for used buffers. `None` if the device interrupts by its pin.
    pub queue: Option<u16>,
    /// The message for configuration changes. `None` if it has none of its own.
    pub config: Option<u16>,
}

/// Why [`Life::attend`] is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// The next step may be due.
    Look,
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
    /// Whether requests are still in flight.
    pub has_requests: bool,
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

/// The life cycle of the device, under the StartIo lock.
pub struct Life<'a> {
    stage: Stage<'a>,
    accepted: Features,
    vectors: Vectors,
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
    /// Whether the reset was reported as overdue.
    overdue: bool,
    /// Whether Storport is paused. `None` after a restart, when a pause from before the stop
    /// may still be in effect.
    paused: Option<bool>,
    /// An initiator's request for the reset that is in progress.
    reset_request: Option<StartedSrb<'a>>,
}

impl<'a> Life<'a> {
    /// Makes the life cycle of a device that has confirmed a reset. `accepted` is the features
    /// that the driver will accept.
    pub fn new(device: Device<Window<'a>, Reset>, accepted: Features) -> Self {
        Self {
            stage: Stage::Reset(device),
            accepted,
            vectors: Vectors::default(),
            own_resets: [None; MAX_RESETS],
            resets: 0,
            failed_starts: 0,
            now: 0,
            clock: None,
            reset_at: 0,
            start_at: 0,
            closed: None,
            overdue: false,
            paused: Some(false),
            reset_request: None,
        }
    }

    /// Starts the device for the first time. No request is in flight.
    ///
    /// # Errors
    /// Why the start failed. The device is being reset then.
    pub fn start(
        &mut self,
        adapter: &Adapter<'a>,
        queue: &mut Queue<'a>,
        vectors: Vectors,
    ) -> Result<(), Error> {
        self.vectors = vectors;
        let Stage::Reset(device) = core::mem::replace(&mut self.stage, Stage::Taken) else {
            // HwFindAdapter, which comes before, leaves the device reset.
            return Err(virtio::Error::NeedsReset.into());
        };
        let (stage, started) = bring_up(device, self.accepted, adapter, queue, self.vectors);
        self.stage = stage;
        // No initiator has switched the write cache yet.
        started.map(|_: Option<Report>| ())
    }

    /// Begins a reset after a stop, at any stage. [`attend`](Self::attend) continues it.
    pub fn restart(&mut self, queue: &mut Queue<'a>, vectors: Vectors) {
        self.vectors = vectors;
        self.own_resets = [None; MAX_RESETS];
        self.failed_starts = 0;
        self.closed = None;
        // The clock may have started again from 0.
        self.clock = None;
        self.paused = None;
        self.begin_reset(queue);
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
        queue: &mut Queue<'a>,
        demand: Demand,
        clock: Option<Microseconds>,
    ) -> Actions {
        self.pass_time(clock, adapter.unclocked_step);
        let mut actions = Actions::default();
        let demand = if queue.is_reset_requested() {
            Demand::Reset
        } else {
            demand
        };
        if self.reset_request.is_none() {
            self.reset_request = queue.take_reset_request();
        }
        if let Stage::Live(device) = &self.stage {
            let health = device.health();
            self.examine(queue, health, demand, &mut actions);
        }
        self.advance(adapter, queue, &mut actions);
        self.settle(adapter, queue, &mut actions);
        actions.has_requests = queue.in_flight() > 0;
        actions
    }

    /// Begins a reset of a live device, if it needs one or if `demand` asks for one.
    fn examine(
        &mut self,
        queue: &mut Queue<'a>,
        health: Health,
        demand: Demand,
        actions: &mut Actions,
    ) {
        let own = match (health, queue.fault()) {
            (Health::Gone, _) => false,
            (_, Some(fault)) => {
                actions.report(Report::violation(Event::ProtocolViolation, fault));
                true
            }
            (Health::NeedsReset, None) => {
                actions.report(Report::new(Event::ResetRequested, []));
                true
            }
            (Health::Working, None) if demand == Demand::Look => return,
            (Health::Working, None) => false,
        };
        // If the device is gone, `advance` reports that when it polls the reset.
        if health != Health::Gone {
            self.resets = self.resets.saturating_add(1);
            let inserts = [number(self.resets), number(queue.in_flight())];
            actions.report(Report::new(Event::DeviceReset, inserts));
        }
        if own {
            self.count_own_reset(actions);
        }
        self.begin_reset(queue);
    }

    /// Counts a reset that the driver decided on itself. Gives the device up if there were too
    /// many.
    fn count_own_reset(&mut self, actions: &mut Actions) {
        let first = self.own_resets.first().copied().flatten();
        let too_many = first.is_some_and(|first| self.now.saturating_sub(first) < WINDOW);
        self.own_resets.rotate_left(1);
        if let Some(last) = self.own_resets.last_mut() {
            *last = Some(self.now);
        }
        if too_many {
            // The device is still reset, so that requests in flight can be completed.
            self.closed = Some(Failure::NoHba);
            let resets = u64::try_from(MAX_RESETS).unwrap_or(0);
            let inserts = [number(resets), number(WINDOW / SECOND)];
            actions.report(Report::new(Event::DeviceFailed, inserts));
        }
    }

    /// Begins a reset of the device, at any stage, and stops the submission of requests.
    fn begin_reset(&mut self, queue: &mut Queue<'a>) {
        queue.admit(Admission::Wait);
        self.reset_at = self.now;
        self.start_at = 0;
        self.overdue = false;
        self.stage = match core::mem::replace(&mut self.stage, Stage::Taken) {
            Stage::Reset(device) => Stage::Resetting(device.begin_reset()),
            Stage::Live(device) => Stage::Resetting(device.begin_reset()),
            Stage::Resetting(device) => Stage::Resetting(device.begin_reset()),
            Stage::Removed(device) => Stage::Resetting(device.begin_reset()),
            Stage::Taken => Stage::Taken,
        };
    }

    /// Moves the device as far as possible now: polls its reset, reclaims the requests in
    /// flight once it is confirmed, and starts the device again.
    fn advance(&mut self, adapter: &Adapter<'a>, queue: &mut Queue<'a>, actions: &mut Actions) {
        self.stage = match core::mem::replace(&mut self.stage, Stage::Taken) {
            Stage::Resetting(device) => match device.poll() {
                ResetPoll::Done(device) => {
                    self.overdue = false;
                    let failure = self.closed.unwrap_or(Failure::BusReset);
                    queue.reclaim(device.quiet(), &adapter.slots, failure);
                    Stage::Reset(device)
                }
                ResetPoll::Removed(device) => {
                    queue.reclaim(device.quiet(), &adapter.slots, Failure::NoDevice);
                    self.closed = Some(Failure::NoDevice);
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
        self.start_again(adapter, queue, actions);
    }

    /// Starts a device that has confirmed its reset, unless it was given up or the pause after
    /// a failed start is not over.
    fn start_again(&mut self, adapter: &Adapter<'a>, queue: &mut Queue<'a>, actions: &mut Actions) {
        if self.closed.is_some() || self.now < self.start_at {
            return;
        }
        let device = match core::mem::replace(&mut self.stage, Stage::Taken) {
            Stage::Reset(device) => device,
            other => {
                self.stage = other;
                return;
            }
        };
        let (stage, started) = bring_up(device, self.accepted, adapter, queue, self.vectors);
        self.stage = stage;
        match started {
            Ok(report) => {
                self.failed_starts = 0;
                if let Some(report) = report {
                    actions.report(report);
                }
            }
            Err(error) => self.retry(queue, &error, actions),
        }
    }

    /// Resets a device whose start failed, and has it started again later.
    fn retry(&mut self, queue: &mut Queue<'a>, error: &Error, actions: &mut Actions) {
        let pause = FIRST_RETRY.saturating_mul(1_u64.wrapping_shl(self.failed_starts));
        self.failed_starts = self.failed_starts.saturating_add(1);
        self.begin_reset(queue);
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
    fn settle(&mut self, adapter: &Adapter<'a>, queue: &mut Queue<'a>, actions: &mut Actions) {
        let closed = self.closed.or(self.overdue.then_some(Failure::NoHba));
        if let Some(failure) = closed {
            queue.admit(Admission::Closed(failure));
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
            Stage::Resetting(_) => Some(TICK),
            Stage::Reset(_) if waits => Some(TICK),
            _ => None,
        };
        actions.timer = tick
            .and_then(|tick| u32::try_from(tick).ok())
            .and_then(NonZero::new);
        if waits {
            return;
        }
        // The reset that is over also serves a request that came while it was in progress.
        let requests = [self.reset_request.take(), queue.take_reset_request()];
        for srb in requests.into_iter().flatten() {
            match closed {
                None => srb.succeed(0),
                Some(failure) => srb.fail(failure),
            }
        }
    }
}

/// Starts a device that has confirmed a reset, with the features and the ring that it had
/// before, and opens the queue to requests. Returns the new stage. Also returns an event if
/// the write cache could not be switched to the mode that it had before. If a step fails,
/// begins another reset.
fn bring_up<'a>(
    device: Device<Window<'a>, Reset>,
    accepted: Features,
    adapter: &Adapter<'a>,
    queue: &mut Queue<'a>,
    vectors: Vectors,
) -> (Stage<'a>, Result<Option<Report>, Error>) {
    let placement = queue.ring().placement();
    let (device, notifier) = match start_device(device, accepted, placement, vectors) {
        Ok(started) => started,
        Err((device, error)) => return (Stage::Resetting(device), Err(error)),
    };
    if let Err(fault) = queue.ring().check_used_index() {
        let error = Error::Violation(fault);
        return (Stage::Resetting(device.begin_reset()), Err(error));
    }
    // The used ring is empty, so no interrupt is missed.
    let _: bool = queue.ring().rearm_interrupts();
    if adapter.stopped.load(Ordering::SeqCst) {
        // ScsiStopAdapter was called meanwhile. ScsiRestartAdapter continues from here.
        return (Stage::Resetting(device.begin_reset()), Ok(None));
    }
    let cache_mode = CacheMode::new(&device);
    let report = restore_cache_mode(adapter, cache_mode.as_ref());
    queue.admit(Admission::Open {
        notifier,
        cache_mode,
    });
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

/// A device that is live, and the notifier of its queue.
type Started<'a> = (Device<Window<'a>, Live>, Notifier<Window<'a>>);

/// Starts a device that has confirmed a reset: features, queue, vectors, DRIVER_OK.
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
    ring: RingPlacement,
    vectors: Vectors,
) -> Result<Started<'a>, (Device<Window<'a>, Resetting>, Error)> {
    let failed = |failure: Failed<Window<'a>>, offered| {
        let error = failure.error;
        let error = Error::Device { error, offered };
        (failure.device.begin_reset(), error)
    };
    let device = device.acknowledge().map_err(|failure| failed(failure, 0))?;
    let offered = Features::from(device.offered()).bits();
    let mut device = device
        .accept(accepted.get())
        .map_err(|failure| failed(failure, offered))?;

    let refused = |error| Error::Device { error, offered };
    let enabled = device
        .find_queue(QUEUE, ring.size)
        .map_err(refused)
        .and_then(|found| {
            if let Some(vector) = vectors.config {
                // If it fails, the driver notices that the device asks for a reset
                // when a request times out.
                let _: Result<(), virtio::Error> = device.route_config(vector);
            }
            if let Some(vector) = vectors.queue {
                device.route_queue(&found, vector).map_err(refused)?;
            }
            device.enable_queue(found, ring).map_err(refused)
        });
    let enabled = match enabled {
        Ok(enabled) => enabled,
        Err(error) => return Err((device.begin_reset(), error)),
    };
    let device = device.start().map_err(|failure| failed(failure, offered))?;
    let notifier = device.notifier(enabled);
    Ok((device, notifier))
}
