//! All callbacks, including those of the life cycle, in random orders from several threads. Some
//! tests run orders in which earlier versions of the crate ran two callbacks at the same time that
//! must exclude each other.
//!
//! Miri's seed also chooses the random numbers. Storport keeps its promises here: while the adapter
//! is stopped or being found, it sends no request and none is outstanding; while the adapter is
//! being found, the interrupt is not connected. Everything else may happen at any time. For
//! example, a DPC from before a stop may still be queued, or run, when the adapter is found again.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use ferrostor_models::port::{
    Adapter, Buffer, Driver, Found, Interrupts, Machine, Random, Request, Shape, UnitChange,
};
use storport::callback::Registered;

use crate::{
    everything::{Everything, LATER, is_inside},
    requests::scsi,
};

/// How many threads make random callbacks.
const PROCESSORS: usize = 2;
/// How many callbacks happen between two events of the life cycle.
const CALLBACKS: usize = 3;

/// Runs one test at a time, because all adapters share the counters of `Everything`.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tries again until `tried` returns true, a limited number of times.
fn until(what: &str, tried: impl Fn() -> bool) {
    for _ in 0..50 {
        if tried() {
            return;
        }
        thread::yield_now();
    }
    panic!("never happened: {what}");
}

/// An adapter, and the events that do not happen while it is being found or stopped.
struct Plugged {
    adapter: Adapter,
    interrupts: Interrupts,
    /// Locked for reading while a request is sent, and for writing while none may be sent.
    sends: RwLock<()>,
    /// Locked for reading during an interrupt, and for writing while the interrupt is not
    /// connected.
    connected: RwLock<()>,
    buffer: Buffer,
    callbacks: AtomicUsize,
    over: AtomicBool,
}

impl Plugged {
    fn new<M: Registered>(interrupts: Interrupts, channels: u32) -> Self {
        let machine = Machine {
            interrupts,
            channels,
            dump: false,
        };
        Self {
            adapter: Adapter::new(&Driver::load::<M>(), machine),
            interrupts,
            sends: RwLock::new(()),
            connected: RwLock::new(()),
            buffer: Buffer::new(&[9; 5]),
            callbacks: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        }
    }

    fn send(&self, processor: usize, direction: u32, shape: Shape) {
        let _sends = self.sends.read().expect("no panic");
        let request = Request {
            flags: direction,
            buffer: Some(self.buffer.clone()),
            ..scsi(shape, 0, 0)
        };
        self.adapter.send(processor, &request);
    }

    fn interrupt(&self, message: u32) {
        let _connected = self.connected.read().expect("no panic");
        match self.interrupts {
            Interrupts::Line => self.adapter.interrupt(),
            // HwFindAdapter registers the routine.
            Interrupts::Messages(_) => self.adapter.message(message),
        };
    }

    /// Makes a random callback, but none of the life cycle.
    fn callback(&self, processor: usize, random: &mut Random) {
        let adapter = &self.adapter;
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
            10 => _ = adapter.unit_control(UnitChange::Start),
            11 => _ = adapter.unit_control(UnitChange::SurpriseRemoval),
            12 => _ = adapter.unit_control(UnitChange::Power(false)),
            13 => _ = adapter.adapter_power(true),
            14 => _ = adapter.surprise_removal(),
            _ => _ = adapter.reset_bus(),
        }
        // A thread of the process that owns the buffer writes to it.
        self.buffer.set(0, 1);
        self.callbacks.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes callbacks on other processors while `run` runs.
    fn beside(&self, run: impl FnOnce()) {
        thread::scope(|scope| {
            for processor in 0..PROCESSORS {
                let mut random = Random::new();
                scope.spawn(move || {
                    while !self.over.load(Ordering::Relaxed) {
                        self.callback(processor, &mut random);
                    }
                });
            }
            run();
            self.over.store(true, Ordering::Relaxed);
        });
    }

    /// Waits for some callbacks.
    fn wait(&self) {
        let until = self.callbacks.load(Ordering::Relaxed) + CALLBACKS;
        while self.callbacks.load(Ordering::Relaxed) < until {
            thread::yield_now();
        }
    }

    /// Calls HwFindAdapter until it is alone.
    fn find(&self) {
        let _sends = self.sends.write().expect("no panic");
        let _connected = self.connected.write().expect("no panic");
        until("HwFindAdapter is alone", || {
            self.adapter.find() == Found::Yes
        });
    }

    /// Waits until no request is outstanding, and calls ScsiStopAdapter and `then`. No request is
    /// sent meanwhile.
    fn stop(&self, then: impl FnOnce()) {
        let _sends = self.sends.write().expect("no panic");
        until("no request is outstanding", || {
            let done = self.adapter.outstanding() == 0;
            if !done {
                self.interrupt(0);
                self.adapter.run_dpcs();
            }
            done
        });
        assert!(self.adapter.stop());
        then();
    }

    fn restart(&self) {
        until("a restart is alone", || self.adapter.restart());
    }

    /// Runs everything that was requested before the stop and has not run. None of it reaches the
    /// miniport.
    fn drain(&self) {
        let adapter = &self.adapter;
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
    let plugged = Plugged::new::<M>(interrupts, channels);
    plugged.find();
    plugged.beside(|| {
        for restarts in [true, false] {
            assert!(plugged.adapter.initialize());
            plugged.wait();
            assert!(plugged.adapter.passive_initialize());
            plugged.wait();
            if restarts {
                plugged.stop(|| plugged.restart());
                plugged.wait();
            }
            plugged.stop(|| {});
            plugged.find();
        }
    });
    plugged.drain();
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

fn found() -> Plugged {
    let plugged = Plugged::new::<Everything<true>>(Interrupts::Messages(2), 0);
    plugged.find();
    plugged
}

fn ready() -> Plugged {
    let plugged = found();
    assert!(plugged.adapter.initialize() && plugged.adapter.passive_initialize());
    plugged
}

#[test]
fn timers_and_work_are_refused_before_hw_passive_initialize() {
    let _one = one_at_a_time();
    let plugged = found();
    let adapter = &plugged.adapter;
    assert!(adapter.initialize());
    plugged.interrupt(0);
    assert!(!adapter.run_timer() && !adapter.run_work() && !adapter.run_state_change());
    thread::scope(|scope| {
        scope.spawn(|| {
            plugged.interrupt(0);
            adapter.run_timer();
            adapter.run_state_change();
            adapter.run_dpcs();
        });
        assert!(adapter.passive_initialize());
    });
    // Runs the DPC that HwInitialize issued, if it has not run yet.
    adapter.run_dpcs();
    plugged.stop(|| {});
    plugged.drain();
}

#[test]
fn control_callbacks_run_beside_the_life_cycle() {
    let _one = one_at_a_time();
    let plugged = found();
    let adapter = &plugged.adapter;
    let controls = || {
        adapter.tracing(true);
        adapter.unit_control(UnitChange::Remove);
        adapter.unit_control(UnitChange::Power(true));
        adapter.adapter_power(false);
        adapter.surprise_removal();
        adapter.reset_bus();
    };
    thread::scope(|scope| {
        scope.spawn(|| (0..3).for_each(|_| controls()));
        assert!(adapter.initialize() && adapter.passive_initialize());
        for _ in 0..2 {
            plugged.stop(|| plugged.restart());
        }
    });
    // Controls reach only a running adapter.
    assert!(adapter.unit_control(UnitChange::Power(true)) && adapter.adapter_power(true));
    plugged.stop(|| {});
    assert!(!adapter.unit_control(UnitChange::Start) && !adapter.adapter_power(true));
    plugged.drain();
}

#[test]
fn late_work_does_not_run_beside_the_next_hw_find_adapter() {
    let _one = one_at_a_time();
    let plugged = ready();
    let adapter = &plugged.adapter;
    adapter.tracing(true);
    thread::scope(|scope| {
        scope.spawn(|| adapter.run_work());
        until("the work begins", is_inside);
        plugged.stop(|| {});
        plugged.find();
        assert!(adapter.initialize() && adapter.passive_initialize());
    });
    plugged.stop(|| {});
    plugged.drain();
}

#[test]
fn timers_and_work_do_not_outlive_a_stop() {
    let _one = one_at_a_time();
    let plugged = ready();
    let adapter = &plugged.adapter;
    for finds in [false, true] {
        // HwTracingEnabled requests the timer, work and a state change.
        adapter.tracing(true);
        plugged.stop(|| {
            if !finds {
                plugged.restart();
            }
        });
        if finds {
            plugged.find();
            assert!(adapter.initialize() && adapter.passive_initialize());
        }
        let before = LATER.load(Ordering::Relaxed);
        assert!(!adapter.run_timer());
        assert!(adapter.run_work() && adapter.run_state_change());
        assert_eq!(LATER.load(Ordering::Relaxed), before);
    }
    plugged.stop(|| {});
    plugged.drain();
}
