//! The testbed's command. On other systems it is built with the workspace, as
//! `cargo wdk build` does, and runs nothing.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
mod cli;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    cli::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("testbed: runs drivers on Linux on x86-64, not here");
    ExitCode::from(2)
}
