//! The rules that a miniport must keep, each with a short name that stays, and
//! the one place where breaking them is recorded.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{callbacks::Callback, report::Violation};
use crate::{image::Image, trap};

macro_rules! rules {
    ($($(#[$doc:meta])* $rule:ident = $name:literal,)*) => {
        /// A rule. The row of the rule book that it comes from stands with it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Rule {
            $($(#[$doc])* $rule,)*
        }

        impl Rule {
            /// All of them.
            pub(super) const ALL: &[Self] = &[$(Self::$rule,)*];

            /// Its name in reports.
            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Self::$rule => $name,)*
                }
            }
        }
    };
}

rules! {
    /// No lock is taken that the thread holds, by itself or by Storport (1.3 L5).
    LockRecursion = "lock-recursion",
    /// StartIo before Dpc before Interrupt and MSI (1.5 O1 to O3).
    LockOrder = "lock-order",
    /// DPC locks and MSI locks do not nest among themselves (1.5 O4, O6).
    LockNested = "lock-nested",
    /// Each callback may take only certain locks (2).
    LockNotAllowed = "lock-not-allowed",
    /// STOR_SPINLOCK is one of the values of the function called (1.2).
    LockKind = "lock-kind",
    /// A DPC lock's context is an initialised STOR_DPC (1.3 L6).
    LockDpc = "lock-dpc-not-initialised",
    /// MSI locks need InterruptSynchronizePerMessage (1.5 O7).
    LockMsiMode = "lock-msi-mode",
    /// A message that exists (1.1).
    LockMsiMessage = "lock-msi-message",
    /// Locks are taken at an IRQL that allows it (1.4).
    LockIrql = "lock-irql",
    /// One handle, one acquisition (1.3 L2).
    LockHandleInUse = "lock-handle-in-use",
    /// The handle stays where it was while it is held (1.3 L1).
    LockHandleMoved = "lock-handle-moved",
    /// The handle stays as Storport filled it while it is held (1.3 L1).
    LockHandleChanged = "lock-handle-changed",
    /// What is released is held (7: StorPortSpinLock4).
    LockNotHeld = "lock-not-held",
    /// Releases are last-in-first-out (1.3 L3).
    LockReleaseOrder = "lock-release-order",
    /// Who took a lock releases it (1.3 L1).
    LockOtherThread = "lock-other-thread",
    /// A callback returns with the locks it was called with (1.3 L4).
    LockAtReturn = "lock-held-at-return",
    /// A callback returns at the IRQL it was called at (1.3 L4).
    IrqlAtReturn = "irql-at-return",
    /// Some functions belong to certain callbacks (3.5).
    DdiCallback = "ddi-callback",
    /// Functions have a highest IRQL (3.6).
    DdiIrql = "ddi-irql",
    /// StorPortLogError and StorPortValidateRange are no more to be used (7:
    /// StorPortDeprecated).
    DdiDeprecated = "ddi-deprecated",
    /// StorPortCompleteRequest is the port's own (7: StorPortDDIsPortOnly).
    DdiPortOnly = "ddi-port-only",
    /// HwDeviceExtension is what Storport gave.
    DdiExtension = "ddi-device-extension",
    /// Arguments are what the function's page demands.
    DdiArgument = "ddi-argument",
    /// StorPortNotification takes the documented types (7:
    /// StorPortNotification2).
    NotificationType = "notification-type",
    /// HW_INITIALIZATION_DATA is as its page demands (3.1).
    InitializationData = "initialization-data",
    /// What HwFindAdapter sets and returns (7: StorPortFindAdapter,
    /// SpReturnValue, StorPortVirtualDevice).
    FindAdapter = "find-adapter",
    /// SrbExtensionSize is set before the uncached extension is asked for
    /// (3.5).
    SrbExtensionSize = "srb-extension-size",
    /// The miniport supports stop and answers control types (3.1).
    AdapterControl = "adapter-control",
    /// No stall above 0.1 s (0xF1/0x2001).
    Stall = "stall",
    /// StorPortGetDeviceBase is asked for what PnP assigned (0xF1/0x2003).
    DeviceBase = "device-base",
    /// Register functions get mapped registers (0xF1/0x2005).
    RegisterAddress = "register-address",
    /// A completed request is one that Storport sent (5.1 S1).
    SrbUnknown = "srb-unknown",
    /// A request is completed once (5.1 S1, 0xF1/0x2004).
    SrbTwice = "srb-completed-twice",
    /// A final status, without flags that are the port's (5.1 S3).
    SrbStatus = "srb-status",
    /// HwBuildIo that returns TRUE leaves the request alone (5.1 S4).
    SrbBuildIo = "srb-completed-in-build-io",
    /// HwStartIo returns TRUE, or has completed the request (5.1 S6).
    SrbStartIo = "srb-start-io-false",
    /// SRB_STATUS_BUSY comes with an unchanged DataTransferLength (5.1 S5).
    SrbBusyLength = "srb-busy-length",
    /// HwResetBus completes what HwStartIo was given (2, 5.1 S8).
    SrbAfterReset = "srb-after-reset",
    /// Requests of cache, power and plug and play are answered (3.2; 8 row
    /// 16).
    SrbControl = "srb-control",
    /// The queue depth is set at the unit's first INQUIRY or later (3.5).
    QueueDepth = "queue-depth",
    /// DPC objects are initialised before they are issued (3.1).
    Dpc = "dpc-not-initialised",
    /// RequestTimerCall comes with an HwTimer (7: StorPortTimer).
    Timer = "timer-routine",
    /// Pool is freed once, and only what was allocated (7:
    /// StorPortAllocatePool).
    Pool = "pool-free",
    /// HwInterrupt makes its device let go of the pin (3.1).
    InterruptLevel = "interrupt-level",
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
    /// to `caller` (0: no call).
    pub(super) fn record(
        &self,
        rule: Rule,
        callback: Callback,
        caller: usize,
        detail: fmt::Arguments<'_>,
    ) {
        let (rule, callback) = (rule.name(), callback.name());
        let driver_offset = self.offset_of(caller);
        let mut found = self.lock();
        let same = found.iter_mut().find(|known| {
            (known.rule, known.callback, known.driver_offset) == (rule, callback, driver_offset)
        });
        match same {
            Some(known) => known.count += 1,
            None => found.push(Violation {
                rule,
                callback,
                detail: detail.to_string(),
                driver_offset,
                count: 1,
            }),
        }
    }

    /// Ends the machine because of a broken rule that leaves no way on.
    pub(super) fn stop_machine(
        &self,
        rule: Rule,
        callback: Callback,
        caller: usize,
        detail: fmt::Arguments<'_>,
    ) -> ! {
        trap::stop_machine(format_args!(
            "{}, in {}{}: {}: {detail}",
            self.driver,
            callback.name(),
            At(self.offset_of(caller)),
            rule.name(),
        ))
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
