//! Loads a Storport miniport's .sys on Linux: its Windows, its hardware, its
//! workload.
//!
//! The testbed knows no particular driver: it runs any x64 miniport by its
//! file.

pub mod cpu;
pub mod image;
pub mod memory;
pub mod pci;
pub mod trap;
