//! Why the driver cannot use or start a device.

use virtio::{queue::RingFault, transport::ResetFailure};

/// A protocol violation by the device, in a queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueFault {
    /// The queue's number.
    pub queue: u16,
    /// What the device did.
    pub fault: RingFault,
}

/// Why the driver cannot use or start a device.
#[derive(Clone, Copy, Debug)]
pub enum Error {
    /// Its PCI configuration space cannot be read.
    ConfigurationSpace,
    /// A structure's BAR cannot be mapped.
    BarNotMapped {
        /// The BAR's number.
        bar: u8,
        /// Bytes from the BAR's start that are needed.
        length: u64,
    },
    /// It does not confirm its reset.
    ResetUnconfirmed {
        /// The device status register.
        status: u8,
    },
    /// It cannot be found, negotiated with or set up.
    Device {
        /// Why.
        error: virtio::Error,
        /// The features that it offers, if they were read.
        offered: u64,
    },
    /// One of its limits is too small for Storport.
    LimitTooSmall {
        /// The limit's name.
        name: &'static str,
        /// Its value.
        value: u64,
        /// The least value that works.
        needed: u64,
    },
    /// There is not enough memory.
    OutOfMemory {
        /// Bytes that were asked for.
        bytes: u64,
    },
    /// It broke the protocol before it had a request of an initiator.
    Violation(QueueFault),
}

impl From<virtio::Error> for Error {
    /// The error of a device that has not been asked for its features.
    fn from(error: virtio::Error) -> Self {
        Self::Device { error, offered: 0 }
    }
}

impl<R> From<ResetFailure<R>> for Error {
    fn from(failure: ResetFailure<R>) -> Self {
        match failure {
            ResetFailure::Removed(_) => virtio::Error::Gone.into(),
            ResetFailure::Stuck { status, .. } => Self::ResetUnconfirmed {
                status: status.bits(),
            },
        }
    }
}
