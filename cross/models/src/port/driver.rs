//! A loaded driver: the data that its DriverEntry registers.

use std::{cell::Cell, ptr};

use storport::callback::Registered;
use wdk_sys::{HW_INITIALIZATION_DATA, PCUNICODE_STRING, PDRIVER_OBJECT, PVOID, ULONG};

thread_local! {
    /// The data that the DriverEntry on this thread has registered.
    static REGISTERED: Cell<Option<HW_INITIALIZATION_DATA>> = const { Cell::new(None) };
}

/// A loaded driver.
#[derive(Clone, Copy)]
pub struct Driver {
    pub(super) table: HW_INITIALIZATION_DATA,
}

impl Driver {
    /// Loads the driver of miniport `M`, as Windows does.
    #[must_use]
    pub fn load<M: Registered>() -> Self {
        Self::enter::<M>(ptr::dangling_mut(), ptr::dangling())
    }

    /// Loads a copy of the driver into a dump stack (storport-rules.md D1). From then on all drivers
    /// of the process are such copies, until `load` is called.
    #[must_use]
    pub fn load_for_dump<M: Registered>() -> Self {
        Self::enter::<M>(ptr::null_mut(), ptr::null())
    }

    /// Runs a DriverEntry that registers `M`. Panics if the registered data breaks a rule
    /// (storport-rules.md Callbacks).
    fn enter<M: Registered>(driver: PDRIVER_OBJECT, registry_path: PCUNICODE_STRING) -> Self {
        REGISTERED.set(None);
        // SAFETY: This is DriverEntry. `register` only passes the arguments on.
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
    // SAFETY: The miniport passes a structure of this type. Miri reports a byte that is not
    // initialised.
    REGISTERED.set(Some(unsafe { table.read() }));
    0
}
