//! The rules that a miniport must keep, each with a short name that stays, and
//! the one place where breaking them is recorded.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use super::{
    callbacks::Callback,
    held_locks,
    report::{Circumstances, Violation},
    spin_locks::LockId,
    waits::Circle,
};
use crate::{
    cpu,
    image::Image,
    trap::{self, Calls, Place, Walk},
};

macro_rules! rules {
    ($($rule:ident = $name:literal, $source:literal, $summary:literal;)*) => {
        /// A rule that a miniport must keep. `source` returns where it comes from.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Rule {
            $(#[doc = $summary] $rule,)*
        }

        impl Rule {
            /// All of them, in the order in which they are listed.
            pub(super) const ALL: &[Self] = &[$(Self::$rule,)*];

            /// Its name in reports.
            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Self::$rule => $name,)*
                }
            }

            /// Its source: Microsoft's DDI compliance rule or bug check, if there is
            /// one, and the row of docs/reference/storport-rules.md.
            pub(super) fn source(self) -> &'static str {
                match self {
                    $(Self::$rule => $source,)*
                }
            }

            /// What it demands.
            pub(super) fn summary(self) -> &'static str {
                match self {
                    $(Self::$rule => $summary,)*
                }
            }
        }
    };
}

rules! {
    LockRecursion = "lock-recursion", "StorPortSpinLock; storport-rules.md L5, O8",
        "No lock is taken that the thread holds already, by itself or by Storport.";
    LockOrder = "lock-order", "StorPortSpinLock3; storport-rules.md O1 to O3",
        "Locks are taken in the order StartIo, Dpc, Interrupt or MSI.";
    LockNested = "lock-nested", "storport-rules.md O4, O6",
        "DPC locks do not nest; nor do MSI locks, but for other messages' in HwMSInterruptRoutine.";
    LockInversion = "lock-inversion", "storport-rules.md O4, O6",
        "Two locks are never taken in both orders, even if no two CPUs did so at a time.";
    LockDeadlock = "lock-deadlock", "storport-rules.md L5, O3 to O6",
        "CPUs do not wait for each other's locks in a circle.";
    LockNotAllowed = "lock-not-allowed", "StorPortSpinLock3; storport-rules.md Callbacks",
        "Each callback takes only the locks that its page allows.";
    LockKind = "lock-kind", "storport-rules.md STOR_SPINLOCK",
        "STOR_SPINLOCK is one of the values that the function takes.";
    LockDpc = "lock-dpc-not-initialised", "storport-rules.md L6",
        "A DPC lock's context is an initialised STOR_DPC.";
    LockMsiMode = "lock-msi-mode", "StorPortMSILock; storport-rules.md O7",
        "MSI locks are taken in InterruptSynchronizePerMessage mode alone.";
    LockMsiMessage = "lock-msi-message", "storport-rules.md StorPortAcquireMSISpinLock",
        "An MSI lock is that of a message that the adapter has.";
    LockIrql = "lock-irql", "storport-rules.md STOR_SPINLOCK",
        "Locks are taken at an IRQL that allows it.";
    LockHandleInUse = "lock-handle-in-use", "storport-rules.md L2",
        "A STOR_LOCK_HANDLE serves one acquisition at a time.";
    LockHandleMoved = "lock-handle-moved", "storport-rules.md L1",
        "A STOR_LOCK_HANDLE stays where it is while its lock is held.";
    LockHandleChanged = "lock-handle-changed", "storport-rules.md L1, L9",
        "A STOR_LOCK_HANDLE, or an old IRQL, is given back as it was filled.";
    LockNotHeld = "lock-not-held", "StorPortSpinLock4; storport-rules.md L2",
        "What is released is held.";
    LockReleaseOrder = "lock-release-order", "storport-rules.md L3",
        "The lock that was taken last is released first.";
    LockOtherThread = "lock-other-thread", "storport-rules.md L1",
        "Who took a lock releases it.";
    LockAtReturn = "lock-held-at-return", "StorPortSpinLock; storport-rules.md L4",
        "A callback returns with the locks that it was called with.";
    IrqlAtReturn = "irql-at-return", "SpChangeIrql; storport-rules.md L4",
        "A callback returns at the IRQL that it was called at.";
    DdiCallback = "ddi-callback",
        "StorPortEnablePassive, StorPortPassiveFromHwInit, bug check 0xF1/0x2002; storport-rules.md Routines",
        "Functions that belong to certain callbacks are called in those.";
    DdiIrql = "ddi-irql", "StorPortIrql; storport-rules.md IRQL",
        "Functions are called at an IRQL that they allow.";
    DdiDeprecated = "ddi-deprecated", "storport-rules.md StorPortDeprecated",
        "StorPortLogError and StorPortValidateRange are not used any more.";
    DdiPortOnly = "ddi-port-only",
        "StorPortDDIsPortOnly, StorPortCompleteRequest; storport-rules.md S7",
        "StorPortCompleteRequest is the port driver's own.";
    DdiProhibited = "ddi-prohibited", "storport-rules.md HwStorPortProhibitedDDIs",
        "A physical miniport calls none of the kernel's functions that its rule lists.";
    DdiExtension = "ddi-device-extension", "storport-rules.md DeviceExtension",
        "HwDeviceExtension is the one that Storport gave.";
    DdiArgument = "ddi-argument", "the functions' pages",
        "Arguments are what the function's page demands.";
    PerfOpts = "perf-opts", "storport-rules.md StorPortPerfOpts",
        "StorPortInitializePerfOpts gets a PERF_CONFIGURATION_DATA.";
    NotificationType = "notification-type", "StorPortNotification2; storport-rules.md Notifications",
        "StorPortNotification takes the documented types.";
    InitializationData = "initialization-data", "storport-rules.md Callbacks",
        "HW_INITIALIZATION_DATA is as its page demands.";
    FindAdapter = "find-adapter", "StorPortFindAdapter, SpReturnValue; storport-rules.md Callbacks",
        "HwFindAdapter sets what it must and returns an SP_RETURN value.";
    VirtualDevice = "virtual-device", "StorPortVirtualDevice; storport-rules.md Callbacks",
        "HwFindAdapter of a physical adapter leaves VirtualDevice FALSE.";
    HalfDuplex = "half-duplex", "SpDuplex; storport-rules.md SynchronizationModel",
        "HwFindAdapter chooses StorSynchronizeFullDuplex.";
    SrbExtensionSize = "srb-extension-size", "storport-rules.md Routines",
        "SrbExtensionSize is set before the uncached extension is asked for.";
    AdapterControl = "adapter-control", "storport-rules.md Callbacks",
        "HwAdapterControl supports stop and restart, and answers the query for its types.";
    Stall = "stall", "bug check 0xF1/0x2001; storport-rules.md IRQL",
        "No stall is longer than 0.1 s.";
    StartIoWait = "start-io-wait", "SpNoWait, StorPortStartIo; storport-rules.md Callbacks, X8",
        "HwStartIo neither waits nor stalls nor allocates; StorPortAllocatePool is left to it in \
         full duplex, as its page has it.";
    DeviceBase = "device-base", "bug check 0xF1/0x2003; storport-rules.md Routines",
        "StorPortGetDeviceBase is asked for what plug and play assigned.";
    RegisterAddress = "register-address", "storport-rules.md 0xF1/0x2005",
        "Register functions get registers that are mapped.";
    SrbUnknown = "srb-unknown", "storport-rules.md S1, S2",
        "A request that is completed or asked about is one that the miniport has.";
    SrbTwice = "srb-completed-twice", "bug check 0xF1/0x2004; storport-rules.md S1",
        "A request is completed once.";
    SrbStatus = "srb-status", "StorPortStatusPending; storport-rules.md S3",
        "A request is completed with a final status, without flags that are the port's.";
    SrbTouched = "srb-touched", "StorPortNotification (SDV, unlisted); storport-rules.md S2",
        "SRB, SRB extension, sense buffer and scatter/gather list are left alone once the request \
         is completed (with --verify).";
    SrbBuildIo = "srb-completed-in-build-io", "StorPortBuildIo; storport-rules.md S4",
        "HwBuildIo that returns TRUE leaves the request uncompleted.";
    SrbStartIo = "srb-start-io-false", "storport-rules.md S6",
        "HwStartIo returns TRUE, or has completed the request.";
    SrbBusyLength = "srb-busy-length", "storport-rules.md S5",
        "SRB_STATUS_BUSY comes with an unchanged DataTransferLength.";
    SrbAfterReset = "srb-after-reset", "storport-rules.md Callbacks, S8",
        "HwResetBus completes what HwStartIo was given.";
    SrbControl = "srb-control", "storport-rules.md C1, X16",
        "Requests of cache, power and plug and play are answered.";
    DdiInDumpMode = "ddi-in-dump-mode", "storport-rules.md D2, D3, D5, D6",
        "A dump stack has no DPCs, timers, pool, registry or passive initialisation.";
    LockInDumpMode = "lock-in-dump-mode", "storport-rules.md D8",
        "A dump stack has nothing to lock.";
    DumpMemory = "dump-memory", "storport-rules.md D4",
        "Device extension and uncached extension have 32 KiB together in a dump stack.";
    DumpResetBus = "dump-reset-bus", "storport-rules.md D4",
        "HwResetBus is disregarded in a dump stack.";
    QueueDepth = "queue-depth", "storport-rules.md Routines",
        "The queue depth is set at the unit's first INQUIRY or later.";
    Dpc = "dpc-not-initialised", "storport-rules.md Callbacks",
        "DPC objects are initialised before they are issued or cancelled.";
    Timer = "timer-routine", "StorPortTimer; storport-rules.md Notifications",
        "RequestTimerCall comes with an HwTimer.";
    Pool = "pool-free", "storport-rules.md StorPortAllocatePool",
        "Pool is freed once, and only what was allocated.";
    InterruptLevel = "interrupt-level", "storport-rules.md Callbacks",
        "HwInterrupt makes its device let go of the pin.";
}

/// Records what rules a driver broke.
#[derive(Debug)]
pub(super) struct Recorder {
    driver: String,
    image: Option<Arc<Image>>,
    found: Mutex<Vec<Violation>>,
}

impl Recorder {
    /// Records for the driver of this name; addresses in its image are
    /// reported as offsets.
    pub(super) fn new(driver: &str, image: Option<Arc<Image>>) -> Self {
        Self {
            driver: driver.into(),
            image,
            found: Mutex::default(),
        }
    }

    /// The offset of `address` in the driver's image.
    pub(super) fn offset_of(&self, address: usize) -> Option<u32> {
        self.image.as_ref()?.offset_of(address)
    }

    /// Records that `rule` was broken in `callback` by the call that returns
    /// to `caller` (0: no call), about `lock`.
    pub(super) fn record(
        &self,
        rule: Rule,
        callback: Callback,
        caller: usize,
        lock: Option<LockId>,
        detail: fmt::Arguments<'_>,
    ) {
        self.record_at(rule, callback, caller, lock, walk_from(caller), detail);
    }

    /// Records that `rule` was broken in `callback` at `place`, to which `walk`
    /// leads.
    pub(super) fn record_at(
        &self,
        rule: Rule,
        callback: Callback,
        place: usize,
        lock: Option<LockId>,
        walk: Walk,
        detail: fmt::Arguments<'_>,
    ) {
        let source = rule.source();
        let (rule, callback) = (rule.name(), callback.name());
        let driver_offset = self.offset_of(place);
        let mut found = self.lock();
        let same = found.iter_mut().find(|known| {
            (known.rule, known.callback, known.driver_offset) == (rule, callback, driver_offset)
        });
        match same {
            Some(known) => known.count += 1,
            None => found.push(Violation {
                rule,
                source,
                callback,
                detail: detail.to_string(),
                driver_offset,
                circumstances: circumstances(lock, walk),
                count: 1,
            }),
        }
    }

    /// Ends the machine because of a broken rule that leaves no way on. What was
    /// recorded before is told too: there is no other place for it any more.
    pub(super) fn stop_machine(
        &self,
        rule: Rule,
        callback: Callback,
        caller: usize,
        lock: Option<LockId>,
        detail: fmt::Arguments<'_>,
    ) -> ! {
        trap::stop_machine(format_args!(
            "{}, in {}{}: {}: {detail}{}{}",
            self.driver,
            callback.name(),
            At(self.offset_of(caller)),
            rule.name(),
            Lines(rule, &circumstances(lock, walk_from(caller))),
            Before(&self.found()),
        ))
    }

    /// Ends the machine because of threads that wait for each other.
    pub(super) fn deadlock(&self, callback: Callback, caller: usize, circle: &Circle) -> ! {
        let rule = Rule::LockDeadlock;
        trap::stop_machine(format_args!(
            "{}, in {}{}: {}: {} threads wait for each other's locks, for ever\n  rule: \
             {}{circle}{}",
            self.driver,
            callback.name(),
            At(self.offset_of(caller)),
            rule.name(),
            circle.len(),
            rule.source(),
            Before(&self.found()),
        ))
    }

    /// The sentence that the driver's file has for an event.
    pub(super) fn sentence(&self, code: u32, inserts: &[&str]) -> Option<String> {
        self.image.as_ref()?.sentence(code, inserts)
    }

    /// All that was recorded.
    pub(super) fn found(&self) -> Vec<Violation> {
        self.lock().clone()
    }

    /// The driver's name.
    pub(super) fn driver(&self) -> &str {
        &self.driver
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Violation>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the calling thread is, has and does.
fn circumstances(lock: Option<LockId>, walk: Walk) -> Circumstances {
    Circumstances {
        cpu: cpu::current_number(),
        thread: thread::current().name().unwrap_or("unnamed").to_owned(),
        irql: cpu::current_irql(),
        lock: lock.map(|lock| lock.to_string()),
        held: held_locks::held_by_this_thread(),
        stack: places(walk),
    }
}

/// What leads to the call that returns to `caller`; nothing leads to no call.
fn walk_from(caller: usize) -> Walk {
    match caller {
        0 => Calls::default().walk(),
        _ => Calls::here().walk(),
    }
}

/// The places of a walk through the driver, newest first.
pub(super) fn places(walk: Walk) -> Vec<String> {
    walk.map(|place| Place(place).to_string()).collect()
}

/// The lines below a message that ends the machine.
struct Lines<'a>(Rule, &'a Circumstances);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n  rule: {}", self.0.source())?;
        let lines = self.1.lines();
        lines.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// What was recorded before the end, in short.
struct Before<'a>(&'a [Violation]);

impl fmt::Display for Before<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|known| {
            write!(
                f,
                "\n  before that: {} in {}{}: {}",
                known.rule,
                known.callback,
                At(known.driver_offset),
                known.detail
            )
        })
    }
}

/// A driver-relative place for a message, or nothing.
pub(super) struct At(pub(super) Option<u32>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(offset) => write!(f, " at +{offset:#x}"),
            None => Ok(()),
        }
    }
}
