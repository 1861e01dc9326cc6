//! The macro that makes DriverEntry for a miniport.

/// Makes DriverEntry for a [`Miniport`](crate::Miniport): the function that
/// Windows calls when it loads the driver, which registers the miniport. The
/// optional callbacks of [`callback`](mod@crate::callback) follow the miniport's
/// name.
///
/// ```ignore
/// storport::driver_entry!(Disk: Timer, UnitPower);
/// ```
///
/// A driver has one DriverEntry. The driver defines the panic handler, and the allocator if it
/// needs one.
#[macro_export]
macro_rules! driver_entry {
    ($miniport:ty $(: $($name:ident),+ $(,)?)?) => {
        $crate::registered!($miniport $(: $($name),+)?);

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

/// Names a miniport's optional callbacks. [`driver_entry`](crate::driver_entry) uses this. Call it
/// directly only in a test that registers a miniport itself.
#[doc(hidden)]
#[macro_export]
macro_rules! registered {
    ($miniport:ty $(: $($name:ident),+ $(,)?)?) => {
        $($(
            // SAFETY: `OPTIONAL` below contains the entry function.
            unsafe impl $crate::callback::Names<$crate::callback::key::$name> for $miniport {}
        )+)?

        // SAFETY: Each entry function is one of this miniport, by `Entry`.
        unsafe impl $crate::callback::Registered for $miniport {
            const OPTIONAL: $crate::callback::Optional = $crate::callback::Optional::NONE
                $($(.with(
                    <$miniport as $crate::callback::Entry<$crate::callback::key::$name>>::ENTRY,
                ))+)?;
        }
    };
}

/// Types that [`driver_entry`](crate::driver_entry) names.
pub mod private {
    pub use wdk_sys::{NTSTATUS, PCUNICODE_STRING, PDRIVER_OBJECT};
}
