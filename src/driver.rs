//! The miniport: Storport's callbacks for a virtio disk.

use core::{
    iter,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering},
};

use scsi::Disk;
use storport::{
    BuildIo, Configured, Dpc, DpcLocked, Exclusive, FindAdapter, Guard, Held, Initialize,
    Interrupt, Interrupted, MAX_DPCS, MessageInterrupt, MessageLocks, MessageTarget, Miniport,
    NotFound, PassiveInitialize, Performance, Processor, Proves, ResetBus, Restart, Srb, StartIo,
    StartIoLocked, Stop, StorStatus, Timer, callback,
    level::{DpcHeld, StartIoHeld},
};
use virtio::{
    blk::TOTAL_SLOTS,
    slots::{Slot, SlotAllocator, SlotSize},
    transport::{Isr, StatusRegister},
};

use crate::{
    device::{Actions, Demand, Life, Messages, Microseconds, OpenQueues},
    error::Error,
    events::Event,
    io::{self, Drained, InFlight, Queue, Request, RequestQueue, ShortUsed},
    probe,
    registers::Window,
    report::Report,
};

/// The maximum number of queues, 31. Each has a DPC object, and there is one more for
/// [`Adapter::attention`].
pub const MAX_QUEUES: u16 = (MAX_DPCS as u16).saturating_sub(1);

/// The bit of the ISR status for a configuration change.
const CONFIG_INTERRUPT: u8 = 1 << 1;

/// How often HwResetBus and ScsiStopAdapter poll a device that is being reset, and the pause
/// after each poll in microseconds: half a millisecond in all. After that the timer continues.
const RESET_POLLS: u32 = 10;
const RESET_PAUSE: u32 = 50;

/// The driver.
pub enum Ferrostor {}

/// A virtio disk.
pub struct Adapter<'a> {
    /// The device's queues. DPC object *n* belongs to queue *n*.
    pub queues: &'a [RequestQueue<'a>],
    /// The first queue, which is always in use.
    pub first: &'a RequestQueue<'a>,
    /// How many of the first queues are in use, at least 1.
    pub active: AtomicU16,
    /// The number of the queue for requests of each processor, by [`processor_index`].
    pub queue_numbers: [AtomicU8; PROCESSORS],
    /// A DPC object without data. Its DPC calls [`Life::attend`].
    pub attention: DpcLocked<'a, ()>,
    /// The device and its life cycle.
    pub life: StartIoLocked<'a, Life<'a>>,
    /// The ISR status register, which HwInterrupt reads.
    pub isr: Isr<Window<'a>>,
    /// The device status register. ScsiStopAdapter begins a reset with it, and polls it for a
    /// short time.
    pub status: StatusRegister<Window<'a>>,
    /// The disk as initiators see it.
    pub disk: Disk,
    /// Counts requests whose used length is too short.
    pub short_used: ShortUsed,
    /// Whether Storport is to be paused, because the device is being reset. Written under the
    /// lock of `life`.
    pub waits: AtomicBool,
    /// Whether the adapter is stopped. The device must not be started then.
    pub stopped: AtomicBool,
    /// Whether a callback is starting the device, and has not read `stopped` after that yet.
    pub starting: AtomicBool,
    /// The assumed duration of a step of the life cycle if the clock fails.
    pub unclocked_step: Microseconds,
    /// The number of processors, and so of concurrent channels.
    pub processors: u32,
}

impl<'a> Adapter<'a> {
    /// The queues that are in use.
    #[inline]
    pub fn active_queues(&self) -> &'a [RequestQueue<'a>] {
        let active = usize::from(self.active.load(Ordering::Relaxed));
        self.queues.get(..active).unwrap_or_default()
    }

    /// Reserves a slot of at least `size`: of this processor's queue, or of another one if that
    /// queue has none.
    pub fn reserve(
        &self,
        cx: &BuildIo<'_, 'a>,
        size: SlotSize,
    ) -> Option<(&'a RequestQueue<'a>, Slot)> {
        let own = self.queue_of_processor(cx);
        let mut queues = iter::once(own).chain(self.active_queues());
        queues.find_map(|queue| Some((queue, queue.slots.reserve(size)?)))
    }

    /// The queue for requests of the current processor.
    #[inline]
    pub fn queue_of_processor(&self, cx: &BuildIo<'_, 'a>) -> &'a RequestQueue<'a> {
        if self.active.load(Ordering::Relaxed) <= 1 {
            return self.first;
        }
        let index = cx.processor().map_or(0, processor_index);
        let number = self.queue_numbers.get(index);
        let number = number.map_or(0, |number| number.load(Ordering::Relaxed));
        self.active_queues()
            .get(usize::from(number))
            .unwrap_or(self.first)
    }

    /// Chooses the queue for requests of each processor: one whose message interrupts that
    /// processor, so that its completions come back there. `targets` has the processors of each
    /// queue's message. Queues that are equally good take turns.
    #[cold]
    fn assign_processors(&self, targets: &[MessageTarget]) {
        for (index, number) in self.queue_numbers.iter().enumerate() {
            let processor = processor_at(index);
            let near = || (0..).zip(targets).filter(|(_, it)| it.contains(processor));
            let chosen = match index.checked_rem(near().count()) {
                Some(turn) => near().nth(turn).map(|(queue, _)| queue),
                None => index.checked_rem(targets.len()).map(|queue| queue as u8),
            };
            number.store(chosen.unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// Runs `run` with the life cycle and the right to open the queues. `cx` proves that no other
    /// callback accesses either.
    fn exclusively<S, R>(
        &self,
        cx: &mut S,
        run: impl FnOnce(&mut Life<'a>, &mut Exclusive<'a, DpcHeld>) -> R,
    ) -> R
    where
        S: Proves<'a, StartIoHeld> + Proves<'a, DpcHeld>,
    {
        self.life.open_with(cx, run)
    }

    /// Makes the next step of the life cycle.
    fn attend(
        &self,
        life: &mut Guard<'_, 'a, Life<'a>, StartIoHeld>,
        demand: Demand,
        clock: Option<Microseconds>,
    ) -> Actions {
        let (life, held) = life.split();
        life.attend(self, held, demand, clock)
    }
}

/// The number of processors whose queues are chosen one by one. Further ones share the queues of
/// these.
pub const PROCESSORS: usize = 256;

/// The number of processors in a group, at most.
const GROUP: usize = 64;

/// The index of a processor.
#[inline]
fn processor_index(processor: Processor) -> usize {
    let number = usize::from(processor.number);
    let index = usize::from(processor.group).wrapping_mul(GROUP);
    index.wrapping_add(number) % PROCESSORS
}

/// The processor with an index below [`PROCESSORS`].
fn processor_at(index: usize) -> Processor {
    // Neither cast loses a bit: there are 4 groups of 64 processors.
    Processor {
        group: (index / GROUP) as u16,
        number: (index % GROUP) as u8,
    }
}

/// Queues in a callback in which no other callback accesses them.
impl<'a> OpenQueues<'a> for Exclusive<'a, DpcHeld> {
    fn with<R>(&mut self, queue: &RequestQueue<'a>, run: impl FnOnce(&mut Queue<'a>) -> R) -> R {
        run(queue.locked.open(self))
    }
}

/// Queues that are opened under their locks, while the StartIo lock is held.
impl<'a> OpenQueues<'a> for Held<'a, StartIoHeld> {
    fn with<R>(&mut self, queue: &RequestQueue<'a>, run: impl FnOnce(&mut Queue<'a>) -> R) -> R {
        queue.locked.with(self, |locked| run(locked))
    }
}

/// Carries out what [`Life::attend`] returned.
///
/// In the DPC, the lock of `life` is already released. So another processor may have made the
/// next step and resumed Storport before this pause. Nothing else would then end the pause,
/// so it is ended here.
macro_rules! carry_out {
    ($adapter:expr, $cx:expr, $actions:expr) => {{
        let actions: Actions = $actions;
        if let Some(seconds) = actions.pause {
            // If Storport refuses to pause, new requests are completed as BUSY.
            let _: bool = $cx.pause(seconds);
            if !$adapter.waits.load(Ordering::SeqCst) {
                let _: bool = $cx.resume();
            }
        }
        if actions.resume {
            // If Storport refuses, the pause ends after its own time.
            let _: bool = $cx.resume();
        }
        if let Some(microseconds) = actions.timer {
            // Fails if the adapter was stopped meanwhile. The restart then continues.
            let _: Result<(), StorStatus> = $cx.request_timer::<Ferrostor>(microseconds);
        }
        for report in actions.reports.iter().flatten() {
            // If an event cannot be logged, it is lost.
            let _: Result<(), StorStatus> = $cx.log_event(&report.event());
        }
    }};
}

/// The size of the tables for `queues` queues with `slots` slots in all.
const fn table_bytes(queues: u16, slots: u16) -> usize {
    // The table of requests in flight may end within a cache line, and the next one has an
    // alignment of its own.
    let queue = size_of::<RequestQueue<'static>>()
        .saturating_add(size_of::<SlotAllocator>())
        .saturating_add(align_of::<SlotAllocator>());
    let queues = (queues as usize).saturating_mul(queue);
    (slots as usize)
        .saturating_mul(size_of::<Option<InFlight<'static>>>())
        .saturating_add(queues)
}

impl Miniport for Ferrostor {
    type Adapter<'a> = Adapter<'a>;
    type Request<'a> = Request;

    const TABLE_BYTES: usize = table_bytes(MAX_QUEUES, TOTAL_SLOTS);
    const DUMP_TABLE_BYTES: usize = table_bytes(1, probe::DUMP_SLOTS);
    const MESSAGE_LOCKS: MessageLocks = MessageLocks::PerMessage;

    // Not inlined: see `probe::find`.
    #[inline(never)]
    fn find_adapter<'a>(
        cx: &mut FindAdapter<'_, 'a>,
    ) -> Result<(Configured<'a>, Adapter<'a>), NotFound> {
        let error = match probe::find(cx) {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        // A dump stack logs nothing.
        let _: Result<(), StorStatus> = cx.log_event(&Report::from(&error).event());
        Err(match error {
            Error::ConfigurationSpace => NotFound::BadConfiguration,
            _ => NotFound::Unusable,
        })
    }

    fn initialize<'a>(adapter: &Adapter<'a>, cx: &mut Initialize<'_, 'a>) -> bool {
        let queues = messages(adapter, |message| cx.has_message(message)).queues();
        let mut targets = [MessageTarget::default(); MAX_QUEUES as usize];
        // The driver works whatever Storport grants. HwStartIo takes only the queue's lock, so
        // it runs with or without concurrent channels. If Storport does not report which
        // processors the messages interrupt, no target contains a processor, and the queues
        // are assigned to the processors in turn.
        let _: Performance = cx.optimize(
            &Performance {
                channels: adapter.processors,
                dpc_redirection: true,
                messages: cx
                    .has_message(0)
                    .then_some((0, u32::from(queues).saturating_sub(1))),
                ..Performance::default()
            },
            &mut targets,
        );
        adapter.assign_processors(targets.get(..queues.into()).unwrap_or_default());
        // A dump stack has no HwPassiveInitialize and no interrupts, so the device starts
        // here, without vectors.
        if !cx.is_dump() {
            return true;
        }
        let started = adapter.exclusively(cx, |life, queues| {
            life.start(adapter, queues, Messages::distribute(0, 1))
        });
        // As in HwPassiveInitialize. The polls of a request continue the reset.
        matches!(started, Ok(()) | Err(Error::Violation(_)))
    }

    fn build_io<'a>(
        adapter: &Adapter<'a>,
        cx: &mut BuildIo<'_, 'a>,
        srb: Srb<'a>,
    ) -> Option<(Srb<'a>, Request)> {
        io::build(adapter, cx, srb)
    }

    fn start_io<'a>(
        adapter: &Adapter<'a>,
        cx: &mut StartIo<'_, 'a>,
        srb: Srb<'a>,
        request: Request,
    ) {
        io::start(adapter, cx, srb, request);
    }

    fn interrupt<'a>(adapter: &Adapter<'a>, cx: &mut Interrupt<'_, 'a>) -> Interrupted {
        // Reading the status deasserts the pin. A dump stack polls this routine, so the
        // queues are drained there whatever the status is.
        let status = adapter.isr.take();
        if status.is_empty() && !cx.is_dump() {
            return Interrupted::NotOurs;
        }
        // A dump stack has no timer either, so each poll continues a reset.
        if status.bits() & CONFIG_INTERRUPT != 0 || cx.is_dump() {
            adapter.attention.issue(cx);
        }
        for queue in adapter.active_queues() {
            queue.locked.issue(cx);
        }
        Interrupted::Ours
    }

    fn dpc<'a>(adapter: &Adapter<'a>, cx: &mut Dpc<'_, 'a>) {
        let Some(queue) = adapter.queues.get(cx.number().index()) else {
            return attend_in_dpc(adapter, cx);
        };
        let drained = io::drain(adapter, queue, cx);
        if let Some(report) = adapter.short_used.take_report() {
            let _: Result<(), StorStatus> = cx.log_event(&report.event());
        }
        match drained {
            Drained::All => {}
            Drained::More => queue.locked.issue(cx),
            Drained::Faulty => attend_in_dpc(adapter, cx),
        }
    }

    fn reset_bus<'a>(adapter: &Adapter<'a>, cx: &mut ResetBus<'_, 'a>) -> bool {
        // An interrupt may have been lost. So requests that the device has finished are
        // completed with their outcome first, and not failed by the reset.
        for queue in adapter.queues.iter() {
            let _: Drained = io::drain(adapter, queue, cx);
        }
        let mut demand = Demand::Reset;
        for _ in 0..RESET_POLLS {
            let clock = cx.microseconds().ok();
            let actions = adapter
                .life
                .with_held(cx, |life| adapter.attend(life, demand, clock));
            let waits = actions.timer.is_some();
            carry_out!(adapter, cx, actions);
            let mut queues = adapter.queues.iter();
            if !waits || queues.all(|queue| queue.locked.with(cx, |open| open.in_flight()) == 0) {
                return true;
            }
            demand = Demand::Poll;
            cx.stall(RESET_PAUSE);
        }
        // The device has not confirmed its reset. The timer continues, and requests stay in
        // flight until then.
        false
    }

    fn stop<'a>(adapter: &Adapter<'a>, cx: &mut Stop<'_, 'a>) {
        // Another callback may be starting the device now. It reads this flag after the start,
        // and begins a reset if it is set.
        adapter.stopped.store(true, Ordering::SeqCst);
        // Windows may free the adapter's memory after this, so the device gets time to stop
        // accessing it. This may run at DIRQL, so the time is short.
        let mut is_reset = false;
        for _ in 0..RESET_POLLS {
            // Writes between the reset and its confirmation would be a driver error
            // (VIRTIO 1.3 §4.1.4.3.2).
            if !adapter.starting.load(Ordering::SeqCst) {
                if !is_reset {
                    adapter.status.begin_reset();
                    is_reset = true;
                }
                if adapter.status.is_quiet() {
                    return;
                }
            }
            cx.stall(RESET_PAUSE);
        }
        // A start that this callback has interrupted cannot end before this returns. It ends with
        // another reset.
        if !is_reset {
            adapter.status.begin_reset();
        }
    }

    fn restart<'a>(adapter: &Adapter<'a>, cx: &mut Restart<'_, 'a>) -> bool {
        let messages = messages(adapter, |message| cx.has_message(message));
        adapter.stopped.store(false, Ordering::SeqCst);
        adapter.exclusively(cx, |life, queues| life.restart(adapter, queues, messages));
        // The DPC runs once the adapter is ready, and continues the reset. Until the device
        // is started, requests are completed as BUSY.
        adapter.attention.issue(cx);
        true
    }
}

/// Makes the next step of the life cycle in a DPC.
#[cold]
#[inline(never)]
fn attend_in_dpc<'a>(adapter: &Adapter<'a>, cx: &mut Dpc<'_, 'a>) {
    let clock = cx.microseconds().ok();
    let actions = adapter
        .life
        .with(cx, |life| adapter.attend(life, Demand::Poll, clock));
    carry_out!(adapter, cx, actions);
}

/// Distributes the messages that are connected, which are the first ones.
fn messages(adapter: &Adapter<'_>, has_message: impl Fn(u32) -> bool) -> Messages {
    let queues = u16::try_from(adapter.queues.len()).unwrap_or(MAX_QUEUES);
    let connected = (0..=queues).take_while(|message| has_message((*message).into()));
    let connected = u16::try_from(connected.count()).unwrap_or(u16::MAX);
    Messages::distribute(connected, queues)
}

impl callback::PassiveInitialize for Ferrostor {
    fn passive_initialize<'a>(adapter: &Adapter<'a>, cx: &mut PassiveInitialize<'_, 'a>) -> bool {
        let messages = messages(adapter, |message| cx.has_message(message));
        match adapter.exclusively(cx, |life, queues| life.start(adapter, queues, messages)) {
            Ok(()) => {}
            // A single protocol violation is no reason to go without the disk.
            Err(Error::Violation(fault)) => {
                let report = Report::violation(Event::ProtocolViolation, fault);
                let _: Result<(), StorStatus> = cx.log_event(&report.event());
            }
            Err(error) => {
                let _: Result<(), StorStatus> = cx.log_event(&Report::from(&error).event());
                if becomes_quiet(adapter, cx) {
                    return false;
                }
                // Windows would free the adapter's memory, which the device may still access.
            }
        }
        // The DPC continues a reset that the device has not confirmed.
        adapter.attention.issue(cx);
        true
    }
}

/// Waits for a device whose start failed to confirm its reset. Returns false if it did not.
#[cold]
fn becomes_quiet<'a>(adapter: &Adapter<'a>, cx: &mut PassiveInitialize<'_, 'a>) -> bool {
    for _ in 0..probe::RESET_MILLISECONDS {
        if adapter.exclusively(cx, |life, _| life.is_quiet()) {
            return true;
        }
        cx.stall(1000);
    }
    false
}

impl callback::MessageInterrupt for Ferrostor {
    fn message_interrupt<'a>(
        adapter: &Adapter<'a>,
        cx: &mut MessageInterrupt<'_, 'a>,
    ) -> Interrupted {
        let message = usize::try_from(cx.message()).unwrap_or(usize::MAX);
        match adapter.active_queues().get(message) {
            Some(queue) => queue.locked.issue(cx),
            None => adapter.attention.issue(cx),
        }
        Interrupted::Ours
    }
}

impl callback::Timer for Ferrostor {
    fn timer<'a>(adapter: &Adapter<'a>, cx: &mut Timer<'_, 'a>) {
        let clock = cx.microseconds().ok();
        let actions = adapter
            .life
            .with_held(cx, |life| adapter.attend(life, Demand::Poll, clock));
        carry_out!(adapter, cx, actions);
    }
}
