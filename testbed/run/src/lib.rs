//! The `testbed` command as a library: runs the .sys file of a Storport miniport, checks it,
//! and reports.
//!
//! It brings the other crates together: it builds the machine and the device, starts the driver,
//! writes and verifies data, runs a workload, and prints the outcome. It
//! knows no particular driver: it runs the file of any x64 miniport. `testbed/README.md` is for
//! people who want to run theirs.
//!
//! ```
//! use testbed::size::Size;
//!
//! let size: Size = "64M".parse()?;
//! assert_eq!(size.0, 64 << 20);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![cfg(target_os = "linux")]

mod command_line;
pub mod compare;
pub mod cost;
pub mod disk;
pub mod rules;
pub mod run;
pub mod seeds;
pub mod size;
pub mod stamp;
pub mod status;
pub mod summary;
pub mod verify;
pub mod workload;
