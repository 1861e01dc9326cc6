//! What the processor would do that a process may not: register pages,
//! port instructions, privileged reads; and the end of a driver that crashed.
#![expect(unsafe_code, reason = "signal handlers, and the memory that they see")]

#[cfg(test)]
mod access_tests;
mod breakpoint;
mod bus;
pub mod count;
mod crash;
#[cfg(test)]
mod crash_tests;
mod emulate;
mod images;
mod inside;
mod peek;
#[cfg(test)]
mod ram;
mod signal;
mod stack;
mod stop;
mod taken;

pub use self::{
    breakpoint::{clear as clear_breakpoint, set as set_breakpoint},
    bus::complain,
    crash::{Place, place_in_driver},
    images::first as driver_image,
    inside::{callback, processor_time},
    peek::read as read_memory,
    stack::{Calls, Walk, called},
    taken::{Access, tell_of_accesses},
};
pub use self::{
    bus::{RegisterWindow, complaints, connect_ports},
    images::watch,
    inside::{Inside, in_driver, inside},
    signal::{ignore_file_size_signal, install},
    stop::{repeat_with, stop_machine},
};

/// The addresses of the instructions of a driver that can be reached from its
/// routine at `routine`; none if it is in no driver.
pub fn reach(routine: usize) -> Vec<usize> {
    images::of(routine).map_or_else(Vec::new, |(image, _)| image.reach(routine))
}

/// Whether a byte can be read at `address`.
pub fn is_readable(address: usize) -> bool {
    peek::read(address, &mut [0]).is_some()
}
