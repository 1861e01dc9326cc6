//! A miniport that keeps requests in queues, and completes them when its device interrupts. It has
//! a table, registers, memory shared with the device, and pool memory that outlives a callback.

use std::num::NonZero;

use storport::{
    AdapterLimits, Address, BuildIo, Channels, Configured, Dpc, DpcLocked, FindAdapter, Function,
    Initialize, Interrupt, InterruptLocked, Interrupted, MappedRegisters, MessageLocked,
    MessageLocks, Miniport, NotFound, Performance, Pool, ResetBus, Restart, Srb, StartIo,
    StartIoLocked, StartedSrb, Stop, Table, Timer, callback,
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
    interrupts: InterruptLocked<'a, Pair>,
    flushes: StartIoLocked<'a, Flushes<'a>>,
    registers: MappedRegisters<'a>,
    /// The physical address of memory shared with the device.
    shared: u64,
}

struct Queue<'a> {
    slots: DpcLocked<'a, Table<'a, Option<(StartedSrb<'a>, u32)>>>,
    messages: MessageLocked<'a, Pair>,
}

/// The numbers of flushes and of resets, in any callback, and the memory that was allocated
/// last.
struct Flushes<'a> {
    count: Pair,
    last: Option<Pool<'a, u64>>,
}

/// Two words that must be equal. They differ if a lock does not protect them.
#[derive(Default)]
pub struct Pair(u64, u64);

impl Pair {
    pub fn up(&mut self) {
        assert_eq!(self.0, self.1, "two were inside one lock");
        self.0 += 1;
        std::thread::yield_now();
        self.1 += 1;
    }
}

/// The value that HwBuildIo passes to HwStartIo.
pub struct Prepared {
    opcode: u8,
    queue: usize,
    length: u32,
}

/// The miniport.
pub struct Keeper;

storport::registered!(Keeper: Timer);

/// The callbacks of a miniport whose device does nothing.
macro_rules! idle {
    () => {
        fn initialize<'a>(_: &Self::Adapter<'a>, _: &mut storport::Initialize<'_, 'a>) -> bool {
            true
        }

        fn interrupt<'a>(
            _: &Self::Adapter<'a>,
            _: &mut storport::Interrupt<'_, 'a>,
        ) -> storport::Interrupted {
            storport::Interrupted::NotOurs
        }

        fn dpc<'a>(_: &Self::Adapter<'a>, _: &mut storport::Dpc<'_, 'a>) {}

        fn reset_bus<'a>(_: &Self::Adapter<'a>, _: &mut storport::ResetBus<'_, 'a>) -> bool {
            true
        }

        fn stop<'a>(_: &Self::Adapter<'a>, _: &mut storport::Stop<'_, 'a>) {}

        fn restart<'a>(_: &Self::Adapter<'a>, _: &mut storport::Restart<'_, 'a>) -> bool {
            true
        }
    };
}
pub(crate) use idle;

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

impl Miniport for Keeper {
    type Adapter<'a> = Adapter<'a>;
    type Request<'a> = Prepared;

    const TABLE_BYTES: usize = size_of::<[Queue<'static>; QUEUES]>()
        + QUEUES * size_of::<[Option<(StartedSrb<'static>, u32)>; SLOTS]>();
    const MESSAGE_LOCKS: MessageLocks = MessageLocks::PerMessage;

    fn find_adapter<'a>(
        cx: &mut FindAdapter<'_, 'a>,
    ) -> Result<(Configured<'a>, Adapter<'a>), NotFound> {
        let space = cx.pci_configuration().ok_or(NotFound::Absent)?;
        assert_eq!(space, [0xA5; 256]);
        let configured = cx.configure(&LIMITS).expect("limits");
        let queue = |cx: &mut FindAdapter<'_, 'a>, index| {
            let slots = cx.table(SLOTS, |_, _| Some(None))?;
            Some(Queue {
                slots: cx.dpc_locked(slots)?,
                messages: cx.message_locked(index as u32, Pair::default()),
            })
        };
        let adapter = Adapter {
            queues: cx.table(QUEUES, queue).ok_or(NotFound::Unusable)?,
            interrupts: cx.interrupt_locked(Pair::default()),
            flushes: cx.start_io_locked(Flushes {
                count: Pair::default(),
                last: None,
            }),
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
        cx.optimize(
            &Performance {
                channels: 2,
                ..Performance::default()
            },
            &mut [],
        );
        adapter.interrupts.open(cx).up();
        adapter.flushes.open(cx).count.up();
        for queue in &*adapter.queues {
            assert_eq!(queue.slots.open(cx).len(), SLOTS);
            queue.messages.open(cx).up();
            queue.slots.issue(cx);
        }
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
                let pool = cx.allocate(3, |index| index as u64).ok();
                let before = adapter.flushes.with(cx, |flushes| {
                    flushes.count.up();
                    std::mem::replace(&mut flushes.last, pool)
                });
                if let Some(before) = before {
                    cx.free(before);
                }
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
            let Some(free) = slots.iter_mut().find(|slot| slot.is_none()) else {
                return Some(srb);
            };
            *free = Some((srb.started(), request.length));
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
            for (slot, done) in slots.iter_mut().zip(&mut done) {
                *done = slot.take();
            }
            let (_, held) = slots.split();
            queue.messages.with(held, |messages| messages.up());
            adapter
                .interrupts
                .synchronize(held, |interrupts| interrupts.up());
        });
        taken.expect("the lock");
        for (srb, length) in done.into_iter().flatten() {
            srb.succeed(length);
        }
    }

    fn reset_bus<'a>(adapter: &Adapter<'a>, cx: &mut ResetBus<'_, 'a>) -> bool {
        adapter.flushes.open(cx).count.up();
        for queue in &*adapter.queues {
            queue.slots.with(cx, |slots| {
                for (srb, _) in slots.iter_mut().filter_map(Option::take) {
                    srb.fail(storport::Failure::BusReset);
                }
            });
        }
        true
    }

    fn stop<'a>(_: &Adapter<'a>, _: &mut Stop<'_, 'a>) {}

    fn restart<'a>(adapter: &Adapter<'a>, cx: &mut Restart<'_, 'a>) -> bool {
        adapter.flushes.open(cx).count.up();
        adapter
            .queues
            .iter()
            .all(|queue| queue.slots.open(cx).iter().all(Option::is_none))
    }
}

impl callback::Timer for Keeper {
    fn timer<'a>(adapter: &Adapter<'a>, cx: &mut Timer<'_, 'a>) {
        adapter.flushes.open(cx).count.up();
    }
}
