//! Every order of the steps that callbacks take on what they share without a
//! lock, by loom: it finds data that two threads reach with no order between
//! them, and tries stale reads.
//!
//! Each model holds for the crate's own file, and fails for the faulty copies
//! of it that concern it (`build.rs`).
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

/// Data that no lock protects: loom sees who touches it when.
struct Data(UnsafeCell<u32>);

// SAFETY: that it is not shared without an order is what loom checks.
#[expect(unsafe_code, reason = "the cell is loom's, which checks each access")]
unsafe impl Sync for Data {}

impl Data {
    fn new() -> Self {
        Self(UnsafeCell::new(0))
    }

    fn get(&self) -> u32 {
        #[expect(unsafe_code, reason = "the cell is loom's, which checks each access")]
        // SAFETY: loom fails the model if another thread may be writing.
        self.0.with(|value| unsafe { *value })
    }

    fn add(&self) {
        #[expect(unsafe_code, reason = "the cell is loom's, which checks each access")]
        // SAFETY: loom fails the model if another thread may be inside.
        self.0.with_mut(|value| unsafe { *value += 1 });
    }
}

/// The models, of the `State` in module `$state`.
macro_rules! models {
    ($name:ident, $($state:tt)+) => {
        mod $name {
            use super::*;
            use $($state)+::*;

            /// An adapter with one DPC object.
            struct Adapter {
                state: State,
                /// What a restart opens, and DPCs too.
                data: Data,
                /// The DPC object.
                object: Data,
                /// What each of two issuers did before it issued the DPC, and
                /// whether the DPC saw it.
                done: [AtomicBool; 2],
                seen: [Flag; 2],
                runs: Counter,
            }

            /// One that was initialised, but for its DPC object.
            fn adapter() -> Arc<Adapter> {
                let state = State::default();
                state.begin(false, false);
                state.take_dpc(DpcKind::Ordinary).unwrap();
                assert_eq!(state.run().count(), 0);
                Arc::new(Adapter {
                    state,
                    data: Data::new(),
                    object: Data::new(),
                    done: [AtomicBool::new(false), AtomicBool::new(false)],
                    seen: [Flag::new(false), Flag::new(false)],
                    runs: Counter::new(0),
                })
            }

            impl Adapter {
                /// HwPassiveInitialize.
                fn initialize_dpcs(&self) {
                    self.object.add();
                    for _ in self.state.run_with_dpcs() {
                        self.run_dpc();
                    }
                }

                fn issue(&self, issuer: usize) {
                    self.done[issuer].store(true, Ordering::Relaxed);
                    if self.state.issue(0) == Issue::Now {
                        self.run_dpc();
                    }
                }

                /// What was queued is run at once.
                fn run_dpc(&self) {
                    assert_eq!(self.object.get(), 1);
                    self.runs.fetch_add(1, Ordering::Relaxed);
                    for (done, seen) in self.done.iter().zip(&self.seen) {
                        if done.load(Ordering::Relaxed) {
                            seen.store(true, Ordering::Relaxed);
                        }
                    }
                }

                /// What was queued before a stop is run after it.
                fn begin_dpc(&self) {
                    // There is one restart, so it is queued again once.
                    for _ in 0..2 {
                        match self.state.begin_dpc(0) {
                            Begin::Now => {
                                self.data.add();
                                self.run_dpc();
                                return self.state.leave();
                            }
                            Begin::Queue => {}
                            Begin::Later => return,
                        }
                    }
                }

                /// ScsiRestartAdapter, if it may be.
                fn restart(&self) -> bool {
                    let may = self.state.may_restart();
                    if may {
                        self.data.add();
                        for _ in self.state.run() {
                            self.begin_dpc();
                        }
                    }
                    may
                }
            }

            pub fn who_finds_the_adapter_sees_it_as_it_was_written() {
                model(|| {
                    let shared = Arc::new((State::default(), Data::new()));
                    shared.0.begin(false, false);
                    let there = Arc::clone(&shared);
                    let callback = thread::spawn(move || {
                        if there.0.is_found() {
                            assert_eq!(there.1.get(), 1);
                        }
                    });
                    shared.1.add();
                    shared.0.set_found();
                    callback.join().unwrap();
                });
            }

            pub fn a_dpc_issued_before_its_object_is_initialised_is_queued_once() {
                model(|| {
                    let adapter = adapter();
                    let there = Arc::clone(&adapter);
                    let interrupt = thread::spawn(move || there.issue(0));
                    adapter.initialize_dpcs();
                    interrupt.join().unwrap();
                    assert_eq!(adapter.runs.load(Ordering::Relaxed), 1);
                    assert!(adapter.seen[0].load(Ordering::Relaxed));
                });
            }

            pub fn of_two_who_issue_a_dpc_neither_is_lost() {
                // Three threads: every order in which a thread is interrupted
                // three times at most. All orders take minutes, and hold.
                let mut some = Builder::new();
                some.preemption_bound = Some(3);
                some.check(|| {
                    let adapter = adapter();
                    let issuers = [0, 1].map(|issuer| {
                        let there = Arc::clone(&adapter);
                        thread::spawn(move || there.issue(issuer))
                    });
                    adapter.initialize_dpcs();
                    for issuer in issuers {
                        issuer.join().unwrap();
                    }
                    let runs = adapter.runs.load(Ordering::Relaxed);
                    assert!((1..=2).contains(&runs), "{runs}");
                    assert!(adapter.seen.iter().all(|seen| seen.load(Ordering::Relaxed)));
                });
            }

            pub fn a_restart_is_alone_with_the_data() {
                model(|| {
                    let adapter = adapter();
                    adapter.initialize_dpcs();
                    let there = Arc::clone(&adapter);
                    let callback = thread::spawn(move || {
                        if there.state.enter() {
                            there.data.add();
                            there.state.leave();
                        }
                    });
                    adapter.state.stop();
                    adapter.restart();
                    callback.join().unwrap();
                });
            }

            pub fn a_dpc_of_before_a_stop_runs_once_and_not_in_the_restart() {
                model(|| {
                    let adapter = adapter();
                    adapter.initialize_dpcs();
                    let there = Arc::clone(&adapter);
                    let dpc = thread::spawn(move || there.begin_dpc());
                    adapter.state.stop();
                    let restarted = adapter.restart();
                    dpc.join().unwrap();
                    assert!(restarted || adapter.restart());
                    assert_eq!(adapter.runs.load(Ordering::Relaxed), 1);
                });
            }

            pub fn one_change_is_reported_at_a_time() {
                model(|| {
                    let shared = Arc::new((State::default(), Data::new()));
                    let report = |shared: &(State, Data)| {
                        if shared.0.begin_state_change() {
                            shared.1.add();
                            shared.0.end_state_change();
                        }
                    };
                    let there = Arc::clone(&shared);
                    let other = thread::spawn(move || report(&there));
                    report(&shared);
                    other.join().unwrap();
                });
            }
        }
    };
}

models!(correct, ferrostor_models::state);

/// A test of the crate's file for each model, and one for each faulty copy that
/// the model fails for.
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
                #[expect(dead_code, reason = "one model of all is to fail for it")]
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
    who_finds_the_adapter_sees_it_as_it_was_written fails if
        found_is_stored_relaxed
        found_is_loaded_relaxed;
    a_dpc_issued_before_its_object_is_initialised_is_queued_once fails if
        dpcs_are_announced_relaxed
        dpcs_are_looked_for_relaxed
        notes_are_taken_before_dpcs_are_announced
        notes_are_taken_relaxed
        a_note_is_not_looked_after
        a_note_is_not_taken_back;
    of_two_who_issue_a_dpc_neither_is_lost fails if
        a_note_is_made_relaxed;
    a_restart_is_alone_with_the_data fails if
        entering_is_relaxed
        leaving_is_relaxed
        a_restart_only_reads_who_is_inside;
    a_dpc_of_before_a_stop_runs_once_and_not_in_the_restart fails if
        a_dpc_runs_without_entering
        a_dpc_is_dropped_while_stopped;
    one_change_is_reported_at_a_time fails if
        the_place_for_a_change_is_given_back_relaxed;
}
