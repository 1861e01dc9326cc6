//! DriverEntry, and the panic handler and the allocator that a driver of windows-drivers-rs
//! has.

// The panic handler. The release driver cannot reach it.
extern crate wdk_panic as _;

use wdk_alloc::WdkAllocator;

use crate::driver::Ferrostor;

/// The allocator of windows-drivers-rs. The driver does not allocate, so the release driver
/// cannot reach it.
#[global_allocator]
static ALLOCATOR: WdkAllocator = WdkAllocator;

storport::driver_entry!(Ferrostor: PassiveInitialize, MessageInterrupt, Timer);
