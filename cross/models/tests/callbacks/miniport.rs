//! The miniport under test. It keeps requests in queues, and completes them when its device
//! interrupts. It uses every part of the crate.

use std::num::NonZero;

use storport::{
    AdapterLimits, Address, BuildIo, Changed, Channels, Configured, Dpc, DpcLocked, FindAdapter,
    Function, Initialize, Interrupt, InterruptLocked, Interrupted, MappedRegisters,
    MessageInterrupt, MessageLocked, MessageLocks, Miniport, NotFound, Performance, Pool, ResetBus,
    Restart, Srb, StartIo, StartIoLocked, StartedSrb, StateChange, Stop, StorStatus, Table,
    ThreadedDpc, Timer, Work,
    callback::{self, Names, key},
};

/// How many queues there are. Each has a DPC object and a message of its own.
pub const QUEUES: usize = 2;
/// The maximum number of requests in a queue.
const SLOTS: usize = 2;

/// The operation codes of requests.
pub mod opcode {
    /// The request is completed in HwBuildIo, with its address as data.
    pub const ADDRESS: u8 = 0x01;
    /// The request is queued. The second byte of the CDB is the number of the queue.
    pub const QUEUED: u8 = 0x02;
    /// The request is completed in HwStartIo, with sense data.
    pub const REFUSED: u8 = 0x03;
    /// The request is completed in HwBuildIo, with the length of the scatter/gather list as the
    /// number of transferred bytes.
    pub const LENGTH: u8 = 0x04;
    /// The request is dropped by mistake.
    pub const FORGOTTEN: u8 = 0x05;
    /// The miniport frees all its pool memory.
    pub const FREE: u8 = 0x06;
}

/// The state of an adapter.
pub struct Adapter<'a> {
    queues: Table<'a, Queue<'a>>,
    /// The numbers of interrupts and of started requests.
    interrupts: InterruptLocked<'a, Count>,
    flushes: StartIoLocked<'a, Flushes<'a>>,
    /// The number of runs of a threaded DPC.
    slow: DpcLocked<'a, Count>,
    registers: MappedRegisters<'a>,
    /// The physical address of memory shared with the device.
    shared: u64,
}

struct Queue<'a> {
    slots: DpcLocked<'a, Slots<'a>>,
    messages: MessageLocked<'a, Count>,
}

struct Slots<'a> {
    waiting: Table<'a, Option<(StartedSrb<'a>, u32)>>,
    count: usize,
}

/// The numbers of flushes and of resets, in any callback, and the memory that was allocated
/// last.
struct Flushes<'a> {
    count: Count,
    last: Option<Pool<'a, u64>>,
}

/// Two words that must be equal. They differ if a lock does not protect them.
#[derive(Default)]
struct Count(u64, u64);

impl Count {
    fn up(&mut self) {
        assert_eq!(self.0, self.1);
        self.0 += 1;
        self.1 += 1;
    }
}

/// The value that HwBuildIo passes to HwStartIo.
pub struct Prepared {
    opcode: u8,
    queue: usize,
    length: u32,
}

/// The miniport, with message locks or with one lock for all messages.
pub struct Keeper<const PER_MESSAGE: bool>;

storport::registered!(Keeper<true>: MessageInterrupt, ThreadedDpc, Timer, Work, StateChange);
storport::registered!(Keeper<false>: MessageInterrupt, ThreadedDpc, Timer, Work, StateChange);

/// Counts a flush, and replaces the old pool memory by new.
macro_rules! flush {
    ($adapter:ident, $cx:ident) => {
        let mut pool = $cx.allocate(3, |index| index as u64).ok();
        $adapter.flushes.with($cx, |flushes| {
            flushes.count.up();
            std::mem::swap(&mut flushes.last, &mut pool);
            let (_, held) = flushes.split();
            $adapter.interrupts.with(held, |interrupts| interrupts.up());
        });
        if let Some(before) = pool {
            assert_eq!(*before, [0, 1, 2]);
            $cx.free(before);
        }
    };
}

/// The limits of the miniports here.
pub const LIMITS: AdapterLimits = AdapterLimits {
    transfer_bytes: 4096,
    physical_breaks: 2,
    requests: (QUEUES * SLOTS) as u32,
    alignment_mask: 0,
    targets: 1,
    logical_units: 1,
    caches_data: false,
};

/// Names every optional callback of a [`Keeper`].
trait Named:
    Names<key::MessageInterrupt>
    + Names<key::ThreadedDpc>
    + Names<key::Timer>
    + Names<key::Work>
    + Names<key::StateChange>
{
}

impl Named for Keeper<true> {}
impl Named for Keeper<false> {}

impl<const PER_MESSAGE: bool> Miniport for Keeper<PER_MESSAGE>
where
    Self: Named,
{
    type Adapter<'a> = Adapter<'a>;
    type Request<'a> = Prepared;

    const TABLE_BYTES: usize = size_of::<[Queue<'static>; QUEUES]>()
        + QUEUES * size_of::<[Option<(StartedSrb<'static>, u32)>; SLOTS]>();
    const MESSAGE_LOCKS: MessageLocks = if PER_MESSAGE {
        MessageLocks::PerMessage
    } else {
        MessageLocks::Shared
    };

    fn find_adapter<'a>(
        cx: &mut FindAdapter<'_, 'a>,
    ) -> Result<(Configured<'a>, Adapter<'a>), NotFound> {
        let space = cx.pci_configuration().ok_or(NotFound::Absent)?;
        assert_eq!(space, [0xA5; 256]);
        let configured = cx.configure(&LIMITS).expect("limits");
        let queue = |cx: &mut FindAdapter<'_, 'a>, index| {
            let waiting = cx.table(SLOTS, |_, _| Some(None))?;
            Some(Queue {
                slots: cx.dpc_locked(Slots { waiting, count: 0 })?,
                messages: cx.message_locked(index as u32, Count::default()),
            })
        };
        let adapter = Adapter {
            queues: cx.table(QUEUES, queue).ok_or(NotFound::Unusable)?,
            interrupts: cx.interrupt_locked(Count::default()),
            flushes: cx.start_io_locked(Flushes {
                count: Count::default(),
                last: None,
            }),
            slow: cx
                .threaded_dpc_locked::<Self, _>(Count::default())
                .ok_or(NotFound::Unusable)?,
            registers: cx.map(0xFE00_0000).ok_or(NotFound::Unusable)?,
            shared: cx
                .uncached_extension(&configured, 64)
                .ok_or(NotFound::Unusable)?
                .into_parts()
                .physical,
        };
        Ok((configured, adapter))
    }

    fn initialize<'a>(adapter: &Adapter<'a>, cx: &mut Initialize<'_, 'a>) -> bool {
        cx.optimize(&Performance {
            channels: 2,
            ..Performance::default()
        });
        adapter.interrupts.open(cx).up();
        adapter.flushes.open(cx).count.up();
        for queue in &*adapter.queues {
            queue.slots.open(cx).count = 0;
            queue.messages.open(cx).up();
            queue.slots.issue(cx);
        }
        adapter.slow.issue(cx);
        adapter.registers.write_u32(8, 7);
        assert_ne!(adapter.shared, 0);
        adapter.registers.read_u32(8) == 7 && adapter.registers.read_u32(62) == u32::MAX
    }

    fn build_io<'a>(
        adapter: &Adapter<'a>,
        cx: &mut BuildIo<'_, 'a>,
        mut srb: Srb<'a>,
    ) -> Option<(Srb<'a>, Prepared)> {
        match srb.function() {
            Function::ExecuteScsi => {}
            Function::Flush => {
                flush!(adapter, cx);
                srb.succeed(0);
                return None;
            }
            _ => {
                srb.fail(storport::Failure::InvalidRequest);
                return None;
            }
        }
        let cdb = srb.cdb();
        let address = srb.address();
        let length = srb.data_length();
        let prepared = Prepared {
            opcode: cdb.first().copied().unwrap_or(0),
            queue: cdb.get(1).map_or(0, |byte| usize::from(*byte)) % QUEUES,
            length,
        };
        match prepared.opcode {
            opcode::ADDRESS => {
                let Address { path, target, lun } = address;
                let bytes = [path, target, lun];
                match cx.data_in(&mut srb) {
                    Ok(mut data) => {
                        let written = data.write(0, &bytes);
                        srb.succeed(written as u32);
                    }
                    Err(_) => srb.fail(storport::Failure::Error),
                }
                None
            }
            opcode::LENGTH => {
                let total = cx.scatter_gather(&srb).map_or(0, |list| {
                    list.elements().iter().map(storport::Element::length).sum()
                });
                srb.succeed(total);
                None
            }
            opcode::FREE => {
                let last = adapter.flushes.with(cx, |flushes| flushes.last.take());
                if let Some(pool) = last {
                    assert_eq!(*pool, [0, 1, 2]);
                    cx.free(pool);
                }
                srb.succeed(length);
                None
            }
            _ => Some((srb, prepared)),
        }
    }

    fn start_io<'a>(
        adapter: &Adapter<'a>,
        cx: &mut StartIo<'_, 'a>,
        srb: Srb<'a>,
        request: Prepared,
    ) {
        match request.opcode {
            opcode::REFUSED => return srb.check_condition(&[0x70, 0, 5]),
            opcode::FORGOTTEN => return,
            _ => {}
        }
        match cx.channels() {
            Channels::Concurrent(mut cx) => {
                adapter.flushes.with(&mut cx, |flushes| flushes.count.up());
            }
            Channels::Serial(mut cx) => adapter.flushes.open(&mut cx).count.up(),
        }
        let queue = &adapter.queues[request.queue];
        let refused = queue.slots.with(cx, |slots| {
            let Some(free) = slots.waiting.iter_mut().find(|slot| slot.is_none()) else {
                return Some(srb);
            };
            *free = Some((srb.started(), request.length));
            slots.count += 1;
            adapter.interrupts.with(slots, |interrupts| interrupts.up());
            None
        });
        if let Some(srb) = refused {
            srb.busy();
        }
        let ten = const { NonZero::new(10).unwrap() };
        assert_eq!(cx.request_timer::<Self>(ten).is_ok(), !cx.is_dump());
    }

    fn interrupt<'a>(adapter: &Adapter<'a>, cx: &mut Interrupt<'_, 'a>) -> Interrupted {
        adapter.interrupts.open(cx).up();
        for queue in &*adapter.queues {
            queue.slots.issue(cx);
        }
        Interrupted::Ours
    }

    fn dpc<'a>(adapter: &Adapter<'a>, cx: &mut Dpc<'_, 'a>) {
        let queue = &adapter.queues[cx.number().index()];
        let mut done = [const { None }; SLOTS];
        let taken = queue.slots.with_at_dpc_level(cx, |slots| {
            for (slot, done) in slots.waiting.iter_mut().zip(&mut done) {
                *done = slot.take();
            }
            slots.count = 0;
            let (_, held) = slots.split();
            queue.messages.with(held, |messages| messages.up());
            adapter
                .interrupts
                .synchronize(held, |interrupts| interrupts.up());
        });
        taken.expect("the lock");
        adapter.slow.issue(cx);
        for (srb, length) in done.into_iter().flatten() {
            srb.succeed(length);
            // This fails if a stop has begun.
            let _: Result<(), StorStatus> = cx.queue_work::<Self>(7);
        }
    }

    fn reset_bus<'a>(adapter: &Adapter<'a>, cx: &mut ResetBus<'_, 'a>) -> bool {
        adapter.flushes.open(cx).count.up();
        for queue in &*adapter.queues {
            queue.slots.with(cx, |slots| {
                slots.count = 0;
                for (srb, _) in slots.waiting.iter_mut().filter_map(Option::take) {
                    srb.fail(storport::Failure::BusReset);
                }
            });
        }
        true
    }

    fn stop<'a>(_: &Adapter<'a>, _: &mut Stop<'_, 'a>) {}

    fn restart<'a>(adapter: &Adapter<'a>, cx: &mut Restart<'_, 'a>) -> bool {
        adapter.flushes.open(cx).count.up();
        adapter.slow.open(cx).up();
        adapter
            .queues
            .iter()
            .all(|queue| queue.slots.open(cx).waiting.iter().all(Option::is_none))
    }
}

impl<const PER_MESSAGE: bool> callback::MessageInterrupt for Keeper<PER_MESSAGE>
where
    Self: Named,
{
    fn message_interrupt<'a>(
        adapter: &Adapter<'a>,
        cx: &mut MessageInterrupt<'_, 'a>,
    ) -> Interrupted {
        let index = cx.message() as usize;
        let queue = &adapter.queues[index];
        queue.messages.open_in(cx).expect("its own lock").up();
        let other = &adapter.queues[(index + 1) % QUEUES];
        assert_eq!(other.messages.open_in(cx).is_some(), !PER_MESSAGE);
        if let Some(interrupts) = adapter.interrupts.open_in(cx) {
            interrupts.up();
        }
        queue.slots.issue(cx);
        Interrupted::Ours
    }
}

impl<const PER_MESSAGE: bool> callback::ThreadedDpc for Keeper<PER_MESSAGE>
where
    Self: Named,
{
    fn threaded_dpc<'a>(adapter: &Adapter<'a>, cx: &mut ThreadedDpc<'_, 'a>) {
        let taken = adapter.slow.with_in_threaded_dpc(cx, |slow| slow.up());
        taken.expect("the lock");
        flush!(adapter, cx);
    }
}

impl<const PER_MESSAGE: bool> callback::Timer for Keeper<PER_MESSAGE>
where
    Self: Named,
{
    fn timer<'a>(adapter: &Adapter<'a>, cx: &mut Timer<'_, 'a>) {
        adapter.flushes.open(cx).count.up();
        adapter.slow.with(cx, |slow| {
            slow.up();
            adapter.interrupts.with(slow, |interrupts| interrupts.up());
        });
    }
}

impl<const PER_MESSAGE: bool> callback::Work for Keeper<PER_MESSAGE>
where
    Self: Named,
{
    fn work<'a>(adapter: &Adapter<'a>, cx: &mut Work<'_, 'a>) {
        assert_eq!(cx.argument(), 7);
        flush!(adapter, cx);
        let address = Address {
            path: 1,
            target: 2,
            lun: 3,
        };
        // This fails while another change is being reported.
        let _: Result<(), StorStatus> = cx.report_change::<Self>(Changed::Target(address));
    }
}

impl<const PER_MESSAGE: bool> callback::StateChange for Keeper<PER_MESSAGE>
where
    Self: Named,
{
    fn state_changed<'a>(adapter: &Adapter<'a>, cx: &mut StateChange<'_, 'a>) {
        assert!(matches!(cx.changed(), Changed::Target(address) if address.target == 2));
        assert!(cx.is_handled());
        adapter.flushes.open(cx).count.up();
    }
}
