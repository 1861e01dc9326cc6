//! All callbacks, including those of the life cycle, in random orders from several threads. Some
//! tests run orders in which earlier versions of the crate ran two callbacks at the same time that
//! must exclude each other.
//!
//! Miri's seed also chooses the random numbers. Storport keeps its promises here: while the adapter
//! is stopped or being found, it sends no request and none is outstanding; while the adapter is
//! being found, the interrupt is not connected. Everything else may happen at any time. For
//! example, a DPC from before a stop may still be queued, or run, when the adapter is found again.

use std::{
    sync::{Mutex, MutexGuard, PoisonError, atomic::Ordering},
    thread,
};

use ferrostor_models::port::{
    Adapter, Buffer, Driver, Interrupts, Machine, Plugged, Random, Request, Shape, until,
};
use storport::callback::Registered;
use wdk_sys::_SCSI_UNIT_CONTROL_TYPE as unit;

use crate::{
    everything::{Everything, LATER, any_runs},
    requests::scsi,
};

/// How many callbacks happen between two events of the life cycle.
const CALLBACKS: usize = 3;

/// Runs one test at a time, because all adapters share the counters of `Everything`.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An adapter, and a buffer that its process shares with the requests.
struct Bench {
    plugged: Plugged,
    buffer: Buffer,
}

impl Bench {
    fn new<M: Registered>(interrupts: Interrupts, channels: u32) -> Self {
        let machine = Machine::new(interrupts, channels);
        Self {
            plugged: Plugged::new(Adapter::new(&Driver::load::<M>(), machine)),
            buffer: Buffer::new(&[9; 5]),
        }
    }

    fn send(&self, processor: usize, direction: u32, shape: Shape) {
        let request = Request {
            flags: direction,
            buffer: Some(self.buffer.clone()),
            ..scsi(shape, 0, 0)
        };
        self.plugged.send(processor, &request);
    }

    fn interrupt(&self, message: u32) {
        self.plugged.interrupt(message, || true);
    }

    /// Makes a random callback, but none of the life cycle.
    fn callback(&self, processor: usize, random: &mut Random) {
        let adapter = &self.plugged.adapter;
        match random.below(16) {
            0 => self.send(processor, wdk_sys::SRB_FLAGS_DATA_IN, Shape::Scsi),
            1 => self.send(processor, wdk_sys::SRB_FLAGS_DATA_OUT, Shape::Storage),
            2 => self.interrupt(0),
            3 => self.interrupt(1),
            4 => _ = adapter.run_dpcs(),
            5 => _ = adapter.run_timer(),
            6 => _ = adapter.run_work(),
            7 => _ = adapter.run_state_change(),
            8 => _ = adapter.run_registry(),
            9 => adapter.tracing(processor == 0),
            10 => _ = adapter.unit_control(unit::ScsiUnitStart),
            11 => _ = adapter.unit_control(unit::ScsiUnitSurpriseRemoval),
            12 => _ = adapter.unit_power(false),
            13 => _ = adapter.adapter_power(true),
            14 => _ = adapter.surprise_removal(),
            _ => _ = adapter.reset_bus(),
        }
        // A thread of the process that owns the buffer writes to it.
        self.buffer.set(0, 1);
    }

    fn find(&self) {
        self.plugged.find(|| {});
    }

    /// Waits until no request is outstanding, and calls ScsiStopAdapter and `then`.
    fn stop(&self, then: impl FnOnce()) {
        let adapter = &self.plugged.adapter;
        let settle = || {
            until("no request is outstanding", || {
                let done = adapter.outstanding() == 0;
                if !done {
                    self.interrupt(0);
                    adapter.run_dpcs();
                }
                done
            });
        };
        self.plugged.stop(settle, then);
    }

    /// Runs everything that was requested before the stop and has not run. None of it reaches the
    /// miniport.
    fn drain(&self) {
        let adapter = &self.plugged.adapter;
        while adapter.run_dpcs() != 0
            || adapter.run_timer()
            || adapter.run_work()
            || adapter.run_state_change()
        {}
        assert_eq!(adapter.allocations(), 0);
    }
}

/// Runs random callbacks during two lives of the adapter. The first life has a restart.
fn random_orders<M: Registered>(interrupts: Interrupts, channels: u32) {
    let _one = one_at_a_time();
    let bench = Bench::new::<M>(interrupts, channels);
    let Bench { plugged, .. } = &bench;
    bench.find();
    let callback = |processor, random: &mut _| bench.callback(processor, random);
    plugged.beside(callback, || {
        for restarts in [true, false] {
            assert!(plugged.adapter.initialize());
            plugged.wait(CALLBACKS);
            assert!(plugged.adapter.passive_initialize());
            plugged.wait(CALLBACKS);
            if restarts {
                bench.stop(|| plugged.restart());
                plugged.wait(CALLBACKS);
            }
            bench.stop(|| {});
            bench.find();
        }
    });
    bench.drain();
}

#[test]
fn random_orders_with_an_interrupt_line() {
    random_orders::<Everything<false>>(Interrupts::Line, 0);
}

#[test]
fn random_orders_with_a_lock_for_all_messages_and_concurrent_channels() {
    random_orders::<Everything<false>>(Interrupts::Messages(2), 2);
}

#[test]
fn random_orders_with_a_lock_for_each_message() {
    random_orders::<Everything<true>>(Interrupts::Messages(2), 0);
}

fn found() -> Bench {
    let bench = Bench::new::<Everything<true>>(Interrupts::Messages(2), 0);
    bench.find();
    bench
}

fn ready() -> Bench {
    let bench = found();
    assert!(bench.plugged.adapter.initialize() && bench.plugged.adapter.passive_initialize());
    bench
}

#[test]
fn timers_and_work_are_refused_before_hw_passive_initialize() {
    let _one = one_at_a_time();
    let bench = found();
    let adapter = &bench.plugged.adapter;
    assert!(adapter.initialize());
    bench.interrupt(0);
    assert!(!adapter.run_timer() && !adapter.run_work() && !adapter.run_state_change());
    thread::scope(|scope| {
        scope.spawn(|| {
            bench.interrupt(0);
            adapter.run_timer();
            adapter.run_state_change();
            adapter.run_dpcs();
        });
        assert!(adapter.passive_initialize());
    });
    // Runs the DPC that HwInitialize issued, if it has not run yet.
    adapter.run_dpcs();
    bench.stop(|| {});
    bench.drain();
}

#[test]
fn control_callbacks_run_beside_the_life_cycle() {
    let _one = one_at_a_time();
    let bench = found();
    let adapter = &bench.plugged.adapter;
    let controls = || {
        adapter.tracing(true);
        adapter.unit_control(unit::ScsiUnitRemove);
        adapter.unit_power(true);
        adapter.adapter_power(false);
        adapter.surprise_removal();
        adapter.reset_bus();
    };
    thread::scope(|scope| {
        scope.spawn(|| (0..3).for_each(|_| controls()));
        assert!(adapter.initialize() && adapter.passive_initialize());
        for _ in 0..2 {
            bench.stop(|| bench.plugged.restart());
        }
    });
    // Controls reach only a running adapter.
    assert!(adapter.unit_power(true) && adapter.adapter_power(true));
    bench.stop(|| {});
    assert!(!adapter.unit_control(unit::ScsiUnitStart) && !adapter.adapter_power(true));
    bench.drain();
}

#[test]
fn late_callbacks_do_not_run_beside_the_next_hw_find_adapter() {
    let _one = one_at_a_time();
    for callback in [
        Adapter::run_work,
        Adapter::run_timer,
        Adapter::run_state_change,
    ] {
        let bench = ready();
        let adapter = &bench.plugged.adapter;
        // HwTracingEnabled requests all three.
        adapter.tracing(true);
        thread::scope(|scope| {
            scope.spawn(|| callback(adapter));
            until("the callback begins", any_runs);
            bench.stop(|| {});
            bench.find();
            assert!(adapter.initialize() && adapter.passive_initialize());
        });
        bench.stop(|| {});
        bench.drain();
    }
}

#[test]
fn timers_and_work_do_not_outlive_a_stop() {
    let _one = one_at_a_time();
    let bench = ready();
    let adapter = &bench.plugged.adapter;
    for (finds, has_expired) in [(false, false), (false, true), (true, false), (true, true)] {
        // HwTracingEnabled requests the timer, work and a state change.
        adapter.tracing(true);
        let late_timer = has_expired.then(|| adapter.expire_timer().expect("a timer"));
        bench.stop(|| {
            if !finds {
                bench.plugged.restart();
            }
        });
        if finds {
            bench.find();
            assert!(adapter.initialize() && adapter.passive_initialize());
        }
        let before = LATER.load(Ordering::Relaxed);
        if let Some(run) = late_timer {
            run();
        }
        assert!(!adapter.run_timer());
        assert!(adapter.run_work() && adapter.run_state_change());
        assert_eq!(LATER.load(Ordering::Relaxed), before);
    }
    bench.stop(|| {});
    bench.drain();
}
