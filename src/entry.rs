//! Where Windows enters the driver.
#![expect(
    unsafe_code,
    reason = "DriverEntry is called by Windows, with raw pointers"
)]

// The panic handler. The release driver has no way to it.
extern crate wdk_panic as _;

use wdk_alloc::WdkAllocator;
use wdk_sys::{NTSTATUS, PCUNICODE_STRING, PDRIVER_OBJECT};

use crate::adapter::Ferrostor;

/// The allocator that a driver of windows-drivers-rs has. This one does not
/// allocate, and the release driver has no way to it.
#[global_allocator]
static ALLOCATOR: WdkAllocator = WdkAllocator;

/// Registers the miniport with Storport.
///
/// # Safety
/// Windows calls it, once, at PASSIVE_LEVEL.
#[unsafe(export_name = "DriverEntry")]
pub unsafe extern "system" fn driver_entry(
    driver: PDRIVER_OBJECT,
    registry_path: PCUNICODE_STRING,
) -> NTSTATUS {
    // SAFETY: the arguments are those of DriverEntry.
    unsafe { storport::register::<Ferrostor>(driver, registry_path) }
}
