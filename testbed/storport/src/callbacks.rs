//! The miniport's callbacks: entering one at its IRQL, leaving it with the
//! locks and the IRQL that it was entered with, and what the thread is in.
#![expect(unsafe_code, reason = "calls the driver's functions")]

use std::{cell::Cell, time::Duration};

use super::{port::Port, violations::Rule};
use testbed_machine::{
    clock,
    cpu::{self, irql},
    schedule::{self, Point},
    trap,
};

macro_rules! callbacks {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What driver code runs as.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Callback {
            $($(#[$doc])* $name,)*
        }

        impl Callback {
            /// All of them, in the order of a driver's life.
            pub(super) const ALL: &[Self] = &[$(Self::$name,)*];

            /// How many there are.
            pub(super) const COUNT: usize = Self::ALL.len();

            /// The name that Microsoft's headers have for it.
            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

callbacks! {
    /// No callback: Storport itself.
    None = "no callback",
    DriverEntry = "DriverEntry",
    HwFindAdapter = "HwFindAdapter",
    HwInitialize = "HwInitialize",
    HwPassiveInitialize = "HwPassiveInitialize",
    HwAdapterControl = "HwAdapterControl",
    HwUnitControl = "HwUnitControl",
    HwTracingEnabled = "HwTracingEnabled",
    HwBuildIo = "HwBuildIo",
    HwStartIo = "HwStartIo",
    HwInterrupt = "HwInterrupt",
    HwMSInterruptRoutine = "HwMSInterruptRoutine",
    HwDpcRoutine = "HwDpcRoutine",
    /// Of RequestTimerCall.
    HwTimer = "HwTimer",
    /// Of StorPortRequestTimer: PHW_TIMER_EX.
    HwTimerEx = "HwTimerEx",
    HwResetBus = "HwResetBus",
    HwStateChange = "HwStateChange",
    HwWorkItem = "HwWorkItem",
    /// Of StorPortSynchronizeAccess.
    SynchronizedAccess = "STOR_SYNCHRONIZED_ACCESS",
}

thread_local! {
    static PORT: Cell<Option<&'static Port>> = const { Cell::new(None) };
    static CALLBACK: Cell<Callback> = const { Cell::new(Callback::None) };
    /// The message of a HwMSInterruptRoutine, the control type of a
    /// HwAdapterControl.
    static ARGUMENT: Cell<u32> = const { Cell::new(0) };
    /// Locks that were held when the callback was entered.
    static BASE: Cell<usize> = const { Cell::new(0) };
    /// How long the callback has stalled at DISPATCH_LEVEL or above, in
    /// nanoseconds.
    static STALLED: Cell<u64> = const { Cell::new(0) };
}

/// The callback stalled the processor at DISPATCH_LEVEL or above.
pub(super) fn stalled(time: Duration) {
    STALLED.set(STALLED.get().saturating_add(time.as_nanos() as u64));
}

/// The callback that the calling thread is in.
pub(super) fn current() -> Callback {
    CALLBACK.get()
}

/// The argument that the callback's rules depend on: the message of a
/// HwMSInterruptRoutine, the control type of a HwAdapterControl.
pub(super) fn current_argument() -> u32 {
    ARGUMENT.get()
}

/// The adapter that the calling thread runs a callback of.
pub(super) fn current_port() -> Option<&'static Port> {
    PORT.get()
}

/// How many locks the thread held when the callback was entered.
pub(super) fn locks_at_entry() -> usize {
    BASE.get()
}

/// A function of the driver's. BOOLEAN and ULONG results leave the upper part
/// of RAX undefined: who calls takes what it needs of it.
type Routine = extern "win64" fn(usize, usize, usize, usize, usize, usize) -> usize;

impl Port {
    /// Runs the driver's function at `routine` as `callback` at `level`, and
    /// checks that it comes back as it went. Arguments beyond the function's
    /// are ignored by it.
    pub(super) fn call(
        &'static self,
        callback: Callback,
        level: u8,
        routine: usize,
        arguments: [usize; 6],
    ) -> usize {
        self.call_about(callback, 0, level, routine, arguments)
    }

    /// [`Self::call`] for callbacks whose rules depend on an argument.
    pub(super) fn call_about(
        &'static self,
        callback: Callback,
        about: u32,
        level: u8,
        routine: usize,
        arguments: [usize; 6],
    ) -> usize {
        let outer_port = PORT.replace(Some(self));
        let outer = CALLBACK.replace(callback);
        let outer_argument = ARGUMENT.replace(about);
        let outer_base = BASE.replace(self.locks_held());
        let outer_stalled = STALLED.replace(0);
        let before = cpu::set_irql(level);
        schedule::enter(routine);
        let started = clock::now();

        // SAFETY: the driver gave this address for a function of this kind; the
        // Microsoft ABI passes more arguments than it has to no effect.
        let function = unsafe { std::mem::transmute::<usize, Routine>(routine) };
        let [a, b, c, d, e, f] = arguments;
        let name = callback.name();
        let result = trap::in_driver(name, || {
            trap::count::counted(name, routine, || function(a, b, c, d, e, f))
        });

        let took = clock::now() - started;
        schedule::point(Point::Return);
        let stalled = STALLED.get();
        STALLED.set(outer_stalled.saturating_add(stalled));
        self.statistics.callback(callback, took, stalled);
        self.check_locks_at_return(callback);
        let after = cpu::set_irql(before);
        if after != level {
            self.violation(
                Rule::IrqlAtReturn,
                0,
                format_args!("called at IRQL {level}, it returned at IRQL {after}"),
            );
        }
        BASE.set(outer_base);
        ARGUMENT.set(outer_argument);
        CALLBACK.set(outer);
        PORT.set(outer_port);
        result
    }

    /// [`Self::call`] at PASSIVE_LEVEL.
    pub(super) fn call_passive(
        &'static self,
        callback: Callback,
        about: u32,
        routine: usize,
        arguments: [usize; 6],
    ) -> usize {
        self.call_about(callback, about, irql::PASSIVE, routine, arguments)
    }
}
