//! Where Windows enters the driver, and what every driver of windows-drivers-rs
//! brings.

// The panic handler. The release driver has no path to it.
extern crate wdk_panic as _;

use wdk_alloc::WdkAllocator;

use crate::driver::Ferrostor;

/// The allocator that a driver of windows-drivers-rs has. This one does not
/// allocate, and the release driver has no path to it.
#[global_allocator]
static ALLOCATOR: WdkAllocator = WdkAllocator;

storport::driver_entry!(Ferrostor: PassiveInitialize, MessageInterrupt, Timer);
