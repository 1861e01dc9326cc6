//! Loads the .sys file of a Storport miniport on Linux, and emulates Windows and the hardware
//! under a load.
//!
//! The testbed knows no particular driver: it runs the file of any x64 miniport.
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
