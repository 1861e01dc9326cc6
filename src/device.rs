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
//! Nothing here waits. [`Life::attend`] makes the next step, if there is one, and
//! returns what the callback must do next: request the timer, pause or resume
//! Storport, log events. The DPC, HwTimer and HwResetBus call it. HwPassiveInitialize
//! calls [`Life::start`], and ScsiRestartAdapter [`Life::restart`]. In a dump stack
//! the polled HwInterrupt runs the DPC, and HwInitialize calls `start`.
//!
//! While the device is being reset, requests that arrive are completed as BUSY, and
//! requests in flight stay in flight: until the device confirms the reset, it may
//! write into their memory (VIRTIO 1.3 §3.3.1; V15).

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

/// The one queue.
const QUEUE: u16 = 0;

/// A time or a length of time, in microseconds. Core's
/// `Duration` would bring a panic.
pub type Microseconds = u64;

const MILLISECOND: Microseconds = 1000;
const SECOND: Microseconds = 1000 * MILLISECOND;

/// How often the device is asked whether it has confirmed its reset.
pub const TICK: Microseconds = 10 * MILLISECOND;

/// How long a step takes in a dump stack, whose clock is not reliable: about the
/// time between two polls.
pub const POLL: Microseconds = 100;

/// How long requests wait for the device to confirm a reset. After that new ones
/// fail, and the driver looks every [`SLOW_TICK`].
const RESET_PATIENCE: Microseconds = 10 * SECOND;

/// See [`RESET_PATIENCE`].
const SLOW_TICK: Microseconds = SECOND;

/// How many resets the driver may decide on itself within [`WINDOW`]; the next one
/// gives the device up. Also how many failed starts in a row give it up.
const MAX_RESETS: usize = 8;

/// See [`MAX_RESETS`].
const WINDOW: Microseconds = 60 * SECOND;

/// The pause before the second attempt to start the device. It doubles with each
/// further attempt.
const FIRST_RETRY: Microseconds = 100 * MILLISECOND;

/// Seconds after which Storport ends a pause if the driver does not. All attempts to
/// start a device take less, if it confirms each reset at once.
const PAUSE_SECONDS: u32 = 60;

/// A stage of the device's life cycle.
enum Stage<'a> {
    /// It has confirmed a reset.
    Reset(Device<Window<'a>, Reset>),
    /// It works.
    Live(Device<Window<'a>, Live>),
    /// It was told to reset.
    Resetting(Device<Window<'a>, Resetting>),
    /// It is gone.
    Removed(Device<Window<'a>, Removed>),
    /// Placeholder while a step moves the device to its next stage.
    Taken,
}

/// How the device interrupts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vectors {
    /// The message for used buffers; without one, the pin.
    pub queue: Option<u16>,
    /// The message for changes of the configuration.
    pub config: Option<u16>,
}

/// Why [`Life::attend`] is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// A step may be due.
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
    /// Whether the device still has requests.
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
    /// Times of the resets that the driver decided on itself, the latest last.
    own_resets: [Option<Microseconds>; MAX_RESETS],
    /// How often the device was reset since it was found.
    resets: u32,
    /// Starts that failed in a row.
    failed_starts: u32,
    /// How long the device's life has lasted: see [`pass_time`](Self::pass_time).
    now: Microseconds,
    /// What the clock showed at the last step.
    clock: Option<Microseconds>,
    /// Since when the device is being reset.
    reset_at: Microseconds,
    /// When the device may be started, after a start that failed.
    start_at: Microseconds,
    /// How requests fail, once the device was given up or removed.
    closed: Option<Failure>,
    /// Whether the reset was reported as overdue.
    overdue: bool,
    /// Whether Storport is paused. `None` after a restart: a pause of before the
    /// stop may last.
    paused: Option<bool>,
    /// An initiator's request for the reset that is in progress.
    reset_request: Option<StartedSrb<'a>>,
}

impl<'a> Life<'a> {
    /// A device that has confirmed a reset, and the features that the driver accepts.
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

    /// Starts the device for the first time. Nothing is in flight.
    ///
    /// # Errors
    /// Why the start failed.
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

    /// Begins a reset after a stop, at whatever stage the device is.
    /// [`attend`](Self::attend) continues from there.
    pub fn restart(&mut self, queue: &mut Queue<'a>, vectors: Vectors) {
        self.vectors = vectors;
        self.own_resets = [None; MAX_RESETS];
        self.failed_starts = 0;
        self.closed = None;
        // The clock may begin anew.
        self.clock = None;
        self.paused = None;
        self.begin_reset(queue);
    }

    /// Passes the time since the last step. Where the clock fails or goes back, a
    /// step counts as `unclocked`: what waits for a time would wait for ever.
    fn pass_time(&mut self, clock: Option<Microseconds>, unclocked: Microseconds) {
        let passed = clock
            .zip(self.clock)
            .and_then(|(clock, before)| clock.checked_sub(before));
        self.now = self.now.saturating_add(passed.unwrap_or(unclocked));
        self.clock = clock;
    }

    /// Makes the next step of the life cycle, if there is one.
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

    /// Begins a reset of a live device that needs one.
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
        // A device that is gone is reported when its reset finds it gone.
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

    /// Counts a reset that the driver makes on its own, and gives the device up
    /// after too many.
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

    /// Tells the device to reset, whatever it does.
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

    /// Takes the device as far as it goes now: to its reset, and to its start.
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
                    // The first write may have been lost.
                    Stage::Resetting(if again { device.begin_reset() } else { device })
                }
            },
            other => other,
        };
        self.start_again(adapter, queue, actions);
    }

    /// Starts a device that is reset, unless it was given up or must rest.
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

    /// Derives from the stage how the queue treats requests, whether Storport is
    /// paused, and when the timer calls. Completes requests for a reset that is over.
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
        // A request for a reset that came during this one is served by it too.
        let requests = [self.reset_request.take(), queue.take_reset_request()];
        for srb in requests.into_iter().flatten() {
            match closed {
                None => srb.succeed(0),
                Some(failure) => srb.fail(failure),
            }
        }
    }
}

/// Starts a device that has confirmed a reset, with the features and the ring that it
/// had, and lets requests go to it. Returns an event if the write cache did not get
/// the mode that it had. If a step fails, the device is told to reset.
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
    // Nothing was finished yet, so no interrupt is missed.
    let _: bool = queue.ring().rearm_interrupts();
    if adapter.stopped.load(Ordering::SeqCst) {
        // ScsiStopAdapter came meanwhile. A restart continues from here.
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

/// Switches the write cache to the mode that an initiator chose, which a reset may
/// have undone. Returns an event if the device does not switch it.
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

/// A device that was started, and the notifier of its queue.
type Started<'a> = (Device<Window<'a>, Live>, Notifier<Window<'a>>);

/// Takes a device from its reset to DRIVER_OK.
///
/// # Errors
/// What failed, and the device, told to reset.
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
