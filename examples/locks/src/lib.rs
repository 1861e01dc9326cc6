//! A test miniport that takes each of Storport's locks in each callback that may
//! take it, and under each lock that may be held there. So it does everything
//! that the types of the `storport` crate allow.
//!
//! Each lock protects a count. An atomic beside it counts the same. Code that
//! holds the lock finds the two equal, unless other code accessed them at the
//! same time. Then the disk fails every later request. The disk stores nothing:
//! it reads as zeros.
//!
//! `ramdisk` is an example of a driver.
#![no_std]
#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::todo,
    clippy::unreachable,
    clippy::unwrap_used
)]

mod disk;

use core::{
    num::NonZero,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
};

use disk::answer;
use storport::{
    AdapterLimits, AtDispatch, BuildIo, Changed, Channels, Configured, Dpc, DpcLocked, FindAdapter,
    Initialize, Interrupt, InterruptLocked, Interrupted, MappedRegisters, MessageInterrupt,
    MessageLocked, MessageLocks, Miniport, NotFound, PassiveInitialize, Performance, Proves,
    ResetBus, Restart, Scope, Srb, StartIo, StartIoLocked, StartedSrb, StateChange, Stop,
    StorStatus, SurpriseRemoval, Table, ThreadedDpc, Timer, Tracing, UnitControl, UnitPower, Work,
    callback,
    level::{Below, DpcHeld, InterruptHeld, StartIoHeld},
};
use wdk_panic as _; // The panic handler. The release driver cannot reach it.

// With AdapterPower there would be no restart.
storport::driver_entry!(
    Locks: PassiveInitialize, MessageInterrupt, ThreadedDpc, Timer, Work, StateChange,
    SurpriseRemoval, UnitControl, UnitPower, Tracing
);

/// Requests at a time.
const REQUESTS: u8 = 32;

/// The bell's registers (PCI 1234:BE11 of the testbed), and its message.
const RING: usize = 0;
const RUNG: usize = 4;
const MESSAGE: u32 = 0;

enum Locks {}

/// How often a lock's count was raised, counted without the lock.
#[derive(Default)]
struct Raised(AtomicU64);

/// A count for each lock.
struct Adapter<'a> {
    start_io: StartIoLocked<'a, u64>,
    dpc: DpcLocked<'a, u64>,
    threaded: DpcLocked<'a, u64>,
    interrupt: InterruptLocked<'a, u64>,
    message: MessageLocked<'a, u64>,
    start_io_raised: Raised,
    dpc_raised: Raised,
    threaded_raised: Raised,
    interrupt_raised: Raised,
    message_raised: Raised,
    /// Some code found a count and its atomic unequal.
    broken: AtomicBool,
    /// Requests so far.
    requests: AtomicU32,
    /// Requests that wait for the DPC.
    waiting: DpcLocked<'a, Table<'a, Option<StartedSrb<'a>>>>,
    bell: MappedRegisters<'a>,
    disk: scsi::Disk,
}

impl<'a> Adapter<'a> {
    /// Increments a count whose lock is held. Runs `inside` before it stores the new value.
    fn raise(&self, count: &mut u64, raised: &Raised, inside: impl FnOnce()) {
        let before = *count;
        if before != raised.0.load(Relaxed) {
            self.broken.store(true, Relaxed);
        }
        inside();
        *count = before.wrapping_add(1);
        raised.0.fetch_add(1, Relaxed);
    }

    /// Takes every lock that may be taken under a DPC lock.
    fn above_dpc(&self, cx: &mut impl Scope<'a, Level: Below<InterruptHeld>>) {
        self.interrupt.with(cx, |count| {
            self.raise(count, &self.interrupt_raised, || {});
        });
        self.interrupt.synchronize(cx, |count| {
            self.raise(count, &self.interrupt_raised, || {});
        });
        self.message.with(cx, |count| {
            self.raise(count, &self.message_raised, || {});
        });
    }

    /// Takes every lock that may be taken under the StartIo lock.
    fn above_start_io(
        &self,
        cx: &mut impl Scope<'a, Level: Below<DpcHeld> + Below<InterruptHeld>>,
    ) {
        for (lock, raised) in [
            (&self.dpc, &self.dpc_raised),
            (&self.threaded, &self.threaded_raised),
        ] {
            lock.with(cx, |guard| {
                let (count, held) = guard.split();
                self.raise(count, raised, || self.above_dpc(held));
            });
        }
        self.above_dpc(cx);
    }

    /// Takes every lock.
    fn all<S>(&self, cx: &mut S)
    where
        S: Scope<'a, Level: Below<StartIoHeld> + Below<DpcHeld> + Below<InterruptHeld>>,
    {
        self.start_io.with(cx, |guard| {
            let (count, held) = guard.split();
            self.raise(count, &self.start_io_raised, || self.above_start_io(held));
        });
        self.above_start_io(cx);
    }

    /// Takes a DPC lock where the IRQL is known to be DISPATCH_LEVEL.
    fn at_dpc_level(&self, cx: &mut impl AtDispatch<'a, Level: Below<DpcHeld>>) {
        let taken = self.dpc.with_at_dpc_level(cx, |guard| {
            let (count, held) = guard.split();
            self.raise(count, &self.dpc_raised, || self.above_dpc(held));
        });
        self.expect(taken);
    }

    /// Checks the result of taking such a lock. Windows before 10 1809 does not have them.
    fn expect(&self, taken: Result<(), StorStatus>) {
        if !matches!(taken, Ok(()) | Err(StorStatus::NOT_IMPLEMENTED)) {
            self.broken.store(true, Relaxed);
        }
    }

    /// Opens and takes locks in a callback that Storport calls with the StartIo lock held.
    fn with_start_io_held<S>(&self, cx: &mut S)
    where
        S: Proves<'a, StartIoHeld> + AtDispatch<'a, Level: Below<DpcHeld> + Below<InterruptHeld>>,
    {
        self.raise(self.start_io.open(cx), &self.start_io_raised, || {});
        self.above_start_io(cx);
        self.at_dpc_level(cx);
    }

    /// Opens cells in a callback that is alone except for interrupt routines.
    fn alone(&self, cx: &mut (impl Proves<'a, StartIoHeld> + Proves<'a, DpcHeld>)) {
        self.raise(self.start_io.open(cx), &self.start_io_raised, || {});
        self.raise(self.dpc.open(cx), &self.dpc_raised, || {});
        self.raise(self.threaded.open(cx), &self.threaded_raised, || {});
    }

    /// Causes the other callbacks, each once in some requests.
    fn disturb(&self, cx: &BuildIo<'_, 'a>, srb: &Srb<'a>) {
        let number = self.requests.fetch_add(1, Relaxed);
        match number % 16 {
            1 => _ = cx.request_timer::<Locks>(NonZero::<u32>::MIN.saturating_add(200)),
            5 => _ = cx.queue_work::<Locks>(0),
            9 => _ = cx.report_change::<Locks>(Changed::Unit(srb.address())),
            13 => self.threaded.issue(cx),
            _ => {}
        }
    }

    /// Completes the requests that wait for the DPC.
    fn complete(&self, cx: &mut impl Scope<'a, Level: Below<DpcHeld>>) {
        for _ in 0..REQUESTS {
            let take = |waiting: &mut Table<'a, Option<StartedSrb<'a>>>| {
                waiting.iter_mut().find_map(Option::take)
            };
            let Some(srb) = self.waiting.with(cx, |waiting| take(waiting)) else {
                return;
            };
            let bytes = srb.data_length();
            srb.succeed(bytes);
        }
    }
}

impl Miniport for Locks {
    type Adapter<'a> = Adapter<'a>;
    type Request<'a> = ();

    const TABLE_BYTES: usize = 4096;
    const MESSAGE_LOCKS: MessageLocks = MessageLocks::PerMessage;

    fn find_adapter<'a>(
        cx: &mut FindAdapter<'_, 'a>,
    ) -> Result<(Configured<'a>, Adapter<'a>), NotFound> {
        let configured = cx.configure(&AdapterLimits {
            transfer_bytes: 64 << 10,
            physical_breaks: 17,
            requests: REQUESTS.into(),
            alignment_mask: 0,
            targets: 1,
            logical_units: 1,
            caches_data: false,
        });
        let configured = configured.map_err(|_| NotFound::Unusable)?;
        let places = cx.table(REQUESTS.into(), |_, _| Some(None));
        let waiting = places.and_then(|places| cx.dpc_locked(places));
        let threaded = cx.threaded_dpc_locked::<Locks, _>(0);
        let adapter = Adapter {
            start_io: cx.start_io_locked(0),
            dpc: cx.dpc_locked(0).ok_or(NotFound::Unusable)?,
            threaded: threaded.ok_or(NotFound::Unusable)?,
            interrupt: cx.interrupt_locked(0),
            message: cx.message_locked(MESSAGE, 0),
            start_io_raised: Raised::default(),
            dpc_raised: Raised::default(),
            threaded_raised: Raised::default(),
            interrupt_raised: Raised::default(),
            message_raised: Raised::default(),
            broken: AtomicBool::new(false),
            requests: AtomicU32::new(0),
            waiting: waiting.ok_or(NotFound::Unusable)?,
            bell: cx.map_range(0).ok_or(NotFound::Absent)?,
            disk: disk::describe().ok_or(NotFound::Unusable)?,
        };
        Ok((configured, adapter))
    }

    fn initialize<'a>(adapter: &Adapter<'a>, cx: &mut Initialize<'_, 'a>) -> bool {
        cx.optimize(
            &Performance {
                channels: 4,
                ..Performance::default()
            },
            &mut [],
        );
        adapter.alone(cx);
        adapter.raise(adapter.interrupt.open(cx), &adapter.interrupt_raised, || {});
        adapter.raise(adapter.message.open(cx), &adapter.message_raised, || {});
        true
    }

    fn build_io<'a>(
        adapter: &Adapter<'a>,
        cx: &mut BuildIo<'_, 'a>,
        srb: Srb<'a>,
    ) -> Option<(Srb<'a>, ())> {
        adapter.all(cx);
        adapter.at_dpc_level(cx);
        adapter.disturb(cx, &srb);
        let srb = answer(&adapter.disk, cx, srb, adapter.broken.load(Relaxed))?;
        Some((srb, ()))
    }

    fn start_io<'a>(adapter: &Adapter<'a>, cx: &mut StartIo<'_, 'a>, srb: Srb<'a>, (): ()) {
        adapter.above_start_io(cx);
        adapter.at_dpc_level(cx);
        match cx.channels() {
            Channels::Concurrent(mut cx) => {
                adapter.all(&mut cx);
                adapter.at_dpc_level(&mut cx);
            }
            Channels::Serial(mut cx) => adapter.with_start_io_held(&mut cx),
        }
        adapter.waiting.with(cx, |waiting| {
            if let Some(place) = waiting.iter_mut().find(|place| place.is_none()) {
                *place = Some(srb.started());
            }
        });
        adapter.bell.write_u32(RING, MESSAGE);
    }

    fn interrupt<'a>(adapter: &Adapter<'a>, cx: &mut Interrupt<'_, 'a>) -> Interrupted {
        if adapter.bell.read_u32(RUNG) == 0 {
            return Interrupted::NotOurs;
        }
        adapter.raise(adapter.interrupt.open(cx), &adapter.interrupt_raised, || {});
        adapter.raise(adapter.message.open(cx), &adapter.message_raised, || {});
        adapter.waiting.issue(cx);
        Interrupted::Ours
    }

    fn dpc<'a>(adapter: &Adapter<'a>, cx: &mut Dpc<'_, 'a>) {
        adapter.all(cx);
        adapter.at_dpc_level(cx);
        adapter.complete(cx);
    }

    fn reset_bus<'a>(adapter: &Adapter<'a>, cx: &mut ResetBus<'_, 'a>) -> bool {
        adapter.with_start_io_held(cx);
        adapter.complete(cx);
        true
    }

    fn stop<'a>(_: &Adapter<'a>, _: &mut Stop<'_, 'a>) {}

    fn restart<'a>(adapter: &Adapter<'a>, cx: &mut Restart<'_, 'a>) -> bool {
        adapter.alone(cx);
        true
    }
}

impl callback::PassiveInitialize for Locks {
    fn passive_initialize<'a>(adapter: &Adapter<'a>, cx: &mut PassiveInitialize<'_, 'a>) -> bool {
        adapter.alone(cx);
        let Ok(pool) = cx.allocate(16, |index| index) else {
            return false;
        };
        cx.free(pool);
        true
    }
}

impl callback::MessageInterrupt for Locks {
    fn message_interrupt<'a>(
        adapter: &Adapter<'a>,
        cx: &mut MessageInterrupt<'_, 'a>,
    ) -> Interrupted {
        if let Some(count) = adapter.message.open_in(cx) {
            adapter.raise(count, &adapter.message_raised, || {});
        }
        // Storport holds it where messages have no locks of their own.
        if let Some(count) = adapter.interrupt.open_in(cx) {
            adapter.raise(count, &adapter.interrupt_raised, || {});
        }
        adapter.waiting.issue(cx);
        Interrupted::Ours
    }
}

impl callback::ThreadedDpc for Locks {
    fn threaded_dpc<'a>(adapter: &Adapter<'a>, cx: &mut ThreadedDpc<'_, 'a>) {
        adapter.all(cx);
        let taken = adapter.threaded.with_in_threaded_dpc(cx, |guard| {
            let (count, held) = guard.split();
            adapter.raise(count, &adapter.threaded_raised, || adapter.above_dpc(held));
        });
        adapter.expect(taken);
    }
}

impl callback::Timer for Locks {
    fn timer<'a>(adapter: &Adapter<'a>, cx: &mut Timer<'_, 'a>) {
        adapter.with_start_io_held(cx);
    }
}

impl callback::StateChange for Locks {
    fn state_changed<'a>(adapter: &Adapter<'a>, cx: &mut StateChange<'_, 'a>) {
        adapter.with_start_io_held(cx);
    }
}

impl callback::Work for Locks {
    fn work<'a>(adapter: &Adapter<'a>, cx: &mut Work<'_, 'a>) {
        adapter.all(cx);
    }
}

impl callback::SurpriseRemoval for Locks {
    fn surprise_removal<'a>(adapter: &Adapter<'a>, cx: &mut SurpriseRemoval<'_, 'a>) {
        adapter.all(cx);
    }
}

impl callback::UnitControl for Locks {
    fn unit_control<'a>(adapter: &Adapter<'a>, cx: &mut UnitControl<'_, 'a>) {
        adapter.all(cx);
    }
}

impl callback::UnitPower for Locks {
    fn unit_power<'a>(adapter: &Adapter<'a>, cx: &mut UnitPower<'_, 'a>) {
        adapter.all(cx);
        adapter.at_dpc_level(cx);
    }
}

impl callback::Tracing for Locks {
    fn tracing<'a>(adapter: &Adapter<'a>, cx: &mut Tracing<'_, 'a>) {
        adapter.all(cx);
    }
}
