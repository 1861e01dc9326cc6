//! Tests of the virtio-blk function from the driver's side: through configuration space, BARs,
//! rings in guest memory, and interrupts.

mod driver;
mod driver_errors;
mod faults;
mod interrupts;
mod lifecycle;
mod requests;
