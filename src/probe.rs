//! HwFindAdapter: finds the disk behind a PCI function.
//!
//! The driver needs the disk's identity before the first INQUIRY. So it starts the device
//! here, without interrupts, and asks for the identity. Then it resets the device, which
//! stays reset until HwPassiveInitialize (in a dump stack, HwInitialize). HwFindAdapter may
//! wait for the device: it runs at PASSIVE_LEVEL, or in a dump stack, where nothing else
//! runs.
//!
//! That start is the last step that can fail, because the device may still have the driver's
//! memory afterwards: see [`ask_identity`].

use core::{
    ops::DerefMut,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU16},
};

use scsi::{Disk, Serial, WriteCacheState};
use storport::{AdapterLimits, Configured, FindAdapter, LimitsError, MappedRegisters};
use virtio::{
    blk::{self, Config, IDENTITY, Limits, Requests, Room, choose_features},
    dma::DmaMemory,
    pci::{ConfigImage, Layout, Location, Structure, memory_bar},
    queue::{self, RingFault, VirtQueue, format::QueueFormat},
    queue_size::QueueSize,
    slots::{SlotAllocator, SlotSize},
    transport::{Device, Failed, Features, Negotiated, Reset, ResetFailure, Windows},
};

use crate::{
    device::{Life, POLL, Stage, TICK, enable_queue, start_device},
    driver::{Adapter, MAX_QUEUES, PROCESSORS},
    error::{Error, QueueFault},
    io::{Notifying, Queue, RequestQueue, ShortUsed},
    registers::{Window, shared_memory},
};

/// The maximum number of descriptors of a ring without indirect descriptors, which is the
/// maximum of the specification.
const LARGEST_QUEUE: u16 = 32768;

/// The maximum number of descriptors of the ring for the request for the disk's identity, and of
/// the ring in dump mode, and so of a request's table. It is enough for 64 KiB in scattered pages.
const SMALL_QUEUE: u16 = 32;

/// The number of slots in dump mode. There is one request at a time, and little memory
/// (storport-rules.md D4).
pub const DUMP_SLOTS: u16 = 1;

/// How long the device may take to confirm a reset.
pub const RESET_MILLISECONDS: u32 = 1000;

/// How often the driver polls the queue for the disk's identity, and the pause after each
/// poll in microseconds: a second in all.
const IDENTITY_LOOKS: u32 = 10_000;
const IDENTITY_PAUSE: u32 = 100;

/// What the driver reads from the device before it gives it any memory.
struct Survey {
    accepted: Features,
    config: Config,
    limits: Limits,
    /// The limits of the request for the disk's identity.
    identity: Limits,
    queues: u16,
}

/// Finds the disk.
///
/// Not inlined: an `Adapter` has some kilobytes. Each copy of it must be in a stack frame of
/// its own, so that every frame of the driver stays below a page.
///
/// # Errors
/// Why the adapter cannot be used.
#[inline(never)]
pub fn find<'a>(cx: &mut FindAdapter<'_, 'a>) -> Result<(Configured<'a>, Adapter<'a>), Error> {
    let image = cx.pci_configuration().ok_or(Error::ConfigurationSpace)?;
    let layout = Layout::parse(&image).map_err(Error::from)?;
    let device = map(cx, &image, &layout)?;
    let (isr, status) = (device.isr(), device.status_register());
    let (device, survey) = survey(cx, &layout, device)?;
    let Survey {
        accepted,
        config,
        limits,
        identity,
        queues,
    } = survey;
    let slots = limits.shape.slots().get();
    let configured = cx
        .configure(&AdapterLimits {
            transfer_bytes: limits.max_transfer,
            physical_breaks: u32::from(limits.max_segments),
            requests: u32::from(slots).saturating_mul(queues.into()),
            // A device accepts data at any address (VIRTIO 1.3 §2.7.4).
            alignment_mask: 0,
            targets: 1,
            logical_units: 1,
            caches_data: config.has_flush(),
        })
        .map_err(limit_too_small)?;

    let bytes = memory_needed(&limits)
        .saturating_mul(queues.into())
        .saturating_add(memory_needed(&identity));
    let out_of_memory = || Error::OutOfMemory {
        bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
    };
    let extension = u32::try_from(bytes)
        .ok()
        .and_then(|bytes| cx.uncached_extension(&configured, bytes))
        .ok_or_else(out_of_memory)?;
    let memory = &mut shared_memory(extension).map_err(|_| out_of_memory())?;
    let queues = cx
        .table(queues.into(), |cx, number| {
            make_queue(cx, memory, number, &config, &limits)
        })
        .ok_or_else(out_of_memory)?
        .share();
    let first = queues.first().ok_or_else(out_of_memory)?;
    let attention = cx.dpc_locked(()).ok_or_else(out_of_memory)?;
    let in_flight = &mut [None][..];
    let (ring, requests) =
        make_ring(memory, 0, &config, &identity, in_flight).ok_or_else(out_of_memory)?;
    // Nothing fails after this.
    let (stage, identity) = ask_identity(cx, device, accepted, ring, &requests)?;
    let adapter = Adapter {
        queues,
        first,
        active: AtomicU16::new(1),
        queue_numbers: [const { AtomicU8::new(0) }; PROCESSORS],
        attention,
        life: cx.start_io_locked(Life::new(stage, accepted)),
        isr,
        status,
        disk: describe(&config, &limits, &identity),
        short_used: ShortUsed::default(),
        waits: AtomicBool::new(false),
        stopped: AtomicBool::new(false),
        starting: AtomicBool::new(false),
        unclocked_step: if cx.is_dump() { POLL } else { TICK },
        processors: cx.processors(),
    };
    Ok((configured, adapter))
}

/// The shared memory for a ring and its requests.
fn memory_needed(limits: &Limits) -> usize {
    Requests::memory_needed(limits).saturating_add(queue::memory_needed(limits.shape))
}

/// Makes a ring and the memory of its requests. Returns `None` if there is not enough memory.
fn make_ring<'a, P, T>(
    memory: &mut DmaMemory<'a>,
    number: u16,
    config: &Config,
    limits: &Limits,
    in_flight: T,
) -> Option<(VirtQueue<'a, T>, Requests<'a>)>
where
    T: DerefMut<Target = [Option<P>]>,
{
    let requests = Requests::new(memory, config, limits).ok()?;
    let tables = requests.tables();
    let ring = VirtQueue::new(memory, number, limits.shape, tables, in_flight).ok()?;
    Some((ring, requests))
}

/// Makes queue `number`. Returns `None` if there is not enough memory, or no DPC object.
#[inline(never)]
fn make_queue<'a>(
    cx: &mut FindAdapter<'_, 'a>,
    memory: &mut DmaMemory<'a>,
    number: usize,
    config: &Config,
    limits: &Limits,
) -> Option<RequestQueue<'a>> {
    let number = u16::try_from(number).ok()?;
    let in_flight = cx.table(limits.shape.slots().get().into(), |_, _| Some(None))?;
    let slots = cx.table(1, |_, _| Some(limits.slot_allocator(number)))?;
    let slots = slots.share().first()?;
    let (ring, requests) = make_ring(memory, number, config, limits, in_flight)?;
    Some(RequestQueue {
        locked: cx.dpc_locked(Queue::new(ring))?,
        slots,
        notifying: Notifying::default(),
        requests,
    })
}

/// The limit of the device that leads to a limit that Storport cannot take.
fn limit_too_small(error: LimitsError) -> Error {
    let (name, value) = match error {
        LimitsError::TransferBytes(bytes) => ("transfer length", bytes.into()),
        LimitsError::PhysicalBreaks => ("seg_max", 0),
        LimitsError::Requests => ("queue_size", 0),
        LimitsError::AlignmentMask(mask) => ("alignment mask", mask.into()),
        LimitsError::Targets => ("targets", 0),
        LimitsError::LogicalUnits => ("logical units", 0),
    };
    Error::LimitTooSmall {
        name,
        value,
        needed: 1,
    }
}

/// Maps the device's structures.
fn map<'a>(
    cx: &mut FindAdapter<'_, 'a>,
    image: &ConfigImage,
    layout: &Layout,
) -> Result<Device<Window<'a>>, Error> {
    let mut map = |structure: Structure, location: Location| {
        let bar = memory_bar(image, location.bar)
            .ok()
            .and_then(|start| cx.map(start))
            .ok_or(Error::BarNotMapped {
                bar: location.bar,
                length: u64::from(location.offset).saturating_add(u64::from(location.length)),
            })?;
        window(&bar, location).ok_or(Error::from(virtio::Error::WindowShort {
            structure,
            length: 0,
        }))
    };
    let windows = Windows {
        common: map(Structure::Common, layout.common)?,
        notify: map(Structure::Notify, layout.notify)?,
        isr: map(Structure::Isr, layout.isr)?,
        device: map(Structure::Device, layout.device)?,
    };
    Ok(Device::new(layout, windows)?)
}

/// Returns the part of a mapped BAR that contains a structure. Returns `None` if no byte of
/// the structure lies inside the BAR.
fn window<'a>(bar: &MappedRegisters<'a>, location: Location) -> Option<Window<'a>> {
    let inside = location.within(u64::try_from(bar.length()).ok()?)?;
    let start = usize::try_from(inside.start).ok()?;
    let length = usize::try_from(inside.end).ok()?.checked_sub(start)?;
    bar.part(start, length).map(Window)
}

/// Resets the device and waits for the confirmation.
///
/// # Errors
/// The device is gone, or has not confirmed the reset in time.
fn reset<'a, S>(
    cx: &FindAdapter<'_, 'a>,
    device: Device<Window<'a>, S>,
) -> Result<Device<Window<'a>, Reset>, ResetFailure<Window<'a>>> {
    device.reset(RESET_MILLISECONDS, || cx.stall(1000))
}

/// Negotiates the features, reads the device's limits, and resets the device.
#[inline(never)]
fn survey<'a>(
    cx: &mut FindAdapter<'_, 'a>,
    layout: &Layout,
    device: Device<Window<'a>>,
) -> Result<(Device<Window<'a>, Reset>, Survey), Error> {
    let mut offered = 0;
    let refused = |failed: Failed<Window<'a>>, offered| {
        // The failed step has set the status bit FAILED already.
        let error = failed.error;
        Error::Device { error, offered }
    };
    let device = reset(cx, device)?
        .acknowledge()
        .map_err(|failed| refused(failed, offered))?;
    offered = Features::from(device.offered()).bits();
    let accepted = choose_features(device.offered());
    let mut device = device
        .accept(accepted)
        .map_err(|failed| refused(failed, offered))?;
    let queues = if cx.is_dump() || !cx.has_messages() {
        1
    } else {
        // Each queue needs a message of its own, and one is for configuration changes.
        let messages = layout.msix_vectors.saturating_sub(1).clamp(1, MAX_QUEUES);
        messages.min(u16::try_from(cx.processors()).unwrap_or(u16::MAX))
    };
    match ask_limits(&mut device, offered, cx.is_dump(), queues) {
        Ok(survey) => Ok((reset(cx, device)?, survey)),
        Err(error) => {
            let _: Device<Window<'a>> = device.give_up();
            Err(error)
        }
    }
}

/// Reads the disk's configuration and the sizes of its queues.
fn ask_limits(
    device: &mut Device<Window<'_>, Negotiated>,
    offered: u64,
    is_dump: bool,
    most_queues: u16,
) -> Result<Survey, Error> {
    let unusable = |error| Error::Device { error, offered };
    let accepted = device.accepted();
    let config = Config::read(device.config(), accepted).map_err(unusable)?;
    let offered_queues = config.queues.min(device.queues());
    let mut queues = most_queues.min(offered_queues).max(1);
    let format = QueueFormat::of(accepted);
    let largest = if is_dump {
        SMALL_QUEUE
    } else if format.is_indirect {
        QueueSize::Q256.get()
    } else {
        // A request has all its descriptors in the ring.
        LARGEST_QUEUE
    };
    let mut size = QueueSize::new(largest).unwrap_or(QueueSize::ONE);
    size = device.find_queue(0, size).map_err(unusable)?.size();
    for number in 1..queues {
        match device.probe_queue(number, size) {
            // All queues have the size of the smallest one.
            Ok(found) => size = found.size(),
            // The queues before it are enough.
            Err(_) => {
                queues = number;
                break;
            }
        }
    }
    let mut room = Room::of_each(queues);
    if is_dump {
        room.slots = QueueSize::new(DUMP_SLOTS).unwrap_or(QueueSize::ONE);
    }
    let limits = blk::limits(&config, format, size, room).map_err(unusable)?;
    room.slots = QueueSize::ONE;
    let small = size.min(QueueSize::new(SMALL_QUEUE).unwrap_or(size));
    let identity = blk::limits(&config, format, small, room).map_err(unusable)?;
    Ok(Survey {
        accepted: accepted.into(),
        config,
        limits,
        identity,
        queues,
    })
}

/// How often the device may break the protocol while it is asked for the disk's
/// identity.
const IDENTITY_ATTEMPTS: u32 = 3;

/// The ring for the request for the disk's identity. The request has slot 0 and no payload.
///
/// No other ring has its memory. So the device may still have the request after a reset that it
/// did not confirm.
type IdentityRing<'a, 't> = VirtQueue<'a, &'t mut [Option<()>]>;

/// The identity of a disk that does not return one.
const NO_IDENTITY: [u8; IDENTITY] = [0; IDENTITY];

/// Starts the device, asks for the disk's identity, and resets the device.
///
/// If the device does not confirm the reset, it may still access the ring. HwFindAdapter must
/// not fail then, because Windows would free the ring's memory. So the device is returned while
/// it is being reset.
///
/// # Errors
/// The device is gone, cannot be started, or violates the protocol each time. It accesses no
/// memory.
#[inline(never)]
fn ask_identity<'a>(
    cx: &FindAdapter<'_, 'a>,
    mut device: Device<Window<'a>, Reset>,
    accepted: Features,
    mut ring: IdentityRing<'a, '_>,
    requests: &Requests<'a>,
) -> Result<(Stage<'a>, [u8; IDENTITY]), Error> {
    let slots = &SlotAllocator::new(0, QueueSize::ONE, 0);
    let mut attempts_left = IDENTITY_ATTEMPTS;
    loop {
        let mut enabled = None;
        let started = start_device(device, accepted, |device| {
            enabled = Some(enable_queue(device, 0, ring.placement(), None)?);
            Ok(())
        });
        let (resetting, identity) = match (started, enabled) {
            (Ok(live), Some(enabled)) => {
                let notifier = live.notifier(enabled);
                let notify = || notifier.notify();
                let identity = poll_identity(cx, &mut ring, requests, slots, notify);
                let identity =
                    identity.map_err(|fault| Error::Violation(QueueFault { queue: 0, fault }));
                (live.begin_reset(), identity)
            }
            // A device that was started has a queue.
            (Ok(live), None) => (live.begin_reset(), Ok(NO_IDENTITY)),
            (Err((resetting, error)), _) => (resetting, Err(error)),
        };
        device = match resetting.wait(RESET_MILLISECONDS, || cx.stall(1000)) {
            Ok(device) => device,
            Err(ResetFailure::Removed(_)) => return Err(virtio::Error::Gone.into()),
            Err(ResetFailure::Stuck { device, .. }) => {
                let identity = identity.unwrap_or(NO_IDENTITY);
                return Ok((Stage::Resetting(device), identity));
            }
        };
        // Frees the slot of a request that the device did not answer.
        while ring.reclaim(device.quiet(), slots).is_some() {}
        attempts_left = attempts_left.saturating_sub(1);
        match identity {
            Ok(identity) => return Ok((Stage::Reset(device), identity)),
            // A single protocol violation is no reason to go without the disk.
            Err(Error::Violation(_)) if attempts_left > 0 => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sends the request for the disk's identity, and polls for the answer. Returns zeros if the
/// device does not answer, or fails the request.
///
/// # Errors
/// The protocol violation by the device.
fn poll_identity(
    cx: &FindAdapter<'_, '_>,
    ring: &mut IdentityRing<'_, '_>,
    requests: &Requests<'_>,
    slots: &SlotAllocator,
    notify: impl Fn(),
) -> Result<[u8; IDENTITY], RingFault> {
    ring.check_used()?;
    // No interrupt routine is connected yet, and another device may share the pin.
    ring.suppress_interrupts();
    let prepared = slots
        .reserve(SlotSize::Small)
        .and_then(|slot| requests.identify(slots, slot).ok());
    let Some(prepared) = prepared else {
        return Ok(NO_IDENTITY);
    };
    if ring.publish(slots, prepared, (), |()| ()).is_err() {
        return Ok(NO_IDENTITY);
    }
    if ring.notification_needed() {
        notify();
    }
    for _ in 0..IDENTITY_LOOKS {
        if let Some(used) = ring.pop_used()? {
            let identity = requests.identity(&used.slot);
            ring.release(slots, used.slot);
            return Ok(identity.unwrap_or(NO_IDENTITY));
        }
        cx.stall(IDENTITY_PAUSE);
    }
    Ok(NO_IDENTITY)
}

/// Describes the disk for the `scsi` crate.
#[inline(never)]
fn describe(config: &Config, limits: &Limits, identity: &[u8; IDENTITY]) -> Disk {
    Disk {
        capacity: config.capacity.with_longest_transfer(limits.max_transfer),
        topology: config.topology,
        write_cache: WriteCacheState::new(config.write_cache),
        // The driver carries out a forced write (FUA) as a write and a flush.
        dpo_fua: true,
        read_only: config.read_only,
        identity: scsi::Identity {
            vendor: *b"VIRTIO  ",
            product: *b"Ferrostor Disk  ",
            revision: *b"0001",
            serial: Serial::new(identity),
        },
    }
}
