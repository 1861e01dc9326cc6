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
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Callback {
            $($(#[$doc])* $name,)*
        }

        impl Callback {
            /// All callbacks, in the order of a driver's life.
            pub(super) const ALL: &[Self] = &[$(Self::$name,)*];

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

/// What the calling thread runs.
#[derive(Clone, Copy)]
struct Running {
    port: Option<&'static Port>,
    callback: Callback,
    /// See [`current_argument`].
    argument: u32,
    /// The number of locks that were held when the callback was called.
    base: usize,
    /// See [`caller`].
    caller: usize,
    /// How long the callback has stalled at DISPATCH_LEVEL or above, in nanoseconds.
    stalled: u64,
}

const STORPORT: Running = Running {
    port: None,
    callback: Callback::None,
    argument: 0,
    base: 0,
    caller: 0,
    stalled: 0,
};

thread_local! {
    static RUNNING: Cell<Running> = const { Cell::new(STORPORT) };
}

/// Counts a stall of the callback at DISPATCH_LEVEL or above.
pub(super) fn stalled(time: Duration) {
    let mut running = RUNNING.get();
    running.stalled = running.stalled.saturating_add(time.as_nanos() as u64);
    RUNNING.set(running);
}

pub(super) fn current() -> Callback {
    RUNNING.get().callback
}

/// The argument on which the callback's rules depend: the message of HwMSInterruptRoutine, the
/// control type of HwAdapterControl or HwUnitControl, the kind of DPC of HwDpcRoutine.
pub(super) fn current_argument() -> u32 {
    RUNNING.get().argument
}

/// The return address of the driver's call that the calling thread carries out; 0 if there is
/// none.
pub(super) fn caller() -> usize {
    RUNNING.get().caller
}

/// Carries out a call of the driver's that returns to `caller`.
pub(super) fn called_from<T>(caller: usize, body: impl FnOnce() -> T) -> T {
    let set = |caller| {
        let running = RUNNING.get();
        RUNNING.set(Running { caller, ..running });
        running.caller
    };
    let outer = set(caller);
    let result = body();
    set(outer);
    result
}

pub(super) fn current_port() -> Option<&'static Port> {
    RUNNING.get().port
}

/// The number of locks that the thread held when the callback was called.
pub(super) fn locks_at_entry() -> usize {
    RUNNING.get().base
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
        let outer = RUNNING.replace(Running {
            port: Some(self),
            callback,
            argument,
            base: self.locks_held(),
            ..STORPORT
        });
        let before = cpu::set_irql(level);
        schedule::enter(routine.address());
        let started = clock::now();

        let name = callback.name();
        let result = trap::in_driver(name, || {
            trap::count::counted(name, routine.address(), || routine.call(all))
        });

        let took = clock::now() - started;
        schedule::point(Point::Return);
        let stalled = RUNNING.get().stalled;
        self.statistics.callback(callback, took, stalled);
        self.check_locks_at_return(callback);
        let after = cpu::set_irql(before);
        if after != level {
            self.violation(
                Rule::IrqlAtReturn,
                format_args!("called at IRQL {level}, it returned at IRQL {after}"),
            );
        }
        RUNNING.set(outer);
        self::stalled(Duration::from_nanos(stalled));
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
