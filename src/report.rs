//! Errors, as events for the system log: the event of each error, and the strings that are
//! inserted into the event's text.

use scsi::block::CachePolicy;
use storport::{Event as LogEvent, Insert, MAX_INSERTS, StartIo, StorStatus};
use virtio::{
    Error as Device,
    pci::{Structure, StructureFault},
    queue::RingFault,
    transport::Features,
};

use crate::{
    error::{Error, QueueFault},
    events::Event,
    probe::RESET_MILLISECONDS,
};

/// An event with its inserts, ready to be logged.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    event: Event,
    inserts: [Insert; MAX_INSERTS],
}

/// Makes an insert of a text.
pub fn text(text: &str) -> Insert {
    Insert::text(text)
}

/// Makes an insert of a number in decimal digits.
pub fn number(number: impl Into<u64>) -> Insert {
    Insert::decimal(number.into())
}

/// Makes an insert of a number in hexadecimal digits.
pub fn bits(number: impl Into<u64>) -> Insert {
    Insert::hexadecimal(number.into())
}

impl Report {
    /// Makes an event with the inserts for `%2` and following.
    pub fn new<const N: usize>(event: Event, inserts: [Insert; N]) -> Self {
        const { assert!(N <= MAX_INSERTS) };
        let mut all = [Insert::EMPTY; MAX_INSERTS];
        for (place, insert) in all.iter_mut().zip(inserts) {
            *place = insert;
        }
        Self {
            event,
            inserts: all,
        }
    }

    /// The event, for a context's `log_event`.
    pub fn event(&self) -> LogEvent<'_> {
        LogEvent {
            code: self.event.code(),
            unique_id: self.event.id().into(),
            inserts: &self.inserts,
        }
    }

    /// Logs the event in HwStartIo.
    pub fn log_in_start_io(&self, cx: &StartIo<'_, '_>) {
        // If the event cannot be logged, it is lost.
        let _: Result<(), StorStatus> = cx.log_event(&self.event());
    }

    /// The event for a write cache that the device did not switch.
    pub fn cache_mode_unchanged(wanted: CachePolicy) -> Self {
        let inserts = [text(match wanted {
            CachePolicy::WriteBack => "on",
            CachePolicy::WriteThrough => "off",
        })];
        Self::new(Event::CacheModeUnchanged, inserts)
    }

    /// The event for a device whose registers read as all ones: it was removed.
    pub fn vanished() -> Self {
        Self::new(Event::DeviceVanished, [text("device_status")])
    }

    /// The event for a protocol violation, which marked a queue faulty.
    pub fn violation(event: Event, QueueFault { queue, fault }: QueueFault) -> Self {
        let (what, value) = match fault {
            RingFault::UsedIndex { found, .. } => ("used index out of range", found.into()),
            RingFault::IdOutOfRange { id } => ("used id out of range", id),
            RingFault::NotInFlight { id } => ("used id not in flight", id.into()),
            RingFault::NotFinished { slot } => ("no status in slot", slot.into()),
        };
        Self::new(event, [number(queue), text(what), number(value)])
    }
}

impl From<&Error> for Report {
    fn from(error: &Error) -> Self {
        match *error {
            Error::ConfigurationSpace => Self::new(Event::ConfigurationSpaceUnreadable, []),
            Error::BarNotMapped { bar, length } => {
                Self::new(Event::BarNotMapped, [number(bar), number(length)])
            }
            Error::ResetUnconfirmed { status } => Self::new(
                Event::StartResetUnconfirmed,
                [number(RESET_MILLISECONDS), bits(status)],
            ),
            Error::Device { error, offered } => device(error, offered),
            Error::LimitTooSmall {
                name,
                value,
                needed,
            } => limit_too_small(name, value, needed),
            Error::OutOfMemory { bytes } => Self::new(Event::OutOfMemory, [number(bytes)]),
            Error::Violation(fault) => Self::violation(Event::StartViolation, fault),
        }
    }
}

/// The event for a device that cannot be found, negotiated with or set up.
fn device(error: virtio::Error, offered: u64) -> Report {
    let queue = |index: u16, register: &str, value: u64| {
        let inserts = [number(index), text(register), number(value)];
        Report::new(Event::QueueUnusable, inserts)
    };
    let invalid = |field: &str, value: u64| {
        let inserts = [text(field), number(value)];
        Report::new(Event::ConfigurationInvalid, inserts)
    };
    match error {
        Device::Absent => Report::new(Event::ConfigurationSpaceUnreadable, []),
        Device::NoCapabilityList => missing(CAPABILITY_LIST),
        Device::LinkIntoHeader { .. } => unusable(CAPABILITY_LIST, "link below 0x40"),
        Device::CapabilityLoop { .. } => unusable(CAPABILITY_LIST, "it loops"),
        Device::StructureMissing { structure } => missing(name(structure)),
        Device::StructureUnusable { structure, fault } => {
            unusable(name(structure), fault_text(fault))
        }
        Device::WindowShort { structure, .. } => unusable(name(structure), "not inside its BAR"),
        Device::Gone => Report::vanished(),
        Device::NeedsReset => Report::new(Event::StartRejected, []),
        Device::NotModern => Report::new(Event::VersionMissing, [bits(offered)]),
        Device::NotAcceptable { features } | Device::FeaturesRefused { features } => {
            let refused = Features::from(features).bits();
            Report::new(Event::FeaturesRefused, [bits(refused), bits(offered)])
        }
        Device::ConfigUnstable => Report::new(Event::ConfigurationUnstable, []),
        Device::FieldMissing { .. } => unusable(name(Structure::Device), "too short"),
        Device::Capacity { sectors } => invalid("capacity", sectors),
        Device::BlockSize { bytes } => invalid("blk_size", bytes.into()),
        Device::SegmentSize { bytes } => invalid("size_max", bytes.into()),
        Device::LimitTooSmall {
            limit,
            value,
            needed,
        } => limit_too_small(limit, value.into(), needed.into()),
        Device::NoQueue { index, queues } => queue(index, "num_queues", queues.into()),
        Device::QueueUnavailable { index } => queue(index, "queue_size", 0),
        Device::QueueSize { index, size } => queue(index, "queue_size", size.into()),
        Device::QueueInUse { index } => queue(index, "queue_enable", 1),
        Device::NotifyAddressOutside { index, offset, .. } => {
            queue(index, "notification offset", offset)
        }
        // The ring has the size that the device gave before.
        Device::RingUnfit { index } => {
            let inserts = [number(index), text("queue_size"), text("less than before")];
            Report::new(Event::QueueUnusable, inserts)
        }
        Device::QueueNotEnabled { index } => queue(index, "queue_enable", 0),
        Device::VectorBeyondTable { vector, .. } | Device::VectorRefused { vector, .. } => {
            Report::new(Event::VectorRefused, [number(vector), text("queue 0")])
        }
        Device::MemoryShort { needed, .. } => {
            let needed = u64::try_from(needed).unwrap_or(u64::MAX);
            Report::new(Event::OutOfMemory, [number(needed)])
        }
        Device::MemoryOverflow
        | Device::MemorySkewed
        | Device::MemoryMisaligned { .. }
        | Device::TableInUse => Report::new(Event::OutOfMemory, [number(0_u64)]),
    }
}

const CAPABILITY_LIST: &str = "PCI capability list";

fn missing(what: &str) -> Report {
    Report::new(Event::StructureMissing, [text(what)])
}

fn unusable(what: &str, why: &str) -> Report {
    Report::new(Event::StructureUnusable, [text(what), text(why)])
}

fn limit_too_small(name: &str, value: u64, needed: u64) -> Report {
    let inserts = [text(name), number(value), number(needed)];
    Report::new(Event::LimitTooSmall, inserts)
}

fn name(structure: Structure) -> &'static str {
    match structure {
        Structure::Common => "common configuration",
        Structure::Notify => "notification structure",
        Structure::Isr => "interrupt status",
        Structure::Device => "device configuration",
    }
}

fn fault_text(fault: StructureFault) -> &'static str {
    match fault {
        StructureFault::CapabilityShort => "capability too short",
        StructureFault::BarReserved => "reserved BAR number",
        StructureFault::BarUpperHalf => "upper half of a BAR",
        StructureFault::BarIsIo => "BAR of I/O ports",
        StructureFault::BarUnassigned => "BAR without an address",
        StructureFault::Overflow => "end beyond 2^32",
        StructureFault::StructureShort => "structure too short",
        StructureFault::Misaligned => "offset not aligned",
    }
}

/// Why a device did not start after a reset, in a few words.
pub fn restart_text(error: &Error) -> &'static str {
    match error {
        Error::Violation(_) => "protocol violation",
        Error::Device { error, .. } => match error {
            Device::Gone => "device removed",
            Device::NeedsReset => "device asks for a reset",
            Device::NotModern => "VERSION_1 not offered",
            Device::NotAcceptable { .. } => "features not offered",
            Device::FeaturesRefused { .. } => "features refused",
            Device::ConfigUnstable => "configuration unstable",
            Device::WindowShort { .. } => "structure too short",
            Device::VectorBeyondTable { .. } | Device::VectorRefused { .. } => {
                "MSI-X vector refused"
            }
            _ => "a queue is unusable",
        },
        _ => "device unusable",
    }
}
