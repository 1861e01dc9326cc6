//! Miniports whose faults show in some orders of events alone: some seed of
//! fifty finds each, and finds it again. Each run is a process of its own, this
//! same test program.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::bench::*;
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
    match scene {
        "answers" => load(Answers),
        "counts" => load(Counts::default()),
        "crosswise" => load(Crosswise(Scratch::new(256))),
        "spins" => load(Spins),
        other => panic!("no scene {other}"),
    }
}

/// Puts a load on a miniport, and says what came of it.
fn load(miniport: impl Miniport + 'static) {
    let settings = AdapterSettings {
        callback_limit: Duration::from_secs(2),
        ..quick()
    };
    let bench = start_with(miniport, FakeFunction::new(2), settings);
    let completions = bench.load(20, 4);
    eprintln!(
        "{} completions, broken: {:?}",
        completions.len(),
        bench.broken()
    );
    drop(bench);
    eprintln!("{:?}", schedule::trace().expect("a seed decides"));
}

/// Nothing wrong with it.
struct Answers;

impl Miniport for Answers {}

/// Numbers its requests in HwBuildIo, where nothing keeps two CPUs apart, and
/// completes them by number (storport-rules.md X10).
#[derive(Default)]
struct Counts {
    next: AtomicUsize,
    by_number: Mutex<HashMap<usize, usize>>,
    numbers: Mutex<HashMap<usize, usize>>,
}

impl Miniport for Counts {
    fn build_io(&self, ext: Extension, srb: usize) -> bool {
        let number = self.next.load(Ordering::Relaxed);
        let _ticks: (u64, usize) = with_result(|to| ext.notify(12, [to, 0, 0, 0]));
        self.next.store(number + 1, Ordering::Relaxed);
        self.by_number.lock().unwrap().insert(number, srb);
        self.numbers.lock().unwrap().insert(srb, number);
        true
    }

    fn start_io(&self, ext: Extension, srb: usize) -> bool {
        let number = self.numbers.lock().unwrap()[&srb];
        let srb = self.by_number.lock().unwrap()[&number];
        ext.complete(srb, SUCCESS);
        true
    }
}

/// Two CPUs take two locks, each in its own order.
struct Crosswise(Scratch);

impl Miniport for Crosswise {
    fn passive_initialize(&self, ext: Extension) -> bool {
        ext.initialize_dpc(self.0.address());
        ext.initialize_dpc(self.0.address() + 128);
        true
    }

    fn build_io(&self, ext: Extension, _: usize) -> bool {
        let mut dpcs = [self.0.address(), self.0.address() + 128];
        if cpu::current_number() == 1 {
            dpcs.reverse();
        }
        let handles = Scratch::new(128);
        ext.acquire(1, dpcs[0], handles.address());
        ext.acquire(1, dpcs[1], handles.address() + 64);
        ext.release(handles.address() + 64);
        ext.release(handles.address());
        true
    }
}

/// Waits for what no other thread can tell it: they wait for it.
struct Spins;

impl Miniport for Spins {
    fn start_io(&self, _: Extension, _: usize) -> bool {
        let told = AtomicUsize::new(0);
        while told.load(Ordering::Relaxed) == 0 {
            std::hint::spin_loop();
        }
        true
    }
}

/// The runs by seeds 1 to 50 that `found` something, with their seeds.
fn search(scene: &str, found: impl Fn(&Run) -> bool) -> Vec<(u64, Run)> {
    (1..=50)
        .map(|seed| (seed, play(scene, seed)))
        .filter(|(_, run)| found(run))
        .collect()
}

#[test]
fn a_correct_miniport_passes_by_each_seed_and_the_same_way_again() {
    for seed in 1..=8 {
        let run = play("answers", seed);

        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(run.said.contains("40 completions, broken: []"), "{run:?}");
        assert_eq!(play("answers", seed), run);
    }
}

#[test]
fn a_counter_that_two_cpus_share_without_a_lock_is_found_by_some_seed() {
    // Of two requests with one number the first is lost.
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
fn locks_taken_crosswise_lock_two_cpus_out_by_some_seed() {
    let found = search("crosswise", |run| run.code == Some(3));

    let (seed, run) = found.first().expect("some seed finds it");
    assert!(run.said.contains("Dpc 0"), "{run:?}");
    assert!(run.said.contains("Dpc 1"), "{run:?}");
    assert_eq!(&play("crosswise", *seed), run);
    assert!(found.len() < 50);
}

#[test]
fn driver_code_that_keeps_the_processor_for_ever_ends_the_machine() {
    let run = play("spins", 1);

    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.said.contains("without a call of Storport's"), "{run:?}");
    assert!(run.said.contains("HwStartIo on CPU"), "{run:?}");
}
