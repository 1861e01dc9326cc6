//! A type for each callback: its IRQL, what Storport holds when it calls, and
//! which locks may be taken from there.
//!
//! The framework makes a context when Storport calls, and lends it to the
//! miniport's method. A context is neither `Send` nor `'static`, so it ends with
//! the call. Its methods are the routines that may be called there.
//!
//! | context | IRQL | held | may be taken |
//! |---|---|---|---|
//! | [`FindAdapter`](crate::FindAdapter) | PASSIVE (dump: HIGH) | nothing; it is alone | nothing |
//! | [`Initialize`] | DIRQL | Interrupt; it is alone | nothing |
//! | [`PassiveInitialize`] | PASSIVE | nothing; it is alone but for interrupts | nothing |
//! | [`BuildIo`] | DISPATCH | nothing | all |
//! | [`StartIo`] | DISPATCH | perhaps StartIo | Dpc, Interrupt; see [`StartIo::channels`] |
//! | [`Interrupt`] | DIRQL | Interrupt | nothing |
//! | [`MessageInterrupt`] | DIRQL | the message's lock, or Interrupt | nothing |
//! | [`Dpc`] | DISPATCH | nothing | all |
//! | [`ThreadedDpc`] | PASSIVE or DISPATCH | nothing | all |
//! | [`Timer`], [`StateChange`] | DISPATCH | StartIo | Dpc, Interrupt |
//! | [`ResetBus`] | DISPATCH | StartIo | Dpc, Interrupt |
//! | [`Stop`] | DIRQL at worst | nothing known | nothing |
//! | [`Restart`] | DIRQL at worst | nothing known; it is alone but for interrupts | nothing |
//! | [`AdapterPower`] | DISPATCH at most | nothing | all |
//! | [`SurpriseRemoval`] | below DISPATCH | nothing | all |
//! | [`UnitControl`] | PASSIVE | nothing | all |
//! | [`UnitPower`] | DISPATCH | nothing | all |
//! | [`Tracing`] | PASSIVE | nothing | all |
//! | [`Work`] | PASSIVE | nothing | all |
//! | [`RegistryChange`] | PASSIVE | not documented | nothing |
//!
//! A callback reaches the miniport only while the adapter is ready, from the end
//! of HwPassiveInitialize to ScsiStopAdapter. The exceptions are the callbacks
//! of the life cycle and interrupt routines. Storport gets an answer for the
//! others: BUSY or NO_HBA for a request, "unsuccessful" for a control.
//!
//! Two kinds of callback are missing. A system thread
//! (StorPortCreateSystemThread) would have to be waited for before the adapter
//! goes, and no callback may wait then; use a [`Work`] item. The callbacks of
//! virtual miniports are for drivers without hardware.

use core::marker::PhantomData;

use crate::{
    extension::{Brand, DpcNumber, Header},
    level::{self, Level},
    srb::Address,
};

pub(crate) mod sealed {
    /// Belongs to the adapter that `'a` names.
    #[diagnostic::on_unimplemented(
        message = "`{Self}` is no context of a callback, and no guard",
        note = "contexts and guards are made by the framework, and lent to the miniport's methods"
    )]
    pub trait OfAdapter<'a> {}
}

pub(crate) use sealed::OfAdapter;

/// Makes a type with this field not `Send`, because an IRQL and a lock belong to one
/// processor.
pub(crate) struct OneProcessorOnly([*mut (); 0]);

impl OneProcessorOnly {
    pub(crate) const fn new() -> Self {
        Self([])
    }
}

/// A place from which locks may be taken: a callback's context, or a guard.
#[diagnostic::on_unimplemented(
    message = "no lock may be taken from `{Self}`",
    label = "this callback takes no lock: Storport holds one that nothing goes above, or allows \
             none (storport-rules.md Callbacks)",
    note = "in an interrupt routine, `DpcLocked::issue` a DPC and take the lock in \
            `Miniport::dpc`; in HwInitialize, HwPassiveInitialize and a restart, `open` the cell",
    note = "a scope is the context that the callback was given, the guard of a lock, or what \
            `Guard::split` gives beside its data"
)]
pub trait Scope<'a>: OfAdapter<'a> {
    /// What may already be held.
    type Level: Level;
}

/// This code is at DISPATCH_LEVEL, and not below it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not known to be at DISPATCH_LEVEL",
    label = "DpcLevelLock is for code that is at DISPATCH_LEVEL already (storport-rules.md STOR_SPINLOCK)",
    note = "use `with`, which raises the IRQL"
)]
pub trait AtDispatch<'a>: Scope<'a> {}

/// A context that proves that no other callback has a cell of level `L` open: Storport
/// holds the lock in this callback, or the gate admits no other callback that could
/// open the cell (`State`'s invariants).
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not prove that this cell's own lock is held",
    label = "another processor may be inside this cell",
    note = "take the lock with `with`; or open the cell where Storport holds it: the StartIo lock \
            in `ResetBus`, `Timer`, `StateChange` and `Channels::Serial`, the interrupt lock in \
            `Interrupt`, a message's by `open_in`; every cell in `Initialize`, and the StartIo and DPC \
            cells in `PassiveInitialize` and `Restart` (storport-rules.md Callbacks)"
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
    /// It is alone: no other callback is admitted until it returns, so every
    /// cell opens. No DPC object is initialised yet. DPCs that are issued here
    /// run after HwPassiveInitialize.
    Initialize;
    /// HwPassiveInitialize: PASSIVE_LEVEL, nothing held, nothing takeable.
    ///
    /// Only interrupt routines run meanwhile, so the cells of the StartIo lock
    /// and of DPCs open. DPCs that are issued run after it.
    PassiveInitialize;
    /// HwBuildIo: DISPATCH_LEVEL, nothing held. It runs on many processors at
    /// once.
    BuildIo;
    /// HwStartIo: DISPATCH_LEVEL. [`channels`](Self::channels) tells whether Storport
    /// holds the StartIo lock.
    StartIo;
    /// HwStartIo with concurrent channels: nothing is held, and the StartIo
    /// lock may be taken.
    Concurrent;
    /// HwStartIo without concurrent channels: Storport holds the StartIo lock.
    Serial;
    /// HwInterrupt: DIRQL, the interrupt lock held, nothing takeable.
    Interrupt;
    /// HwMSInterruptRoutine: DIRQL, the message's lock or the interrupt lock
    /// held, nothing takeable.
    MessageInterrupt { message: u32 };
    /// HwDpcRoutine: DISPATCH_LEVEL, nothing held.
    Dpc { dpc: DpcNumber };
    /// HwDpcRoutine of a threaded DPC: PASSIVE_LEVEL in a thread, or
    /// DISPATCH_LEVEL where the system has threaded DPCs turned off. Nothing is
    /// held.
    ThreadedDpc { dpc: DpcNumber };
    /// HwTimer: DISPATCH_LEVEL, the StartIo lock held. With concurrent channels
    /// HwStartIo runs meanwhile (storport-rules.md Callbacks).
    Timer;
    /// HwStateChange: DISPATCH_LEVEL, the StartIo lock held.
    StateChange { changed: Changed, handled: bool };
    /// HwResetBus: DISPATCH_LEVEL, the StartIo lock held, requests paused.
    /// HwBuildIo may run meanwhile.
    ResetBus { path: u32 };
    /// HwAdapterControl(ScsiStopAdapter): DIRQL at worst, nothing known to be
    /// held, nothing takeable (storport-rules.md X1). No request is outstanding.
    /// Callbacks that were admitted before may still run.
    Stop;
    /// HwAdapterControl(ScsiRestartAdapter): as [`Stop`].
    ///
    /// Only interrupt routines run meanwhile, so the cells of the StartIo lock
    /// and of DPCs open. The restart fails if a callback from before the stop does
    /// not end within a millisecond.
    Restart;
    /// HwAdapterControl(ScsiAdapterPower): DISPATCH_LEVEL at most, nothing
    /// held.
    AdapterPower { state: PowerState };
    /// HwAdapterControl(ScsiAdapterSurpriseRemoval): below DISPATCH_LEVEL,
    /// nothing held.
    SurpriseRemoval;
    /// HwUnitControl for the events of [`UnitEvent`]: PASSIVE_LEVEL, nothing
    /// held.
    UnitControl { event: UnitEvent, unit: Address };
    /// HwUnitControl(ScsiUnitPower): DISPATCH_LEVEL, nothing held.
    UnitPower { state: PowerState, unit: Address };
    /// HwTracingEnabled: PASSIVE_LEVEL, nothing held.
    Tracing { enabled: bool };
    /// HwWorkItem: PASSIVE_LEVEL, nothing held.
    Work { argument: u32 };
    /// HwRegistryNotification: PASSIVE_LEVEL. What is held is not documented,
    /// so no lock may be taken; queue a [`Work`] item, which may take them.
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
// storport-rules.md Callbacks). Where that names Interrupt alone above the StartIo lock, the
// order allows Dpc too (storport-rules.md O3, X4).
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

/// HwStartIo with or without concurrent channels, which is known only at run time
/// (storport-rules.md PERF_CONFIGURATION_DATA).
pub enum Channels<'s, 'a> {
    /// More than one was granted: Storport holds nothing, and other processors
    /// may be in HwStartIo.
    Concurrent(Concurrent<'s, 'a>),
    /// At most one: Storport holds the StartIo lock.
    Serial(Serial<'s, 'a>),
}

impl<'a> StartIo<'_, 'a> {
    /// Tells whether Storport holds the StartIo lock. With concurrent channels
    /// the lock may be taken; without them its cells open.
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

/// What a state change concerns (StorPortStateChangeDetected).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// A logical unit.
    Unit(Address),
    /// A target; the logical unit of the address does not matter.
    Target(Address),
    /// A bus; target and logical unit do not matter.
    Bus(Address),
}

impl StateChange<'_, '_> {
    /// What was reported.
    #[must_use]
    pub fn changed(&self) -> Changed {
        self.changed
    }

    /// Whether Storport dealt with it (Status below 0x80000000).
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

/// What happens to a logical unit (`SCSI_UNIT_CONTROL_TYPE`).
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
    /// What happens.
    #[must_use]
    pub fn event(&self) -> UnitEvent {
        self.event
    }

    /// To which unit.
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
    /// Whether somebody listens to the miniport's events now.
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
