//! Optional callbacks. Each is a trait of its own. The driver names those that it implements when
//! it registers.
//!
//! ```ignore
//! impl callback::Timer for Disk {
//!     fn timer<'a>(adapter: &Adapter<'a>, cx: &mut storport::Timer<'_, 'a>) { /* ... */ }
//! }
//! storport::driver_entry!(Disk: Timer);
//! ```
//!
//! An implementation that is not named, or a name without an implementation, does not compile.
//! A routine that causes a callback, such as [`request_timer`](crate::Dpc::request_timer), has the
//! miniport as a type parameter, and compiles only if the miniport names the callback. A callback
//! that is not named costs nothing: it has no entry function, and is not registered with Storport.
#![expect(unsafe_code, reason = "naming a callback is a promise to unsafe code")]

use wdk_sys::{BOOLEAN, PSTOR_DPC, PVOID, SHORT, ULONG};

use crate::{
    callbacks as entries, context,
    miniport::{Interrupted, Miniport},
};

/// A miniport that names the optional callback `K` (of [`key`]) in
/// [`driver_entry!`](crate::driver_entry).
///
/// # Safety
/// [`Registered::OPTIONAL`] of the same type contains the callback's entry function. Only
/// `driver_entry!` implements this.
#[diagnostic::on_unimplemented(
    message = "`driver_entry!` does not name the optional callback `{K}` of `{Self}`",
    label = "Storport would never call this callback, because DriverEntry would not register it \
             (storport-rules.md DriverEntry)",
    note = "add the callback's name where the driver registers: `driver_entry!({Self}: ...)`"
)]
pub unsafe trait Names<K> {}

/// A miniport that `driver_entry!` registers, with the callbacks that it names.
///
/// # Safety
/// Each entry function in `OPTIONAL` is one of this miniport. Only `driver_entry!` implements
/// this.
#[diagnostic::on_unimplemented(
    message = "the miniport `{Self}` is not registered",
    label = "DriverEntry must register the miniport with Storport (storport-rules.md DriverEntry)",
    note = "add `storport::driver_entry!({Self});` to the driver"
)]
pub unsafe trait Registered: Miniport {
    /// The optional callbacks.
    const OPTIONAL: Optional;
}

/// The entry function of the optional callback `K`, for `driver_entry!`.
///
/// # Safety
/// `ENTRY` is an entry function of this miniport. Only this module implements this.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`driver_entry!` names the optional callback `{K}`, but `{Self}` does not implement \
               it",
    label = "implement the trait of this name in `storport::callback`, or remove the name"
)]
pub unsafe trait Entry<K> {
    const ENTRY: EntryPoint;
}

macro_rules! optional_callbacks {
    ($(
        $(#[$doc:meta])*
        $name:ident: $method:ident($context:ident) $(-> $answer:ty)?,
        $entry:ident: $pointer:ty;
    )*) => {
        $(
            $(#[$doc])*
            #[diagnostic::on_unimplemented(
                message = "`{Self}` does not implement the optional callback that this call needs",
                label = "Storport would call the missing callback",
                note = "implement this trait of `storport::callback`, and add its name where the \
                        driver registers: `driver_entry!({Self}: ...)`"
            )]
            pub trait $name: Miniport + Names<key::$name> {
                $(#[$doc])*
                fn $method<'a>(
                    adapter: &Self::Adapter<'a>,
                    cx: &mut context::$context<'_, 'a>,
                ) $(-> $answer)?;
            }

            #[diagnostic::do_not_recommend]
            // SAFETY: The entry function is one of `M`.
            unsafe impl<M: $name + Registered> Entry<key::$name> for M {
                const ENTRY: EntryPoint = EntryPoint::$name(entries::$entry::<M>);
            }
        )*

        /// The names of the optional callbacks, as types.
        pub mod key {
            $(
                #[doc = concat!("Names [`", stringify!($name), "`](super::", stringify!($name), ").")]
                #[derive(Debug)]
                pub enum $name {}
            )*
        }

        /// The entry functions of the optional callbacks that a miniport names.
        #[derive(Debug)]
        pub struct Optional {
            $(pub(crate) $entry: Option<$pointer>,)*
        }

        impl Optional {
            /// None of them.
            pub const NONE: Self = Self { $($entry: None,)* };

            /// Adds an entry function.
            #[doc(hidden)]
            #[must_use]
            pub const fn with(mut self, entry: EntryPoint) -> Self {
                match entry {
                    $(EntryPoint::$name(entry) => self.$entry = Some(entry),)*
                }
                self
            }
        }

        #[doc(hidden)]
        #[derive(Debug)]
        pub enum EntryPoint {
            $($name($pointer),)*
        }
    };
}

/// An entry function for a control type. The framework calls it with the HwDeviceExtension and the
/// parameters that Storport passed to HwAdapterControl or HwUnitControl. It returns whether the
/// control type was carried out.
pub(crate) type Control = unsafe fn(PVOID, PVOID) -> bool;

optional_callbacks! {
    /// HwPassiveInitialize: initialises what needs PASSIVE_LEVEL, before the first request.
    /// Returns false if the adapter does not work. Storport then gives it up.
    PassiveInitialize: passive_initialize(PassiveInitialize) -> bool,
    passive: unsafe fn(PVOID) -> bool;

    /// HwMSInterruptRoutine: handles a message of MSI or MSI-X. Without this callback the adapter
    /// interrupts by its pin.
    MessageInterrupt: message_interrupt(MessageInterrupt) -> Interrupted,
    message_interrupt: unsafe extern "C" fn(PVOID, ULONG) -> BOOLEAN;

    /// HwDpcRoutine of a threaded DPC
    /// ([`threaded_dpc_locked`](crate::FindAdapter::threaded_dpc_locked)).
    ThreadedDpc: threaded_dpc(ThreadedDpc),
    threaded_dpc: unsafe extern "C" fn(PSTOR_DPC, PVOID, PVOID, PVOID);

    /// HwTimer ([`request_timer`](crate::Dpc::request_timer)).
    Timer: timer(Timer),
    timer: unsafe extern "C" fn(PVOID);

    /// HwWorkItem ([`queue_work`](crate::Dpc::queue_work)).
    Work: work(Work),
    work: unsafe extern "C" fn(PVOID, PVOID, PVOID);

    /// HwStateChange: Storport has processed the change that
    /// [`report_change`](crate::Dpc::report_change) reported. Another change may be reported.
    StateChange: state_changed(StateChange),
    state_change: unsafe extern "C" fn(PVOID, PVOID, SHORT, PVOID, ULONG);

    /// HwRegistryNotification ([`watch_registry`](crate::Work::watch_registry)).
    RegistryChange: registry_changed(RegistryChange),
    registry: unsafe extern "C" fn(PVOID);

    /// HwAdapterControl(ScsiAdapterPower). With this callback the adapter gets no SRB of
    /// [`Function::Power`](crate::Function::Power), and is not stopped for power changes.
    AdapterPower: adapter_power(AdapterPower),
    adapter_power: Control;

    /// HwAdapterControl(ScsiAdapterSurpriseRemoval): the adapter was removed without notice.
    SurpriseRemoval: surprise_removal(SurpriseRemoval),
    surprise_removal: Control;

    /// HwUnitControl at PASSIVE_LEVEL: a logical unit starts or is removed.
    UnitControl: unit_control(UnitControl),
    unit_control: unsafe fn(PVOID, context::UnitEvent, PVOID) -> bool;

    /// HwUnitControl(ScsiUnitPower). With this callback a unit gets no SRB of
    /// [`Function::Power`](crate::Function::Power).
    UnitPower: unit_power(UnitPower),
    unit_power: Control;

    /// HwTracingEnabled: tracing was enabled or disabled.
    /// [`is_traced`](crate::StartIo::is_traced) returns the last state.
    Tracing: tracing(Tracing),
    tracing: unsafe extern "C" fn(PVOID, BOOLEAN);
}
