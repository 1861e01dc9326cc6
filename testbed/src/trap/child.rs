//! Tests of how the process ends: this test program once more, called for one
//! test, that asks what to do.

use std::process::{Command, Output};

const ASKED: &str = "TESTBED_CHILD";

/// What the calling test, run as a child, is to do.
pub(crate) fn asked() -> String {
    std::env::var(ASKED).expect("called by another test")
}

/// Runs the ignored test `test` in a process of its own and asks it to do
/// `what`.
pub(crate) fn run(test: &str, what: &str) -> Output {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "--nocapture", test])
        .env(ASKED, what)
        .output()
        .expect("this program runs")
}

/// The message with which the driver's end was told, and nothing else.
pub(crate) fn stop_message(test: &str, what: &str) -> String {
    let output = run(test, what);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{what}: {message}");
    assert!(message.starts_with("testbed: "), "{what}: {message}");
    message
}
