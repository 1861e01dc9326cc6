//! Runs the command on a driver file that an environment variable names.

use std::process::{Command, Output};

/// The path of the driver file.
pub fn driver(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} names the driver file"))
}

/// Runs the driver with these options and this workload.
pub fn run(variable: &str, options: &[&str], workload: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_testbed"))
        .args(["run", "--driver", &driver(variable), "--house-rules"])
        .args(options)
        .arg("--")
        .args(workload.split(' '))
        .output()
        .expect("the command starts")
}

/// [`run`], which must pass. Returns the output.
pub fn passes(variable: &str, options: &[&str], workload: &str) -> String {
    let output = run(variable, options, workload);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    let judged = "violations: none; driver errors seen by the device: none";
    assert!(text.contains(judged), "{text}");
    assert!(text.ends_with("PASS\n"), "{text}");
    text
}
