//! Tests of schedules. A process has one schedule, so each scene runs in a child process: this
//! test program.
#![expect(unsafe_code, reason = "calls code made for a test")]

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use super::*;
use crate::{clock, testing};
use testbed_loader::sample::Sample;

const SCENE: &str = "schedule::tests::the_scene";

/// Runs a scene with a seed. Returns its exit code and output.
fn play(scene: &str, seed: u64) -> (Option<i32>, String) {
    let output = testing::run(SCENE, &format!("{scene} {seed}"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

/// The output of a scene that must succeed.
fn said(scene: &str, seed: u64) -> String {
    let (code, said) = play(scene, seed);
    assert_eq!(code, Some(0), "{scene}: {said}");
    said
}

#[test]
#[ignore = "a scene of the tests below"]
fn the_scene() {
    let asked = testing::asked();
    let (scene, seed) = asked.rsplit_once(' ').expect("a scene and a seed");
    begin(seed.parse().expect("a number"));
    match scene {
        "add" => add(),
        "exclude" => exclude(),
        "add in code" => add_in_code(),
        "sleep" => sleep_long(),
        "wake" => wake_each_other(),
        "cross" => cross(),
        other => panic!("no scene {other}"),
    }
    eprintln!("{:?}", trace().expect("a seed decides"));
}

/// Runs `body` on four threads and joins them.
fn on_four(body: impl Fn(u32) + Send + Sync + 'static) {
    let body = Arc::new(body);
    let threads: Vec<_> = (0..4)
        .map(|number| {
            let body = Arc::clone(&body);
            spawn(&format!("thread {number}"), move || body(number)).expect("a thread")
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
}

/// Adds 1 without atomicity, so that concurrent additions are lost.
fn add_to(sum: &AtomicU32) {
    let before = sum.load(Ordering::Relaxed);
    point(Point::Call);
    sum.store(before + 1, Ordering::Relaxed);
    point(Point::Call);
}

fn add() {
    let sum = Arc::new(AtomicU32::new(0));
    let shared = Arc::clone(&sum);
    on_four(move |_| add_to(&shared));
    eprintln!("sum {}", sum.load(Ordering::Relaxed));
}

/// mov eax, [rcx]; inc eax; mov [rcx], eax; ret
const ADD: [u8; 7] = [0x8b, 0x01, 0xff, 0xc0, 0x89, 0x01, 0xc3];

/// Adds 1 by driver code, which passes no point.
fn add_in_code() {
    trap::install().expect("handlers");
    let sample = Sample {
        code: ADD.into(),
        ..Sample::default()
    };
    let image = Arc::new(sample.load(&|_, _| None).expect("a good file"));
    trap::watch(&image);
    let sum = Arc::new(AtomicU32::new(0));
    let shared = Arc::clone(&sum);
    on_four(move |_| {
        // SAFETY: the code is ADD, which takes an address.
        let add: extern "win64" fn(*const AtomicU32) =
            unsafe { std::mem::transmute(image.entry()) };
        for _ in 0..8 {
            enter(image.entry());
            trap::in_driver("a routine", || add(&raw const *shared));
        }
    });
    eprintln!("sum {}", sum.load(Ordering::Relaxed));
}

fn exclude() {
    let sum = Arc::new(Mutex::<AtomicU32>::default());
    let shared = Arc::clone(&sum);
    on_four(move |_| {
        for _ in 0..100 {
            add_to(&shared.lock());
        }
    });
    assert_eq!(sum.lock().load(Ordering::Relaxed), 400);
}

fn sleep_long() {
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let shared = Arc::clone(&order);
    on_four(move |number| {
        sleep(Duration::from_secs(600 * u64::from(4 - number)));
        assert!(clock::now() >= 600_000_000_000 * u64::from(4 - number));
        shared.lock().expect("no panic").push(number);
    });
    assert_eq!(*order.lock().expect("no panic"), [3, 2, 1, 0]);
}

/// Each thread wakes the next one.
fn wake_each_other() {
    let turn = Arc::new((std::sync::Mutex::new(0), Condition::new()));
    on_four(move |number| {
        let (mutex, changed) = &*turn;
        for round in 0..50 {
            let mut turn = mutex.lock().expect("no panic");
            while *turn != 4 * round + number {
                turn = changed.wait(mutex, turn, None, "its turn");
            }
            *turn += 1;
            changed.changed();
        }
    });
}

fn cross() {
    let locks: Arc<[Mutex<()>; 2]> = Arc::default();
    let other = Arc::clone(&locks);
    let first = spawn("first", move || {
        for _ in 0..1000 {
            let _outer = other[0].lock();
            point(Point::Call);
            let _inner = other[1].lock();
        }
    });
    let second = spawn("second", move || {
        for _ in 0..1000 {
            let _outer = locks[1].lock();
            point(Point::Call);
            let _inner = locks[0].lock();
        }
    });
    for thread in [first, second] {
        thread.expect("a thread").join().expect("no panic");
    }
}

#[test]
fn a_seed_gives_the_same_run_each_time_and_another_seed_another() {
    let traces: Vec<_> = (1..=8).map(|seed| said("exclude", seed)).collect();

    for (seed, trace) in (1..).zip(&traces) {
        assert_eq!(&said("exclude", seed), trace);
    }
    for (index, trace) in traces.iter().enumerate() {
        assert!(!traces[..index].contains(trace), "{traces:#?}");
    }
}

/// Some of fifty seeds must lose an update in `scene`, whose sum is `whole` without losses, and
/// lose it again in a second run.
fn some_seed_loses_an_update(scene: &str, whole: u32) {
    let runs: Vec<_> = (1..=50).map(|seed| said(scene, seed)).collect();
    let lost = |run: &String| !run.starts_with(&format!("sum {whole}\n"));

    let found: Vec<_> = (1..).zip(&runs).filter(|(_, run)| lost(run)).collect();

    // If each seed lost one, the order would be the same every time.
    assert!((1..50).contains(&found.len()), "{runs:#?}");
    let (seed, run) = found[0];
    assert_eq!(&said(scene, seed), run);
}

#[test]
fn some_seed_of_fifty_loses_an_update_and_loses_it_again() {
    some_seed_loses_an_update("add", 4);
}

#[test]
fn some_seed_of_fifty_stops_driver_code_between_two_instructions() {
    some_seed_loses_an_update("add in code", 32);
}

#[test]
fn time_jumps_to_what_is_due_next() {
    said("sleep", 1);
}

#[test]
fn a_change_wakes_its_waiters() {
    (1..=8).for_each(|seed| drop(said("wake", seed)));
}

#[test]
fn threads_that_wait_for_each_other_are_named_with_what_they_wait_for() {
    let (code, said) = play("cross", 1);

    assert_eq!(code, Some(3), "{said}");
    for part in [
        "testbed: deadlock: every thread waits, and no timer is set",
        "main: for the end of first",
        "first: for a mutex",
        "second: for a mutex",
    ] {
        assert!(said.contains(part), "{said}");
    }
}
