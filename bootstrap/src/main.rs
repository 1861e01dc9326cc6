//! The program that `cargo xtask` runs. On Linux, `.cargo/config.toml` makes cargo run
//! `setup.sh` instead. On other systems the program reports that it needs Linux.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!(
        "error: cargo xtask needs Linux on x86-64, with glibc; to build the driver on Windows, \
         see CONTRIBUTING.md"
    );
    ExitCode::FAILURE
}
