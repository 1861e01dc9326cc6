//! What DriverEntry registers.

use std::{cell::Cell, ptr};

use storport::Miniport;
use wdk_sys::{HW_INITIALIZATION_DATA, PVOID, ULONG};

thread_local! {
    /// Where the DriverEntry that runs on this thread registers to.
    static REGISTERED: Cell<Option<HW_INITIALIZATION_DATA>> = const { Cell::new(None) };
}

/// A loaded driver.
#[derive(Clone, Copy)]
pub struct Driver {
    pub(super) table: HW_INITIALIZATION_DATA,
}

impl Driver {
    /// Runs a DriverEntry that registers `M`.
    ///
    /// # Panics
    /// It registers nothing, or not what HW_INITIALIZATION_DATA must be (rule
    /// book 3.1).
    #[must_use]
    pub fn load<M: Miniport>() -> Self {
        REGISTERED.set(None);
        // SAFETY: this is DriverEntry, in a dump stack.
        let status = unsafe { storport::register::<M>(ptr::null_mut(), ptr::null()) };
        assert_eq!(status, 0, "register: {status:#x}");
        let table = REGISTERED.take().expect("StorPortInitialize was called");
        assert_eq!(
            table.HwInitializationDataSize as usize,
            size_of::<HW_INITIALIZATION_DATA>()
        );
        assert!(table.HwDmaStarted.is_none() && table.HwAdapterState.is_none());
        Self { table }
    }
}

/// StorPortInitialize.
#[unsafe(no_mangle)]
unsafe extern "C" fn StorPortInitialize(
    _driver: PVOID,
    _registry_path: PVOID,
    table: *mut HW_INITIALIZATION_DATA,
    _context: PVOID,
) -> ULONG {
    // SAFETY: the miniport's table, which is a structure of this type; a byte
    // that is not initialised is found here.
    REGISTERED.set(Some(unsafe { table.read() }));
    0
}
