//! HwFindAdapter: from a PCI function to a disk that can be told about.
//!
//! The device runs once, without interrupts, to say its id: that must be known
//! before the first INQUIRY. Then it is reset, and stays so until
//! HwInitialize.

use scsi::{
    Alignment, BlockSize, Blocks, Capacity, Disk, Sectors, Serial, TransferLimits, WriteCache,
};
use storport::{AdapterLimits, Configured, Context, FindAdapter, NotFound};
use virtio::{
    blk::{self, Config, Identity, Limits, Requests, choose_features},
    pci::{ConfigImage, Layout, Location, memory_bar},
    queue_size::QueueSize,
    slots::SlotAllocator,
    spec::F,
    split_queue::{self, SplitQueue},
    transport::{Device, Windows},
};

use crate::{
    adapter::Adapter,
    device::Stage,
    platform::{Window, shared_memory},
    queue::{Owner, Queue},
};

/// The most of a structure that is mapped: none is longer (VIRTIO 1.3, 4.1.4).
const LONGEST_STRUCTURE: u32 = 4096;

/// Descriptors of a slot's table.
const TABLE_ENTRIES: u16 = 256;

/// Descriptors of the ring in dump mode, which bound those of a request: enough
/// for 64 KiB in scattered pages.
pub const DUMP_QUEUE: u16 = 32;

/// Slots in dump mode: one request at a time, in little memory (rule book 6,
/// D4).
const DUMP_SLOTS: u16 = 1;

/// Looks for the disk's id, and microseconds between them: a second in all.
const ID_LOOKS: u32 = 10_000;
const ID_PAUSE: u32 = 100;

/// What the device says of itself before it has any memory.
struct Survey {
    accepted: F,
    config: Config,
    limits: Limits,
    size: QueueSize,
    slots: QueueSize,
}

/// Finds the disk.
///
/// # Errors
/// Why there is none to use.
pub fn find<'a>(cx: &mut FindAdapter<'_, 'a>) -> Result<(Configured<'a>, Adapter<'a>), NotFound> {
    let image = cx.pci_configuration().ok_or(NotFound::BadConfiguration)?;
    let layout = Layout::parse(&image).map_err(unusable)?;
    let device = map(cx, &image, &layout)?;
    let (isr, silencer) = (device.isr(), device.silencer());
    let (stage, survey) = survey(cx, device)?;
    let Survey {
        accepted,
        config,
        limits,
        size,
        slots,
    } = survey;
    let configured = cx.configure(&AdapterLimits {
        transfer_bytes: limits.max_transfer,
        physical_breaks: u32::from(limits.max_segments),
        requests: u32::from(limits.queue_depth.min(slots.get())),
        // A device takes data from any address (VIRTIO 1.3, 2.7.4).
        alignment_mask: 0,
        targets: 1,
        logical_units: 1,
        caches_data: config.flush,
    });

    let bytes = Requests::memory_needed(slots, &limits)
        .checked_add(split_queue::memory_needed(size))
        .and_then(|bytes| u32::try_from(bytes).ok())
        .ok_or(NotFound::Unusable)?;
    let extension = cx
        .uncached_extension(&configured, bytes)
        .ok_or(NotFound::Unusable)?;
    let mut memory = shared_memory(&extension).map_err(unusable)?;
    let requests = Requests::new(&mut memory, slots, &config, &limits).map_err(unusable)?;
    let flights = cx
        .table(usize::from(size.get()), |_, _| Some(None))
        .ok_or(NotFound::Unusable)?;
    let ring = SplitQueue::new(&mut memory, size, accepted, flights).map_err(unusable)?;
    let mut queue = Queue::new(ring);
    let slots = SlotAllocator::new(slots);

    let (stage, id) = ask_identity(cx, stage, accepted, &mut queue, &requests, &slots);
    let stage = stage.reset(|microseconds| cx.stall(microseconds));
    let quiet = stage.quiet().ok_or(NotFound::Unusable)?;
    queue.reclaim(quiet, |slot, _| slots.release(slot));

    let disk = describe(&config, &limits, id.as_ref()).ok_or(NotFound::Unusable)?;
    let adapter = Adapter {
        queue: cx.dpc_locked(queue).ok_or(NotFound::Unusable)?,
        device: cx.start_io_locked(stage),
        vector: cx.start_io_locked(None),
        isr,
        silencer,
        accepted,
        processors: cx.processors(),
        slots,
        requests,
        config,
        disk,
    };
    Ok((configured, adapter))
}

/// All that HwFindAdapter can say of any of these errors.
fn unusable<E>(_: E) -> NotFound {
    NotFound::Unusable
}

/// Maps the device's structures.
fn map<'a>(
    cx: &mut FindAdapter<'_, 'a>,
    image: &ConfigImage,
    layout: &Layout,
) -> Result<Device<Window<'a>>, NotFound> {
    let mut window = |location: Location| {
        let bar = cx.map(memory_bar(image, location.bar).ok()?)?;
        let inside = location.within(u64::try_from(bar.length()).ok()?, LONGEST_STRUCTURE)?;
        let start = usize::try_from(inside.start).ok()?;
        let length = usize::try_from(inside.end).ok()?.checked_sub(start)?;
        bar.part(start, length).map(Window)
    };
    let mut map = |location| window(location).ok_or(NotFound::Unusable);
    let windows = Windows {
        common: map(layout.common)?,
        notify: map(layout.notify)?,
        isr: map(layout.isr)?,
        device: map(layout.device)?,
    };
    Device::new(layout, windows).map_err(unusable)
}

/// Asks the device what it is, and resets it.
fn survey<'a>(
    cx: &FindAdapter<'_, 'a>,
    device: Device<Window<'a>>,
) -> Result<(Stage<'a>, Survey), NotFound> {
    let stall = |microseconds| cx.stall(microseconds);
    let Stage::Reset(device) = Stage::Unknown(device).reset(stall) else {
        return Err(NotFound::Unusable);
    };
    let device = device.acknowledge().map_err(unusable)?;
    let accepted = choose_features(device.offered()).map_err(unusable)?;
    let mut device = device.accept(accepted).map_err(unusable)?;
    let config = Config::read(device.config(), accepted).map_err(unusable)?;
    let largest = if cx.is_dump() {
        QueueSize::new(DUMP_QUEUE).ok_or(NotFound::Unusable)?
    } else {
        QueueSize::Q256
    };
    let size = device.find_queue(0, largest).map_err(unusable)?.size();
    let slots = if cx.is_dump() {
        QueueSize::new(DUMP_SLOTS).ok_or(NotFound::Unusable)?
    } else {
        size
    };
    let limits = blk::limits(&config, size, TABLE_ENTRIES).map_err(unusable)?;
    let stage = Stage::Unknown(device.give_up()).reset(stall);
    Ok((
        stage,
        Survey {
            accepted,
            config,
            limits,
            size,
            slots,
        },
    ))
}

/// Lets the device run to ask for its id; nothing if it has none to give.
fn ask_identity<'a>(
    cx: &FindAdapter<'_, 'a>,
    stage: Stage<'a>,
    accepted: F,
    queue: &mut Queue<'a>,
    requests: &Requests<'a>,
    slots: &SlotAllocator,
) -> (Stage<'a>, Option<Identity>) {
    let (stage, doorbell) = stage.start(accepted, queue.ring(), None);
    let id = doorbell.and_then(|doorbell| {
        queue.run(doorbell);
        let prepared = requests.identify(slots.reserve()?).ok()?;
        if let Some(doorbell) = queue.publish(prepared, Owner::Driver).ok()? {
            doorbell.ring();
        }
        for _ in 0..ID_LOOKS {
            if let Some(used) = queue.take_one() {
                let id = requests.identity(&used).ok();
                slots.release(used.slot);
                return id;
            }
            cx.stall(ID_PAUSE);
        }
        None
    });
    (stage, id)
}

/// What initiators are told.
fn describe(config: &Config, limits: &Limits, id: Option<&Identity>) -> Option<Disk> {
    let block_size = BlockSize::new(config.block_size.bytes())?;
    let maximum = limits.max_transfer.checked_div(block_size.bytes())?;
    let alignment = config.topology.and_then(|topology| {
        Alignment::new(
            topology.physical_block_exponent,
            u16::from(topology.alignment_offset),
        )
    });
    let mut serial = [0; blk::IDENTITY];
    for (place, byte) in serial
        .iter_mut()
        .zip(id.map_or(&[][..], Identity::as_bytes))
    {
        *place = *byte;
    }
    Some(Disk {
        capacity: Capacity::new(Sectors(config.capacity.0), block_size)?,
        alignment: alignment.unwrap_or_default(),
        limits: TransferLimits {
            maximum: Blocks(u64::from(maximum)),
            optimal: Blocks(
                config
                    .topology
                    .map_or(0, |topology| u64::from(topology.opt_io_size)),
            ),
            granularity: Blocks(
                config
                    .topology
                    .map_or(0, |topology| u64::from(topology.min_io_size)),
            ),
        },
        write_cache: match (config.flush, config.write_cache) {
            (false, _) => WriteCache::Absent,
            (true, blk::WriteCache::WriteThrough) => WriteCache::Disabled,
            (true, blk::WriteCache::WriteBack) => WriteCache::Enabled,
        },
        // A write that is forced to the medium is a write and a flush, which
        // initiators ask for themselves.
        dpo_fua: false,
        read_only: config.read_only,
        identity: scsi::Identity {
            vendor: *b"VIRTIO  ",
            product: *b"Ferrostor Disk  ",
            revision: *b"0001",
            serial: Serial::new(&serial),
        },
    })
}
