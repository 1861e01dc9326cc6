//! Emulates what the processor would do but a process may not: accesses to device registers, port
//! instructions, privileged reads. Reports a crash of the driver.
#![expect(unsafe_code, reason = "signal handlers, and the memory that they see")]

#[cfg(test)]
mod access_tests;
mod breakpoint;
mod bus;
mod callbacks;
pub mod count;
mod crash;
#[cfg(test)]
mod crash_tests;
mod emulate;
mod images;
mod process_memory;
#[cfg(test)]
mod ram;
mod revoked;
mod signal;
mod stack;
mod stop;

pub use self::{
    breakpoint::{clear as clear_breakpoint, set as set_breakpoint},
    bus::record_driver_error,
    callbacks::{current_callback, processor_time},
    crash::{Place, place_in_driver},
    images::driver_image,
    process_memory::read as read_memory,
    revoked::{RevokedAccess, on_revoked_access},
    stack::{Calls, Walk, record_call},
};
pub use self::{
    bus::{RegisterWindow, connect_ports, driver_errors},
    callbacks::{RunningCallback, in_driver, running_callbacks},
    images::watch,
    signal::{ignore_file_size_signal, install},
    stop::{repeat_with, stop_machine},
};

/// The addresses of the instructions that are reachable from the driver's routine at
/// `routine`. Empty if `routine` is not in a driver.
pub fn reachable_from(routine: usize) -> Vec<usize> {
    images::of(routine).map_or_else(Vec::new, |(image, _)| image.reachable_from(routine))
}

/// Whether a byte can be read at `address`.
pub fn is_readable(address: usize) -> bool {
    process_memory::read(address, &mut [0]).is_some()
}
