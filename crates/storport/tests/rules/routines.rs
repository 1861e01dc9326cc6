//! How routines are called. The tables of docs/locking.md show where they are offered.

use storport::*;

/// HwInitialize may not request a timer, because HwTimer could use cells that HwInitialize has
/// open. HwInitialize issues a DPC instead. The DPC runs when the adapter is ready, and requests
/// the timer.
/// storport-rules.md HwTimer, C1.
mod timer_in_initialize {
    use super::*;

    const SOON: core::num::NonZero<u32> = core::num::NonZero::<u32>::MIN;

    fn initialize<'a, M: callback::Timer>(
        cx: &mut Initialize<'_, 'a>,
        #[cfg(wrong)] _: &DpcLocked<'a, u32>,
        #[cfg(right)] queue: &DpcLocked<'a, u32>,
    ) {
        #[cfg(wrong)]
        let _ = cx.request_timer::<M>(SOON);
        //~ E0277 issue a DPC (`DpcLocked::issue`): it runs when the adapter is ready
        #[cfg(right)]
        queue.issue(cx);
    }

    /// Runs when the adapter is ready.
    fn dpc<M: callback::Timer>(cx: &mut Dpc<'_, '_>) {
        let _ = cx.request_timer::<M>(SOON);
    }
}

/// HwRegistryNotification may not take a lock: the documentation does not say which locks Storport
/// holds there. A work item may take locks.
/// storport-rules.md HwRegistryNotification.
mod lock_in_registry_change {
    use super::*;

    fn registry_changed<'a, M: callback::Work>(
        cx: &mut RegistryChange<'_, 'a>,
        depth: &DpcLocked<'a, u32>,
    ) {
        #[cfg(wrong)]
        depth.with(cx, |depth| **depth = 1);
        //~ E0277 queue a work item (`queue_work`) and take the lock in `callback::Work`
        #[cfg(right)]
        let _ = (depth, cx.queue_work::<M>(0));
    }

    fn work<'a>(cx: &mut Work<'_, 'a>, depth: &DpcLocked<'a, u32>) {
        let wanted = cx.registry_u32(c"QueueDepth").unwrap_or(1);
        depth.with(cx, |depth| **depth = wanted);
    }
}

/// Under a lock no routine may be called that the IRQL forbids. The interrupt lock raises the IRQL
/// to DIRQL, where pool cannot be allocated. Allocate it before.
/// storport-rules.md L8, STOR_SPINLOCK, X9, StorPortIrql.
fn pool_under_lock<'a>(cx: &mut Dpc<'_, 'a>, events: &InterruptLocked<'a, Option<Pool<'a, u8>>>) {
    #[cfg(wrong)]
    events.with(cx, |events| **events = cx.allocate(512, |_| 0).ok());
    //~ E0502
    #[cfg(right)]
    {
        let pool = cx.allocate(512, |_| 0).ok();
        events.with(cx, |events| **events = pool);
    }
}

/// Pool may be freed only once, and may not be used afterwards.
/// storport-rules.md StorPortAllocatePool, StorPortAllocatePool2.
fn pool_after_free<'a>(
    cx: &mut BuildIo<'_, 'a>,
    (pool, other): (Pool<'a, u8>, Pool<'a, u8>),
) -> Option<u8> {
    let first = pool.first();
    #[cfg(right)]
    let first = first.copied();
    cx.free(pool);
    //~ E0505
    #[cfg(wrong)]
    let first = first.copied();
    cx.free(other);
    #[cfg(wrong)]
    cx.free(other);
    //~ E0382
    first
}

/// Performance options are passed by reference, so they cannot be null.
/// storport-rules.md StorPortInitializePerfOpts, StorPortPerfOpts.
fn options_without_data(cx: &mut Initialize<'_, '_>) -> Performance {
    #[cfg(wrong)]
    return cx.optimize(core::ptr::null(), &mut []);
    //~ E0308
    #[cfg(right)]
    cx.optimize(&Performance::default(), &mut [])
}

/// The uncached extension may only be taken after `configure`, because Storport must know first
/// whether the adapter is a bus master.
/// storport-rules.md StorPortGetUncachedExtension.
fn uncached_extension_unconfigured<'a>(
    cx: &mut FindAdapter<'_, 'a>,
    limits: &AdapterLimits,
) -> Option<UncachedExtension<'a>> {
    #[cfg(wrong)]
    let configured = limits;
    #[cfg(right)]
    let configured = &cx.configure(limits).ok()?;
    cx.uncached_extension(configured, 4096)
    //~ E0308
}

/// The uncached extension has only one owner.
/// storport-rules.md StorPortGetUncachedExtension.
fn uncached_extension_twice(memory: UncachedExtension<'_>) -> [UncachedParts; 2] {
    let first = memory.into_parts();
    #[cfg(wrong)]
    let second = memory.into_parts();
    //~ E0382
    #[cfg(right)]
    let second = UncachedParts {
        address: first.address,
        physical: first.physical,
        length: 0,
    };
    [first, second]
}

/// Storport's routines are methods of contexts, and the functions behind these methods are private.
/// So a driver cannot call routines that only the framework may call (StorPortInitializeDpc,
/// StorPortEnablePassiveInitialization) or only a port driver (StorPortCompleteRequest), deprecated
/// routines (StorPortLogError, StorPortValidateRange), or a notification that is not for miniports.
/// storport-rules.md Routines, Notifications, S7, StorPortEnablePassive, StorPortPassiveFromHwInit,
/// StorPortCompleteRequest, StorPortDDIsPortOnly, StorPortDeprecated, StorPortNotification2.
fn raw(cx: &mut ResetBus<'_, '_>) {
    #[cfg(wrong)]
    let _ = (cx, storport::port::stall(10));
    //~ E0603
    #[cfg(right)]
    cx.stall(10);
}
