//! How locks are taken, and what a guard allows.

use core::mem::forget;

use storport::*;

/// A lock that is held may not be taken again. Storport's locks are not recursive: the second
/// acquisition would wait for ever.
/// storport-rules.md L5, StorPortSpinLock.
fn taken_twice<'a>(cx: &mut Dpc<'_, 'a>, served: &DpcLocked<'a, u32>) {
    #[cfg(wrong)]
    served.with(cx, |count| {
        let (count, held) = count.split();
        served.with(held, |again| *count += **again);
        //~ E0277 take this lock before the lock that is held, or after that lock is released
    });
    #[cfg(right)]
    served.with(cx, |count| **count += 1);
}

/// While a lock is held, the context that it was taken with is borrowed, so it cannot take another
/// lock. Further locks are taken with the guard, whose type shows which lock is held.
/// storport-rules.md L3, L5, StorPortSpinLock.
fn taken_with_the_same_context<'a>(
    cx: &mut Dpc<'_, 'a>,
    queue: &DpcLocked<'a, u32>,
    events: &InterruptLocked<'a, u32>,
) {
    #[cfg(wrong)]
    queue.with(cx, |queue| {
        //~ E0500
        //~ E0501
        events.with(cx, |events| **queue += **events);
    });
    #[cfg(right)]
    queue.with(cx, |queue| {
        let (queue, held) = queue.split();
        events.with(held, |events| *queue += **events);
    });
}

/// HwInterrupt may not take a lock: Storport holds the interrupt lock. The context opens the cells
/// of that lock.
/// storport-rules.md HwInterrupt, StorPortSpinLock.
fn taken_in_interrupt<'a>(cx: &mut Interrupt<'_, 'a>, events: &InterruptLocked<'a, u32>) {
    #[cfg(wrong)]
    events.with(cx, |events| **events = 0);
    //~ E0277 issue a DPC (`DpcLocked::issue`) and take the lock in `Miniport::dpc`
    #[cfg(right)]
    {
        *events.open(cx) = 0;
    }
}

/// HwStartIo may take the StartIo lock only if `channels` shows that concurrent channels were
/// granted. Without them Storport holds the lock, and the cell can be opened.
/// storport-rules.md HwStartIo, PERF_CONFIGURATION_DATA, X2, L5, StorPortSpinLock3.
fn taken_in_start_io<'a>(cx: &mut StartIo<'_, 'a>, queue: &StartIoLocked<'a, u32>) {
    #[cfg(wrong)]
    queue.with(cx, |queue| **queue += 1);
    //~ E0277 in HwStartIo, match on `StartIo::channels`
    #[cfg(wrong)]
    let _ = queue.open(cx);
    //~ E0277 take the cell's lock: use `with` instead of `open`
    #[cfg(right)]
    match cx.channels() {
        Channels::Concurrent(mut cx) => queue.with(&mut cx, |queue| **queue += 1),
        Channels::Serial(mut cx) => *queue.open(&mut cx) += 1,
    }
}

/// HwDpcRoutine may not open the cell of its DPC's lock without taking the lock: Storport does not
/// hold it, and the same DPC may run on another processor.
/// storport-rules.md O10, X6.
fn opened_in_dpc<'a>(cx: &mut Dpc<'_, 'a>, queue: &DpcLocked<'a, u32>) {
    #[cfg(wrong)]
    let _ = queue.open(cx);
    //~ E0277 another processor may have this cell open (storport-rules.md Callbacks)
    #[cfg(right)]
    queue.with(cx, |queue| **queue += 1);
}

/// A context opens one cell at a time, so no cell can be opened twice.
/// storport-rules.md L5.
fn opened_twice<'a>(cx: &mut Interrupt<'_, 'a>, events: &InterruptLocked<'a, [u32; 2]>) {
    #[cfg(wrong)]
    {
        let [first, _] = events.open(cx);
        let [_, second] = events.open(cx);
        //~ E0499
        *first += *second;
    }
    #[cfg(right)]
    {
        let [first, second] = events.open(cx);
        *first += *second;
    }
}

/// Data of an open cell cannot be kept after the callback, when the lock is released.
/// storport-rules.md L4.
mod data_kept {
    use super::*;

    #[cfg(wrong)]
    fn interrupt<'s, 'a>(
        cx: &'s mut Interrupt<'a, 'a>,
        events: &'a InterruptLocked<'a, u32>,
    ) -> &'a mut u32 {
        events.open(cx)
        //~ - lifetime may not live long enough
    }

    #[cfg(right)]
    fn interrupt<'a>(cx: &mut Interrupt<'_, 'a>, events: &'a InterruptLocked<'a, u32>) -> u32 {
        *events.open(cx)
    }
}

/// The data of a cell can only be accessed through the cell.
/// storport-rules.md HwBuildIo, X10.
fn data_without_lock<'a>(cx: &mut BuildIo<'_, 'a>, next: &DpcLocked<'a, u32>) -> u32 {
    #[cfg(wrong)]
    {
        let _ = cx;
        let id: &u32 = next;
        //~ E0308
        *id
    }
    #[cfg(right)]
    next.with(cx, |id| **id)
}

/// The data of a cell must be `Send`, because different processors access it one after the other.
/// storport-rules.md HwBuildIo.
mod data_of_one_processor {
    use super::*;

    /// Checks the requirement on a miniport's state.
    fn adapter<T: Sync>(_state: &T) {}

    fn state<'a>(
        #[cfg(wrong)] state: &DpcLocked<'a, *mut u32>,
        #[cfg(right)] state: &DpcLocked<'a, u32>,
    ) {
        adapter(state);
        //~ E0277 `*mut u32` cannot be sent between threads safely
    }
}

/// Neither a guard nor a reference to its data can be kept after the closure.
/// storport-rules.md L4, StorPortSpinLock.
fn guard_kept<'a>(cx: &mut Dpc<'_, 'a>, served: &DpcLocked<'a, u32>) -> Option<u32> {
    let mut last = None;
    #[cfg(wrong)]
    served.with(cx, |served| last = Some(&mut **served));
    //~ E0521
    #[cfg(right)]
    served.with(cx, |served| last = Some(**served));
    #[cfg(wrong)]
    let last = last.copied();
    last
}

/// A guard cannot be moved out of its place. Only the reference to it can be forgotten, which has
/// no effect: `with` releases the lock, whichever way the closure ends.
/// storport-rules.md L1, L2, L4, StorPortSpinLock, StorPortSpinLock4.
fn guard_moved<'a>(cx: &mut Dpc<'_, 'a>, served: &DpcLocked<'a, u32>) -> Option<u32> {
    served.with(cx, |served| {
        let before = served.checked_sub(1)?;
        #[cfg(wrong)]
        forget(*served);
        //~ E0507
        #[cfg(right)]
        #[expect(forgetting_references, reason = "the lock is released all the same")]
        forget(served);
        Some(before)
    })
}

/// A guard cannot leave its closure, because the lock is released when the closure ends. Copy the
/// needed data out instead.
/// storport-rules.md L4, StorPortSpinLock.
fn guard_returned<'a>(cx: &mut Dpc<'_, 'a>, served: &DpcLocked<'a, u32>) -> u32 {
    #[cfg(wrong)]
    return *served.with(cx, |served| &mut **served);
    //~ - lifetime may not live long enough
    //~ - lifetime may not live long enough
    #[cfg(right)]
    served.with(cx, |served| **served)
}

/// Neither a context nor a guard can be sent to another processor, because the lock and the IRQL to
/// return to belong to this processor. Send a copy of the data instead.
/// storport-rules.md L1, L3, Callbacks.
mod guard_sent {
    use super::*;

    /// Passes `work` to another processor.
    fn elsewhere<T: Send>(_work: T) {}

    fn dpc<'a>(cx: &mut Dpc<'_, 'a>, served: &DpcLocked<'a, u32>) {
        served.with(cx, |served| {
            #[cfg(wrong)]
            elsewhere(served);
            //~ E0277 `*mut ()` cannot be sent between threads safely
            #[cfg(right)]
            elsewhere(**served);
        });
    }
}

/// Locks are released in the reverse order of their acquisition, because each one has the IRQL to
/// return to. The guard of an inner lock cannot outlive that of the outer lock.
/// storport-rules.md L3.
fn released_out_of_order<'a>(
    cx: &mut BuildIo<'_, 'a>,
    queue: &DpcLocked<'a, u32>,
    events: &InterruptLocked<'a, u32>,
) -> u32 {
    queue.with(cx, |queue| {
        let (queue, held) = queue.split();
        #[cfg(wrong)]
        {
            let mut outer: Option<&mut u32> = None;
            events.with(held, |events| outer = Some(&mut **events));
            //~ E0521
            outer.map_or(*queue, |events| *events)
        }
        #[cfg(right)]
        {
            let events = events.with(held, |events| **events);
            events + *queue
        }
    })
}

/// Where a callback proves that no other has its cells open, `open_with` opens a cell of the
/// StartIo lock, and `Exclusive` those of DPC locks meanwhile. Neither the data nor `Exclusive` can
/// be kept: the proof ends with the callback, and the context can open the same cells.
/// storport-rules.md HwAdapterControl, L4.
mod exclusive_kept {
    use super::*;

    fn data<'a>(cx: &mut Restart<'_, 'a>, life: &StartIoLocked<'a, u32>) -> u32 {
        #[cfg(wrong)]
        return *life.open_with(cx, |life, _| life);
        //~ - lifetime may not live long enough
        #[cfg(right)]
        life.open_with(cx, |life, _| *life)
    }

    fn proof<'a>(
        cx: &mut Restart<'_, 'a>,
        life: &StartIoLocked<'a, u32>,
        queue: &DpcLocked<'a, u32>,
    ) -> u32 {
        #[cfg(wrong)]
        {
            let mut kept = None;
            life.open_with(cx, |_, queues| kept = Some(queues));
            //~ E0521
            kept.map_or(0, |queues| *queue.open(queues))
        }
        #[cfg(right)]
        life.open_with(cx, |_, queues| *queue.open(queues))
    }

    fn cell<'a>(
        cx: &mut Restart<'_, 'a>,
        life: &StartIoLocked<'a, u32>,
        queue: &DpcLocked<'a, u32>,
    ) -> u32 {
        #[cfg(wrong)]
        return *life.open_with(cx, |_, queues| queue.open(queues));
        //~ - lifetime may not live long enough
        #[cfg(right)]
        life.open_with(cx, |_, queues| *queue.open(queues))
    }
}

/// `Exclusive` opens one cell at a time, so no cell can be opened twice.
/// storport-rules.md L5.
fn exclusive_opens_one_cell<'a>(
    cx: &mut Restart<'_, 'a>,
    life: &StartIoLocked<'a, u32>,
    first: &DpcLocked<'a, u32>,
    second: &DpcLocked<'a, u32>,
) {
    life.open_with(cx, |_, queues| {
        #[cfg(wrong)]
        {
            let first = first.open(queues);
            let second = second.open(queues);
            //~ E0499
            *first += *second;
        }
        #[cfg(right)]
        {
            let count = *second.open(queues);
            *first.open(queues) += count;
        }
    });
}

/// `Exclusive` does not open the cells of the StartIo lock, one of which is open already.
/// storport-rules.md L5.
fn exclusive_opens_no_cell_of_start_io<'a>(
    cx: &mut Restart<'_, 'a>,
    life: &StartIoLocked<'a, u32>,
    queue: &DpcLocked<'a, u32>,
) {
    life.open_with(cx, |data, queues| {
        #[cfg(wrong)]
        let again = life.open(queues);
        //~ E0277 take the cell's lock: use `with` instead of `open`
        #[cfg(right)]
        let again = queue.open(queues);
        *data += *again;
    });
}

/// While `open_with` has a cell open, the context is borrowed, so it cannot open the cell again.
/// storport-rules.md L5.
fn opened_beside_exclusive<'a>(cx: &mut Restart<'_, 'a>, life: &StartIoLocked<'a, [u32; 2]>) {
    #[cfg(wrong)]
    life.open_with(cx, |[first, _], _| {
        //~ E0500
        //~ E0501
        let [_, second] = life.open(cx);
        *first += *second;
    });
    #[cfg(right)]
    life.open_with(cx, |[first, second], _| *first += *second);
}

/// `Exclusive` takes no lock. The cells that it opens need none, and those of other locks are
/// opened with the context.
/// storport-rules.md HwAdapterControl, StorPortSpinLock.
fn taken_with_exclusive<'a>(
    cx: &mut Restart<'_, 'a>,
    life: &StartIoLocked<'a, u32>,
    queue: &DpcLocked<'a, u32>,
) {
    life.open_with(cx, |data, queues| {
        #[cfg(wrong)]
        queue.with(queues, |queue| **queue += *data);
        //~ E0277 open the cell without its lock (`open`)
        #[cfg(right)]
        {
            *queue.open(queues) += *data;
        }
    });
}

/// `Held`, with which a guard takes further locks, cannot be kept after the closure: its lock is
/// released then.
/// storport-rules.md L4, StorPortSpinLock.
fn held_kept<'a>(
    cx: &mut Dpc<'_, 'a>,
    queue: &DpcLocked<'a, u32>,
    events: &InterruptLocked<'a, u32>,
) -> u32 {
    #[cfg(wrong)]
    {
        let mut kept = None;
        queue.with(cx, |queue| kept = Some(queue.split().1));
        //~ E0521
        kept.map_or(0, |held| events.with(held, |events| **events))
    }
    #[cfg(right)]
    queue.with(cx, |queue| events.with(queue.split().1, |events| **events))
}
