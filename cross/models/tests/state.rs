//! Models of the gate in `crates/storport/src/state.rs`. Loom runs each model in every order of
//! the threads' steps, finds data races, and tries stale reads.
//!
//! Each model holds for the crate's own file. It fails for the faulty copies that `tests!` names
//! beside it (`build.rs` makes them).
#![cfg(loom)]

use std::sync::atomic::{AtomicBool as Flag, AtomicUsize as Counter};

use loom::{
    cell::UnsafeCell,
    model,
    model::Builder,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// Data without a lock. Loom reports accesses that race.
struct Data(UnsafeCell<u32>);

// SAFETY: Loom checks that accesses to the cell do not race.
#[expect(unsafe_code, reason = "the cell is loom's, which checks each access")]
unsafe impl Sync for Data {}

impl Data {
    fn new() -> Self {
        Self(UnsafeCell::new(0))
    }

    fn get(&self) -> u32 {
        #[expect(unsafe_code, reason = "the cell is loom's, which checks each access")]
        // SAFETY: Loom fails the model if another thread may be writing.
        self.0.with(|value| unsafe { *value })
    }

    fn add(&self) {
        #[expect(unsafe_code, reason = "the cell is loom's, which checks each access")]
        // SAFETY: Loom fails the model if another thread may be accessing the value.
        self.0.with_mut(|value| unsafe { *value += 1 });
    }
}

/// A kind of callback that need not be exclusive.
#[derive(Clone, Copy)]
enum Way {
    /// HwBuildIo or HwStartIo.
    Request,
    /// An interrupt routine.
    Interrupt,
    /// A counted callback without a further condition.
    Counted,
    /// A DPC that Storport took from its queue.
    Dpc,
    /// A timer that was requested in life 1.
    Timer,
    /// A work item or a state change that was requested in life 1.
    Requested,
}

/// The models, for the `State` in module `$state`.
macro_rules! models {
    ($name:ident, $($state:tt)+) => {
        mod $name {
            use super::*;
            use $($state)+::*;

            /// An adapter with one DPC object.
            struct Adapter {
                state: State,
                /// The data that HwFindAdapter, HwInitialize and HwPassiveInitialize
                /// write, one element each.
                written: [Data; 3],
                /// The data that a restart accesses, and so does every callback that it
                /// excludes.
                data: Data,
                /// The DPC object.
                object: Data,
                /// Whether each of two issuers has written before it issued the DPC, and
                /// whether the DPC saw that write.
                done: [AtomicBool; 2],
                seen: [Flag; 2],
                runs: Counter,
            }

            fn adapter() -> Adapter {
                Adapter {
                    state: State::default(),
                    written: [Data::new(), Data::new(), Data::new()],
                    data: Data::new(),
                    object: Data::new(),
                    done: [AtomicBool::new(false), AtomicBool::new(false)],
                    seen: [Flag::new(false), Flag::new(false)],
                    runs: Counter::new(0),
                }
            }

            /// An adapter after HwInitialize.
            fn started() -> Arc<Adapter> {
                let adapter = adapter();
                assert!(adapter.find() && adapter.initialize());
                Arc::new(adapter)
            }

            /// An adapter after HwPassiveInitialize, with a requested timer.
            fn ready() -> Arc<Adapter> {
                let adapter = started();
                assert!(adapter.initialize_passively());
                assert_eq!(adapter.state.life(), 1);
                adapter.state.arm_timer(adapter.state.ready_life());
                adapter
            }

            impl Adapter {
                /// HwFindAdapter, if the gate admits it.
                fn find(&self) -> bool {
                    if !self.state.begin_find() {
                        return false;
                    }
                    let exclusive = self.state.is_exclusive();
                    if exclusive {
                        self.state.reset(false, false);
                        self.state.take_dpc(DpcKind::Ordinary).unwrap();
                        self.written[0].add();
                    }
                    self.state.end_find(exclusive);
                    exclusive
                }

                /// HwInitialize, if the gate admits it.
                fn initialize(&self) -> bool {
                    let begun = self.state.begin_initialize();
                    if begun {
                        assert_ne!(self.written[0].get(), 0);
                        self.written[1].add();
                        self.state.end_initialize(true);
                    }
                    begun
                }

                /// HwPassiveInitialize, if the gate admits it.
                fn initialize_passively(&self) -> bool {
                    let begun = self.state.begin_passive();
                    if begun {
                        if self.state.begin_dpc_initialization(0) {
                            self.object.add();
                        }
                        self.written[2].add();
                        for _ in self.state.end_passive(true) {
                            self.run_dpc();
                        }
                    }
                    begun
                }

                /// ScsiStopAdapter, if the gate admits it.
                fn stop(&self) -> bool {
                    let stopped = self.state.stop();
                    if stopped {
                        assert_ne!(self.written[0].get(), 0);
                        self.state.leave();
                    }
                    stopped
                }

                /// ScsiRestartAdapter, if the gate admits it.
                fn restart(&self) -> bool {
                    if !self.state.begin_restart() {
                        return false;
                    }
                    let exclusive = self.state.is_exclusive();
                    if exclusive {
                        self.data.add();
                    }
                    for _ in self.state.end_restart(exclusive) {
                        self.begin_dpc();
                    }
                    exclusive
                }

                fn issue(&self, issuer: usize) {
                    self.done[issuer].store(true, Ordering::Relaxed);
                    if self.state.issue(0) == Issue::Now {
                        self.run_dpc();
                    }
                }

                /// Runs a DPC. A queued DPC runs at once in these models.
                fn run_dpc(&self) {
                    assert_ne!(self.object.get(), 0);
                    self.runs.fetch_add(1, Ordering::Relaxed);
                    for (done, seen) in self.done.iter().zip(&self.seen) {
                        if done.load(Ordering::Relaxed) {
                            seen.store(true, Ordering::Relaxed);
                        }
                    }
                }

                /// Begins a DPC that Storport took from its queue, perhaps after a stop.
                fn begin_dpc(&self) {
                    // There is one restart, so the DPC is queued again at most once.
                    for _ in 0..2 {
                        if let Some(run) = self.state.enter_dpc(0) {
                            // Only a read, because another run may read at the same time.
                            self.data.get();
                            assert_ne!(self.written[0].get(), 0);
                            self.run_dpc();
                            return self.state.leave_dpc(run);
                        }
                        if self.state.issue(0) == Issue::Later {
                            return;
                        }
                    }
                }

                /// A callback. `inside` runs if it is admitted.
                fn call(&self, way: Way, inside: impl FnOnce(&Self)) {
                    match way {
                        Way::Request => {
                            if self.state.serves_requests() {
                                inside(self);
                            }
                        }
                        Way::Interrupt => {
                            if self.state.serves_interrupts() {
                                inside(self);
                            }
                        }
                        Way::Dpc => self.begin_dpc(),
                        Way::Counted | Way::Timer | Way::Requested => {
                            if self.state.enter() {
                                if match way {
                                    Way::Timer => self.state.take_timer(),
                                    Way::Requested => self.state.life() == 1,
                                    _ => true,
                                } {
                                    inside(self);
                                }
                                self.state.leave();
                            }
                        }
                    }
                }
            }

            /// Makes a callback in another thread while `run` runs.
            fn beside(
                adapter: &Arc<Adapter>,
                way: Way,
                inside: fn(&Adapter),
                run: impl FnOnce(&Adapter),
            ) {
                let there = Arc::clone(adapter);
                let callback = thread::spawn(move || there.call(way, inside));
                run(adapter);
                callback.join().unwrap();
            }

            pub fn an_admitted_callback_sees_the_initialised_adapter() {
                let written = |adapter: &Adapter| {
                    assert_eq!(adapter.written[0].get(), 1);
                    assert_eq!(adapter.written[1].get(), 1);
                };
                for way in [Way::Request, Way::Interrupt, Way::Counted, Way::Dpc] {
                    model(move || {
                        let adapter = Arc::new(adapter());
                        beside(&adapter, way, written, |adapter| {
                            // HwFindAdapter fails if the callback is just being refused.
                            if adapter.find() {
                                assert!(adapter.initialize() && adapter.initialize_passively());
                            }
                        });
                    });
                }
            }

            pub fn hw_initialize_sees_what_hw_find_adapter_wrote() {
                model(|| {
                    let adapter = Arc::new(adapter());
                    let there = Arc::clone(&adapter);
                    let other = thread::spawn(move || there.initialize());
                    assert!(adapter.find());
                    other.join().unwrap();
                });
            }

            pub fn hw_passive_initialize_is_alone_with_the_data_it_writes() {
                // An admitted callback may take the object's lock, so the object must be
                // initialised.
                let touch = |adapter: &Adapter| {
                    assert_eq!(adapter.object.get(), 1);
                    assert_eq!(adapter.written[2].get(), 1);
                };
                for way in [Way::Request, Way::Counted] {
                    model(move || {
                        beside(&started(), way, touch, |adapter| {
                            assert!(adapter.initialize_passively());
                        });
                    });
                }
            }

            pub fn a_dpc_issued_before_its_object_is_initialised_is_queued_once() {
                model(|| {
                    let adapter = started();
                    let there = Arc::clone(&adapter);
                    let interrupt = thread::spawn(move || there.issue(0));
                    assert!(adapter.initialize_passively());
                    interrupt.join().unwrap();
                    assert_eq!(adapter.runs.load(Ordering::Relaxed), 1);
                    assert!(adapter.seen[0].load(Ordering::Relaxed));
                });
            }

            pub fn of_two_concurrent_issues_of_a_dpc_neither_is_lost() {
                // Three threads, with at most three preemptions. Without that bound the model
                // holds too, but takes minutes.
                let mut some = Builder::new();
                some.preemption_bound = Some(3);
                some.check(|| {
                    let adapter = started();
                    let issuers = [0, 1].map(|issuer| {
                        let there = Arc::clone(&adapter);
                        thread::spawn(move || there.issue(issuer))
                    });
                    assert!(adapter.initialize_passively());
                    for issuer in issuers {
                        issuer.join().unwrap();
                    }
                    let runs = adapter.runs.load(Ordering::Relaxed);
                    assert!((1..=2).contains(&runs), "{runs}");
                    assert!(adapter.seen.iter().all(|seen| seen.load(Ordering::Relaxed)));
                });
            }

            pub fn a_restart_is_alone_with_the_data() {
                for way in [Way::Counted, Way::Dpc, Way::Timer, Way::Requested] {
                    model(move || {
                        let inside = |adapter: &Adapter| adapter.data.add();
                        beside(&ready(), way, inside, |adapter| {
                            assert!(adapter.stop());
                            adapter.restart();
                        });
                    });
                }
            }

            /// Windows may run one DPC object on two processors at the same time.
            pub fn a_restart_is_alone_despite_two_runs_of_a_dpc() {
                let mut builder = Builder::new();
                builder.preemption_bound = Some(3);
                builder.check(|| {
                    let adapter = ready();
                    let runs = [(); 2].map(|()| {
                        let there = Arc::clone(&adapter);
                        thread::spawn(move || there.begin_dpc())
                    });
                    assert!(adapter.stop());
                    adapter.restart();
                    for run in runs {
                        run.join().unwrap();
                    }
                });
            }

            pub fn hw_find_adapter_is_alone_with_the_adapter() {
                let inside = |adapter: &Adapter| assert_eq!(adapter.written[0].get(), 1);
                for way in [Way::Counted, Way::Dpc, Way::Timer, Way::Requested] {
                    model(move || {
                        beside(&ready(), way, inside, |adapter| {
                            adapter.find();
                        });
                    });
                }
            }

            pub fn hw_find_adapter_is_alone_despite_a_late_stop() {
                model(|| {
                    let adapter = ready();
                    let there = Arc::clone(&adapter);
                    let stop = thread::spawn(move || there.stop());
                    adapter.find();
                    stop.join().unwrap();
                });
            }

            pub fn a_dpc_issued_before_a_stop_runs_once_and_not_during_the_restart() {
                model(|| {
                    let adapter = ready();
                    let there = Arc::clone(&adapter);
                    let dpc = thread::spawn(move || there.begin_dpc());
                    assert!(adapter.stop());
                    let restarted = adapter.restart();
                    dpc.join().unwrap();
                    assert!(restarted || adapter.restart());
                    assert_eq!(adapter.runs.load(Ordering::Relaxed), 1);
                });
            }

            pub fn a_dpc_may_stay_queued_while_the_adapter_is_found_again() {
                model(|| {
                    let adapter = ready();
                    let there = Arc::clone(&adapter);
                    assert!(adapter.stop());
                    // The system reads the object before it calls the miniport.
                    let system = thread::spawn(move || assert_eq!(there.object.get(), 1));
                    assert!(adapter.find());
                    assert!(adapter.initialize() && adapter.initialize_passively());
                    system.join().unwrap();
                });
            }

            pub fn a_dpc_object_keeps_its_kind() {
                model(|| {
                    let adapter = ready();
                    let state = &adapter.state;
                    state.reset(false, false);
                    assert_eq!(state.take_dpc(DpcKind::Threaded), None);
                    assert_eq!(state.take_dpc(DpcKind::Ordinary), Some(0));
                    assert_eq!(state.take_dpc(DpcKind::Threaded), Some(1));
                    assert!(!state.begin_dpc_initialization(0));
                    assert!(state.begin_dpc_initialization(1));
                    state.reset(false, false);
                    assert_eq!(state.take_dpc(DpcKind::Ordinary), Some(0));
                    assert_eq!(state.take_dpc(DpcKind::Ordinary), None);
                    assert_eq!(state.take_dpc(DpcKind::Threaded), Some(1));
                });
            }

            pub fn timers_and_work_of_a_life_do_not_run_after_a_restart() {
                let inside = |adapter: &Adapter| assert_eq!(adapter.data.get(), 0);
                for way in [Way::Timer, Way::Requested] {
                    model(move || {
                        beside(&ready(), way, inside, |adapter| {
                            assert!(adapter.stop());
                            adapter.restart();
                        });
                    });
                }
            }

            pub fn timers_and_work_of_a_life_do_not_run_after_hw_find_adapter() {
                let inside = |adapter: &Adapter| assert_eq!(adapter.written[2].get(), 1);
                for way in [Way::Timer, Way::Requested] {
                    model(move || {
                        beside(&ready(), way, inside, |adapter| {
                            if adapter.find() {
                                assert!(adapter.initialize() && adapter.initialize_passively());
                            }
                        });
                    });
                }
            }

            pub fn a_timer_requested_while_a_stop_begins_does_not_run_after_it() {
                model(|| {
                    let adapter = ready();
                    let there = Arc::clone(&adapter);
                    let callback = thread::spawn(move || {
                        if !there.state.enter() {
                            return None;
                        }
                        let entered = there.data.get();
                        let life = there.state.ready_life();
                        there.state.arm_timer(life);
                        there.state.leave();
                        life.map(|life| (entered, life))
                    });
                    assert!(adapter.stop());
                    let restarted = adapter.restart();
                    let requested = callback.join().unwrap();
                    assert!(restarted || adapter.restart());
                    let Some((entered, life)) = requested else { return };
                    // A callback that entered after the restart requests for the new life.
                    let runs = entered == 1;
                    assert_eq!(life == adapter.state.life(), runs);
                    assert_eq!(adapter.state.take_timer(), runs);
                });
            }

            pub fn a_timer_is_delivered_once() {
                model(|| {
                    let adapter = ready();
                    let inside = |adapter: &Adapter| {
                        adapter.runs.fetch_add(1, Ordering::Relaxed);
                    };
                    beside(&adapter, Way::Timer, inside, |adapter| {
                        adapter.call(Way::Timer, inside);
                    });
                    assert_eq!(adapter.runs.load(Ordering::Relaxed), 1);
                });
            }

            pub fn one_state_change_is_reported_at_a_time() {
                model(|| {
                    let adapter = ready();
                    let report = |adapter: &Adapter| {
                        if adapter.state.begin_state_change() {
                            adapter.data.add();
                            adapter.state.end_state_change();
                        }
                    };
                    beside(&adapter, Way::Request, report, report);
                });
            }
        }
    };
}

models!(correct, ferrostor_models::state);

/// For each model, a test with the crate's file, and a test for each faulty copy that the model
/// must fail for.
macro_rules! tests {
    ($($model:ident fails if $($fault:ident)*;)*) => {
        mod holds {
            $(
                #[test]
                fn $model() {
                    super::correct::$model();
                }
            )*
        }
        mod fails_if {
            use super::*;
            $($(
                #[expect(dead_code, reason = "only one of the models is run")]
                mod $fault {
                    use super::*;

                    models!(faulty, ferrostor_models::faulty::$fault);

                    #[test]
                    #[should_panic]
                    fn $model() {
                        faulty::$model();
                    }
                }
            )*)*
        }
    };
}

tests! {
    an_admitted_callback_sees_the_initialised_adapter fails if
        ready_is_stored_relaxed
        started_is_stored_relaxed
        requests_are_admitted_relaxed
        interrupts_are_admitted_relaxed
        a_callback_is_admitted_relaxed
        a_run_is_admitted_relaxed;
    hw_initialize_sees_what_hw_find_adapter_wrote fails if
        found_is_stored_relaxed
        a_phase_begins_relaxed;
    hw_passive_initialize_is_alone_with_the_data_it_writes fails if
        requests_are_admitted_before_ready
        a_callback_is_admitted_before_ready;
    a_dpc_issued_before_its_object_is_initialised_is_queued_once fails if
        dpcs_are_queued_relaxed
        dpcs_are_queued_before_ready
        notes_are_taken_before_ready_is_stored
        notes_are_taken_relaxed
        a_note_is_not_checked_again
        a_note_is_not_taken_back;
    of_two_concurrent_issues_of_a_dpc_neither_is_lost fails if
        a_note_is_made_relaxed;
    a_restart_is_alone_with_the_data fails if
        a_callback_is_admitted_before_it_is_counted
        a_callback_is_counted_relaxed
        a_run_is_marked_relaxed
        a_run_leaves_relaxed
        is_exclusive_only_reads_the_marks;
    a_restart_is_alone_despite_two_runs_of_a_dpc fails if
        a_second_run_shares_the_mark;
    hw_find_adapter_is_alone_with_the_adapter fails if
        a_callback_leaves_relaxed
        is_exclusive_only_reads_the_count;
    hw_find_adapter_is_alone_despite_a_late_stop fails if
        a_stop_is_not_counted;
    a_dpc_issued_before_a_stop_runs_once_and_not_during_the_restart fails if
        a_restart_does_not_take_the_notes;
    a_dpc_may_stay_queued_while_the_adapter_is_found_again fails if
        a_dpc_object_is_initialised_in_each_life;
    a_dpc_object_keeps_its_kind fails if
        a_dpc_object_changes_its_kind;
    timers_and_work_of_a_life_do_not_run_after_a_restart fails if
        a_stop_does_not_begin_a_life
        a_timer_belongs_to_every_life;
    timers_and_work_of_a_life_do_not_run_after_hw_find_adapter fails if
        hw_find_adapter_does_not_begin_a_life;
    a_timer_requested_while_a_stop_begins_does_not_run_after_it fails if
        a_life_is_read_after_the_phase
        a_life_is_read_relaxed;
    a_timer_is_delivered_once fails if
        a_timer_is_delivered_twice;
    one_state_change_is_reported_at_a_time fails if
        two_state_changes_are_reported_at_a_time
        a_state_change_begins_relaxed
        a_state_change_ends_relaxed;
}
