//! The miniport: what Storport's callbacks do for a virtio disk.

use storport::{
    BuildIo, Configured, Context, Dpc, DpcLocked, Failure, FindAdapter, Initialize, Interrupt,
    Interrupted, MessageInterrupt, MessageLocks, Miniport, NotFound, Performance, ResetBus,
    Restart, Srb, StartIo, StartIoLocked, Stop,
};
use virtio::{
    blk::{Config, Requests},
    slots::{MAX_SLOTS, SlotAllocator},
    spec::F,
    split_queue::Flight,
    transport::{Isr, Silencer},
};

use crate::{
    device::Stage,
    discovery,
    platform::Window,
    queue::{BATCH, Batch, Owner, Parked, Queue},
    request::{self, Request},
};

/// The message that says that the device used buffers. Changes of the
/// configuration have none: they are not listened to.
const QUEUE_MESSAGE: u16 = 0;

/// Turns under the lock that a DPC takes before it leaves the rest to the
/// next: the whole queue once.
const DPC_TURNS: usize = (MAX_SLOTS as usize) / BATCH;

/// The driver.
pub enum Ferrostor {}

/// A virtio disk.
pub struct Adapter<'a> {
    /// The ring, and the requests that the device has.
    pub queue: DpcLocked<'a, Queue<'a>>,
    /// The device between its starts and resets.
    pub device: StartIoLocked<'a, Stage<'a>>,
    /// The message that the device interrupts with; without one, the pin.
    pub vector: StartIoLocked<'a, Option<u16>>,
    /// What the interrupt pin means.
    pub isr: Isr<Window<'a>>,
    /// How to stop the device without waiting for it.
    pub silencer: Silencer<Window<'a>>,
    /// The features that were settled, and are again at each start.
    pub accepted: F,
    /// How many processors send requests.
    pub processors: u32,
    /// Which slots are free.
    pub slots: SlotAllocator,
    /// The slots' memory.
    pub requests: Requests<'a>,
    /// What the device says of itself.
    pub config: Config,
    /// What initiators are told.
    pub disk: scsi::Disk,
}

impl<'a> Adapter<'a> {
    /// Takes back what a device had before its reset, and starts it again; how
    /// it is then, and whether it works.
    ///
    /// Requests are completed with the queue open: they are too many to be
    /// taken along, and nothing else of the adapter runs meanwhile (rule book
    /// 5.1, S10).
    fn start_again(
        &self,
        stage: Stage<'a>,
        queue: &mut Queue<'a>,
        vector: Option<u16>,
    ) -> (Stage<'a>, bool) {
        // Until it is seen to be reset the device may write into requests'
        // memory, so none is completed (VIRTIO 1.3, 3.3.1; V15).
        let Some(quiet) = stage.quiet() else {
            return (stage, false);
        };
        queue.reclaim(quiet, |slot, owner| {
            request::abandon(self, slot, owner, Failure::BusReset);
        });
        let (stage, doorbell) = stage.start(self.accepted, queue.ring(), vector);
        let works = doorbell.is_some();
        if let Some(doorbell) = doorbell {
            queue.run(doorbell);
        }
        (stage, works)
    }
}

impl Miniport for Ferrostor {
    type Adapter<'a> = Adapter<'a>;
    type Request<'a> = Request;

    const TABLE_BYTES: usize =
        (MAX_SLOTS as usize).saturating_mul(size_of::<Option<Flight<Owner<'static>>>>());
    const DUMP_TABLE_BYTES: usize = (discovery::DUMP_QUEUE as usize)
        .saturating_mul(size_of::<Option<Flight<Owner<'static>>>>());
    const MESSAGE_LOCKS: MessageLocks = MessageLocks::PerMessage;

    fn find_adapter<'a>(
        cx: &mut FindAdapter<'_, 'a>,
    ) -> Result<(Configured<'a>, Adapter<'a>), NotFound> {
        discovery::find(cx)
    }

    fn initialize<'a>(adapter: &Adapter<'a>, cx: &mut Initialize<'_, 'a>) -> bool {
        // HwStartIo needs no lock but the queue's. Whatever is granted, the
        // same code serves it.
        let _: Performance = cx.optimize(&Performance {
            channels: adapter.processors,
            dpc_redirection: true,
            ..Performance::default()
        });
        let vector = cx
            .has_message(u32::from(QUEUE_MESSAGE))
            .then_some(QUEUE_MESSAGE);
        *adapter.vector.open(cx) = vector;
        let stage = adapter.device.open(cx).take();
        let stage = stage.reset(|microseconds| cx.stall(microseconds));
        let queue = adapter.queue.open(cx);
        let (stage, works) = adapter.start_again(stage, queue, vector);
        *adapter.device.open(cx) = stage;
        works
    }

    fn build_io<'a>(
        adapter: &Adapter<'a>,
        cx: &mut BuildIo<'_, 'a>,
        srb: Srb<'a>,
    ) -> Option<(Srb<'a>, Request)> {
        request::build(adapter, cx, srb)
    }

    fn start_io<'a>(
        adapter: &Adapter<'a>,
        cx: &mut StartIo<'_, 'a>,
        srb: Srb<'a>,
        request: Request,
    ) {
        let Request {
            prepared,
            kind,
            bytes,
        } = request;
        let owner = Owner::Initiator(Parked {
            srb: srb.started(),
            kind,
            bytes,
        });
        let published = adapter
            .queue
            .with(cx, |queue| queue.publish(prepared, owner));
        match published {
            Ok(Some(doorbell)) => doorbell.ring(),
            Ok(None) => {}
            Err((slot, owner)) => request::abandon(adapter, slot, owner, Failure::Error),
        }
    }

    fn interrupt<'a>(adapter: &Adapter<'a>, cx: &mut Interrupt<'_, 'a>) -> Interrupted {
        // Reading the status lets go of the pin. A dump stack calls this to
        // look for completions, whatever the status says.
        if adapter.isr.take().is_empty() && !cx.is_dump() {
            return Interrupted::NotOurs;
        }
        adapter.queue.issue(cx);
        Interrupted::Ours
    }

    fn message_interrupt<'a>(
        adapter: &Adapter<'a>,
        cx: &mut MessageInterrupt<'_, 'a>,
    ) -> Interrupted {
        adapter.queue.issue(cx);
        Interrupted::Ours
    }

    fn dpc<'a>(adapter: &Adapter<'a>, cx: &mut Dpc<'_, 'a>) {
        for _ in 0..DPC_TURNS {
            let mut batch = Batch::default();
            let more = adapter.queue.with(cx, |queue| queue.take_used(&mut batch));
            for used in batch.into_iter().flatten() {
                request::complete(adapter, used);
            }
            if !more {
                return;
            }
        }
        adapter.queue.issue(cx);
    }

    fn reset_bus<'a>(adapter: &Adapter<'a>, cx: &mut ResetBus<'_, 'a>) -> bool {
        let vector = *adapter.vector.open(cx);
        let stage = adapter.device.open(cx).take();
        let stage = stage.reset(|microseconds| cx.stall(microseconds));
        let (stage, works) = adapter
            .queue
            .with(cx, |queue| adapter.start_again(stage, queue, vector));
        *adapter.device.open(cx) = stage;
        works
    }

    fn stop<'a>(adapter: &Adapter<'a>, _cx: &mut Stop<'_, 'a>) {
        adapter.silencer.silence();
    }

    fn restart<'a>(adapter: &Adapter<'a>, cx: &mut Restart<'_, 'a>) -> bool {
        let vector = *adapter.vector.open(cx);
        let stage = adapter.device.open(cx).take();
        let stage = stage.reset(|microseconds| cx.stall(microseconds));
        let queue = adapter.queue.open(cx);
        let (stage, works) = adapter.start_again(stage, queue, vector);
        *adapter.device.open(cx) = stage;
        works
    }
}
