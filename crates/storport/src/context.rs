//! A context type for each callback. Its page states the IRQL, the locks that Storport holds in
//! the callback, and the locks that may be taken there.
//!
//! When Storport calls, the framework makes a context, and the miniport's method borrows it. A
//! context is neither `Send` nor `'static`, so it ends with the callback. Its methods are the
//! routines that may be called there.
//!
//! | Context | IRQL | Locks that Storport holds | Locks that may be taken |
//! |---|---|---|---|
//! | [`FindAdapter`](crate::FindAdapter) | PASSIVE (dump: HIGH) | nothing; it is exclusive | nothing |
//! | [`Initialize`] | DIRQL | Interrupt; it is exclusive | nothing |
//! | [`PassiveInitialize`] | PASSIVE | nothing; it is exclusive except for interrupt routines | nothing |
//! | [`BuildIo`] | DISPATCH | nothing | all |
//! | [`StartIo`] | DISPATCH | perhaps StartIo | Dpc, Interrupt; see [`StartIo::channels`] |
//! | [`Interrupt`] | DIRQL | Interrupt | nothing |
//! | [`MessageInterrupt`] | DIRQL | the message's lock, or Interrupt | nothing |
//! | [`Dpc`] | DISPATCH | nothing | all |
//! | [`ThreadedDpc`] | PASSIVE or DISPATCH | nothing | all |
//! | [`Timer`], [`StateChange`] | DISPATCH | StartIo | Dpc, Interrupt |
//! | [`ResetBus`] | DISPATCH | StartIo | Dpc, Interrupt |
//! | [`Stop`] | up to DIRQL | not known | nothing |
//! | [`Restart`] | up to DIRQL | not known; it is exclusive except for interrupt routines | nothing |
//! | [`AdapterPower`] | DISPATCH at most | nothing | all |
//! | [`SurpriseRemoval`] | below DISPATCH | nothing | all |
//! | [`UnitControl`] | PASSIVE | nothing | all |
//! | [`UnitPower`] | DISPATCH | nothing | all |
//! | [`Tracing`] | PASSIVE | nothing | all |
//! | [`Work`] | PASSIVE | nothing | all |
//! | [`RegistryChange`] | PASSIVE | not documented | nothing |
//!
//! A callback reaches the miniport only while the adapter is ready, from the end
//! of HwPassiveInitialize to ScsiStopAdapter. The exceptions are the callbacks of the life
//! cycle and interrupt routines. At other times the framework answers in the miniport's place:
//! a request is completed as BUSY or NO_HBA, and a control type returns "unsuccessful".
//!
//! Two kinds of callback are not supported. A system thread (StorPortCreateSystemThread) would
//! have to end before the adapter is removed, and no callback may wait for that. Use a [`Work`]
//! item instead. The callbacks of virtual miniports are for drivers without hardware.

use core::marker::PhantomData;

use crate::{
    extension::{Brand, DpcNumber, Header},
    level::{self, Level},
    srb::Address,
};

pub(crate) mod sealed {
    /// A context or a guard of the adapter that `'a` names.
    #[diagnostic::on_unimplemented(
        message = "`{Self}` is neither the context of a callback nor the guard of a lock",
        label = "a context or a guard is needed here: it shows which locks are held \
                 (storport-rules.md Callbacks)",
        note = "only the framework makes contexts and guards; it passes them to the miniport's \
                methods"
    )]
    pub trait OfAdapter<'a> {}
}

pub(crate) use sealed::OfAdapter;

/// A type with this field is not `Send`. An IRQL and a lock belong to one processor.
pub(crate) struct OneProcessorOnly([*mut (); 0]);

impl OneProcessorOnly {
    pub(crate) const fn new() -> Self {
        Self([])
    }
}

/// A place from which locks may be taken: a callback's context, or a guard.
#[diagnostic::on_unimplemented(
    message = "no lock may be taken in `{Self}`",
    label = "in this callback Storport holds the interrupt lock or a message's lock, or allows no \
             lock (storport-rules.md Callbacks)",
    note = "in HwInterrupt and HwMSInterruptRoutine, issue a DPC (`DpcLocked::issue`) and take the \
            lock in `Miniport::dpc`",
    note = "in HwInitialize, HwPassiveInitialize and ScsiRestartAdapter, open the cell without its \
            lock (`open`)",
    note = "in HwRegistryNotification, queue a work item (`queue_work`) and take the lock in \
            `callback::Work`"
)]
pub trait Scope<'a>: OfAdapter<'a> {
    /// The level of the locks that may already be held.
    type Level: Level;
}

/// A context whose callback runs at DISPATCH_LEVEL, and never below it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not known to run at DISPATCH_LEVEL",
    label = "a DpcLevelLock may only be taken at DISPATCH_LEVEL (storport-rules.md DpcLevelLock)",
    note = "take the lock with `with`, which raises the IRQL"
)]
pub trait AtDispatch<'a>: Scope<'a> {}

/// A context that proves that no other callback has a cell of level `L` open: Storport
/// holds the lock in this callback, or the gate admits no other callback that could
/// open the cell (`State`'s invariants).
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not prove that the lock of this cell is held",
    label = "another processor may have this cell open (storport-rules.md Callbacks)",
    note = "take the cell's lock: use `with` instead of `open`",
    note = "a cell may be opened where Storport holds its lock: the StartIo lock in `ResetBus`, \
            `Timer`, `StateChange` and `Channels::Serial`, the interrupt lock in `Interrupt`, a \
            message's lock in `MessageInterrupt` (`open_in`)",
    note = "a cell may be opened where no other callback can open it: every cell in `Initialize`, \
            the cells of the StartIo lock and of DPC locks in `PassiveInitialize` and `Restart`"
)]
pub trait Proves<'a, L: Level>: OfAdapter<'a> {}

macro_rules! contexts {
    ($($(#[$doc:meta])* $name:ident $({ $($field:ident: $type:ty),* })?;)*) => {$(
        $(#[$doc])*
        pub struct $name<'callback, 'adapter> {
            pub(crate) adapter: &'callback Header,
            $($(pub(crate) $field: $type,)*)?
            pub(crate) brand: Brand<'adapter>,
            pub(crate) _processor: OneProcessorOnly,
        }

        #[diagnostic::do_not_recommend]
        impl<'a> OfAdapter<'a> for $name<'_, 'a> {}

        impl $name<'_, '_> {
            #[inline]
            pub(crate) fn header(&self) -> &Header {
                self.adapter
            }
        }
    )*};
}

contexts! {
    /// HwInitialize: DIRQL, the interrupt lock held (storport-rules.md Callbacks).
    ///
    /// No other callback is admitted until it returns, so every cell can be opened. No DPC object
    /// is initialised yet. DPCs that are issued here run after HwPassiveInitialize.
    Initialize;
    /// HwPassiveInitialize: PASSIVE_LEVEL, no lock held, no lock may be taken.
    ///
    /// Only interrupt routines run at the same time, so cells of the StartIo lock and of DPC locks
    /// can be opened. DPCs that are issued here run after it.
    PassiveInitialize;
    /// HwBuildIo: DISPATCH_LEVEL, no lock held. It runs on several processors at the same time.
    BuildIo;
    /// HwStartIo: DISPATCH_LEVEL. [`channels`](Self::channels) returns whether Storport holds the
    /// StartIo lock.
    StartIo;
    /// HwStartIo with concurrent channels: no lock is held, and the StartIo lock may be taken.
    Concurrent;
    /// HwStartIo without concurrent channels: Storport holds the StartIo lock.
    Serial;
    /// HwInterrupt: DIRQL, the interrupt lock held, no lock may be taken.
    Interrupt;
    /// HwMSInterruptRoutine: DIRQL, the message's lock or the interrupt lock held, no lock may be
    /// taken.
    MessageInterrupt { message: u32 };
    /// HwDpcRoutine: DISPATCH_LEVEL, no lock held.
    Dpc { dpc: DpcNumber };
    /// HwDpcRoutine of a threaded DPC: PASSIVE_LEVEL in a thread, or DISPATCH_LEVEL if threaded
    /// DPCs are disabled in the system. No lock is held.
    ThreadedDpc { dpc: DpcNumber };
    /// HwTimer: DISPATCH_LEVEL, the StartIo lock held. With concurrent channels HwStartIo may run
    /// at the same time (storport-rules.md Callbacks).
    Timer;
    /// HwStateChange: DISPATCH_LEVEL, the StartIo lock held.
    StateChange { changed: Changed, handled: bool };
    /// HwResetBus: DISPATCH_LEVEL, the StartIo lock held, requests paused. HwBuildIo may run at the
    /// same time.
    ResetBus { path: u32 };
    /// HwAdapterControl(ScsiStopAdapter): up to DIRQL. It is not known which locks are held, so no
    /// lock may be taken (storport-rules.md X1). No request is outstanding. Callbacks that were
    /// admitted earlier may still be running.
    Stop;
    /// HwAdapterControl(ScsiRestartAdapter): as [`Stop`].
    ///
    /// Only interrupt routines run at the same time, so cells of the StartIo lock and of DPC locks
    /// can be opened. The restart fails if a callback from before the stop does not end within a
    /// millisecond.
    Restart;
    /// HwAdapterControl(ScsiAdapterPower): DISPATCH_LEVEL at most, no lock held.
    AdapterPower { state: PowerState };
    /// HwAdapterControl(ScsiAdapterSurpriseRemoval): below DISPATCH_LEVEL, no lock held.
    SurpriseRemoval;
    /// HwUnitControl for the events of [`UnitEvent`]: PASSIVE_LEVEL, no lock held.
    UnitControl { event: UnitEvent, unit: Address };
    /// HwUnitControl(ScsiUnitPower): DISPATCH_LEVEL, no lock held.
    UnitPower { state: PowerState, unit: Address };
    /// HwTracingEnabled: PASSIVE_LEVEL, no lock held.
    Tracing { enabled: bool };
    /// HwWorkItem: PASSIVE_LEVEL, no lock held.
    Work { argument: u32 };
    /// HwRegistryNotification: PASSIVE_LEVEL. Which locks are held is not documented, so no lock
    /// may be taken. Queue a [`Work`] item, which may take locks.
    RegistryChange;
}

macro_rules! scopes {
    ($($name:ident at $level:ident;)*) => {$(
        #[diagnostic::do_not_recommend]
        impl<'a> Scope<'a> for $name<'_, 'a> {
            type Level = level::$level;
        }
    )*};
}

// The last column of the table above (StorPortAcquireSpinLock's second table;
// storport-rules.md Callbacks). For callbacks that hold the StartIo lock, that table allows only
// the interrupt lock. The order allows DPC locks too (storport-rules.md O3, X4).
scopes! {
    BuildIo at NothingHeld;
    StartIo at StartIoMaybeHeld;
    Concurrent at NothingHeld;
    Serial at StartIoHeld;
    Dpc at NothingHeld;
    ThreadedDpc at NothingHeld;
    Timer at StartIoHeld;
    StateChange at StartIoHeld;
    ResetBus at StartIoHeld;
    AdapterPower at NothingHeld;
    SurpriseRemoval at NothingHeld;
    UnitControl at NothingHeld;
    UnitPower at NothingHeld;
    Tracing at NothingHeld;
    Work at NothingHeld;
}

macro_rules! at_dispatch {
    ($($name:ident)*) => {$(
        #[diagnostic::do_not_recommend]
        impl<'a> AtDispatch<'a> for $name<'_, 'a> {}
    )*};
}

at_dispatch!(BuildIo StartIo Concurrent Serial Dpc Timer StateChange ResetBus UnitPower);

macro_rules! proofs {
    ($($name:ident of $($level:ident)*;)*) => {$($(
        #[diagnostic::do_not_recommend]
        impl<'a> Proves<'a, level::$level> for $name<'_, 'a> {}
    )*)*};
}

proofs! {
    Initialize of StartIoHeld DpcHeld InterruptHeld;
    PassiveInitialize of StartIoHeld DpcHeld;
    Restart of StartIoHeld DpcHeld;
    Interrupt of InterruptHeld;
    Serial of StartIoHeld;
    Timer of StartIoHeld;
    StateChange of StartIoHeld;
    ResetBus of StartIoHeld;
}

/// HwStartIo with or without concurrent channels, known only at run time
/// (storport-rules.md PERF_CONFIGURATION_DATA).
pub enum Channels<'s, 'a> {
    /// More than one channel was granted: Storport holds no lock, and other processors may run
    /// HwStartIo at the same time.
    Concurrent(Concurrent<'s, 'a>),
    /// At most one channel was granted: Storport holds the StartIo lock.
    Serial(Serial<'s, 'a>),
}

impl<'a> StartIo<'_, 'a> {
    /// Returns whether Storport holds the StartIo lock. With concurrent channels the lock may be
    /// taken. Without them its cells can be opened.
    #[inline]
    pub fn channels(&mut self) -> Channels<'_, 'a> {
        let (adapter, brand) = (self.adapter, PhantomData);
        if adapter.state.channels() > 1 {
            Channels::Concurrent(Concurrent {
                adapter,
                brand,
                _processor: OneProcessorOnly::new(),
            })
        } else {
            Channels::Serial(Serial {
                adapter,
                brand,
                _processor: OneProcessorOnly::new(),
            })
        }
    }
}

impl MessageInterrupt<'_, '_> {
    /// The message that was sent.
    #[must_use]
    pub fn message(&self) -> u32 {
        self.message
    }
}

impl Dpc<'_, '_> {
    /// The DPC object that runs.
    #[must_use]
    pub fn number(&self) -> DpcNumber {
        self.dpc
    }
}

impl ThreadedDpc<'_, '_> {
    /// The DPC object that runs.
    #[must_use]
    pub fn number(&self) -> DpcNumber {
        self.dpc
    }
}

/// The object of a state change (StorPortStateChangeDetected).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// A logical unit.
    Unit(Address),
    /// A target. The logical unit of the address is ignored.
    Target(Address),
    /// A bus. The target and the logical unit of the address are ignored.
    Bus(Address),
}

impl StateChange<'_, '_> {
    /// The object of the reported change.
    #[must_use]
    pub fn changed(&self) -> Changed {
        self.changed
    }

    /// Whether Storport has handled the change (Status below 0x80000000).
    #[must_use]
    pub fn is_handled(&self) -> bool {
        self.handled
    }
}

impl ResetBus<'_, '_> {
    /// The bus to reset.
    #[must_use]
    pub fn path(&self) -> u32 {
        self.path
    }
}

/// A device's power state (`STOR_DEVICE_POWER_STATE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerState {
    /// D0: it works.
    On,
    /// D1, D2 or D3: it does not work.
    Off,
}

impl AdapterPower<'_, '_> {
    /// The state that the adapter goes to.
    #[must_use]
    pub fn state(&self) -> PowerState {
        self.state
    }
}

/// An event of a logical unit (`SCSI_UNIT_CONTROL_TYPE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitEvent {
    /// ScsiUnitStart.
    Start,
    /// ScsiUnitRemove.
    Remove,
    /// ScsiUnitSurpriseRemoval.
    SurpriseRemoval,
}

impl UnitControl<'_, '_> {
    /// The event.
    #[must_use]
    pub fn event(&self) -> UnitEvent {
        self.event
    }

    /// The logical unit.
    #[must_use]
    pub fn unit(&self) -> Address {
        self.unit
    }
}

impl UnitPower<'_, '_> {
    /// The state that the unit goes to.
    #[must_use]
    pub fn state(&self) -> PowerState {
        self.state
    }

    /// The unit.
    #[must_use]
    pub fn unit(&self) -> Address {
        self.unit
    }
}

impl Tracing<'_, '_> {
    /// Whether tracing of the miniport's events is enabled now.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }
}

impl Work<'_, '_> {
    /// The argument of [`queue_work`](crate::Dpc::queue_work).
    #[must_use]
    pub fn argument(&self) -> u32 {
        self.argument
    }
}
