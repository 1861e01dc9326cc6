//! Loads the .sys file of a Storport miniport on Linux, and emulates Windows and the hardware
//! under a load.
//!
//! The testbed knows no particular driver: it runs the file of any x64 miniport.
#![cfg(target_os = "linux")]

mod command;
pub mod cost;
pub mod disk;
pub mod diskspd;
pub mod elapsed;
pub mod rules;
pub mod run;
pub mod seeds;
pub mod size;
pub mod stamp;
pub mod status;
pub mod summary;
pub mod verify;
