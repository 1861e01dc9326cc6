//! The state in `crates/storport/src/state.rs`, on one thread: which callback each phase admits,
//! and what the state remembers. `state.rs` has the models with two threads.
#![cfg(not(loom))]

use ferrostor_models::state::{DpcKind, DpcRun, Issue, MAX_DPCS, Noted, State};

type Step = fn(&State);
type Question = fn(&State) -> bool;

const FIND: Step = |state| assert!(state.begin_find());
const FOUND: Step = |state| state.end_find(true);
const NOT_FOUND: Step = |state| state.end_find(false);
const DUMP: Step = |state| state.reset(true, false);
const INITIALIZE: Step = |state| assert!(state.begin_initialize());
const INITIALIZED: Step = |state| state.end_initialize(true);
const NOT_INITIALIZED: Step = |state| state.end_initialize(false);
/// From the search to the end of HwInitialize.
const START: Step = |state| {
    for step in [FIND, FOUND, INITIALIZE, INITIALIZED] {
        step(state);
    }
};
/// The same in a dump stack.
const START_DUMP: Step = |state| {
    for step in [FIND, DUMP, FOUND, INITIALIZE, INITIALIZED] {
        step(state);
    }
};
const PASSIVE: Step = |state| assert!(state.begin_passive());
const READY: Step = |state| assert_eq!(state.end_passive(true).next(), None);
const NOT_READY: Step = |state| assert_eq!(state.end_passive(false).next(), None);
const STOP: Step = |state| {
    assert!(state.stop());
    state.leave();
};
const RESTART: Step = |state| assert!(state.begin_restart());
const RESTARTED: Step = |state| assert_eq!(state.end_restart(true).next(), None);
const NOT_RESTARTED: Step = |state| assert_eq!(state.end_restart(false).next(), None);

/// The numbers of DPC objects. An iterator that does not end has more than there can be.
fn numbers(noted: Noted) -> Vec<u8> {
    noted.take(usize::from(MAX_DPCS) + 1).collect()
}

/// The questions that callbacks ask, by name.
const QUESTIONS: [(&str, Question); 9] = [
    ("find", State::begin_find),
    ("initialize", State::begin_initialize),
    ("passive", State::begin_passive),
    ("restart", State::begin_restart),
    ("stop", State::stop),
    ("callback", State::enter),
    ("requests", State::serves_requests),
    ("interrupts", State::serves_interrupts),
    ("starting", State::is_starting),
];

/// Steps, and the questions whose answer is yes after them.
const PHASES: [(&[Step], &str); 16] = [
    (&[], "find"),
    (&[FIND], ""),
    (&[FIND, NOT_FOUND], "find"),
    (&[FIND, FOUND], "find initialize stop"),
    (&[FIND, FOUND, STOP], "find initialize stop"),
    (&[FIND, FOUND, INITIALIZE], "starting"),
    (
        &[FIND, FOUND, INITIALIZE, NOT_INITIALIZED],
        "find initialize stop",
    ),
    (&[START], "find passive stop interrupts starting"),
    // A dump stack has no HwPassiveInitialize.
    (&[START_DUMP], "find stop callback requests interrupts"),
    (
        &[START_DUMP, STOP, RESTART, RESTARTED],
        "find stop callback requests interrupts",
    ),
    (&[START, PASSIVE], "interrupts starting"),
    (&[START, PASSIVE, NOT_READY], "find restart stop"),
    (
        &[START, PASSIVE, READY],
        "find stop callback requests interrupts",
    ),
    (
        &[START, PASSIVE, READY, STOP, RESTART],
        "interrupts starting",
    ),
    (
        &[START, PASSIVE, READY, STOP, RESTART, NOT_RESTARTED],
        "find restart stop",
    ),
    // The stop came before HwPassiveInitialize, which still comes.
    (
        &[START, STOP, RESTART, RESTARTED],
        "find passive stop interrupts starting",
    ),
];

/// A state after these steps.
fn after(steps: &[Step]) -> State {
    let state = State::default();
    steps.iter().for_each(|step| step(&state));
    state
}

fn ready() -> State {
    after(&[START, PASSIVE, READY])
}

#[test]
fn each_phase_admits_its_callbacks_and_no_others() {
    for (number, (steps, admitted)) in PHASES.iter().enumerate() {
        for (name, question) in QUESTIONS {
            let state = after(steps);
            let yes = question(&state);
            assert_eq!(
                yes,
                admitted.split(' ').any(|admitted| admitted == name),
                "{name} in row {number}"
            );
            // Only these two are counted, and only if they are admitted.
            let counted = yes && ["stop", "callback"].contains(&name);
            assert_eq!(state.is_exclusive(), !counted, "{name} in row {number}");
        }
    }
}

#[test]
fn each_stop_and_each_search_begins_a_life() {
    let state = ready();
    assert_eq!((state.life(), state.ready_life()), (1, Some(1)));
    STOP(&state);
    assert_eq!((state.life(), state.ready_life()), (2, None));
    FIND(&state);
    assert_eq!(state.life(), 3);
    assert!(!state.stop());
    assert_eq!(state.life(), 3);
}

#[test]
fn a_timer_expires_once_and_only_in_its_life() {
    let state = ready();
    assert!(!state.take_timer());
    state.arm_timer(state.ready_life());
    assert!(state.take_timer());
    assert!(!state.take_timer());
    state.arm_timer(state.ready_life());
    state.arm_timer(None);
    assert!(!state.take_timer());
    state.arm_timer(Some(2));
    assert!(!state.take_timer());
    // Life 0 is that of a state without an adapter.
    assert!(!State::default().take_timer());
}

#[test]
fn a_running_dpc_of_any_object_excludes_a_restart() {
    let state = ready();
    for number in 0..MAX_DPCS {
        assert_eq!(state.take_dpc(DpcKind::Ordinary), Some(number));
        assert_eq!(state.dpcs(), number + 1);
        assert!(state.begin_dpc_initialization(number));
        assert!(!state.begin_dpc_initialization(number));
        let first = state.enter_dpc(number).unwrap();
        let second = state.enter_dpc(number).unwrap();
        assert!(matches!(first, DpcRun::Marked(marked) if marked == number));
        assert!(matches!(second, DpcRun::Counted));
        state.leave_dpc(second);
        assert!(!state.is_exclusive(), "object {number} is marked");
        state.leave_dpc(first);
        assert!(state.is_exclusive(), "object {number} is not marked");
    }
    assert_eq!(state.take_dpc(DpcKind::Ordinary), None);
    STOP(&state);
    assert!(state.enter_dpc(0).is_none());
    assert!(state.is_exclusive());
}

#[test]
fn a_dpc_object_keeps_its_kind_in_later_lives() {
    let state = ready();
    assert_eq!(state.take_dpc(DpcKind::Threaded), Some(0));
    assert_eq!(state.take_dpc(DpcKind::Ordinary), Some(1));
    assert_eq!(state.take_dpc(DpcKind::Threaded), Some(2));
    let threaded = |state: &State| [0, 1, 2].map(|number| state.is_threaded(number));
    assert_eq!(threaded(&state), [true, false, true]);
    for number in 0..2 {
        assert!(state.begin_dpc_initialization(number));
    }
    state.reset(false, false);
    assert_eq!((state.dpcs(), threaded(&state)), (0, [false; 3]));
    assert_eq!(state.take_dpc(DpcKind::Ordinary), None);
    assert_eq!(state.take_dpc(DpcKind::Threaded), Some(0));
    assert_eq!(state.take_dpc(DpcKind::Threaded), None);
    assert_eq!(state.take_dpc(DpcKind::Ordinary), Some(1));
    // The last object was taken, but never initialised.
    assert_eq!(state.take_dpc(DpcKind::Ordinary), Some(2));
}

#[test]
fn dpcs_that_cannot_be_queued_are_noted_in_order() {
    let state = after(&[START, PASSIVE]);
    for number in [31, 0, 5, 5] {
        assert_eq!(state.issue(number), Issue::Later);
    }
    assert_eq!(numbers(state.end_passive(true)), [0, 5, 31]);
    assert_eq!(state.issue(7), Issue::Now);
    STOP(&state);
    assert_eq!(state.issue(7), Issue::Later);
    RESTART(&state);
    assert_eq!(numbers(state.end_restart(true)), [7]);
    STOP(&state);
    assert_eq!(state.issue(7), Issue::Later);
    FIND(&state);
    state.reset(false, false);
    assert_eq!(state.take_noted().next(), None);
}

#[test]
fn in_a_dump_stack_every_dpc_is_left_to_the_interrupt_routine() {
    let state = after(&[START_DUMP]);
    assert!(state.is_dump());
    assert_eq!(state.issue(3), Issue::Later);
    STOP(&state);
    RESTART(&state);
    assert_eq!(state.end_restart(true).next(), None);
    assert_eq!(numbers(state.take_noted()), [3]);
}

#[test]
fn what_storport_granted_is_remembered_until_the_next_search() {
    let state = State::default();
    for message_locks in [true, false] {
        state.reset(false, message_locks);
        assert_eq!(state.has_message_locks(), message_locks);
        assert_eq!((state.messages(), state.locked_messages()), (0, 0));
        state.set_messages(4);
        let locked = if message_locks { 4 } else { 0 };
        assert_eq!((state.messages(), state.locked_messages()), (4, locked));
        assert_eq!(state.channels(), 0);
        state.grant_channels(3);
        assert_eq!(state.channels(), 3);
        assert_eq!([state.may_optimize(), state.may_optimize()], [true, false]);
    }
    assert!(!state.is_traced());
    state.set_traced(true);
    assert!(state.is_traced());
}

#[test]
fn one_state_change_is_reported_at_a_time() {
    let state = State::default();
    assert!(state.begin_state_change());
    assert!(!state.begin_state_change());
    state.end_state_change();
    assert!(state.begin_state_change());
}
