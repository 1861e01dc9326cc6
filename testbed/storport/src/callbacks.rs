//! Calls of the miniport's callbacks, the checks when they return, and the state of the thread
//! that runs one.

use std::{cell::Cell, time::Duration};

use super::{abi::Routine, port::Port, violations::Rule};
use testbed_machine::{
    clock,
    cpu::{self, irql},
    schedule::{self, Point},
    trap,
};

macro_rules! callbacks {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A callback.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Callback {
            $($(#[$doc])* $name,)*
        }

        impl Callback {
            /// All callbacks, in the order of a driver's life.
            pub(super) const ALL: &[Self] = &[$(Self::$name,)*];

            /// The number of callbacks.
            pub(super) const COUNT: usize = Self::ALL.len();

            /// The name in Microsoft's headers.
            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

callbacks! {
    /// No callback: Storport runs.
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
    /// The routine of RequestTimerCall.
    HwTimer = "HwTimer",
    /// The routine of StorPortRequestTimer: PHW_TIMER_EX.
    HwTimerEx = "HwTimerEx",
    HwResetBus = "HwResetBus",
    HwStateChange = "HwStateChange",
    HwWorkItem = "HwWorkItem",
    /// The routine of StorPortSynchronizeAccess.
    SynchronizedAccess = "STOR_SYNCHRONIZED_ACCESS",
}

thread_local! {
    static PORT: Cell<Option<&'static Port>> = const { Cell::new(None) };
    static CALLBACK: Cell<Callback> = const { Cell::new(Callback::None) };
    /// See [`current_argument`].
    static ARGUMENT: Cell<u32> = const { Cell::new(0) };
    /// The number of locks that were held when the callback was called.
    static BASE: Cell<usize> = const { Cell::new(0) };
    /// See [`caller`].
    static CALLER: Cell<usize> = const { Cell::new(0) };
    /// How long the callback has stalled at DISPATCH_LEVEL or above, in nanoseconds.
    static STALLED: Cell<u64> = const { Cell::new(0) };
}

/// Counts a stall of the callback at DISPATCH_LEVEL or above.
pub(super) fn stalled(time: Duration) {
    STALLED.set(STALLED.get().saturating_add(time.as_nanos() as u64));
}

/// The callback that the calling thread runs.
pub(super) fn current() -> Callback {
    CALLBACK.get()
}

/// The argument on which the callback's rules depend: the message of HwMSInterruptRoutine, the
/// control type of HwAdapterControl or HwUnitControl, the kind of DPC of HwDpcRoutine.
pub(super) fn current_argument() -> u32 {
    ARGUMENT.get()
}

/// The return address of the driver's call that the calling thread carries out; 0 if there is
/// none.
pub(super) fn caller() -> usize {
    CALLER.get()
}

/// Carries out a call of the driver's that returns to `caller`.
pub(super) fn called_from<T>(caller: usize, body: impl FnOnce() -> T) -> T {
    let outer = CALLER.replace(caller);
    let result = body();
    CALLER.set(outer);
    result
}

/// The adapter whose callback the calling thread runs.
pub(super) fn current_port() -> Option<&'static Port> {
    PORT.get()
}

/// The number of locks that the thread held when the callback was called.
pub(super) fn locks_at_entry() -> usize {
    BASE.get()
}

impl Port {
    /// Calls the driver's `routine` as `callback` at IRQL `level`, and checks the locks and the
    /// IRQL when it returns.
    pub(super) fn call<const N: usize>(
        &'static self,
        callback: Callback,
        level: u8,
        routine: Routine,
        arguments: [usize; N],
    ) -> usize {
        self.call_about(callback, 0, level, routine, arguments)
    }

    /// [`Self::call`] for callbacks whose rules depend on `argument`.
    pub(super) fn call_about<const N: usize>(
        &'static self,
        callback: Callback,
        argument: u32,
        level: u8,
        routine: Routine,
        arguments: [usize; N],
    ) -> usize {
        const { assert!(N <= 6, "no callback has more arguments") };
        let mut all = [0; 6];
        all[..N].copy_from_slice(&arguments);
        self.call_with_all(callback, argument, level, routine, all)
    }

    fn call_with_all(
        &'static self,
        callback: Callback,
        argument: u32,
        level: u8,
        routine: Routine,
        arguments: [usize; 6],
    ) -> usize {
        let outer_port = PORT.replace(Some(self));
        let outer = CALLBACK.replace(callback);
        let outer_argument = ARGUMENT.replace(argument);
        let outer_base = BASE.replace(self.locks_held());
        let outer_caller = CALLER.replace(0);
        let outer_stalled = STALLED.replace(0);
        let before = cpu::set_irql(level);
        schedule::enter(routine.address());
        let started = clock::now();

        let name = callback.name();
        let result = trap::in_driver(name, || {
            trap::count::counted(name, routine.address(), || routine.call(arguments))
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
                format_args!("called at IRQL {level}, it returned at IRQL {after}"),
            );
        }
        CALLER.set(outer_caller);
        BASE.set(outer_base);
        ARGUMENT.set(outer_argument);
        CALLBACK.set(outer);
        PORT.set(outer_port);
        result
    }

    /// [`Self::call_about`] at PASSIVE_LEVEL.
    pub(super) fn call_passive<const N: usize>(
        &'static self,
        callback: Callback,
        argument: u32,
        routine: Routine,
        arguments: [usize; N],
    ) -> usize {
        self.call_about(callback, argument, irql::PASSIVE, routine, arguments)
    }
}
