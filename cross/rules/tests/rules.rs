//! Runs the cases of all rules. How they are written: `src/lib.rs`.

use std::{path::Path, process::ExitCode};

use ferrostor_rules::{cases, root};

fn main() -> ExitCode {
    let folder = root().join("crates/storport/tests/rules");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("..");
    // What is wrong was printed, case by case.
    match ui_test::run_tests(cases(&folder, &target)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
