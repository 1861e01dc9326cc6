//! What DriverEntry registers.

use std::{cell::Cell, ptr};

use storport::callback::Registered;
use wdk_sys::{HW_INITIALIZATION_DATA, PCUNICODE_STRING, PDRIVER_OBJECT, PVOID, ULONG};

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
    /// Loads a driver of miniport `M`, as Windows does.
    #[must_use]
    pub fn load<M: Registered>() -> Self {
        Self::enter::<M>(ptr::dangling_mut(), ptr::dangling())
    }

    /// Loads a copy of it into a dump stack (storport-rules.md D1). From then on the
    /// program's drivers are such copies, until `load` is called.
    #[must_use]
    pub fn load_for_dump<M: Registered>() -> Self {
        Self::enter::<M>(ptr::null_mut(), ptr::null())
    }

    /// Runs a DriverEntry that registers `M`, which must register what
    /// HW_INITIALIZATION_DATA must be (storport-rules.md Callbacks).
    fn enter<M: Registered>(driver: PDRIVER_OBJECT, registry_path: PCUNICODE_STRING) -> Self {
        REGISTERED.set(None);
        // SAFETY: this is DriverEntry; the arguments are only passed on.
        let status = unsafe { storport::register::<M>(driver, registry_path) };
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
