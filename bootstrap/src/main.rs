//! The program that `cargo xtask` names. On Linux it is never linked or run:
//! `.cargo/config.toml` makes cargo run `setup.sh` in its place. Elsewhere it
//! says that it needs Linux.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!(
        "error: cargo xtask needs Linux on x86-64, with glibc; CONTRIBUTING.md says how to build \
         the driver on Windows"
    );
    ExitCode::FAILURE
}
