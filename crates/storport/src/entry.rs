//! DriverEntry, made for a miniport.

/// Makes DriverEntry for a [`Miniport`](crate::Miniport): the function that
/// Windows calls when it loads the driver, which registers the miniport.
///
/// ```ignore
/// storport::driver_entry!(Disk);
/// ```
///
/// Once in a driver. The panic handler and the allocator, if there is one, are
/// the driver's own.
#[macro_export]
macro_rules! driver_entry {
    ($miniport:ty) => {
        const _: () = {
            /// Registers the miniport with Storport.
            ///
            /// # Safety
            /// Windows calls it, once, at PASSIVE_LEVEL.
            #[unsafe(export_name = "DriverEntry")]
            unsafe extern "system" fn driver_entry(
                driver: $crate::private::PDRIVER_OBJECT,
                registry_path: $crate::private::PCUNICODE_STRING,
            ) -> $crate::private::NTSTATUS {
                // SAFETY: the arguments are those of DriverEntry.
                unsafe { $crate::register::<$miniport>(driver, registry_path) }
            }
        };
    };
}

/// Types that [`driver_entry`](crate::driver_entry) names.
pub mod private {
    pub use wdk_sys::{NTSTATUS, PCUNICODE_STRING, PDRIVER_OBJECT};
}
