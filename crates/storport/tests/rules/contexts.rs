//! Contexts belong to one call of a callback, on one processor.

use storport::*;

/// While the result of `channels` is in use, no lock may be taken with the context that returned
/// it.
/// storport-rules.md L5, HwStartIo.
fn channels_beside_context<'a>(
    cx: &mut StartIo<'_, 'a>,
    ids: &StartIoLocked<'a, u32>,
    queue: &DpcLocked<'a, u32>,
) {
    if let Channels::Serial(mut serial) = cx.channels() {
        let id = ids.open(&mut serial);
        #[cfg(wrong)]
        queue.with(cx, |queue| **queue = *id);
        //~ E0499
        #[cfg(right)]
        {
            let id = *id;
            queue.with(&mut serial, |queue| **queue = id);
        }
    }
}

/// The result of `channels` holds for one call of HwStartIo. It cannot be kept for the next call.
/// storport-rules.md HwStartIo.
fn channels_kept<'a>(
    cx: &mut StartIo<'a, 'a>,
    #[cfg(wrong)] last: &mut Option<Channels<'a, 'a>>,
    #[cfg(right)] last: &mut Option<bool>,
) {
    #[cfg(wrong)]
    {
        *last = Some(cx.channels());
        //~ E0621
    }
    #[cfg(right)]
    {
        *last = Some(matches!(cx.channels(), Channels::Serial(_)));
    }
}

/// A context cannot be copied. A second context could take a lock while the first one holds a lock.
/// storport-rules.md L5, Callbacks.
fn copied<'a>(cx: &mut Dpc<'_, 'a>, served: &DpcLocked<'a, u32>) {
    #[cfg(wrong)]
    let cx = &mut { *cx };
    //~ E0507
    served.with(cx, |served| **served += 1);
}

/// A context cannot be kept after its callback, because its IRQL and locks hold only during the
/// call.
/// storport-rules.md L4, Callbacks.
fn kept<'c, 'a>(
    cx: &'c mut Dpc<'c, 'a>,
    #[cfg(wrong)] last: &mut Option<&'a Dpc<'a, 'a>>,
    #[cfg(right)] last: &mut Option<DpcNumber>,
) {
    #[cfg(wrong)]
    {
        *last = Some(cx);
        //~ - lifetime may not live long enough
    }
    #[cfg(right)]
    {
        *last = Some(cx.number());
    }
}

/// Only the framework makes contexts and requests, when Storport makes a callback, and guards, when
/// a lock is taken.
/// storport-rules.md Callbacks, L2, StorPortSpinLock4, S1.
mod made {
    use super::*;

    #[cfg(wrong)]
    fn on_top<'a>(events: &InterruptLocked<'a, u32>) -> DpcNumber {
        let mut held: Held<'a, level::DpcHeld> = Held {};
        //~ - private fields
        events.with(&mut held, |events| **events += 1);
        Srb {}.succeed(0);
        //~ - private fields
        let cx = Dpc {};
        //~ - private fields
        cx.number()
    }

    #[cfg(right)]
    fn on_top<'a>(
        events: &InterruptLocked<'a, u32>,
        held: &mut Held<'a, level::DpcHeld>,
        cx: &Dpc<'_, 'a>,
        srb: Srb<'a>,
    ) -> DpcNumber {
        srb.succeed(0);
        events.with(held, |events| **events += 1);
        cx.number()
    }
}

/// A context cannot be made `'static`, so it cannot be stored in a static.
/// storport-rules.md Callbacks.
mod stored_in_static {
    use super::*;

    fn keep<T: 'static>(_kept: &T) {}

    fn dpc(cx: &mut Dpc<'_, 'static>) {
        #[cfg(wrong)]
        keep(cx);
        //~ E0521
        #[cfg(right)]
        keep(&cx.number());
    }
}
