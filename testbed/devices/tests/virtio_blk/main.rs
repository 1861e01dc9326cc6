//! The virtio-blk function as a driver meets it: through configuration space,
//! BARs, rings in guest memory, and interrupts.

mod driver;
mod driver_errors;
mod faults;
mod interrupts;
mod lifecycle;
mod requests;
