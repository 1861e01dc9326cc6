//! The testbed's program. On other systems than Linux, it compiles, because `cargo wdk build`
//! builds the whole workspace, but only reports an error.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
mod cli;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    cli::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("testbed: this system is not supported: use Linux on x86-64");
    ExitCode::from(2)
}
