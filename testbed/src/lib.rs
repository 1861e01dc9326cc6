//! Loads a Storport miniport's .sys on Linux: its Windows, its hardware, its
//! workload.
//!
//! The testbed knows no particular driver: it runs any x64 miniport by its
//! file.
#![cfg(target_os = "linux")]

mod command;
pub mod cost;
pub mod cpu;
pub mod device;
pub mod disk;
pub mod diskspd;
pub mod elapsed;
pub mod image;
pub mod kernel;
pub mod machine;
pub mod memory;
pub mod pci;
pub mod rules;
pub mod run;
pub mod seeds;
pub mod size;
pub mod stamp;
pub mod status;
pub mod storport;
pub mod summary;
pub mod trap;
pub mod variadic;
pub mod verify;
