//! Errors as events of the system log: the event of each error, and the strings that
//! it inserts into the event's text.

use scsi::block::CachePolicy;
use storport::{Event as LogEvent, Insert, MAX_INSERTS, StartIo, StorStatus};
use virtio::{
    blk::ConfigError,
    pci::{CapabilityError, Rejection, Structure},
    split_queue::RingFault,
    transport::TransportError,
};

use crate::{
    device::BringUpError,
    events::Event,
    probe::{PROBE_RESET_MILLISECONDS, StartError},
};

/// An event with its inserts, ready to be logged.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    event: Event,
    inserts: [Insert; MAX_INSERTS],
}

/// An insert that is a text.
pub fn text(text: &str) -> Insert {
    Insert::text(text)
}

/// An insert that is a number in decimal digits.
pub fn number(number: impl Into<u64>) -> Insert {
    Insert::decimal(number.into())
}

/// An insert that is a number in hexadecimal digits.
pub fn bits(number: impl Into<u64>) -> Insert {
    Insert::hexadecimal(number.into())
}

impl Report {
    /// An event with the inserts for `%2` and following.
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
        // An event that cannot be logged changes nothing.
        let _: Result<(), StorStatus> = cx.log_event(&self.event());
    }

    /// The device did not switch its write cache.
    pub fn cache_mode_unchanged(wanted: CachePolicy) -> Self {
        let inserts = [text(match wanted {
            CachePolicy::WriteBack => "on",
            CachePolicy::WriteThrough => "off",
        })];
        Self::new(Event::CacheModeUnchanged, inserts)
    }

    /// The device reads as all ones.
    pub fn vanished() -> Self {
        Self::new(Event::DeviceVanished, [text("device_status")])
    }

    /// The violation that marked queue 0 faulty.
    pub fn violation(event: Event, fault: RingFault) -> Self {
        let inserts = match fault {
            RingFault::UsedIndex { found, .. } => [text("used index out of range"), number(found)],
            RingFault::IdOutOfRange { id } => [text("used id out of range"), number(id)],
            RingFault::NotInFlight { id } => [text("used id not in flight"), number(id)],
            RingFault::NotFinished { id } => [text("no status for used id"), number(id)],
        };
        Self::new(event, inserts)
    }
}

impl From<&StartError> for Report {
    fn from(error: &StartError) -> Self {
        match error {
            StartError::ConfigurationSpace => Self::new(Event::ConfigurationSpaceUnreadable, []),
            StartError::Capabilities(error) => capabilities(*error),
            StartError::BarNotMapped { bar, length } => {
                Self::new(Event::BarNotMapped, [number(*bar), number(*length)])
            }
            StartError::ResetUnconfirmed { status } => Self::new(
                Event::StartResetUnconfirmed,
                [number(PROBE_RESET_MILLISECONDS), bits(*status)],
            ),
            StartError::Vanished => Report::vanished(),
            StartError::FeatureMissing { name, offered } => {
                Self::new(Event::FeatureMissing, [text(name), bits(*offered)])
            }
            StartError::BringUp(error) => bring_up(error),
            StartError::Configuration(error) => configuration(*error),
            StartError::LimitTooSmall {
                name,
                value,
                needed,
            } => Self::new(
                Event::LimitTooSmall,
                [text(name), number(*value), number(*needed)],
            ),
            StartError::OutOfMemory { bytes } => Self::new(Event::OutOfMemory, [number(*bytes)]),
            StartError::Violation(fault) => Self::violation(Event::StartViolation, *fault),
        }
    }
}

fn capabilities(error: CapabilityError) -> Report {
    match error {
        CapabilityError::Absent => Report::new(Event::ConfigurationSpaceUnreadable, []),
        CapabilityError::NoList => missing(CAPABILITY_LIST),
        CapabilityError::LinkIntoHeader { .. } => unusable(CAPABILITY_LIST, "link below 0x40"),
        CapabilityError::Loop { .. } => unusable(CAPABILITY_LIST, "it loops"),
        CapabilityError::Missing {
            structure,
            rejected: None,
        } => missing(name(structure)),
        CapabilityError::Missing {
            structure,
            rejected: Some(rejection),
        } => unusable(name(structure), rejection_text(rejection)),
    }
}

const CAPABILITY_LIST: &str = "PCI capability list";

fn missing(what: &str) -> Report {
    Report::new(Event::StructureMissing, [text(what)])
}

fn unusable(what: &str, why: &str) -> Report {
    Report::new(Event::StructureUnusable, [text(what), text(why)])
}

fn name(structure: Structure) -> &'static str {
    match structure {
        Structure::Common => "common configuration",
        Structure::Notify => "notification structure",
        Structure::Isr => "interrupt status",
        Structure::Device => "device configuration",
    }
}

fn rejection_text(rejection: Rejection) -> &'static str {
    match rejection {
        Rejection::CapabilityShort => "capability too short",
        Rejection::BarReserved => "reserved BAR number",
        Rejection::BarUpperHalf => "upper half of a BAR",
        Rejection::BarIsIo => "BAR of I/O ports",
        Rejection::BarUnassigned => "BAR without an address",
        Rejection::Overflow => "end beyond 2^32",
        Rejection::StructureShort => "structure too short",
        Rejection::Misaligned => "offset not aligned",
    }
}

/// The event for a device whose first start failed.
fn bring_up(error: &BringUpError) -> Report {
    let queue = |index: u16, register: &str, value: u64| {
        let inserts = [number(index), text(register), number(value)];
        Report::new(Event::QueueUnusable, inserts)
    };
    match *error {
        BringUpError::Vector { vector } => {
            Report::new(Event::VectorRefused, [number(vector), text("queue 0")])
        }
        BringUpError::Violation(fault) => Report::violation(Event::StartViolation, fault),
        BringUpError::Transport { error, offered } => match error {
            TransportError::Gone => Report::vanished(),
            TransportError::NeedsReset => Report::new(Event::StartRejected, []),
            TransportError::NotModern => Report::new(Event::VersionMissing, [bits(offered)]),
            TransportError::NotAcceptable { features }
            | TransportError::FeaturesRefused { features } => {
                let refused = virtio::transport::Features::from(features).bits();
                let inserts = [bits(refused), bits(offered)];
                Report::new(Event::FeaturesRefused, inserts)
            }
            TransportError::ConfigUnstable => Report::new(Event::ConfigurationUnstable, []),
            TransportError::WindowShort { structure, .. } => {
                unusable(name(structure), "not inside its BAR")
            }
            TransportError::NoQueue { index, queues } => queue(index, "num_queues", queues.into()),
            TransportError::QueueUnavailable { index } => queue(index, "queue_size", 0),
            TransportError::QueueSize { index, size } => queue(index, "queue_size", size.into()),
            TransportError::QueueInUse { index } => queue(index, "queue_enable", 1),
            TransportError::NotifyAddressOutside { index, offset, .. } => {
                queue(index, "notification offset", offset)
            }
            // The ring has the size that the device gave before.
            TransportError::RingUnfit { index } => {
                let inserts = [number(index), text("queue_size"), text("less than before")];
                Report::new(Event::QueueUnusable, inserts)
            }
            TransportError::QueueNotEnabled { index } => queue(index, "queue_enable", 0),
        },
    }
}

/// Why a device did not start after a reset, in a few words.
pub fn restart_text(error: &BringUpError) -> &'static str {
    match error {
        BringUpError::Vector { .. } => "MSI-X vector refused",
        BringUpError::Violation(_) => "protocol violation",
        BringUpError::Transport { error, .. } => match error {
            TransportError::Gone => "device removed",
            TransportError::NeedsReset => "device asks for a reset",
            TransportError::NotModern => "VERSION_1 not offered",
            TransportError::NotAcceptable { .. } => "features not offered",
            TransportError::FeaturesRefused { .. } => "features refused",
            TransportError::ConfigUnstable => "configuration unstable",
            TransportError::WindowShort { .. } => "structure too short",
            TransportError::NoQueue { .. }
            | TransportError::QueueUnavailable { .. }
            | TransportError::QueueSize { .. }
            | TransportError::QueueInUse { .. }
            | TransportError::NotifyAddressOutside { .. }
            | TransportError::RingUnfit { .. }
            | TransportError::QueueNotEnabled { .. } => "queue 0 unusable",
        },
    }
}

fn configuration(error: ConfigError) -> Report {
    let invalid = |field: &str, value: u64| {
        let inserts = [text(field), number(value)];
        Report::new(Event::ConfigurationInvalid, inserts)
    };
    match error {
        ConfigError::Transport(error) => bring_up(&BringUpError::Transport { error, offered: 0 }),
        ConfigError::FieldMissing { .. } => unusable(name(Structure::Device), "too short"),
        ConfigError::Capacity { sectors } => invalid("capacity", sectors),
        ConfigError::BlockSize { bytes } => invalid("blk_size", bytes.into()),
        ConfigError::SegmentSize { bytes } => invalid("size_max", bytes.into()),
    }
}
