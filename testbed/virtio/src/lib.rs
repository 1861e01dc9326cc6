//! The device's side of virtio, for tests of drivers: registers and rings as state machines
//! without threads, files or an operating system. Miri can run them. They are written from the
//! specification, and share no code with the driver.
//!
//! - `function`: all registers of a virtio-blk function
//! - `common_config`, `blk_config`: the common and the device-specific configuration registers,
//!   with checks of each access of the driver, and false values that a test sets
//! - `ring`: the device's side of a split ring, with checks of each descriptor chain
//! - `memory`: memory that driver and device share
//! - `driver_errors`: what the driver did wrong, in sentences

pub mod blk_config;
pub mod common_config;
pub mod driver_errors;
pub mod function;
pub mod memory;
pub mod ring;
