//! The device's life in one place: start, reset, restart, removal.
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
//! says what the callback is to do next: have the timer call again, pause Storport
//! or resume it, log events. HwPassiveInitialize, the DPC, HwTimer, HwResetBus and
//! a restart share it. In a dump stack the same steps are made by polling.
//!
//! While the device is being reset, requests that arrive are told to wait, and
//! requests that it had are kept: until it confirms the reset, it may write into
//! their memory (VIRTIO 1.3, 3.3.1; V15).

use core::{num::NonZero, sync::atomic::Ordering};

use storport::{Failure, StartedSrb};
use virtio::{
    blk::{self, CacheMode},
    split_queue::RingFault,
    transport::{
        Device, Failure as Failed, Features, Health, Live, Notifier, Removed, Reset, ResetPoll,
        Resetting, TransportError, VectorError,
    },
};

use crate::{
    driver::Adapter,
    events::Event,
    io::{Admission, Queue},
    registers::Window,
    report::{Report, bits, number, restart_text, text},
};

/// The one queue.
const QUEUE: u16 = 0;

/// A time since the system started, or a length of time, in microseconds. Core's
/// `Duration` would bring a panic.
pub type Microseconds = u64;

const MILLISECOND: Microseconds = 1000;
const SECOND: Microseconds = 1000 * MILLISECOND;

/// How often the device is asked whether it has confirmed its reset.
const TICK: Microseconds = 10 * MILLISECOND;

/// How long requests wait for the device to confirm a reset. After that new ones
/// fail, and the device is asked every [`SLOW_TICK`].
const RESET_PATIENCE: Microseconds = 10 * SECOND;

/// See [`RESET_PATIENCE`].
const SLOW_TICK: Microseconds = SECOND;

/// The driver's own resets within [`WINDOW`] after which it gives the device up,
/// and the starts that may fail one after the other.
const MAX_RESETS: usize = 8;

/// See [`MAX_RESETS`].
const WINDOW: Microseconds = 60 * SECOND;

/// The pause before the second attempt to start the device; it doubles with each.
const FIRST_RETRY: Microseconds = 100 * MILLISECOND;

/// Seconds that Storport pauses at most, should the driver not resume it: longer
/// than all attempts take.
const PAUSE_SECONDS: u32 = 60;

/// The device at one step of its life.
enum Stage<'a> {
    /// It has confirmed a reset.
    Reset(Device<Window<'a>, Reset>),
    /// It works.
    Live(Device<Window<'a>, Live>),
    /// It was told to reset.
    Resetting(Device<Window<'a>, Resetting>),
    /// It is gone.
    Removed(Device<Window<'a>, Removed>),
    /// A step is being made.
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

/// Why a device that is reset could not be brought up.
#[derive(Clone, Copy, Debug)]
pub enum BringUpError {
    /// A step of the initialisation failed.
    Transport {
        /// Why.
        error: TransportError,
        /// The features that it offered.
        offered: u64,
    },
    /// It refused the vector of its queue.
    Vector {
        /// The vector.
        vector: u16,
    },
    /// It wrote to the used ring before it had a request.
    Violation(RingFault),
}

/// Why [`Life::attend`] is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Something may have to be done.
    Look,
    /// Storport wants every request back.
    Reset,
}

/// What a callback is to do after it attended to the device.
#[derive(Debug, Default)]
#[must_use]
pub struct Actions {
    /// Pause Storport for so many seconds.
    pub pause: Option<u32>,
    /// Resume Storport.
    pub resume: bool,
    /// Have the timer call after so many microseconds.
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

/// The device's life, under the StartIo lock.
pub struct Life<'a> {
    stage: Stage<'a>,
    accepted: Features,
    vectors: Vectors,
    /// When the driver reset the device on its own, the latest last.
    own_resets: [Option<Microseconds>; MAX_RESETS],
    /// How often the device was reset since it was found.
    resets: u32,
    /// Starts that failed one after the other.
    failed_starts: u32,
    /// Since when the device is being reset.
    reset_at: Microseconds,
    /// When it may be started.
    start_at: Microseconds,
    /// Why it was given up.
    closed: Option<Failure>,
    /// Its reset was reported as overdue.
    overdue: bool,
    /// Storport was paused.
    paused: bool,
    /// An initiator's request for the reset that is under way.
    reset_request: Option<StartedSrb<'a>>,
}

impl<'a> Life<'a> {
    /// The life of a device that is reset and accepts these features.
    pub fn new(device: Device<Window<'a>, Reset>, accepted: Features) -> Self {
        Self {
            stage: Stage::Reset(device),
            accepted,
            vectors: Vectors::default(),
            own_resets: [None; MAX_RESETS],
            resets: 0,
            failed_starts: 0,
            reset_at: 0,
            start_at: 0,
            closed: None,
            overdue: false,
            paused: false,
            reset_request: None,
        }
    }

    /// Starts the device for the first time. Nothing is in flight.
    ///
    /// # Errors
    /// Why it does not work.
    pub fn start(
        &mut self,
        adapter: &Adapter<'a>,
        queue: &mut Queue<'a>,
        vectors: Vectors,
    ) -> Result<(), BringUpError> {
        self.vectors = vectors;
        let Stage::Reset(device) = core::mem::replace(&mut self.stage, Stage::Taken) else {
            // HwFindAdapter, which comes before, leaves the device reset.
            let error = TransportError::NeedsReset;
            return Err(BringUpError::Transport { error, offered: 0 });
        };
        let (stage, started) = bring_up(device, self.accepted, adapter, queue, self.vectors);
        self.stage = stage;
        // No initiator has switched the write cache yet.
        started.map(|_: Option<Report>| ())
    }

    /// Begins the life anew after a stop: whatever the device did meanwhile, it is
    /// reset. [`attend`](Self::attend) goes on from there.
    pub fn restart(&mut self, queue: &mut Queue<'a>, vectors: Vectors) {
        self.vectors = vectors;
        self.own_resets = [None; MAX_RESETS];
        self.failed_starts = 0;
        self.closed = None;
        self.paused = false;
        self.begin_reset(queue, None);
    }

    /// Makes the next step of the device's life, if there is one.
    pub fn attend(
        &mut self,
        adapter: &Adapter<'a>,
        queue: &mut Queue<'a>,
        demand: Demand,
        now: Microseconds,
    ) -> Actions {
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
            self.examine(queue, health, demand, now, &mut actions);
        }
        self.advance(adapter, queue, now, &mut actions);
        self.settle(adapter, queue, &mut actions);
        actions
    }

    /// Begins a reset of a live device that needs one.
    fn examine(
        &mut self,
        queue: &mut Queue<'a>,
        health: Health,
        demand: Demand,
        now: Microseconds,
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
            self.count_own_reset(now, actions);
        }
        self.begin_reset(queue, Some(now));
    }

    /// Counts a reset that the driver makes on its own, and gives the device up
    /// after too many.
    fn count_own_reset(&mut self, now: Microseconds, actions: &mut Actions) {
        let first = self.own_resets.first().copied().flatten();
        let too_many = first.is_some_and(|first| now.saturating_sub(first) < WINDOW);
        self.own_resets.rotate_left(1);
        if let Some(last) = self.own_resets.last_mut() {
            *last = Some(now);
        }
        if too_many {
            // The device is still reset, so that it gives back its requests.
            self.closed = Some(Failure::NoHba);
            let resets = u64::try_from(MAX_RESETS).unwrap_or(0);
            let inserts = [number(resets), number(WINDOW / SECOND)];
            actions.report(Report::new(Event::DeviceFailed, inserts));
        }
    }

    /// Tells the device to reset, whatever it does. `now` is `None` where the time
    /// is not known: the next step supplies it.
    fn begin_reset(&mut self, queue: &mut Queue<'a>, now: Option<Microseconds>) {
        queue.admit(Admission::Wait);
        self.reset_at = now.unwrap_or(Microseconds::MAX);
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
    fn advance(
        &mut self,
        adapter: &Adapter<'a>,
        queue: &mut Queue<'a>,
        now: Microseconds,
        actions: &mut Actions,
    ) {
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
                    self.note_overdue(device.status().bits(), now, actions);
                    Stage::Resetting(device)
                }
            },
            other => other,
        };
        self.start_again(adapter, queue, now, actions);
    }

    /// Starts a device that is reset, unless it was given up or must rest.
    fn start_again(
        &mut self,
        adapter: &Adapter<'a>,
        queue: &mut Queue<'a>,
        now: Microseconds,
        actions: &mut Actions,
    ) {
        if self.closed.is_some() || now < self.start_at {
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
            Err(error) => self.retry(queue, &error, now, actions),
        }
    }

    /// Resets a device whose start failed, and has it started again later.
    fn retry(
        &mut self,
        queue: &mut Queue<'a>,
        error: &BringUpError,
        now: Microseconds,
        actions: &mut Actions,
    ) {
        let pause = FIRST_RETRY.saturating_mul(1_u64.wrapping_shl(self.failed_starts));
        self.failed_starts = self.failed_starts.saturating_add(1);
        self.begin_reset(queue, Some(now));
        self.start_at = now.saturating_add(pause);
        if usize::try_from(self.failed_starts).is_ok_and(|failed| failed >= MAX_RESETS) {
            self.closed = Some(Failure::NoHba);
            let inserts = [text(restart_text(error))];
            actions.report(Report::new(Event::RestartFailed, inserts));
        }
    }

    /// Reports a reset that takes too long, once.
    fn note_overdue(&mut self, status: u8, now: Microseconds, actions: &mut Actions) {
        self.reset_at = self.reset_at.min(now);
        let waited = now.saturating_sub(self.reset_at);
        if self.overdue || waited < RESET_PATIENCE {
            return;
        }
        self.overdue = true;
        let inserts = [number(waited / MILLISECOND), bits(status)];
        actions.report(Report::new(Event::ResetUnconfirmed, inserts));
    }

    /// Makes the queue and Storport fit the stage, and ends requests for a reset
    /// that has come to its end.
    fn settle(&mut self, adapter: &Adapter<'a>, queue: &mut Queue<'a>, actions: &mut Actions) {
        let closed = self.closed.or(self.overdue.then_some(Failure::NoHba));
        if let Some(failure) = closed {
            queue.admit(Admission::Closed(failure));
        }
        let is_live = matches!(self.stage, Stage::Live(_));
        let waits = !is_live && closed.is_none();
        if waits && !self.paused {
            actions.pause = Some(PAUSE_SECONDS);
        }
        actions.resume = !waits && self.paused;
        self.paused = waits;
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
        // One that came while the reset was under way is served by it, too.
        let requests = [self.reset_request.take(), queue.take_reset_request()];
        for srb in requests.into_iter().flatten() {
            match closed {
                None => srb.succeed(0),
                Some(failure) => srb.fail(failure),
            }
        }
    }
}

/// Brings a device that is reset up with the features it had, gives it its ring,
/// and lets requests go to it. Returns an event if the write cache did not get the
/// mode that it had. If a step fails, the device is told to reset.
fn bring_up<'a>(
    device: Device<Window<'a>, Reset>,
    accepted: Features,
    adapter: &Adapter<'a>,
    queue: &mut Queue<'a>,
    vectors: Vectors,
) -> (Stage<'a>, Result<Option<Report>, BringUpError>) {
    let (device, notifier) = match start_device(device, accepted, queue, vectors) {
        Ok(started) => started,
        Err((device, error)) => return (Stage::Resetting(device), Err(error)),
    };
    if let Err(fault) = queue.ring().check_used_index() {
        let error = BringUpError::Violation(fault);
        return (Stage::Resetting(device.begin_reset()), Err(error));
    }
    // Nothing was finished yet, so no interrupt is missed.
    let _: bool = queue.ring().rearm_interrupts();
    if adapter.stopped.load(Ordering::SeqCst) {
        // ScsiStopAdapter came meanwhile. A restart goes on from here.
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

/// Switches the write cache as an initiator had switched it: a reset may have
/// forgotten that. Returns an event if the device does not do it.
fn restore_cache_mode(
    adapter: &Adapter<'_>,
    cache_mode: Option<&CacheMode<Window<'_>>>,
) -> Option<Report> {
    let cache_mode = cache_mode?;
    let wanted = match adapter.disk.write_cache.get() {
        scsi::WriteCache::Enabled => blk::WriteCache::WriteBack,
        scsi::WriteCache::Absent | scsi::WriteCache::Disabled => blk::WriteCache::WriteThrough,
    };
    if cache_mode.get() == wanted || cache_mode.set(wanted).is_ok() {
        return None;
    }
    // Initiators are told what the device does.
    let on = cache_mode.get() == blk::WriteCache::WriteBack;
    adapter.disk.write_cache.set(on);
    let wants_cache = wanted == blk::WriteCache::WriteBack;
    Some(Report::cache_mode_unchanged(wants_cache))
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
    queue: &mut Queue<'a>,
    vectors: Vectors,
) -> Result<Started<'a>, (Device<Window<'a>, Resetting>, BringUpError)> {
    let failed = |failure: Failed<Window<'a>>, offered| {
        let error = failure.error;
        let error = BringUpError::Transport { error, offered };
        (failure.device.begin_reset(), error)
    };
    let device = device.acknowledge().map_err(|failure| failed(failure, 0))?;
    let offered = Features::from(device.offered()).bits();
    let mut device = device
        .accept(accepted.get())
        .map_err(|failure| failed(failure, offered))?;

    let placement = queue.ring().placement();
    let transport = |error| BringUpError::Transport { error, offered };
    let enabled = device
        .find_queue(QUEUE, placement.size)
        .map_err(transport)
        .and_then(|found| {
            if let Some(vector) = vectors.config {
                // Without it, a device that asks for a reset is found when a
                // request times out.
                let _: Result<(), VectorError> = device.route_config(vector);
            }
            if let Some(vector) = vectors.queue {
                device
                    .route_queue(&found, vector)
                    .map_err(|_| BringUpError::Vector { vector })?;
            }
            device.enable_queue(found, placement).map_err(transport)
        });
    let enabled = match enabled {
        Ok(enabled) => enabled,
        Err(error) => return Err((device.begin_reset(), error)),
    };
    let device = device.start().map_err(|failure| failed(failure, offered))?;
    let notifier = device.notifier(enabled);
    Ok((device, notifier))
}
