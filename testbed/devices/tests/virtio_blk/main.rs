//! The virtio-blk function as a driver meets it: through configuration space,
//! BARs, rings in guest memory, and interrupts.

mod driver;
mod faults;
mod interrupts;
mod lifecycle;
mod manners;
mod requests;
