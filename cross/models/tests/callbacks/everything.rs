//! A miniport with every optional callback. Each callback takes every lock and opens every cell
//! that it may.

use std::{
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering},
};

use storport::{
    AdapterPower, Address, BuildIo, Changed, Channels, Configured, Direction, Dpc, DpcLocked,
    Event, Failure, FindAdapter, Function, Initialize, Insert, Interrupt, InterruptLocked,
    Interrupted, MessageInterrupt, MessageLocked, MessageLocks, Miniport, NotFound,
    PassiveInitialize, Performance, RegistryChange, ResetBus, Restart, Scope, Srb, StartIo,
    StartIoLocked, StartedSrb, StateChange, Stop, SurpriseRemoval, ThreadedDpc, Timer, Tracing,
    UnitControl, UnitPower, Work,
    callback::{self, Names, key},
    level::{Below, DpcHeld, InterruptHeld, NothingHeld},
};

use crate::miniport::{LIMITS, Pair};

/// How many messages have a cell. The last message is never connected.
const MESSAGES: [u32; 3] = [0, 1, 77];

/// The change that is reported.
const CHANGED: Changed = Changed::Target(Address {
    path: 1,
    target: 2,
    lun: 3,
});

/// How many counted callbacks and requests are running. All accesses are relaxed, so that they do
/// not order the memory accesses of threads.
static ADMITTED: AtomicUsize = AtomicUsize::new(0);
/// How many interrupt routines are running.
static INTERRUPTS: AtomicUsize = AtomicUsize::new(0);
/// How many callbacks are running that must be exclusive except for interrupt routines.
static EXCLUSIVE: AtomicUsize = AtomicUsize::new(0);

/// How many timers, work items and state changes have reached the miniport.
pub static LATER: AtomicUsize = AtomicUsize::new(0);

/// Whether any callback is running.
pub fn any_runs() -> bool {
    count(&ADMITTED) != 0
}

/// Counts a callback while it runs.
struct Count(&'static AtomicUsize);

impl Count {
    fn new(of: &'static AtomicUsize) -> Self {
        of.fetch_add(1, Ordering::Relaxed);
        Self(of)
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The current count. A load could return an earlier value.
fn count(of: &AtomicUsize) -> usize {
    of.fetch_add(0, Ordering::Relaxed)
}

/// Counts a callback that may not run beside one that must be exclusive.
fn admitted() -> Count {
    let admitted = Count::new(&ADMITTED);
    assert_eq!(
        count(&EXCLUSIVE),
        0,
        "admitted beside one that must be exclusive"
    );
    admitted
}

/// Counts a callback that must be exclusive except for interrupt routines.
fn exclusive_but_for_interrupts() -> Count {
    let running = Count::new(&EXCLUSIVE);
    assert_eq!(count(&EXCLUSIVE), 1, "two that must be exclusive");
    assert_eq!(count(&ADMITTED), 0, "exclusive beside one that is admitted");
    running
}

/// Counts a callback that must be exclusive.
fn exclusive() -> Count {
    assert_eq!(
        count(&INTERRUPTS),
        0,
        "exclusive beside an interrupt routine"
    );
    exclusive_but_for_interrupts()
}

/// The state of an adapter.
pub struct Adapter<'a> {
    /// HwFindAdapter writes it, and all callbacks read it.
    found: u64,
    start_io: StartIoLocked<'a, Pair>,
    requests: DpcLocked<'a, Requests<'a>>,
    threaded: DpcLocked<'a, Pair>,
    interrupts: InterruptLocked<'a, Pair>,
    messages: [MessageLocked<'a, Pair>; 3],
}

/// The requests in flight.
struct Requests<'a> {
    pair: Pair,
    started: Option<StartedSrb<'a>>,
}

impl<'a> Adapter<'a> {
    /// Takes every lock that comes after the StartIo lock in the order.
    fn lock_above_start_io<S>(&self, cx: &mut S)
    where
        S: Scope<'a>,
        S::Level: Below<DpcHeld> + Below<InterruptHeld>,
    {
        assert_eq!(self.found, 7);
        self.requests.with(cx, |requests| {
            requests.pair.up();
            let (_, held) = requests.split();
            self.interrupts.with(held, |interrupts| interrupts.up());
        });
        self.threaded.with(cx, |threaded| threaded.up());
        for message in &self.messages {
            message.with(cx, |message| message.up());
        }
        self.interrupts
            .synchronize(cx, |interrupts| interrupts.up());
    }

    /// Takes every lock.
    fn lock_all<S: Scope<'a, Level = NothingHeld>>(&self, cx: &mut S) {
        self.start_io.with(cx, |start_io| {
            start_io.up();
            let (_, held) = start_io.split();
            self.requests.with(held, |requests| requests.pair.up());
        });
        self.lock_above_start_io(cx);
    }
}

/// The miniport, with message locks or with one lock for all messages.
pub struct Everything<const PER_MESSAGE: bool>;

storport::registered!(Everything<true>: PassiveInitialize, MessageInterrupt, ThreadedDpc, Timer,
    Work, StateChange, RegistryChange, AdapterPower, SurpriseRemoval, UnitControl, UnitPower,
    Tracing);
storport::registered!(Everything<false>: PassiveInitialize, MessageInterrupt, ThreadedDpc, Timer,
    Work, StateChange, RegistryChange, AdapterPower, SurpriseRemoval, UnitControl, UnitPower,
    Tracing);

/// Names every optional callback.
trait Named:
    Names<key::PassiveInitialize>
    + Names<key::MessageInterrupt>
    + Names<key::ThreadedDpc>
    + Names<key::Timer>
    + Names<key::Work>
    + Names<key::StateChange>
    + Names<key::RegistryChange>
    + Names<key::AdapterPower>
    + Names<key::SurpriseRemoval>
    + Names<key::UnitControl>
    + Names<key::UnitPower>
    + Names<key::Tracing>
{
}

impl Named for Everything<true> {}
impl Named for Everything<false> {}

/// Requests the timer and a state change, and issues DPCs, as every callback of a running adapter
/// may. The requests fail if a stop has begun.
macro_rules! ask {
    ($adapter:ident, $cx:ident) => {
        let _ = $cx.request_timer::<Self>(NonZero::<u32>::MIN);
        let _ = $cx.report_change::<Self>(CHANGED);
        let _: bool = $cx.is_traced::<Self>() | $cx.pause(1) | $cx.resume();
        $cx.bus_changed(0);
        $cx.reset_detected(0);
        $adapter.requests.issue($cx);
        $adapter.threaded.issue($cx);
    };
}

/// Calls the routines that need DISPATCH_LEVEL or below.
macro_rules! look_around {
    ($cx:ident) => {
        let processor = $cx.processor().expect("a processor");
        assert!(matches!((processor.group, processor.number), (1, 2 | 3)));
        assert_eq!($cx.processors(), 4);
        assert_eq!($cx.microseconds(), Ok(2_500_000));
        let inserts = [Insert::decimal(7), Insert::text("seven")];
        let event = Event {
            code: 1,
            unique_id: 2,
            inserts: &inserts,
        };
        $cx.log_event(&event).expect("a log");
    };
}

/// Calls the routines that allocate memory.
macro_rules! allocate {
    ($cx:ident) => {
        let pool = $cx.allocate(2, |index| index).expect("pool");
        assert_eq!(*pool, [0, 1]);
        $cx.free(pool);
    };
}

impl<const PER_MESSAGE: bool> Miniport for Everything<PER_MESSAGE>
where
    Self: Named,
{
    type Adapter<'a> = Adapter<'a>;
    type Request<'a> = Direction;

    const MESSAGE_LOCKS: MessageLocks = if PER_MESSAGE {
        MessageLocks::PerMessage
    } else {
        MessageLocks::Shared
    };

    fn find_adapter<'a>(
        cx: &mut FindAdapter<'_, 'a>,
    ) -> Result<(Configured<'a>, Adapter<'a>), NotFound> {
        let _exclusive = exclusive();
        let configured = cx.configure(&LIMITS).map_err(|_| NotFound::Unusable)?;
        let requests = Requests {
            pair: Pair::default(),
            started: None,
        };
        look_around!(cx);
        allocate!(cx);
        assert_eq!(cx.registry_u32(c"Value"), Some(7));
        let adapter = Adapter {
            found: 7,
            start_io: cx.start_io_locked(Pair::default()),
            requests: cx.dpc_locked(requests).ok_or(NotFound::Unusable)?,
            threaded: cx
                .threaded_dpc_locked::<Self, _>(Pair::default())
                .ok_or(NotFound::Unusable)?,
            interrupts: cx.interrupt_locked(Pair::default()),
            messages: MESSAGES.map(|message| cx.message_locked(message, Pair::default())),
        };
        Ok((configured, adapter))
    }

    fn initialize<'a>(adapter: &Adapter<'a>, cx: &mut Initialize<'_, 'a>) -> bool {
        let _exclusive = exclusive();
        cx.optimize(
            &Performance {
                channels: 2,
                ..Performance::default()
            },
            &mut [],
        );
        adapter.start_io.open(cx).up();
        adapter.requests.open(cx).pair.up();
        adapter.threaded.open(cx).up();
        adapter.interrupts.open(cx).up();
        for message in &adapter.messages {
            message.open(cx).up();
        }
        adapter.requests.issue(cx);
        !cx.has_message(77)
    }

    fn build_io<'a>(
        adapter: &Adapter<'a>,
        cx: &mut BuildIo<'_, 'a>,
        mut srb: Srb<'a>,
    ) -> Option<(Srb<'a>, Direction)> {
        let _admitted = admitted();
        adapter.lock_all(cx);
        ask!(adapter, cx);
        if srb.function() != Function::ExecuteScsi {
            srb.fail(Failure::InvalidRequest);
            return None;
        }
        let direction = srb.direction();
        let mut bytes = [0; 4];
        let copied = match direction {
            Direction::In => cx.data_in(&mut srb).map(|mut data| data.write(0, &bytes)),
            _ => cx.data_out(&mut srb).map(|data| data.read(0, &mut bytes)),
        };
        match copied {
            Ok(_) => Some((srb, direction)),
            Err(_) => {
                srb.fail(Failure::Error);
                None
            }
        }
    }

    fn start_io<'a>(
        adapter: &Adapter<'a>,
        cx: &mut StartIo<'_, 'a>,
        srb: Srb<'a>,
        direction: Direction,
    ) {
        let _admitted = admitted();
        assert_eq!(direction, srb.direction());
        assert_eq!(cx.start_io_parameters(&srb).expect("it says").message, 1);
        match cx.channels() {
            Channels::Concurrent(mut cx) => adapter.lock_all(&mut cx),
            Channels::Serial(mut cx) => {
                adapter.start_io.open(&mut cx).up();
                adapter.lock_above_start_io(&mut cx);
            }
        }
        let refused = adapter.requests.with(cx, |requests| {
            if requests.started.is_some() {
                return Some(srb);
            }
            requests.started = Some(srb.started());
            None
        });
        if let Some(srb) = refused {
            srb.busy();
            cx.busy(1);
        }
        ask!(adapter, cx);
    }

    fn interrupt<'a>(adapter: &Adapter<'a>, cx: &mut Interrupt<'_, 'a>) -> Interrupted {
        let _admitted = Count::new(&INTERRUPTS);
        assert_eq!(adapter.found, 7);
        adapter.interrupts.open(cx).up();
        for message in &adapter.messages {
            message.open(cx).up();
        }
        ask!(adapter, cx);
        Interrupted::Ours
    }

    fn dpc<'a>(adapter: &Adapter<'a>, cx: &mut Dpc<'_, 'a>) {
        let _admitted = admitted();
        adapter.lock_all(cx);
        let done = adapter.requests.with_at_dpc_level(cx, |requests| {
            requests.pair.up();
            requests.started.take()
        });
        if let Some(srb) = done.expect("the lock") {
            let length = srb.data_length();
            srb.succeed(length);
            ask!(adapter, cx);
        }
        let _ = cx.queue_work::<Self>(7);
        allocate!(cx);
    }

    fn reset_bus<'a>(adapter: &Adapter<'a>, cx: &mut ResetBus<'_, 'a>) -> bool {
        let _admitted = admitted();
        adapter.start_io.open(cx).up();
        adapter.lock_above_start_io(cx);
        let started = adapter
            .requests
            .with(cx, |requests| requests.started.take());
        if let Some(srb) = started {
            srb.fail(Failure::BusReset);
        }
        ask!(adapter, cx);
        true
    }

    fn stop<'a>(adapter: &Adapter<'a>, cx: &mut Stop<'_, 'a>) {
        assert_eq!(adapter.found, 7);
        cx.stall(1);
    }

    fn restart<'a>(adapter: &Adapter<'a>, cx: &mut Restart<'_, 'a>) -> bool {
        let _exclusive = exclusive_but_for_interrupts();
        adapter.start_io.open(cx).up();
        adapter.requests.open(cx).pair.up();
        adapter.threaded.open(cx).up();
        adapter.requests.issue(cx);
        !cx.has_message(77)
    }
}

/// Implements an optional callback.
macro_rules! callback {
    ($name:ident::$method:ident($adapter:ident, $cx:ident) $(-> $result:ty)? $body:block) => {
        impl<const PER_MESSAGE: bool> callback::$name for Everything<PER_MESSAGE>
        where
            Self: Named,
        {
            fn $method<'a>($adapter: &Adapter<'a>, $cx: &mut $name<'_, 'a>) $(-> $result)? $body
        }
    };
}

/// A callback in which Storport holds the StartIo lock.
macro_rules! locked {
    ($adapter:ident, $cx:ident) => {
        let _admitted = admitted();
        LATER.fetch_add(1, Ordering::Relaxed);
        $adapter.start_io.open($cx).up();
        $adapter.lock_above_start_io($cx);
        ask!($adapter, $cx);
        let _ = $cx.queue_work::<Self>(7);
    };
}

/// A callback in which Storport holds no lock.
macro_rules! unlocked {
    ($adapter:ident, $cx:ident) => {
        let _admitted = admitted();
        $adapter.lock_all($cx);
        ask!($adapter, $cx);
        let _ = $cx.queue_work::<Self>(7);
    };
}

callback!(PassiveInitialize::passive_initialize(adapter, cx) -> bool {
    let _exclusive = exclusive_but_for_interrupts();
    adapter.start_io.open(cx).up();
    adapter.requests.open(cx).pair.up();
    adapter.threaded.open(cx).up();
    adapter.threaded.issue(cx);
    look_around!(cx);
    allocate!(cx);
    true
});

callback!(MessageInterrupt::message_interrupt(adapter, cx) -> Interrupted {
    let _admitted = Count::new(&INTERRUPTS);
    assert_eq!(adapter.found, 7);
    if let Some(interrupts) = adapter.interrupts.open_in(cx) {
        interrupts.up();
    }
    for (number, message) in MESSAGES.into_iter().zip(&adapter.messages) {
        let may_open = !PER_MESSAGE || number == cx.message();
        let message = message.open_in(cx);
        assert_eq!(message.is_some(), may_open);
        if let Some(message) = message {
            message.up();
        }
    }
    ask!(adapter, cx);
    Interrupted::Ours
});

callback!(ThreadedDpc::threaded_dpc(adapter, cx) {
    let _admitted = admitted();
    adapter.lock_all(cx);
    let taken = adapter.threaded.with_in_threaded_dpc(cx, |pair| pair.up());
    taken.expect("the lock");
    let _ = cx.queue_work::<Self>(7);
});

callback!(Timer::timer(adapter, cx) {
    locked!(adapter, cx);
});

callback!(StateChange::state_changed(adapter, cx) {
    assert!(cx.is_handled());
    assert_eq!(cx.changed(), CHANGED);
    locked!(adapter, cx);
});

callback!(AdapterPower::adapter_power(adapter, cx) { unlocked!(adapter, cx); });
callback!(SurpriseRemoval::surprise_removal(adapter, cx) { unlocked!(adapter, cx); });
callback!(UnitControl::unit_control(adapter, cx) { unlocked!(adapter, cx); });
callback!(UnitPower::unit_power(adapter, cx) { unlocked!(adapter, cx); });
callback!(Tracing::tracing(adapter, cx) { unlocked!(adapter, cx); });

callback!(Work::work(adapter, cx) {
    let _admitted = admitted();
    LATER.fetch_add(1, Ordering::Relaxed);
    assert_eq!(cx.argument(), 7);
    adapter.lock_all(cx);
    ask!(adapter, cx);
    let _ = cx.watch_registry::<Self>();
    assert_eq!(cx.registry_u32(c"Value"), Some(7));
    cx.stall(1);
});

callback!(RegistryChange::registry_changed(adapter, cx) {
    let _admitted = admitted();
    assert_eq!(adapter.found, 7);
    ask!(adapter, cx);
    allocate!(cx);
    let _ = cx.queue_work::<Self>(7);
});
