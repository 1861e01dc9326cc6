//! For tests, also those of the crates above: one machine for all tests of a process, and tests
//! that end the process.

use std::{
    process::{Command, Output},
    sync::{Arc, OnceLock},
};

use crate::{Machine, MachineSettings};

/// Asks a test that runs as a child process what to do.
const ASKED: &str = "TESTBED_CHILD";

/// What the calling test, run as a child, is to do.
pub fn asked() -> String {
    std::env::var(ASKED).expect("called by another test")
}

/// Runs the ignored test `test` in a process of its own and asks it to do
/// `what`.
pub fn run(test: &str, what: &str) -> Output {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "--nocapture", test])
        .env(ASKED, what)
        .output()
        .expect("this program runs")
}

/// The message with which the driver's end was told, and nothing else.
pub fn stop_message(test: &str, what: &str) -> String {
    let output = run(test, what);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{what}: {message}");
    assert!(message.starts_with("testbed: "), "{what}: {message}");
    message
}

/// The one machine that all tests of this process run on: 2 CPUs, messages.
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
