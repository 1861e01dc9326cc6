//! What belongs to one adapter cannot be used with another. The lifetime `'a` names the adapter.

use storport::*;

/// A lock may only be taken with a context of its own adapter. The context of another adapter says
/// nothing about this adapter's locks.
/// storport-rules.md Callbacks.
fn cell<'a, 'b>(
    cx: &mut Dpc<'_, 'a>,
    #[cfg(wrong)] served: &DpcLocked<'b, u32>,
    #[cfg(right)] served: &DpcLocked<'a, u32>,
    _another: &DpcLocked<'b, u32>,
) {
    served.with(cx, |served| **served += 1);
    //~ - lifetime may not live long enough
    //~ - lifetime may not live long enough
}

/// A guard proves that a lock of its own adapter is held. It cannot be used to take a lock of
/// another adapter.
/// storport-rules.md Order.
fn guard<'a, 'b>(
    held: &mut Held<'a, level::DpcHeld>,
    #[cfg(wrong)] events: &InterruptLocked<'b, u32>,
    #[cfg(right)] events: &InterruptLocked<'a, u32>,
    _another: &InterruptLocked<'b, u32>,
) {
    events.with(held, |events| **events += 1);
    //~ - lifetime may not live long enough
    //~ - lifetime may not live long enough
}

/// A context proves only that a lock of its own adapter is held. It cannot open a cell of another
/// adapter.
/// storport-rules.md Callbacks.
fn opened<'a, 'b>(
    cx: &mut Interrupt<'_, 'a>,
    #[cfg(wrong)] events: &InterruptLocked<'b, u32>,
    #[cfg(right)] events: &InterruptLocked<'a, u32>,
    _another: &InterruptLocked<'b, u32>,
) {
    *events.open(cx) += 1;
    //~ - lifetime may not live long enough
    //~ - lifetime may not live long enough
}

/// What proves that no other callback of an adapter has a cell open says nothing about the cells
/// of another adapter.
/// storport-rules.md Callbacks.
fn exclusive<'a, 'b>(
    queues: &mut Exclusive<'a, level::DpcHeld>,
    #[cfg(wrong)] served: &DpcLocked<'b, u32>,
    #[cfg(right)] served: &DpcLocked<'a, u32>,
    _another: &DpcLocked<'b, u32>,
) {
    *served.open(queues) += 1;
    //~ - lifetime may not live long enough
    //~ - lifetime may not live long enough
}

/// Pool may only be freed through the adapter that allocated it.
/// storport-rules.md StorPortAllocatePool.
fn pool<'a, 'b>(
    cx: &mut BuildIo<'_, 'a>,
    #[cfg(wrong)] pool: Pool<'b, u8>,
    #[cfg(right)] pool: Pool<'a, u8>,
    _another: &Pool<'b, u8>,
) {
    cx.free(pool);
    //~ - lifetime may not live long enough
    //~ - lifetime may not live long enough
}

/// An SRB may only be stored in the state of its own adapter, because the reset of that adapter
/// must complete it.
/// storport-rules.md S8.
fn request<'a, 'b>(
    cx: &mut StartIo<'_, 'a>,
    waiting: &DpcLocked<'a, Option<Srb<'a>>>,
    #[cfg(wrong)] srb: Srb<'b>,
    #[cfg(right)] srb: Srb<'a>,
    _another: &Srb<'b>,
) {
    waiting.with(cx, |waiting| **waiting = Some(srb));
    //~ - lifetime may not live long enough
    //~ - lifetime may not live long enough
}

/// A table lies in the device extension of its adapter. It cannot be stored in the state of another
/// adapter.
/// storport-rules.md Callbacks; storport.h, HW_INITIALIZATION_DATA.DeviceExtensionSize.
fn table<'a, 'b>(
    cx: &mut FindAdapter<'_, 'a>,
    another: &mut FindAdapter<'_, 'b>,
) -> Option<Table<'a, u32>> {
    #[cfg(wrong)]
    let queues = another.table(4, |_, _| Some(0));
    #[cfg(right)]
    let queues = cx.table(4, |_, _| Some(0));
    let _ = (cx, another);
    queues
    //~ - lifetime may not live long enough
    //~ - lifetime may not live long enough
}

/// `Configured` says what Storport was told about one adapter. It cannot be used for another.
/// storport-rules.md HwFindAdapter.
fn configured<'a, 'b>(
    cx: &mut FindAdapter<'_, 'a>,
    another: &mut FindAdapter<'_, 'b>,
    limits: &AdapterLimits,
) -> Result<Configured<'a>, LimitsError> {
    #[cfg(wrong)]
    let configured = another.configure(limits);
    #[cfg(right)]
    let configured = cx.configure(limits);
    let _ = (cx, another);
    configured
    //~ - lifetime may not live long enough
    //~ - lifetime may not live long enough
}

/// The cells of an adapter cannot be stored in a static: the adapter may be removed, and there may
/// be more than one.
/// storport-rules.md Callbacks; storport.h, HW_INITIALIZATION_DATA.DeviceExtensionSize.
mod state_in_static {
    use super::*;

    /// Stores `state` in a static.
    #[cfg(wrong)]
    fn keep(_state: InterruptLocked<'static, u32>) {}

    /// The adapter's state.
    #[cfg(right)]
    struct Adapter<'a>(InterruptLocked<'a, u32>);

    #[cfg(wrong)]
    fn find_adapter(cx: &mut FindAdapter<'_, '_>) {
        keep(cx.interrupt_locked(0));
        //~ E0521
    }

    #[cfg(right)]
    fn find_adapter<'a>(cx: &mut FindAdapter<'_, 'a>) -> Adapter<'a> {
        Adapter(cx.interrupt_locked(0))
    }
}
