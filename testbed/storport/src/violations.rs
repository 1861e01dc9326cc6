//! The rules that the testbed checks, in two lists: rules of Windows, and house rules of this
//! project. Each has a short name, which does not change. Records broken rules.

use std::{
    fmt,
    sync::{Arc, Mutex},
    thread,
};

use super::{
    callbacks::{self, Callback},
    held_locks, lock,
    port::Port,
    report::{Circumstances, RuleList, Violation},
    spin_locks::LockId,
    waits::Cycle,
};
use testbed_loader::Image;
use testbed_machine::{
    cpu,
    trap::{self, Calls, Place, RevokedAccess, Walk},
};

macro_rules! rules {
    ($($list:ident {
        $($rule:ident = $name:literal, $source:literal, $summary:literal;)*
    })*) => {
        /// A rule, with its source.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Rule {
            $($(#[doc = $summary] $rule,)*)*
        }

        impl Rule {
            /// All rules, in the order of `testbed rules`.
            pub(super) const ALL: &[Self] = &[$($(Self::$rule,)*)*];

            /// The list that it belongs to.
            pub(super) fn list(self) -> RuleList {
                match self {
                    $($(Self::$rule)|* => RuleList::$list,)*
                }
            }

            pub(super) fn name(self) -> &'static str {
                match self {
                    $($(Self::$rule => $name,)*)*
                }
            }

            /// Microsoft's page, DDI compliance rule or bug check, and the row of
            /// docs/reference/storport-rules.md.
            pub(super) fn source(self) -> &'static str {
                match self {
                    $($(Self::$rule => $source,)*)*
                }
            }

            pub(super) fn summary(self) -> &'static str {
                match self {
                    $($(Self::$rule => $summary,)*)*
                }
            }
        }
    };
}

rules! {
    Windows {
        LockRecursion = "lock-recursion", "StorPortSpinLock; storport-rules.md L5, O5, O8",
            "A thread does not take a lock that it already holds, or that Storport holds for it.";
        LockOrder = "lock-order", "StorPortSpinLock3; storport-rules.md O1, O2",
            "StartIo and DPC locks are taken before an interrupt lock, not under it.";
        LockInversion = "lock-inversion",
            "Preventing Errors and Deadlocks While Using Spin Locks: nested acquisitions; storport-rules.md Order",
            "Two locks are always taken in the same order.";
        LockDeadlock = "lock-deadlock",
            "Preventing Errors and Deadlocks While Using Spin Locks; storport-rules.md L5",
            "Threads do not wait for each other's locks in a cycle.";
        LockNotAllowed = "lock-not-allowed", "StorPortSpinLock3; storport-rules.md Callbacks",
            "A callback takes only the locks that its documentation allows.";
        LockKind = "lock-kind", "STOR_SPINLOCK; storport-rules.md STOR_SPINLOCK",
            "STOR_SPINLOCK is one of the values that the function supports.";
        LockDpc = "lock-dpc-not-initialised", "StorPortInitializeDpc; storport-rules.md L6",
            "The context of a DPC lock is an initialised STOR_DPC.";
        LockMsiMode = "lock-msi-mode", "StorPortMSILock; storport-rules.md O7",
            "MSI locks are taken only in InterruptSynchronizePerMessage mode.";
        LockMsiMessage = "lock-msi-message", "storport-rules.md StorPortAcquireMSISpinLock",
            "An MSI lock is that of a message of the adapter.";
        LockIrql = "lock-irql", "STOR_SPINLOCK, StorPortAcquireSpinLockEx; storport-rules.md STOR_SPINLOCK",
            "A lock is taken at an IRQL that allows it.";
        LockHandleInUse = "lock-handle-in-use", "StorPortAcquireSpinLock; storport-rules.md L2",
            "A STOR_LOCK_HANDLE serves one acquisition at a time.";
        LockHandleMoved = "lock-handle-moved", "StorPortReleaseSpinLock; storport-rules.md L2",
            "A lock is released with the STOR_LOCK_HANDLE that it was taken with.";
        LockHandleChanged = "lock-handle-changed",
            "StorPortReleaseSpinLock, StorPortReleaseMSISpinLock; storport-rules.md L2, L9",
            "A STOR_LOCK_HANDLE, or the old IRQL of an MSI lock, is passed back unchanged.";
        LockNotHeld = "lock-not-held", "StorPortSpinLock4; storport-rules.md L2",
            "Only a held lock is released.";
        LockAtReturn = "lock-held-at-return", "StorPortSpinLock; storport-rules.md L4",
            "A callback releases every lock that it took before it returns.";
        IrqlAtReturn = "irql-at-return", "SpChangeIrql; storport-rules.md L4",
            "A callback returns at the IRQL at which it was called.";
        DdiCallback = "ddi-callback",
            "StorPortEnablePassive, StorPortPassiveFromHwInit, bug check 0xF1/0x2002; storport-rules.md Routines",
            "A function that is allowed in certain callbacks is called only there.";
        DdiIrql = "ddi-irql", "StorPortIrql; storport-rules.md IRQL",
            "A function is called at an IRQL that its documentation allows.";
        DdiDeprecated = "ddi-deprecated", "storport-rules.md StorPortDeprecated",
            "StorPortLogError and StorPortValidateRange are not called.";
        DdiPortOnly = "ddi-port-only",
            "StorPortDDIsPortOnly, StorPortCompleteRequest; storport-rules.md S7",
            "StorPortCompleteRequest is not called: it is for the port driver.";
        DdiProhibited = "ddi-prohibited", "storport-rules.md HwStorPortProhibitedDDIs, SpinLock, IrqlDispatch",
            "A physical miniport does not call the kernel functions that the rule lists.";
        DdiExtension = "ddi-device-extension", "storport-rules.md DeviceExtension",
            "HwDeviceExtension is the address that Storport gave.";
        DdiArgument = "ddi-argument", "the functions' pages; storport-rules.md Routines",
            "The arguments of a function are as its documentation requires.";
        PerfOpts = "perf-opts", "storport-rules.md StorPortPerfOpts",
            "StorPortInitializePerfOpts gets a PERF_CONFIGURATION_DATA.";
        NotificationType = "notification-type", "StorPortNotification2; storport-rules.md Notifications",
            "StorPortNotification gets a documented type, or the type of an inline function of \
             the kit's headers.";
        InitializationData = "initialization-data", "HW_INITIALIZATION_DATA; storport-rules.md DriverEntry",
            "HW_INITIALIZATION_DATA is filled as its documentation requires.";
        FindAdapter = "find-adapter", "StorPortFindAdapter, SpReturnValue; storport-rules.md Callbacks",
            "HwFindAdapter sets the limits and returns an SP_RETURN value.";
        VirtualDevice = "virtual-device", "StorPortVirtualDevice; storport-rules.md Callbacks",
            "HwFindAdapter of a physical adapter leaves VirtualDevice FALSE.";
        HalfDuplex = "half-duplex", "SpDuplex; storport-rules.md SynchronizationModel",
            "HwFindAdapter chooses StorSynchronizeFullDuplex.";
        SrbExtensionSize = "srb-extension-size", "StorPortGetUncachedExtension; storport-rules.md Routines",
            "SrbExtensionSize is set before the uncached extension is requested.";
        AdapterControl = "adapter-control", "HwStorAdapterControl; storport-rules.md HwAdapterControl, StorPortAdapterControl",
            "HwAdapterControl answers the query for control types, and supports stop and restart.";
        Stall = "stall", "bug check 0xF1/0x2001; storport-rules.md IRQL",
            "A stall is not longer than 0.1 s.";
        StartIoWait = "start-io-wait", "SpNoWait, StorPortStartIo; storport-rules.md Callbacks, X8",
            "HwStartIo does not wait, stall or allocate. In full duplex, StorPortAllocatePool is \
             allowed.";
        DeviceBase = "device-base", "bug check 0xF1/0x2003; storport-rules.md Routines",
            "StorPortGetDeviceBase maps only ranges that plug and play assigned.";
        RegisterAddress = "register-address", "storport-rules.md 0xF1/0x2005",
            "Register functions get addresses of mapped registers.";
        SrbUnknown = "srb-unknown", "StorPortNotification; storport-rules.md S1, S2",
            "The miniport completes or queries only requests that it has.";
        SrbTwice = "srb-completed-twice", "bug check 0xF1/0x2004; storport-rules.md S1",
            "A request is completed once.";
        SrbStatus = "srb-status", "StorPortStatusPending; storport-rules.md S3",
            "A request is completed with a final status, without the port driver's flags.";
        SrbTouched = "srb-touched", "StorPortNotification; storport-rules.md S2",
            "A completed request is not accessed: SRB, SRB extension, sense buffer and \
             scatter/gather list (with --verify).";
        SrbBuildIo = "srb-completed-in-build-io",
            "StorPortBuildIo, StorPortNotification; storport-rules.md S2, S4",
            "HwBuildIo returns FALSE for a request that it completed.";
        SrbBusyLength = "srb-busy-length", "HwStorStartIo; storport-rules.md S5",
            "A request completed as SRB_STATUS_BUSY keeps its DataTransferLength.";
        SrbAfterReset = "srb-after-reset", "HwStorResetBus; storport-rules.md Callbacks, S8",
            "HwResetBus completes the requests that HwStartIo was given.";
        DdiInDumpMode = "ddi-in-dump-mode",
            "Restrictions on Miniport Drivers that Manage the Boot Drive; storport-rules.md D2, D3",
            "A dump stack uses no DPC and no function for PASSIVE_LEVEL, and in HwFindAdapter \
             none for DISPATCH_LEVEL.";
        DumpMemory = "dump-memory",
            "Restrictions on Miniport Drivers that Manage the Boot Drive; storport-rules.md D4",
            "In a dump stack, device extension and uncached extension together have at most 32 \
             KiB.";
        DumpResetBus = "dump-reset-bus",
            "Restrictions on Miniport Drivers that Manage the Boot Drive; storport-rules.md D4",
            "HwResetBus does nothing in a dump stack.";
        QueueDepth = "queue-depth", "StorPortSetDeviceQueueDepth; storport-rules.md Routines",
            "The queue depth is above 0 and set at the unit's first INQUIRY or later.";
        Dpc = "dpc-not-initialised", "StorPortInitializeDpc; storport-rules.md Callbacks",
            "A DPC object is initialised before it is issued or cancelled.";
        Timer = "timer-routine", "StorPortTimer; storport-rules.md Notifications",
            "RequestTimerCall gets an HwTimer routine.";
        Pool = "pool-free", "storport-rules.md StorPortAllocatePool",
            "Pool is freed once, and only if it was allocated.";
        InterruptLevel = "interrupt-level", "Writing an ISR; storport-rules.md HwInterrupt",
            "HwInterrupt makes its device release the interrupt pin.";
    }
    House {
        LockOrderStartIo = "lock-order-start-io", "storport-rules.md O3",
            "StartIo is not taken while a DPC lock is held.";
        LockNested = "lock-nested", "storport-rules.md O4, O6",
            "DPC locks do not nest, nor do MSI locks. In HwMSInterruptRoutine the locks of other \
             messages may be taken.";
        StopAtDirql = "stop-at-dirql", "two pages disagree; storport-rules.md X1",
            "HwAdapterControl takes no lock and calls only functions for DIRQL when it stops or \
             restarts the adapter.";
        LockThreadedDpc = "lock-threaded-dpc", "storport-rules.md STOR_SPINLOCK",
            "ThreadedDpcLock is taken only in threaded DPCs.";
        LockReleaseOrder = "lock-release-order", "storport-rules.md L3",
            "The lock that was taken last is released first.";
        LockOtherThread = "lock-other-thread", "storport-rules.md L1",
            "A lock must be released by the thread that acquired it.";
        SrbStartIo = "srb-start-io-false", "storport-rules.md S6",
            "HwStartIo returns TRUE, or has completed the request.";
        SrbControl = "srb-control", "storport-rules.md C1, X16",
            "Power, plug and play, flush and shutdown requests succeed or are not supported.";
        DdiDumpStack = "ddi-dump-stack", "storport-rules.md D2, D5, D6",
            "A dump stack uses no pool, timers or passive initialisation, and no function that \
             is not for HIGH_LEVEL.";
        LockInDumpMode = "lock-in-dump-mode", "storport-rules.md D8",
            "A dump stack takes no lock.";
    }
}

/// The driver, and the rules that it broke.
#[derive(Debug)]
pub(super) struct Recorder {
    driver: String,
    image: Option<Arc<Image>>,
    found: Mutex<Vec<Violation>>,
}

impl Recorder {
    /// A recorder for a driver. Addresses in its image are reported as offsets.
    pub(super) fn new(driver: &str, image: Option<Arc<Image>>) -> Self {
        Self {
            driver: driver.into(),
            image,
            found: Mutex::default(),
        }
    }
}

impl Port {
    /// The miniport's name, that of its file.
    pub(super) fn driver(&self) -> &str {
        &self.recorder.driver
    }

    /// The offset of `address` in the driver's image.
    pub(super) fn offset_of(&self, address: usize) -> Option<u32> {
        self.recorder.image.as_ref()?.offset_of(address)
    }

    /// The text of an event in the driver file's message table.
    pub(super) fn sentence(&self, code: u32, inserts: &[&str]) -> Option<String> {
        self.recorder.image.as_ref()?.sentence(code, inserts)
    }

    pub(super) fn violations(&self) -> Vec<Violation> {
        lock(&self.recorder.found).clone()
    }

    /// Reports that the running callback broke a rule.
    pub(super) fn violation(&self, rule: Rule, detail: fmt::Arguments<'_>) {
        self.violation_of(callbacks::current(), rule, detail);
    }

    /// Reports that a callback broke a rule before it returned.
    pub(super) fn violation_of(&self, callback: Callback, rule: Rule, detail: fmt::Arguments<'_>) {
        self.record(rule, callback, None, callbacks::caller(), walk(), detail);
    }

    /// [`Self::violation`] about a lock.
    pub(super) fn lock_violation(&self, rule: Rule, lock: LockId, detail: fmt::Arguments<'_>) {
        let (callback, caller) = (callbacks::current(), callbacks::caller());
        self.record(rule, callback, Some(lock), caller, walk(), detail);
    }

    /// [`Self::violation`] about an access to memory.
    pub(super) fn violation_at(
        &self,
        rule: Rule,
        access: &RevokedAccess,
        detail: fmt::Arguments<'_>,
    ) {
        let place = access.walk.clone().next().unwrap_or(0);
        let walk = access.walk.clone();
        self.record(rule, callbacks::current(), None, place, walk, detail);
    }

    /// Records that `rule` was broken in `callback` at `place`, to which `walk` leads.
    fn record(
        &self,
        rule: Rule,
        callback: Callback,
        about: Option<LockId>,
        place: usize,
        walk: Walk,
        detail: fmt::Arguments<'_>,
    ) {
        let (list, source) = (rule.list(), rule.source());
        let (rule, callback) = (rule.name(), callback.name());
        let driver_offset = self.offset_of(place);
        let mut found = lock(&self.recorder.found);
        let same = found.iter_mut().find(|known| {
            (known.rule, known.callback, known.driver_offset) == (rule, callback, driver_offset)
        });
        match same {
            Some(known) => known.count += 1,
            None => found.push(Violation {
                rule,
                list,
                source,
                callback,
                detail: detail.to_string(),
                driver_offset,
                circumstances: circumstances(about, walk),
                count: 1,
            }),
        }
    }

    /// Stops the machine because of a broken rule, about a lock if there is one, after which the
    /// run cannot continue. The message includes the earlier violations, because no report
    /// follows.
    pub(super) fn stop_machine(
        &self,
        rule: Rule,
        about: Option<LockId>,
        detail: fmt::Arguments<'_>,
    ) -> ! {
        trap::stop_machine(format_args!(
            "{}: {}: {detail}{}{}",
            Where(self),
            rule.name(),
            Lines(rule, &circumstances(about, walk())),
            Before(&self.violations()),
        ))
    }

    pub(super) fn deadlock(&self, cycle: &Cycle) -> ! {
        let rule = Rule::LockDeadlock;
        trap::stop_machine(format_args!(
            "{}: {}: {} threads wait for each other's locks without end\n  rule: {}{cycle}{}",
            Where(self),
            rule.name(),
            cycle.len(),
            rule.source(),
            Before(&self.violations()),
        ))
    }
}

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

/// The walk to the running call of the driver's; an empty walk if there is none.
fn walk() -> Walk {
    match callbacks::caller() {
        0 => Calls::default().walk(),
        _ => Calls::here().walk(),
    }
}

/// The places of a walk through the driver, newest first.
pub(super) fn places(walk: Walk) -> Vec<String> {
    walk.map(|place| Place(place).to_string()).collect()
}

/// Prints the driver, the running callback, and the place of its call.
struct Where<'a>(&'a Port);

impl fmt::Display for Where<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offset = self.0.offset_of(callbacks::caller());
        let callback = callbacks::current().name();
        write!(f, "{}, in {callback}{}", self.0.driver(), At(offset))
    }
}

/// Prints the lines below a message that stops the machine.
struct Lines<'a>(Rule, &'a Circumstances);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n  rule: {}", self.0.source())?;
        let lines = self.1.lines();
        lines.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// Prints the earlier violations, in short.
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

/// Prints an offset in the driver, if there is one.
struct At(Option<u32>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(offset) => write!(f, " at +{offset:#x}"),
            None => Ok(()),
        }
    }
}
