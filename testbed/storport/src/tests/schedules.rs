//! Miniports whose faults depend on the order of events. At least one of fifty seeds must find
//! each fault, and find it again. Each run is a child process: this test program.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{super::abi::wdk::DpcLock, bench::*};
use Callback::{HwBuildIo, HwStartIo};
use testbed_machine::{cpu, schedule, testing};

/// How a run ended, and what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    code: Option<i32>,
    said: String,
}

fn play(scene: &str, seed: u64) -> Run {
    let output = testing::run("tests::schedules::the_scene", &format!("{scene} {seed}"));
    Run {
        code: output.status.code(),
        said: without_addresses(&String::from_utf8_lossy(&output.stderr)),
    }
}

/// These miniports are in this program, which lies elsewhere in each process.
fn without_addresses(said: &str) -> String {
    let mut parts = said.split("0x");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + "0x" + part.trim_start_matches(|digit: char| digit.is_ascii_hexdigit())
    })
}

#[test]
#[ignore = "a scene of the tests below"]
fn the_scene() {
    let asked = testing::asked();
    let (scene, seed) = asked.split_once(' ').expect("a scene and a seed");
    schedule::begin(seed.parse().expect("a number"));
    let miniport = match scene {
        "answers" => Miniport::new(),
        "counts" => counts(),
        // Two CPUs take two locks, each in its own order.
        "crosswise" => Miniport::new().on(HwBuildIo, |c| {
            let mut dpcs = [FIRST_DPC, SECOND_DPC].map(|dpc| c.own(dpc));
            if cpu::current_number() == 1 {
                dpcs.reverse();
            }
            let handles = Scratch::new(128);
            c.acquire_at(DpcLock, dpcs[0], handles.address());
            c.acquire_at(DpcLock, dpcs[1], handles.address() + 64);
            c.release_at(handles.address() + 64);
            c.release_at(handles.address());
        }),
        // Waits for what no other thread can tell it: they wait for it.
        "spins" => Miniport::new().on(HwStartIo, |_| {
            let told = AtomicUsize::new(0);
            while told.load(Ordering::Relaxed) == 0 {
                std::hint::spin_loop();
            }
        }),
        other => panic!("no scene {other}"),
    };
    let settings = AdapterSettings {
        callback_limit: Duration::from_secs(2),
        ..quick()
    };
    let bench = start_as(miniport, settings);
    let completions = bench.load(20, 4);
    eprintln!(
        "{} completions, broken: {:?}",
        completions.len(),
        bench.broken()
    );
    drop(bench);
    eprintln!("{:?}", schedule::trace().expect("a seed decides"));
}

/// A miniport that numbers its requests in HwBuildIo, where nothing keeps two CPUs apart, and
/// completes them by number (storport-rules.md X10).
fn counts() -> Miniport {
    let next = AtomicUsize::new(0);
    let maps = || -> &'static Mutex<HashMap<usize, usize>> { Box::leak(Box::default()) };
    let (by_number, numbers) = (maps(), maps());
    Miniport::new()
        .on(HwBuildIo, move |c| {
            let number = next.load(Ordering::Relaxed);
            c.notify(12, [c.own(NOTE)]);
            next.store(number + 1, Ordering::Relaxed);
            by_number.lock().unwrap().insert(number, c.about);
            numbers.lock().unwrap().insert(c.about, number);
        })
        .on(HwStartIo, move |c| {
            let number = numbers.lock().unwrap()[&c.about];
            let srb = by_number.lock().unwrap()[&number];
            c.complete_srb(srb, SUCCESS);
            c.answer(1);
        })
}

/// The runs by seeds 1 to 50 that `found` something, with their seeds.
fn search(scene: &str, found: impl Fn(&Run) -> bool) -> Vec<(u64, Run)> {
    (1..=50)
        .map(|seed| (seed, play(scene, seed)))
        .filter(|(_, run)| found(run))
        .collect()
}

#[test]
fn a_correct_miniport_passes_under_each_seed_and_repeats_its_run() {
    for seed in 1..=8 {
        let run = play("answers", seed);

        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(run.said.contains("40 completions, broken: []"), "{run:?}");
        assert_eq!(play("answers", seed), run);
    }
}

#[test]
fn a_counter_that_two_cpus_share_without_a_lock_fails_under_some_seed() {
    // If two requests get the same number, the first is lost.
    let found = search("counts", |run| run.code == Some(3));

    let (seed, run) = found.first().expect("some seed finds it");
    assert!(
        run.said.contains("the miniport still has request"),
        "{run:?}"
    );
    assert_eq!(&play("counts", *seed), run);
    // Not each one, or the order would be the same all the time.
    assert!(found.len() < 50);
}

#[test]
fn locks_in_opposite_orders_deadlock_under_some_seed() {
    let found = search("crosswise", |run| run.code == Some(3));

    let (seed, run) = found.first().expect("some seed finds it");
    assert!(run.said.contains("Dpc 0"), "{run:?}");
    assert!(run.said.contains("Dpc 1"), "{run:?}");
    assert_eq!(&play("crosswise", *seed), run);
    assert!(found.len() < 50);
}

#[test]
fn driver_code_that_never_calls_storport_stops_the_machine() {
    let run = play("spins", 1);

    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.said.contains("without a call of Storport's"), "{run:?}");
    assert!(run.said.contains("HwStartIo on CPU"), "{run:?}");
}
