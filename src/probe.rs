//! HwFindAdapter: finds the disk behind a PCI function.
//!
//! The driver needs the disk's identity before the first INQUIRY. So it starts the device
//! here, without interrupts, and asks for the identity. Then it resets the device, which
//! stays reset until HwPassiveInitialize (in a dump stack, HwInitialize). HwFindAdapter may
//! wait for the device: it runs at PASSIVE_LEVEL, or in a dump stack, where nothing else
//! runs.

use core::sync::atomic::AtomicBool;

use scsi::{Disk, Serial, WriteCacheState};
use storport::{AdapterLimits, Configured, FindAdapter, LimitsError, MappedRegisters};
use virtio::{
    blk::{self, Config, IDENTITY, Limits, Requests, choose_features},
    pci::{ConfigImage, Layout, Location, Structure, memory_bar},
    queue_size::QueueSize,
    slots::SlotAllocator,
    split_queue::{self, RingFault, SplitQueue},
    transport::{Device, Failed, Features, Negotiated, Reset, ResetFailure, Windows},
};

use crate::{
    device::{Life, POLL, QUEUE, Stage, TICK, Vectors, start_device},
    driver::Adapter,
    error::Error,
    io::{Notifying, Queue, ShortUsed},
    registers::{Window, shared_memory},
};

/// The maximum number of descriptors in a slot's table.
const TABLE_ENTRIES: u16 = 256;

/// The maximum number of descriptors of the ring in dump mode, and so of a request's table.
/// It is enough for 64 KiB in scattered pages.
const DUMP_QUEUE: u16 = 32;

/// The number of slots in dump mode. There is one request at a time, and little memory
/// (storport-rules.md D4).
pub const DUMP_SLOTS: u16 = 1;

/// How long the device may take to confirm a reset.
pub const RESET_MILLISECONDS: u32 = 1000;

/// How often the driver polls the used ring for the disk's identity, and the pause after each
/// poll in microseconds: a second in all.
const IDENTITY_LOOKS: u32 = 10_000;
const IDENTITY_PAUSE: u32 = 100;

/// What the driver reads from the device before it gives it any memory.
struct Survey {
    accepted: Features,
    config: Config,
    limits: Limits,
    size: QueueSize,
    slots: QueueSize,
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
    let (device, survey) = survey(cx, device)?;
    let Survey {
        accepted,
        config,
        limits,
        size,
        slots,
    } = survey;
    let configured = cx
        .configure(&AdapterLimits {
            transfer_bytes: limits.max_transfer,
            physical_breaks: u32::from(limits.max_segments),
            requests: u32::from(limits.queue_depth.min(slots.get())),
            // A device accepts data at any address (VIRTIO 1.3 §2.7.4).
            alignment_mask: 0,
            targets: 1,
            logical_units: 1,
            caches_data: config.has_flush(),
        })
        .map_err(limit_too_small)?;

    let bytes =
        Requests::memory_needed(slots, &limits).saturating_add(split_queue::memory_needed(size));
    let out_of_memory = || Error::OutOfMemory {
        bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
    };
    let extension = u32::try_from(bytes)
        .ok()
        .and_then(|bytes| cx.uncached_extension(&configured, bytes))
        .ok_or_else(out_of_memory)?;
    let mut memory = shared_memory(extension).map_err(|_| out_of_memory())?;
    let requests =
        Requests::new(&mut memory, slots, &config, &limits).map_err(|_| out_of_memory())?;
    let mut none_in_flight = [None];
    let ring = SplitQueue::new(
        &mut memory,
        QUEUE,
        size,
        accepted.get(),
        &mut none_in_flight[..],
    )
    .map_err(|_| out_of_memory())?;
    let (stage, ring, identity) = ask_identity(cx, device, accepted, ring, &requests)?;
    let placement = ring.placement();
    let in_flight = cx
        .table(usize::from(slots.get()), |_, _| Some(None))
        .ok_or_else(out_of_memory)?;
    let slots = SlotAllocator::new(QUEUE, slots);
    let queue = Queue::new(ring.with_table(in_flight, &slots));
    let adapter = Adapter {
        queue: cx.dpc_locked(queue).ok_or_else(out_of_memory)?,
        attention: cx.dpc_locked(()).ok_or_else(out_of_memory)?,
        life: cx.start_io_locked(Life::new(stage, accepted, placement)),
        isr,
        status,
        slots,
        notifying: Notifying::default(),
        requests,
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
    cx: &FindAdapter<'_, 'a>,
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
    let accepted = match choose_features(device.offered()) {
        Ok(accepted) => accepted,
        Err(error) => {
            let _: Device<Window<'a>> = device.give_up();
            return Err(Error::Device { error, offered });
        }
    };
    let mut device = device
        .accept(accepted)
        .map_err(|failed| refused(failed, offered))?;
    match ask_limits(&mut device, offered, cx.is_dump()) {
        Ok(survey) => Ok((reset(cx, device)?, survey)),
        Err(error) => {
            let _: Device<Window<'a>> = device.give_up();
            Err(error)
        }
    }
}

/// Reads the disk's configuration and the queue's size.
fn ask_limits(
    device: &mut Device<Window<'_>, Negotiated>,
    offered: u64,
    is_dump: bool,
) -> Result<Survey, Error> {
    let accepted = device.accepted();
    let config = Config::read(device.config(), accepted)
        .map_err(|error| Error::Device { error, offered })?;
    let largest = if is_dump {
        QueueSize::new(DUMP_QUEUE).unwrap_or(QueueSize::Q256)
    } else {
        QueueSize::Q256
    };
    let size = device
        .find_queue(QUEUE, largest)
        .map_err(|error| Error::Device { error, offered })?
        .size();
    let slots = if is_dump {
        QueueSize::new(DUMP_SLOTS).unwrap_or(size)
    } else {
        size
    };
    let limits = blk::limits(&config, size, TABLE_ENTRIES)
        .map_err(|error| Error::Device { error, offered })?;
    Ok(Survey {
        accepted: accepted.into(),
        config,
        limits,
        size,
        slots,
    })
}

/// How often the device may break the protocol while it is asked for the disk's
/// identity.
const IDENTITY_ATTEMPTS: u32 = 3;

/// The ring for the request for the disk's identity. The request has slot 0 and no payload.
type IdentityRing<'a, 't> = SplitQueue<'a, &'t mut [Option<()>]>;

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
fn ask_identity<'a, 't>(
    cx: &FindAdapter<'_, 'a>,
    mut device: Device<Window<'a>, Reset>,
    accepted: Features,
    mut ring: IdentityRing<'a, 't>,
    requests: &Requests<'a>,
) -> Result<Asked<'a, 't>, Error> {
    let slots = &SlotAllocator::new(QUEUE, QueueSize::ONE);
    let mut attempts_left = IDENTITY_ATTEMPTS;
    loop {
        let started = start_device(device, accepted, ring.placement(), Vectors::default());
        let (resetting, identity) = match started {
            Ok((live, notifier)) => {
                let notify = || notifier.notify();
                let identity = poll_identity(cx, &mut ring, requests, slots, notify);
                (live.begin_reset(), identity.map_err(Error::Violation))
            }
            Err((resetting, error)) => (resetting, Err(error)),
        };
        device = match resetting.wait(RESET_MILLISECONDS, || cx.stall(1000)) {
            Ok(device) => device,
            Err(ResetFailure::Removed(_)) => return Err(virtio::Error::Gone.into()),
            Err(ResetFailure::Stuck { device, .. }) => {
                let identity = identity.unwrap_or(NO_IDENTITY);
                return Ok((Stage::Resetting(device), ring, identity));
            }
        };
        // Frees the slot of a request that the device did not answer.
        while ring.reclaim(device.quiet(), slots).is_some() {}
        attempts_left = attempts_left.saturating_sub(1);
        match identity {
            Ok(identity) => return Ok((Stage::Reset(device), ring, identity)),
            // A single protocol violation is no reason to go without the disk.
            Err(Error::Violation(_)) if attempts_left > 0 => {}
            Err(error) => return Err(error),
        }
    }
}

/// The device, its ring, and the disk's identity.
type Asked<'a, 't> = (Stage<'a>, IdentityRing<'a, 't>, [u8; IDENTITY]);

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
    ring.check_used_index()?;
    // No interrupt routine is connected yet, and another device may share the pin.
    ring.suppress_interrupts();
    let prepared = slots
        .reserve()
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
