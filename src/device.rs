//! The device as it is between its starts and resets.
//!
//! Its registers are in use at one time by one callback: HwFindAdapter,
//! HwInitialize, HwResetBus or a restart, which the StartIo lock's cell keeps
//! apart. What other callbacks need of it, they have as handles.

use virtio::{
    spec::F,
    split_queue::SplitQueue,
    transport::{Device, Doorbell, Live, Quiet, Removed, Reset, ResetFailure, Unknown},
};

use crate::{platform::Window, queue::Flights};

/// How often a device is asked whether its reset is done.
const RESET_POLLS: u32 = 1000;

/// Microseconds between two looks.
const RESET_PAUSE: u32 = 100;

/// The one queue.
const QUEUE: u16 = 0;

/// The device at one step of its life.
pub enum Stage<'a> {
    /// It may do anything: only a reset leads on.
    Unknown(Device<Window<'a>, Unknown>),
    /// It is reset.
    Reset(Device<Window<'a>, Reset>),
    /// It works.
    Live(Device<Window<'a>, Live>),
    /// It is gone.
    Removed(Device<Window<'a>, Removed>),
    /// A callback has it.
    Taken,
}

impl<'a> Stage<'a> {
    /// Takes the device out, to go on with it.
    pub fn take(&mut self) -> Self {
        core::mem::replace(self, Self::Taken)
    }

    /// Resets the device, waiting up to a tenth of a second by `stall`, which
    /// takes microseconds.
    #[must_use]
    pub fn reset(self, stall: impl Fn(u32)) -> Self {
        let pause = || stall(RESET_PAUSE);
        let result = match self {
            Self::Unknown(device) => device.reset(RESET_POLLS, pause),
            Self::Live(device) => device.reset(RESET_POLLS, pause),
            Self::Reset(_) | Self::Removed(_) | Self::Taken => return self,
        };
        match result {
            Ok(device) => Self::Reset(device),
            Err(ResetFailure::Removed(device)) => Self::Removed(device),
            Err(ResetFailure::Stuck { device, .. }) => Self::Unknown(device),
        }
    }

    /// Proof that the device uses no queue, if it does not.
    pub fn quiet(&self) -> Option<Quiet<'_>> {
        match self {
            Self::Reset(device) => Some(device.quiet()),
            Self::Removed(device) => Some(device.quiet()),
            Self::Unknown(_) | Self::Live(_) | Self::Taken => None,
        }
    }

    /// Brings a device that is reset up with the features it had, and gives it
    /// its ring. The doorbell, if it works then.
    pub fn start(
        self,
        accepted: F,
        ring: &SplitQueue<'a, Flights<'a>>,
        vector: Option<u16>,
    ) -> (Self, Option<Doorbell<Window<'a>>>) {
        let Self::Reset(device) = self else {
            return (self, None);
        };
        let negotiated = device
            .acknowledge()
            .and_then(|device| device.accept(accepted));
        let mut device = match negotiated {
            Ok(device) => device,
            Err(failure) => return (Self::Unknown(failure.device), None),
        };
        let placement = ring.placement();
        let enabled = device
            .find_queue(QUEUE, placement.size)
            .ok()
            .and_then(|queue| {
                if let Some(vector) = vector {
                    device.route_queue(&queue, vector).ok()?;
                }
                device.enable_queue(queue, placement).ok()
            });
        let Some(enabled) = enabled else {
            return (Self::Unknown(device.give_up()), None);
        };
        match device.start() {
            Ok(device) => {
                let doorbell = device.doorbell(enabled);
                (Self::Live(device), Some(doorbell))
            }
            Err(failure) => (Self::Unknown(failure.device), None),
        }
    }
}
