//! Support for tests of this crate and of those above it: one machine for all tests of a process,
//! and tests that end their process.

use std::{
    process::{Command, Output},
    sync::{Arc, OnceLock},
    thread,
};

use crate::{Machine, MachineSettings};

/// Judges the cases, each with its index, on this number of threads. Returns all that is wrong.
pub fn on_threads<T: Sync>(
    threads: usize,
    cases: &[T],
    judge: impl Fn(usize, &T) -> Vec<String> + Sync,
) -> Vec<String> {
    let judge_share = |first| {
        let share = cases.iter().enumerate().skip(first).step_by(threads);
        share.flat_map(|(index, case)| judge(index, case)).collect()
    };
    let wrong: Vec<Vec<String>> = thread::scope(|scope| {
        let threads = (0..threads).map(|first| scope.spawn(move || judge_share(first)));
        let threads: Vec<_> = threads.collect();
        threads
            .into_iter()
            .map(|it| it.join().expect("no panic"))
            .collect()
    });
    wrong.concat()
}

/// The environment variable that tells a test in a child process what to do.
const ASKED: &str = "TESTBED_CHILD";

/// The task of the calling test, which runs in a child process.
pub fn asked() -> String {
    std::env::var(ASKED).expect("called by another test")
}

/// Runs the ignored test `test` in a child process with the task `what`.
pub fn run(test: &str, what: &str) -> Output {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "--nocapture", test])
        .env(ASKED, what)
        .output()
        .expect("this program runs")
}

/// Runs a child that must stop the machine. Returns the message, which must be its only output.
pub fn stop_message(test: &str, what: &str) -> String {
    let output = run(test, what);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{what}: {message}");
    assert!(message.starts_with("testbed: "), "{what}: {message}");
    message
}

/// The machine of all tests of this process: 2 CPUs, messages.
#[must_use]
pub fn shared() -> &'static Arc<Machine> {
    static SHARED: OnceLock<Arc<Machine>> = OnceLock::new();
    SHARED.get_or_init(|| {
        Machine::new(&MachineSettings {
            memory_bytes: 128 << 20,
            ..MachineSettings::default()
        })
        .expect("no other test builds one")
    })
}
